"""A table as a torch module."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from lutc.errors import LutcError
from lutc.functions import in_torch
from lutc.nn import onnx_nodes, portable, transforms
from lutc.nn import ops as _ops  # noqa: F401  (registers torch.ops.lutc)
from lutc.nn.lowered import DTYPES, digest, lowered
from lutc.nn.refilled import Refilled
from lutc.nn.traced import is_traced, leaf
from lutc.table import library, table_set
from lutc.table.library import TableSource
from lutc.table.reach import reach
from lutc.table.table import Table
from lutc.table.table_set import TableSet

GRADIENTS = ("function", "table")
OUTSIDE = ("table", "exact")


def _one_table(source, scale: float | None, key: str | None, strict: bool) -> TableSet:
    """The table that a module runs, as a set of one."""
    if isinstance(source, Table):
        source = TableSet("table", {source.coefficients if source.coefficients in ("fp16", "bf16") else "fp32": source})
    elif not isinstance(source, TableSet):
        if not isinstance(source, (str, os.PathLike)):
            raise LutcError(f"a table is given by name, path, TableSet or Table; given {type(source).__name__}")
        source = library.load(source)
    if scale is not None and key is not None:
        raise LutcError(f"give a scale or a key, not both; given scale={scale} and key={key!r}")
    key = source.chosen_key(scale, strict) if scale is not None else source.default_key if key is None else str(key)
    inputs = {key: source.inputs[key]} if key in source.inputs else {}
    kept = {name: source.meta[name] for name in ("range",) if name in source.meta}
    return TableSet(source.name, {key: source[key]}, inputs, source.function, kept)


class LUT(Refilled):
    """Evaluates a table on float tensors of any shape and stride: float32, float16, bfloat16 and float64 in, the same
    out.

    table: a shipped name ("gelu_8"), the path of a file, a TableSet, or one Table. Of a set over quantised inputs,
    `scale` chooses the table (the nearest key, as GQA-LUT clips, with a
    ScaleWarning, or an error where `strict`); without it the finest scale whose codes cover the
    function's range. Of a set of float tables, `key` chooses ("fp16"; the default is "fp32"). Inputs are not quantised:
    that is `QuantLUT`. outside: what runs beyond the range of a table that
    has neither a tail nor range reduction there (x^2, log1p; `ends` says where): "table", whose last segment goes on,
    or "exact", the function itself, at the cost of computing it; a callable (tensor to tensor) is that function where
    torch does not know it. grad: "function" (straight-through: the exact function's derivative; a function that torch
    does not know falls to "table") or "table" (the slope of the segment).

    16-bit results are the float64 value of the table rounded once; fp32 ones are within 1.5 ulp of max(|slope x|,
    |intercept|), 1 ulp where the table's coefficients are float32 values. NaN gives NaN, +-inf follow the tails. The
    table keeps its precision under `.half()` and stands in the state_dict as the bytes of its file (`table`, uint8).
    Raises LutcError for other dtypes.
    """

    def __init__(
        self,
        table: TableSource,
        scale: float | None = None,
        *,
        key: str | None = None,
        grad: str = "function",
        outside: str | Callable[[torch.Tensor], torch.Tensor] = "table",
        strict: bool = False,
    ):
        super().__init__()
        if outside not in OUTSIDE and not callable(outside):
            raise LutcError(
                f"outside is {' or '.join(map(repr, OUTSIDE))}, or the function, tensor to tensor; given "
                f"{outside!r:.40}"
            )
        self._outside = (outside,)  # a module of the model that keeps its place there, so it is no child
        if grad not in GRADIENTS:
            raise LutcError(
                f"grad must be 'function' (the exact derivative) or 'table' (the segment's slope); given {grad!r}"
            )
        self.grad = grad
        text = _one_table(table, scale, key, strict).dumps()
        self._hold(text, torch.device("cpu"))

    # --- the table and its plans

    def _hold(self, text: str, device: torch.device) -> None:
        """Take the table in `text` (a file's content): as the persistent buffer, and as a plan for every dtype on
        `device`.
        """
        self.tables = table_set.loads(text)
        self._digest = digest(text)
        ((key, _),) = self.tables.items()
        self.ends = reach(self.tables, key)
        if self._outside[0] == "exact" and not in_torch.known(self.tables.function):
            raise LutcError(
                f"outside='exact' runs the function itself, which torch does not know of {self.tables.function!r}; "
                "give it as outside=, a callable, tensor to tensor"
            )
        self.gradient = (
            self.tables.function if self.grad == "function" and in_torch.known(self.tables.function) else "table"
        )
        data = torch.from_numpy(np.frombuffer(text.encode(), np.uint8).copy())
        self.register_buffer("table", data.to(device))
        self._lower(device)

    def _lower(self, device: torch.device) -> None:
        self._plans = {}
        for dtype, name in DTYPES.items() if device.type != "meta" else ():
            plan = lowered(next(iter(self.tables.values())), self._digest, dtype, device)
            self.register_buffer(f"plan_{name}", plan.words, persistent=False)
            self._plans[dtype] = plan

    def _lost(self) -> bool:
        return hashlib.sha256(self.table.cpu().numpy()).hexdigest() != self._digest

    def _fill(self, device: torch.device) -> None:
        self._hold(self.tables.dumps(), device)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        if isinstance(self._outside[0], torch.nn.Module):
            self._outside[0]._apply(fn, recurse)
        self._lower(self.table.device)  # another device wants its own plans, shared with the other modules there
        return self

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        data = state_dict.get(f"{prefix}table")
        if isinstance(data, torch.Tensor) and data.dtype == torch.uint8 and not data.is_meta:
            try:
                self._hold(bytes(data.cpu().numpy()).decode(), self.table.device)
            except (UnicodeDecodeError, LutcError) as error:
                raise LutcError(f"the checkpoint's entry '{prefix}table' is no table: {error}") from error
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def __getstate__(self):
        """Copies and pickles carry the table alone; plans are lowered again, or found among the shared ones."""
        state = {name: value for name, value in self.__dict__.items() if name not in ("_plans", "tables")}
        state["_buffers"] = {name: value for name, value in self._buffers.items() if not name.startswith("plan_")}
        return state

    def __setstate__(self, state):
        super().__setstate__(state)
        text = bytes(self.table.cpu().numpy()).decode()
        device = self.table.device
        self.tables = table_set.loads(text)
        self.ends = reach(self.tables, next(iter(self.tables)))
        self._lower(device)

    # --- evaluation

    def _plan(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...]]:
        """(words, meta) for the dtype of x."""
        try:
            if x.layout is torch.strided:
                return self._buffers[f"plan_{DTYPES[x.dtype]}"], self._plans[x.dtype].meta
        except (KeyError, AttributeError):
            pass
        raise LutcError(self._complaint(x))

    def _complaint(self, x) -> str:
        allowed = "LUT takes float32, float16, bfloat16 and float64 tensors"
        if not isinstance(x, torch.Tensor):
            return f"{allowed}; given {type(x).__name__}"
        if self.table.is_meta:
            return "this LUT is on the meta device, where nothing is computed; move it with .to_empty(device=...)"
        if x.layout is not torch.strided:
            return f"{allowed}; given a {str(x.layout).removeprefix('torch.')} layout: evaluate its values"
        hint = "QuantLUT takes integer codes" if not (x.is_floating_point() or x.is_complex()) else "convert it first"
        return f"{allowed}; given {str(x.dtype).removeprefix('torch.')}: {hint}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """table(x), elementwise: shape, strides, dtype and device of x."""
        if is_traced(x):
            return leaf(self, x)
        words, meta = self._plan(x)
        if portable.wanted():
            (table,) = self.tables.values()
            y = onnx_nodes.local_function("LUT", partial(portable.table, table), x)
        elif transforms.active():
            y = transforms.lut(x, words, meta, self.gradient)
        else:
            y = torch.ops.lutc.lut(x, words, meta, self.gradient)
        return self._beyond(x, y) if self.exact_outside else y

    @property
    def exact_outside(self) -> bool:
        """Whether the function itself runs beyond `ends`, which then are not both infinite."""
        return self._outside[0] != "table" and self.ends != (-math.inf, math.inf)

    def _beyond(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """y, the table's values, with the function's own beyond `ends`."""
        (lo, hi), exact = self.ends, self._outside[0]
        beyond = (x < lo) | (x > hi)
        inside = x.masked_fill(~beyond, lo if math.isfinite(lo) else hi)  # finite where it is not wanted
        values = exact(inside) if callable(exact) else in_torch.value(self.tables.function, inside)
        return torch.where(beyond, values.to(y.dtype), y)

    def gated(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """table(x) * y for the gate and the value of a gated MLP, in one pass on a GPU; x and y of one
        shape and dtype.
        """
        words, meta = self._plan(x)
        if self.exact_outside:
            return self(x) * y
        if not isinstance(y, torch.Tensor) or (y.shape, y.dtype, y.device) != (x.shape, x.dtype, x.device):
            given = (
                f"{tuple(t.shape)} {t.dtype} on {t.device}" if isinstance(t, torch.Tensor) else type(t).__name__
                for t in (x, y)
            )
            raise LutcError(f"gated takes two tensors of one shape, dtype and device; given {' and '.join(given)}")
        if portable.wanted():
            return self(x) * y
        if transforms.active():
            return transforms.lut(x, words, meta, self.gradient) * y
        return torch.ops.lutc.lut_mul(x, y, words, meta, self.gradient)

    def derivative(self, x: torch.Tensor) -> torch.Tensor:
        """What the backward pass multiplies an incoming gradient by, in the shape and dtype of x."""
        words, meta = self._plan(x)
        if self.gradient == "table":
            return torch.ops.lutc.lut_backward(torch.ones_like(x), x, words, meta)
        return in_torch.derivative(self.gradient, x)

    def plan_kind(self, dtype: torch.dtype) -> str:
        """Name of the plan that serves inputs of `dtype` on the module's device (`lutc.lower.plans`); "none" on the
        meta device.
        """
        return self._plans[dtype].kind if dtype in self._plans else "none"

    def extra_repr(self) -> str:
        ((key, table),) = self.tables.items()
        plan = self.plan_kind(torch.float32)
        told = f"{self.tables.name}, key={key}, entries={table.entries}, grad={self.gradient}, fp32 plan: {plan}"
        if self.ends == (-math.inf, math.inf):
            return told
        beyond = "the function" if self.exact_outside else "its last segment goes on"
        return f"{told}, beyond {self.ends[0]:g} .. {self.ends[1]:g} {beyond}"
