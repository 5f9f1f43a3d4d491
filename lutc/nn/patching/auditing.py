"""Which transcendental operations a model really runs on a batch: where each is called from, how often, and whether a
table runs there.

A dispatch mode sees every operator of torch, also those of functions that hide behind variables, of TorchScript and of
modules without source. The module and the line that it is called from are read from the stack.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import lutc
from lutc.errors import LutcError
from lutc.models.modes import evaluation_mode
from lutc.models.texts import to_device
from lutc.nn.coded_rows import CodeSoftmax, CodeTable
from lutc.nn.dequantised_rows import DequantisedNorm, DequantisedSoftmax
from lutc.nn.integer_softmax import IntegerSoftmax
from lutc.nn.norm import LUTLayerNorm, LUTRMSNorm
from lutc.nn.patching.checking import Pairs, compare
from lutc.nn.softmax import LUTSoftmax
from lutc.table.table_set import loads
from lutc.taylor.module import TaylorMLP

# Operators of torch by what a reader calls them; the same name unless it says otherwise. Piecewise lines (relu,
# hardswish) are none.
_SAME = (
    "gelu silu sigmoid tanh softplus mish elu selu celu logit glu erf erfc erfinv exp exp2 expm1 log log2 log10 log1p "
    "logsumexp logcumsumexp logaddexp logaddexp2 xlogy sqrt rsqrt reciprocal sin cos tan sinh cosh asin acos atan "
    "asinh acosh atanh atan2 hypot lgamma digamma polar angle std"
)
_OPERATORS = {name: name for name in _SAME.split()} | {
    "log_sigmoid_forward": "logsigmoid",
    "_softmax": "softmax",
    "_safe_softmax": "softmax",
    "_log_softmax": "log_softmax",
    "_flash_attention_forward": "softmax",
    "_efficient_attention_forward": "softmax",
    "_native_multi_head_attention": "softmax",
    "_transformer_encoder_layer_fwd": "a whole encoder layer",
    "native_layer_norm": "layer_norm",
    "_fused_rms_norm": "rms_norm",
    "native_group_norm": "group_norm",
    "linalg_vector_norm": "vector norm",
    "norm": "vector norm",
    "_weight_norm_interface": "weight norm",
    "_cdist_forward": "distance",
    "std_mean": "std",
    "mkldnn_rnn_layer": "gates of a recurrent layer",
    "_thnn_fused_lstm_cell": "gates of a recurrent layer",
    "_thnn_fused_gru_cell": "gates of a recurrent layer",
    "_cudnn_rnn": "gates of a recurrent layer",
}
_BATCH_NORMS = ("native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm", "_batch_norm_with_update")
DIVISION = "division"
_OWN = os.path.dirname(os.path.abspath(lutc.__file__)) + os.sep
_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep
Batch = Any


@dataclass(frozen=True)
class Operation:
    """what: a function, "softmax", "layer_norm", "division" (by a tensor), ... path: the module that runs it ("" for
    the model itself). where: file:line that calls it. calls: how often in the batch; elements: of the inputs of all of
    them. table: what runs there, None where it is exact.
    """

    what: str
    path: str
    where: str
    calls: int
    elements: int
    table: str | None


@dataclass(frozen=True)
class Audit:
    """The transcendental operations of one run of a model, in the order in which they first ran."""

    operations: tuple[Operation, ...]

    @property
    def exact(self) -> tuple[Operation, ...]:
        """Those without a table."""
        return tuple(one for one in self.operations if one.table is None)

    @property
    def tables(self) -> tuple[Operation, ...]:
        """Those that a table answers."""
        return tuple(one for one in self.operations if one.table is not None)

    def rows(self) -> list[tuple[str, str, int, int, str, str]]:
        """(operation, path, places, calls, line, table or "exact"): layers that differ by their numbers alone are one
        row.
        """
        places: Counter[tuple[str, str, str, str]] = Counter()
        calls: Counter[tuple[str, str, str, str]] = Counter()
        for one in self.operations:
            path = re.sub(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.|$)", "*", one.path)
            key = one.what, path or "(the model)", one.where, one.table or "exact"
            places[key] += 1
            calls[key] += one.calls
        return [(what, path, places[key], calls[key], where, by) for key in places for what, path, where, by in [key]]

    def __str__(self) -> str:
        if not self.operations:
            return "no transcendental operation ran"
        rows = [("operation", "in", "places", "calls", "from", "by"), *(tuple(map(str, row)) for row in self.rows())]
        widths = [max(len(row[column]) for row in rows) for column in range(6)]
        return "\n".join(
            "  ".join(text.rjust(w) if i in (2, 3) else text.ljust(w) for i, (text, w) in enumerate(zip(row, widths)))
            .rstrip()
            for row in rows
        )  # fmt: skip


def audit(model: nn.Module, batch: Batch) -> Audit:
    """Run `model` on one batch and list the transcendental operations that it runs, by table or exact.

    batch: keyword arguments (a dict), arguments (a tuple), a tensor, or a function that is called with the model, as
    `lambda model: model.generate(ids)`; tensors are moved to the model's device. The model runs in eval mode without
    gradients and is left as it was. Divisions count where a tensor divides; constants that a model computes when it is
    made do not. LutcError for what is no module, and for a compiled model, whose operators cannot be told apart.
    """
    return audited(model, batch)


def audited(model: nn.Module, batch: Batch, replaced: Pairs = ()) -> Audit:
    """`audit`; what stands at each of `replaced` is held against what stood there (`lutc.nn.patching.checking`)."""
    if not isinstance(model, nn.Module):
        raise LutcError(f"an audit takes a torch.nn.Module; given {type(model).__name__}")
    if any(type(module).__name__ == "OptimizedModule" for module in model.modules()):
        raise LutcError("this model is compiled: audit it before torch.compile")
    listening = Listening(model)
    hooks = [
        module.register_forward_pre_hook(listening.entered)
        for module in model.modules()
        if isinstance(module, (CodeTable, TaylorMLP))
    ]
    try:
        with listening:
            compare(replaced, lambda: run(model, batch), listening)
    finally:
        for hook in hooks:
            hook.remove()
    return listening.found()


@torch.no_grad()
def run(model: nn.Module, batch: Batch) -> None:
    """One batch through the model, in eval mode."""
    device = next((p.device for p in model.parameters() if p.device.type != "meta"), torch.device("cpu"))
    with evaluation_mode(model):
        if callable(batch) and not isinstance(batch, (torch.Tensor, Mapping)):
            batch(model)
            return
        given = to_device(dict(batch) if isinstance(batch, Mapping) else batch, device)
        if isinstance(given, dict):
            model(**given)
        elif isinstance(given, (tuple, list)):
            model(*given)
        else:
            model(given)


class Listening(TorchDispatchMode):
    """Counts operations by what they are, their module, their line and their table, while it is on."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.names = {id(module): name for name, module in model.named_modules()}
        self.calls: dict[tuple[str, str, str, str | None], list[int]] = {}
        self.paused = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not self.paused:
            if func.namespace == "lutc":
                self._table(sys._getframe(1), _elements(args))
            else:
                what = _what(func, args, kwargs)
                if what is not None:
                    self._note(what, sys._getframe(1), _elements(args))
        return func(*args, **kwargs)

    def entered(self, module: nn.Module, args: tuple) -> None:
        """A forward hook of tables that run in plain operators of torch."""
        if not self.paused:
            self._table(sys._getframe(1), _elements(args), module)

    def found(self) -> Audit:
        return Audit(
            tuple(
                Operation(what, path, where, calls, elements, table)
                for (what, path, where, table), (calls, elements) in self.calls.items()
            )
        )

    def _note(self, what: str, frame: FrameType, elements: int, table: str | None = None) -> None:
        key = what, self._path(frame), _line(frame), table
        count = self.calls.setdefault(key, [0, 0])
        count[0] += 1
        count[1] += elements

    def _table(self, frame: FrameType, elements: int, inner: nn.Module | None = None) -> None:
        """An operation by the outermost module of lutc that is at work."""
        module = inner
        for at in _frames(frame):
            for name in ("self", "softmax"):
                held = at.f_locals.get(name) if at.f_code.co_filename.startswith(_OWN) else None
                if isinstance(held, nn.Module):
                    module = held
        if module is None:  # an operator that was called by hand
            self._note("table", frame, elements, "a table")
            return
        what, name = _told(module, inner)
        self._note(what, frame, elements, name)
        if isinstance(module, LUTSoftmax) and "reciprocal" not in module.tables:  # within the operator
            self._note(DIVISION, frame, elements)

    def _path(self, frame: FrameType) -> str:
        """Of the innermost module of the model that runs; what a patch has added to it belongs to it."""
        for at in _frames(frame):
            name = self.names.get(id(at.f_locals.get("self")))
            if name is not None:
                parts = name.split(".")
                own = next((i for i, part in enumerate(parts) if part.startswith("lutc_")), len(parts))
                return ".".join(parts[:own])
        return ""


