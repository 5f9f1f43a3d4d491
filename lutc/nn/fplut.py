"""FPLUT as a drop-in for an activation: `FPLUT(function=nn.SiLU(), func_name="silu")`, built from any callable."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from lutc import functions
from lutc.certify.arithmetic import in_arithmetic
from lutc.errors import LutcError
from lutc.fplut.pipeline import compile_fplut
from lutc.functions import Function
from lutc.functions.shape import line_far_out
from lutc.lower import plans
from lutc.lower.segments import slope
from lutc.measures import RELATIVE_FLOOR
from lutc.nn import onnx_nodes, portable
from lutc.nn.lowered import Lowered
from lutc.nn.lut import LUT
from lutc.table import library
from lutc.table.table_set import TableSet

ARITHMETICS = ("fp32", "fp16_rne", "fp16_trunc")
_SAME = 1e-5  # largest relative difference of a callable that computes in fp32 from the function it is named after


class FPLUT(LUT):
    """A floating-point table over cut points for any elementwise callable of torch tensors; runs as `LUT` does.

    function: an nn.Module or a callable, tensor to tensor; None for the function called `func_name`. func_name: a
    registered name, or any name for a function of one's own. A callable that agrees with the registered function takes
    its tails and its range reduction; for others the tails are found where the callable is a line far out, and without
    one the end pieces go on. cut_points: fixed ones, values of fp16; None for those of the shipped table of the name,
    or for a search where there is none. pieces: of each interval but the first and the last, or one per interval.
    values: "fitted" or "sampled". key: "fp32", "fp16" or "bf16", the format of the stored values. arithmetic: "fp32",
    or "fp16_rne" and "fp16_trunc" to compute every step in fp16 as such hardware would, bit by bit; inputs are then
    rounded to fp16 first.

    Raises LutcError for cut points or pieces that do not fit, and for a callable that is not finite between its cuts.
    """

    arithmetic = "fp32"

    def __init__(
        self,
        function: Callable[[torch.Tensor], torch.Tensor] | None = None,
        func_name: str | None = None,
        *,
        cut_points: Sequence[float] | None = None,
        pieces: int | Sequence[int] = 32,
        values: str = "fitted",
        key: str = "fp32",
        arithmetic: str = "fp32",
        grad: str = "function",
    ):
        if function is None and func_name is None:
            raise LutcError('FPLUT takes a callable and its name, as FPLUT(nn.SiLU(), "silu"); given neither')
        if arithmetic not in ARITHMETICS:
            raise LutcError(f"unknown arithmetic {arithmetic!r}; choose one of {', '.join(ARITHMETICS)}")
        chosen = {"values": values, "pieces": pieces if isinstance(pieces, int) else tuple(pieces)}
        fixed = None if cut_points is None else tuple(float(cut) for cut in cut_points)
        tables = _tables(function, func_name, fixed, key, chosen)
        super().__init__(tables, key=key, grad=grad)
        if arithmetic != "fp32":
            self.arithmetic = arithmetic
            self._lower(self.table.device)

    def _lower(self, device: torch.device) -> None:
        super()._lower(device)
        if self.arithmetic == "fp32" or device.type == "meta":
            return
        (table,) = self.tables.values()
        x = plans.widened(plans.all_codes("fp16"))
        plan = plans.DirectPlan(
            "fp16",
            plans.round_to(in_arithmetic(table, self.arithmetic)(x), "fp16"),
            plans.round_to(slope(table, x), "fp16"),
        )
        words = torch.from_numpy(plan.words().copy()).to(device)
        self.register_buffer("plan_fp16", words, persistent=False)
        self._plans[torch.float16] = Lowered(words, plan.meta, plan.kind)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """table(x), elementwise: shape, strides, dtype and device of x."""
        if self.arithmetic != "fp32" and portable.wanted():
            (table,) = self.tables.values()
            values = in_arithmetic(table, self.arithmetic)(plans.widened(plans.all_codes("fp16")))
            codes = partial(portable.of_fp16_codes, plans.round_to(values, "fp16"))
            return onnx_nodes.local_function("FPLUT", codes, x.half()).to(x.dtype)
        if self.arithmetic == "fp32" or not isinstance(x, torch.Tensor) or x.dtype == torch.float16:
            return super().forward(x)
        return super().forward(x.half()).to(x.dtype)

    def gated(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """table(x) * y; the product is not part of the table's arithmetic."""
        return super().gated(x, y) if self.arithmetic == "fp32" else self(x) * y

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, arithmetic={self.arithmetic}"


def _tables(function, func_name: str | None, cut_points, key: str, chosen: dict) -> TableSet:
    """The table set to run: the shipped one where nothing else was asked for, else a compiled one."""
    registered = functions.get(func_name) if func_name is not None and functions.known(func_name) else None
    if function is None and registered is None:
        functions.get(func_name)  # raises, with what is known
    own = registered if function is None else _as_function(function, func_name or type(function).__name__, registered)
    same = own is registered
    shipped = f"{registered.name}_fplut" if registered else None
    shipped = shipped if shipped in library.names() else None
    standard = chosen == {"values": "fitted", "pieces": 32} and cut_points is None
    if same and shipped and standard and key in (tables := library.load(shipped)).tables:
        return tables
    options = {**chosen, "formats": (key,), "cut_points": cut_points}
    if cut_points is None and shipped:
        stored = library.load(shipped)
        body = stored[key if key in stored.tables else stored.default_key].body
        options["cut_points"] = tuple(body.cut_points.tolist())
        options["prologue"] = "none" if stored[stored.default_key].prologue is None or not same else "reduce"
        if not same and stored[stored.default_key].prologue is not None:
            options["cut_points"] = None  # they are those of a reduced input, which another function has not
    compiled = compile_fplut(own, name=func_name or own.name, **options)
    return compiled if same else dataclasses.replace(compiled, function=None)


def _as_function(function: Callable, name: str, registered: Function | None) -> Function:
    """A torch callable as a Function; `registered` itself where the two agree."""
    if not callable(function):
        raise LutcError(f"FPLUT takes a callable, tensor to tensor; given {type(function).__name__}")
    module = copy.deepcopy(function).cpu().double() if isinstance(function, torch.nn.Module) else function

    def f(x):
        x = np.asarray(x, np.float64)
        with torch.no_grad(), np.errstate(all="ignore"):
            y = module(torch.from_numpy(x.reshape(-1).copy()))
        if not isinstance(y, torch.Tensor) or y.numel() != x.size:
            given = f"shape {tuple(y.shape)}" if isinstance(y, torch.Tensor) else type(y).__name__
            raise LutcError(
                f"{name} must map a tensor to one of its shape, element by element; for shape {(x.size,)} it gave "
                f"{given}"
            )
        return y.double().numpy().reshape(x.shape)

    x = plans.widened(plans.all_codes("fp16"))
    x = x[np.isfinite(x)]
    got = f(x)
    if registered is not None:
        want = registered(x)
        with np.errstate(all="ignore"):
            close = np.abs(got - want) <= _SAME * np.maximum(np.abs(want), RELATIVE_FLOOR)
        if (close | (got == want) | (np.isnan(got) & np.isnan(want))).all():
            return registered
    return Function(name, f, None, (-8.0, 8.0), left=line_far_out(f, -1.0), right=line_far_out(f, 1.0))
