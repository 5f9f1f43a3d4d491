"""`activation="auto"`: a table compiled on the spot for whatever elementwise function is found, known or not."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from lutc import functions
from lutc.compiler.pipeline import compile
from lutc.compiler.request import INT8
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.fplut.pipeline import compile_fplut
from lutc.functions import Function
from lutc.functions.shape import line_far_out
from lutc.functions.spelling import spelled
from lutc.nn.channel_tables import ChannelLUT
from lutc.nn.patching.operators import Operator, table_operator
from lutc.nn.patching.quantised import Quantised, Scales, quantised_function
from lutc.nn.patching.recognise import could_be_activation
from lutc.nn.patching.report import Refused
from lutc.table.library import load, names
from lutc.table.reach import reach
from lutc.table.table_set import TableSet

KINDS = ("auto", "auto-fplut")
ENTRIES = 16
BOUND = 0.05  # of a function's standard deviation over its range: a root mean square error beyond leaves it exact
RANGE = (-8.0, 8.0)  # of a function that is not known, where nobody saw its inputs
_REACH = 4.0  # times the range, over which cut points are searched where neither tail nor range reduction goes on
_GRID = 8193  # points at which a table is judged
_STEPS = 64.0  # of a slope of 1 in q1.6
_LARGEST = 256  # tables that are kept for the next patch
_MADE: dict[tuple, tuple[TableSet, str, bool]] = {}


@dataclass(frozen=True)
class Automatic:
    """Makes an operator for a function that is found. kind: of KINDS. entries: of a table of lines. scales: quantisers
    before the tables, or None. outside: as `lutc.nn.LUT` has it. seen: ranges of what modules were given, by their
    ids, over which functions that are not known have their tables.
    """

    leaves = True  # also leaves that neither their class nor their name calls activations

    kind: str
    entries: int
    scales: Scales | None
    outside: str
    seen: dict[int, tuple[float, float]] = field(default_factory=dict)

    def __call__(self, found: Sequence[str], exact: Any) -> Operator | Quantised | Refused:
        """The operator for a place, or why there is none. found: registry names of what `exact` computes (a module or a
        function, None for a call in a forward).
        """
        if found and found[0].endswith("(*)"):
            return Refused("its parameters are computed as it runs; give a table of it")
        if not found and isinstance(exact, nn.PReLU):
            return self._per_channel(exact)
        try:
            fn = functions.get(found[0]) if found else own_function(exact, self.seen.get(id(exact), RANGE))
        except LutcError as error:
            return Refused(str(error), silent=True)
        try:
            behind = self.scales is not None or quantised_function(exact) is not None
            tables, said, serves = self._made(fn, known=bool(found), codes=behind)
            said += "" if found else f", made for {fn.range[0]:g} to {fn.range[1]:g}"
        except LutcError as error:
            return Refused(str(error))
        if not serves:
            return Refused(f"{_size(tables)} cannot serve it: {said}")
        label = f"{self.kind} ({_size(tables)})"
        if self.scales is not None:
            return Quantised(tables, self.scales, label, said)
        return table_operator(tables, label, self.outside, said)

    def _made(self, fn: Function, known: bool, codes: bool = False) -> tuple[TableSet, str, bool]:
        """A table set, its error in words, and whether that is within the bound; kept by function and request. codes:
        whether it stands behind a quantiser, whose scale may be any.
        """
        own = "" if known else _digest(fn)
        key = (fn.name, own, self.kind, self.entries, codes)
        if key not in _MADE:
            while len(_MADE) >= _LARGEST:
                del _MADE[next(iter(_MADE))]
            tables = self._fplut(fn) if self.kind == "auto-fplut" else self._lines(fn, codes)
            _MADE[key] = (tables, *judged(tables, fn))
        return _MADE[key]

    def _fplut(self, fn: Function) -> TableSet:
        if f"{fn.name}_fplut" in names():
            return load(f"{fn.name}_fplut")
        ends = fn.left is None, fn.right is None
        interval = None
        if fn.reduction is None and any(ends) and not np.isfinite(fn.domain).any():
            interval = tuple(_REACH * end for end in fn.range)  # beyond, the exact function runs
        half = "auto" if fn.symmetry is None or fn.reduction is not None else "abs"  # twice the pieces for each half
        return compile_fplut(fn, formats=("fp32",), range=interval, prologue=half, proof=False)

    def _lines(self, fn: Function, codes: bool) -> TableSet:
        """Over int8 codes, as `lutc compile` has it; floats look up the finest scale that covers the range."""
        inputs = INT8 if codes else (_covering(fn.range),)
        try:
            return compile(fn, self.entries, inputs=inputs, search="exact")
        except LutcError:  # 8 bits cannot hold its slopes or tails
            return compile(fn, self.entries, inputs=inputs, search="exact", coefficients="fp16")

    def _per_channel(self, module: nn.PReLU) -> Operator | Refused:
        """Two lines for each channel, with slopes as 8-bit coefficients hold them: of those that round alike, one."""
        if self.scales is not None:
            return Refused("its channels have tables of their own, which go behind no quantiser; leave it out by skip=")
        weights = module.weight.detach().double().cpu().numpy()
        rounded, lines = np.round(weights * _STEPS) / _STEPS, replace(self, kind="auto", entries=2)
        slopes = {value: functions.get(spelled("prelu", {"weight": value})) for value in rounded.tolist()}
        made = {value: lines._made(fn, True)[0] for value, fn in slopes.items()}
        tables = [made[value] for value in rounded.tolist()]
        stored = np.array([one[one.default_key](-1.0) for one in tables])
        worst, channels = float(np.abs(-stored - weights).max()), ChannelLUT(tables, 1)
        return Operator(channels, "auto (2 entries a channel)", error=f"slopes off by at most {worst:.2g}")


def _covering(interval: tuple[float, float]) -> Inputs:
    """The finest of the default scales whose codes cover an interval, else the coarsest."""
    lo, hi = interval
    covers = (inputs for inputs in reversed(INT8) if inputs.x()[0] <= lo and inputs.x()[-1] + inputs.scale >= hi)
    return next(covers, INT8[0])


def _size(tables: TableSet) -> str:
    entries = max(table.entries for table in tables.values())
    return f"{entries} {'entries' if next(iter(tables.values())).body.payload == 'lines' else 'values'}"


def _digest(fn: Function) -> str:
    """Of a function that only its caller knows, by its values."""
    values = np.asarray(fn(np.linspace(*fn.range, _GRID)), np.float64)
    return hashlib.sha256(values.tobytes() + repr((fn.range, fn.left, fn.right)).encode()).hexdigest()


def judged(tables: TableSet, fn: Function) -> tuple[str, bool]:
    """The worst error of the table that floats look up, over the function's range and as far again on either side of it
    where the table stands for the function there, in words; and whether the root mean square over the range is within
    BOUND of the function's standard deviation there.
    """
    key, (lo, hi) = tables.default_key, fn.range
    ends, half = reach(tables, key), (hi - lo) / 2.0
    x = np.linspace(lo - half, hi + half, 2 * _GRID)
    x = x[(x >= ends[0]) & (x <= ends[1])]
    y = np.asarray(fn(x), np.float64)
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    error, inside = np.abs(tables[key](x) - y), (x >= lo) & (x <= hi)
    worst = int(np.argmax(error))
    rms, spread = float(np.sqrt(np.mean(error[inside] ** 2))), float(np.std(y[inside]))
    said = f"error at most {error[worst]:.2g} (at {x[worst]:.3g})"
    if rms <= BOUND * spread:
        return said, True
    return f"{said}, {rms:.2g} root mean square of a spread of {spread:.2g}", False


@contextlib.contextmanager
def observed(model: nn.Module, seen: dict[int, tuple[float, float]]) -> Iterator[None]:
    """While the model runs, `seen` fills with the range of what each module that could be an activation is given: from
    the power of two below to the one above, so that a batch more changes little.
    """
    ends: dict[int, tuple[float, float]] = {}

    def note(module: nn.Module, args: tuple) -> None:
        if len(args) == 1 and isinstance(args[0], torch.Tensor) and args[0].is_floating_point() and args[0].numel():
            low, high = (float(end) for end in args[0].aminmax())
            if math.isfinite(low) and math.isfinite(high):
                before = ends.get(id(module), (low, high))
                ends[id(module)] = min(low, before[0]), max(high, before[1])

    hooks = [one.register_forward_pre_hook(note) for one in model.modules() if could_be_activation(one)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    seen |= {key: rounded_out(*found) for key, found in ends.items()}


def rounded_out(low: float, high: float) -> tuple[float, float]:
    """The interval from the power of two at or below `low` to that at or above `high`."""

    def end(value: float, side: int) -> float:
        up = (value > 0) == (side > 0)
        return value and math.copysign(2.0 ** (math.ceil if up else math.floor)(math.log2(abs(value))), value)

    found = end(low, -1), end(high, 1)
    return found if found[0] < found[1] else (found[0] - 1.0, found[1] + 1.0)


def own_function(exact: Callable | None, interval: tuple[float, float] = RANGE) -> Function:
    """A callable of tensors that the registry has not, over an interval, with the tails that it has far out. LutcError
    where it is no function of one number, which says how that was found: it raises, is not finite, gives another shape,
    mixes elements, or is a line.
    """
    if exact is None:
        raise LutcError("no function of the registry")
    call = copy.deepcopy(exact).cpu().double().eval() if isinstance(exact, nn.Module) else exact
    x = torch.linspace(*interval, 258, dtype=torch.float64)
    try:
        with torch.no_grad():
            y = call(x.clone())
    except Exception as error:  # noqa: BLE001 - another's code may raise anything
        raise LutcError(f"not elementwise: it raises {type(error).__name__} for a tensor of one dimension") from error
    if not isinstance(y, torch.Tensor) or y.shape != x.shape:
        given = f"shape {tuple(y.shape)}" if isinstance(y, torch.Tensor) else type(y).__name__
        raise LutcError(f"not elementwise: for shape {tuple(x.shape)} it gives {given}")
    fn = functions.load(call, interval)
    values = fn(x.numpy())
    if np.ptp(np.diff(values)) <= 1e-9 * max(1.0, float(np.abs(values).max())):
        raise LutcError("it is a line, which needs no table")
    return replace(fn, left=line_far_out(fn, -1.0), right=line_far_out(fn, 1.0))