def _told(module: nn.Module, inner: nn.Module | None) -> tuple[str, str]:
    """What a module of lutc computes, and the names of its tables."""
    if isinstance(module, (LUTSoftmax, CodeSoftmax, DequantisedSoftmax, IntegerSoftmax)):
        what = "softmax"
    elif isinstance(module, (LUTLayerNorm, LUTRMSNorm, DequantisedNorm)):
        what = "layer_norm" if module.centred else "rms_norm"
    elif isinstance(module, TaylorMLP):
        return "mlp", "a Taylor table"
    else:
        what = getattr(getattr(module, "tables", None), "function", None) or "a function"
    if isinstance(module, (DequantisedNorm, DequantisedSoftmax)):
        return what, type(module.integer).__name__
    if isinstance(inner, CodeTable):
        held: Any = inner.table
        return what, loads(bytes(held.cpu().numpy()).decode()).name
    texts = getattr(module, "_texts", None)
    if texts:
        return what, " and ".join(loads(text).name for text in texts.values())
    return what, getattr(getattr(module, "tables", None), "name", type(module).__name__)


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    """From the innermost outward."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _line(frame: FrameType) -> str:
    """file:line of the innermost frame that is neither torch's nor lutc's; the file from its package on."""
    for at in _frames(frame):
        name = at.f_code.co_filename
        if not name.startswith((_OWN, _TORCH)) and not name.startswith("<"):
            roots = (root for root in sys.path if root and name.startswith(root.rstrip(os.sep) + os.sep))
            root = max(roots, key=len, default="")
            return f"{name[len(root) :].lstrip(os.sep) if root else name}:{at.f_lineno}"
    return "?"


def _elements(args: tuple) -> int:
    return next((value.numel() for value in args if isinstance(value, torch.Tensor)), 0)


def _what(func: Any, args: tuple, kwargs: Mapping) -> str | None:
    """What an operator of torch is called here, None for one that is no function worth a table."""
    name = func._schema.name.rpartition("::")[2]
    name = name[:-1] if name.endswith("_") else name
    if name.startswith("_scaled_dot_product") and "backward" not in name:
        return "softmax"
    if name in _BATCH_NORMS:
        training = [value for value in args if isinstance(value, bool)]
        return "batch_norm" if training and training[0] else None  # else it is a line
    if name == "pow":
        exponent = args[1] if len(args) > 1 else None
        whole = isinstance(exponent, (int, float)) and float(exponent).is_integer() and exponent >= 0
        return None if whole or not _is_float(args) else "pow"
    if name == "div":
        divisor = args[1] if len(args) > 1 else None
        by_tensor = isinstance(divisor, torch.Tensor) and divisor.ndim > 0 and divisor.is_floating_point()
        return DIVISION if by_tensor and not kwargs.get("rounding_mode") else None
    if name.startswith("special_"):
        return name
    if name in ("linalg_vector_norm", "norm"):
        order = args[1] if len(args) > 1 else 2
        return "vector norm" if order not in (0, 1, float("inf"), float("-inf")) else None
    return _OPERATORS.get(name) if _is_float(args) else None


def _is_float(args: tuple) -> bool:
    given = [value for value in args if isinstance(value, torch.Tensor)]
    return not given or any(value.is_floating_point() for value in given)
