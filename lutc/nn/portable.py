"""Modules in operators that ONNX has: what they trace to while `torch.onnx.export` or `standard_operators` runs.

No custom operator, no bits of floats, no shifts of signed integers. A segment is found by a branchless search of Gather
and comparison. Powers of two come from a table, and an exponent is a logarithm put right by comparison with them, so
both are exact. Integers are int64, divided by powers of two with the floor that an arithmetic shift has.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from lutc.errors import LutcError
from lutc.formats.codes import HALF_AWAY, HALF_EVEN
from lutc.formats.requantise import requantiser
from lutc.hardware.rows import DEVIATION_BITS, EXP_BITS, RECIPROCAL_INPUTS, ROOT_BITS, RSQRT_INPUTS
from lutc.lower.lowering import lower
from lutc.lower.plans import DTYPES, LARGEST, all_codes, round_to, widened
from lutc.lower.reduced_plans import EVEN, ODD
from lutc.table.integer import IntegerLines
from lutc.table.prologues import AbsPrologue
from lutc.table.table import Table

_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}
_LEAST_POWER = {torch.float32: -149, torch.float64: -1074}
_MOST_POWER = {torch.float32: 127, torch.float64: 1023}


_asked = False


@contextmanager
def standard_operators() -> Iterator[None]:
    """What is traced meanwhile has operators of torch alone, as under an ONNX export."""
    global _asked
    before, _asked = _asked, True
    try:
        yield
    finally:
        _asked = before


def wanted() -> bool:
    """Whether an export to standard operators is tracing."""
    return _asked or torch.onnx.is_in_onnx_export()


_present: dict[int, Any] = {}


@contextmanager
def present_scales(scales: Iterable[tuple[torch.nn.Module, Any]]) -> Iterator[None]:
    """Modules whose scale is learned or observed, and its value now (of channels a tuple), with which they trace."""
    before = dict(_present)
    _present.update((id(module), number) for module, number in scales)
    try:
        yield
    finally:
        _present.clear()
        _present.update(before)


def present(module: torch.nn.Module) -> Any:
    """The number, or of channels numbers, that `present_scales` gave for the module."""
    return _present.get(id(module))


def constant(values: ArrayLike, like: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """An array as a constant of the graph."""
    return torch.from_numpy(np.array(values)).to(like.device, dtype)


# --- search
# ----------------------------------------------------------------------------------------------------------------------


def index_of(x: torch.Tensor, thresholds: np.ndarray) -> torch.Tensor:
    """Number of ascending thresholds <= x, int64, in the shape of x; 0 for NaN."""
    steps = int(thresholds.size).bit_length()
    if not steps:
        return torch.zeros_like(x, dtype=torch.int64)
    padded = np.full((1 << steps) - 1, np.nan)
    padded[: thresholds.size] = thresholds
    plan = constant(padded, x, x.dtype)
    position = torch.where(x >= plan[(1 << (steps - 1)) - 1], 1 << (steps - 1), 0)
    for step in reversed(range(steps - 1)):
        ahead = position + (1 << step)
        position = torch.where(x >= plan[ahead - 1], ahead, position)
    return position


def _modulo(x: torch.Tensor, divisor: Any) -> torch.Tensor:
    """The remainder of floor division of integers, 0 to divisor - 1: in ExecuTorch that of a negative number is
    negative.
    """
    rest = torch.remainder(x, divisor)
    return torch.where(rest < 0, rest + divisor, rest)


def _power(exponent: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """2**exponent, 0 below the least subnormal, inf above the largest power."""
    least, most = _LEAST_POWER[dtype], _MOST_POWER[dtype]
    powers = np.concatenate([[0.0], np.exp2(np.arange(least, most + 1, dtype=np.float64)), [np.inf]])
    return constant(powers, exponent, dtype)[exponent.clamp(least - 1, most + 1) - (least - 1)]


def _exponent(x: torch.Tensor) -> torch.Tensor:
    """floor(log2 x) of positive finite x, int64."""
    guess = torch.floor(torch.log(x) * (1.0 / math.log(2.0))).to(torch.int64)  # off by one at most
    below = torch.where(x < _power(guess, x.dtype), 1, 0)
    return guess - below + torch.where(x >= _power(guess + 1, x.dtype), 1, 0)


# --- tables
# ----------------------------------------------------------------------------------------------------------------------


def table(held: Table, x: torch.Tensor) -> torch.Tensor:
    """The table at x of any float dtype: in float32 for float32, else in float64 rounded once."""
    reduced = held.prologue is not None and not isinstance(held.prologue, AbsPrologue)
    if x.dtype == torch.float32 and not reduced and held.domain is None:
        try:
            plan = lower(held, "fp32", ("search",))
        except LutcError:
            plan = None
        if plan is not None:
            n = int((~np.isnan(plan.thresholds)).sum())
            return _single(x, plan, n)
    value = _wide(x.to(torch.float64), lower(held, "fp64", ("reference",)))
    return _narrowed(value, held, x.dtype)


def _single(x: torch.Tensor, plan, n: int) -> torch.Tensor:
    v = x  # a Clip without one of its limits clamps infinities in onnxruntime, and NaN is not to change
    v = torch.where(v < -LARGEST, -LARGEST, v) if plan.flat_left else v
    v = torch.where(v > LARGEST, LARGEST, v) if plan.flat_right else v
    index = index_of(v, plan.thresholds[:n])
    slopes, intercepts = constant(plan.slopes[: n + 1], v), constant(plan.intercepts[: n + 1], v)
    return slopes[index] * v + intercepts[index]


def _line(slope, intercept, x):
    return torch.where(slope == 0, torch.where(x.isnan(), x, intercept), slope * x + intercept)


def _body(v, plan):
    index = index_of(v, plan.thresholds)
    return _line(constant(plan.slopes, v)[index], constant(plan.intercepts, v)[index], v)


def _wide(v: torch.Tensor, plan) -> torch.Tensor:
    """A reference plan at v, float64."""
    if not plan.reduction:
        value = _body(v, plan)
    elif plan.reduction[0] == "exponent":
        value = _by_exponent(v, plan, *plan.reduction[1:])
    else:
        value = _by_period(v, plan, *plan.reduction[1:])
    return torch.where(v.isnan(), v, value)


def _shifted(value, power):
    """value * 2**power in two steps, for the power alone may leave float64."""
    half = torch.div(power - _modulo(power, 2), 2, rounding_mode="trunc")
    return value * _power(half, value.dtype) * _power(power - half, value.dtype)


def _by_exponent(v, plan, step, growth, sign, offset):
    magnitude = v.abs()
    regular = (magnitude < math.inf) & (magnitude > 0)
    safe = torch.where(regular, magnitude, 1.0)
    exponent = _exponent(safe)
    e = exponent if step == 1 else torch.div(exponent - _modulo(exponent, 2), 2, rounding_mode="trunc")
    body = _body(_shifted(safe, -step * e), plan)
    limit = torch.where(magnitude == 0, -math.inf, math.inf)
    one = int(np.searchsorted(plan.thresholds[~np.isnan(plan.thresholds)], 1.0, side="right"))
    at_one = constant(plan.slopes[one] + plan.intercepts[one], v, v.dtype)
    at_limit = torch.where(magnitude == 0, *(2.0 ** (growth * end) if growth else 1.0 for end in (-math.inf, math.inf)))
    ends = at_one * at_limit + (torch.sign(limit) * math.copysign(math.inf, offset) if offset else 0.0)
    value = torch.where(regular, _shifted(body, growth * e) + constant(offset, v) * e.to(v.dtype), ends)
    if sign == EVEN:
        return value
    negative = v < 0
    if sign == ODD:
        negative = negative | _minus_zero(v)
        return torch.where(negative, -value, value)
    value = torch.where(negative, math.nan, value)
    return value if offset else torch.where(_minus_zero(v), -value, value)


def _minus_zero(v):
    return (v == 0) & (1.0 / v < 0)


def _by_period(v, plan, growth, period):
    finite = torch.where(v.abs() < math.inf, v, 0.0)
    period = constant(period, v)  # as a number it would become a float32 constant
    r = torch.fmod(finite, period)
    r = torch.where(r < 0, r + period, r)
    value = _body(r, plan)
    if not growth:
        return torch.where(v.abs() < math.inf, value, math.nan)
    n = torch.round((finite - r) / period).clamp(-4000.0, 4000.0).to(torch.int64)
    return torch.where(v.abs() < math.inf, _shifted(value, n), torch.where(v > 0, math.inf, 0.0))


def _narrowed(value: torch.Tensor, held: Table, dtype: torch.dtype) -> torch.Tensor:
    """float64 to dtype in one rounding, though runtimes cast to 16 bits by way of float32: of the two neighbours the
    nearer one, where some value of the table needs that.
    """
    if dtype in (torch.float64, torch.float32):
        return value.to(dtype)
    single = _step(value.to(torch.float32))
    name = _NAMES[dtype]
    all_values = held(widened(all_codes(name)))
    with np.errstate(over="ignore", invalid="ignore"):
        twice = all_values.astype(np.float32).astype(DTYPES[name])
    if np.array_equal(twice.astype(np.float64), round_to(all_values, name).astype(np.float64), equal_nan=True):
        return single.to(dtype)
    # a sum: a factor so near to 1 would be dropped by the exporter's optimiser
    low, high = (_step((single + single * (side * 2.0**-14)).to(dtype)) for side in (-1, 1))
    to_low, to_high = (value - low.to(torch.float64)).abs(), (value - high.to(torch.float64)).abs()
    largest = torch.finfo(dtype).max
    plain = (to_low == to_high) | ~(low.abs() < largest) | ~(high.abs() < largest)
    return torch.where(plain, single.to(dtype), torch.where(to_low < to_high, low, high))


def _step(x: torch.Tensor) -> torch.Tensor:
    """x, between two casts: the exporter's optimiser would join them to one, which rounds otherwise."""
    return torch.where(x.isnan(), math.nan, x)


def of_fp16_codes(values: np.ndarray, x: torch.Tensor) -> torch.Tensor:
    """values[code of x] of float16 x, where values (65,536 float16, by code) is all that there is: the code by search
    among the magnitudes.
    """
    magnitudes = np.arange(0x7C01, dtype=np.uint16).view(np.float16).astype(np.float64)
    wide = x.to(torch.float32)
    code = index_of(wide.abs(), magnitudes[1:])
    negative = (wide < 0) | _minus_zero(wide)
    code = torch.where(wide.isnan(), 0x7E00, code) + torch.where(negative, 0x8000, 0)
    return constant(values.astype(np.float32), x)[code].to(torch.float16)


# --- rows
# ----------------------------------------------------------------------------------------------------------------------


def _without_reduction(held: Table) -> tuple[Table, float]:
    """(body with tails, period of exp or 0)"""
    kind = None if held.prologue is None else held.prologue.kind
    if kind in ("exponent", "period"):
        return Table(held.body, None, held.left, held.right, held.coefficients), getattr(held.prologue, "period", 0.0)
    return held, 0.0


def _evaluated(held: Table, x: torch.Tensor) -> torch.Tensor:
    return _body(x.to(torch.float64), lower(held, "fp64", ("reference",))).to(x.dtype)


def _work_dtype(x: torch.Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def softmax(x: torch.Tensor, exp: Table, reciprocal: Table | None, floor: float) -> torch.Tensor:
    """`lutc.nn.rows.softmax` along the last axis."""
    v = x.to(_work_dtype(x))
    d = v - v.amax(-1, keepdim=True)
    held, period = _without_reduction(exp)
    if period:
        n = torch.floor(torch.where(d.abs() < math.inf, d, 0.0) / constant(period, d, d.dtype))
        high = math.ldexp(round(math.ldexp(period, 14)), -14)
        last = math.nextafter(period, 0.0) if d.dtype == torch.float64 else period * (1 - 2.0**-24)
        r = (d - n * high) - n * constant(period - high, d, d.dtype)
        r = torch.minimum(r.clamp(min=0.0), constant(last, d, d.dtype))
        weights = _evaluated(held, r) * _power(n.clamp(-2000.0, 2000.0).to(torch.int64), d.dtype)
    else:
        weights = _evaluated(held, d)
    weights = torch.where(d.isnan(), d, torch.where(d < floor, 0.0, weights.clamp(min=0.0)))
    total = weights.sum(-1, keepdim=True)
    if reciprocal is None:
        return (weights / total).to(x.dtype)
    e = _exponent(torch.where(total.isnan(), 1.0, total))
    inverse = _evaluated(_without_reduction(reciprocal)[0], total * _power(-e, d.dtype)) * _power(-e, d.dtype)
    return (weights * torch.where(total.isnan(), total, inverse)).to(x.dtype)


def norm(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float, centred: bool, rsqrt: Table
) -> torch.Tensor:
    """`lutc.nn.rows.norm` along the last axis."""
    v = x.to(_work_dtype(x))
    deviation = v - v.mean(-1, keepdim=True) if centred else v
    variance = deviation.square().mean(-1, keepdim=True) + constant(eps, v, v.dtype)
    regular = (variance > 0) & (variance < math.inf)
    safe = torch.where(regular, variance, 1.0)
    exponent = _exponent(safe)
    half = torch.div(exponent - _modulo(exponent, 2), 2, rounding_mode="trunc")
    root = _evaluated(_without_reduction(rsqrt)[0], _shifted(safe, -2 * half)) * _power(-half, v.dtype)
    y = deviation * torch.where(regular, root, torch.rsqrt(variance))
    y = y if weight is None else y * weight.to(v.dtype)
    return (y if bias is None else y + bias.to(v.dtype)).to(x.dtype)


# --- quantisers
# ----------------------------------------------------------------------------------------------------------------------


def power_of_two(power: torch.Tensor) -> torch.Tensor:
    """2**power in float32 of whole powers, NaN for NaN."""
    value = _power(torch.where(power.isnan(), 0.0, power).to(torch.int64), torch.float32)
    return torch.where(power.isnan(), math.nan, value)


def covering_power(magnitude: torch.Tensor) -> torch.Tensor:
    """The least whole power with 2**power >= magnitude, float32; magnitude: positive finite float32, or 0."""
    safe = torch.where(magnitude > 0, magnitude, 1.0)
    exponent = _exponent(safe)
    above = torch.where(safe > _power(exponent, torch.float32), 1, 0)
    return torch.where(magnitude > 0, exponent + above, -127).to(torch.float32)


# --- integers, all int64
# ----------------------------------------------------------------------------------------------------------------------


def _floor_divide(x: torch.Tensor, divisor) -> torch.Tensor:
    return torch.div(x - _modulo(x, divisor), divisor, rounding_mode="trunc")


def _two_to(exponent: torch.Tensor) -> torch.Tensor:
    return constant(1 << np.arange(63), exponent)[exponent]


def _requantise(acc, multiplier: int, shift) -> torch.Tensor:
    """round(acc * multiplier * 2**-shift), halves up; shift: a number, or a tensor of numbers > 0."""
    product = acc * multiplier
    if isinstance(shift, torch.Tensor):
        shift = shift.clamp(0, 62)
        return _floor_divide(product + _floor_divide(_two_to(shift), 2), _two_to(shift))
    if shift > 62:
        return torch.zeros_like(product)
    return _floor_divide(product + (1 << (shift - 1)), 1 << shift) if shift > 0 else product * (1 << -shift)


def requantised(acc: torch.Tensor, ratio: torch.Tensor, rounding: str) -> torch.Tensor:
    """round(acc * ratio), int64, of a ratio that is a tensor: float64, 0-d, 0 < ratio < 2**31."""
    exponent = _exponent(ratio) + 1
    multiplier = torch.round(ratio * _power(-exponent, ratio.dtype) * 2.0**31).to(torch.int64)
    shift = 31 - exponent
    product, divisor = acc.to(torch.int64) * multiplier, _two_to(shift.clamp(1, 62))
    half = _floor_divide(divisor, 2)
    if rounding == HALF_AWAY:
        half = half - torch.where(product < 0, 1, 0)
    elif rounding == HALF_EVEN:
        half = half - 1 + _modulo(_floor_divide(product, divisor), 2)
    return torch.where(shift > 62, 0, _floor_divide(product + half, divisor))


def _accumulated(lines: IntegerLines, centred: torch.Tensor) -> torch.Tensor:
    """acc of codes less the zero point: a cut belongs to the left, so the thresholds are the codes behind it."""
    index = index_of(centred, lines.cuts + 1) if lines.cuts.size else torch.zeros_like(centred)
    return constant(lines.slopes, centred)[index] * centred + constant(lines.intercepts, centred)[index]


def _divide(numerator, n: int) -> torch.Tensor:
    return _floor_divide(2 * numerator + n, 2 * n)


def _leading_one(x):
    return index_of(x, 1 << np.arange(62)) - 1


def _shift_to(x, places):
    """x * 2**places, rounded half up where places < 0."""
    right = (-places).clamp(min=0)
    rounded_off = _floor_divide(x + _floor_divide(_two_to(right), 2), _two_to(right))
    return torch.where(places >= 0, x * _two_to(places.clamp(min=0)), rounded_off)


def _saturated(codes, out, dtype: torch.dtype) -> torch.Tensor:
    return (codes + out.zero_point).clamp(out.minimum, out.maximum).to(dtype)


def integer_softmax(q: torch.Tensor, mask: torch.Tensor | None, model: Any, dtype: torch.dtype) -> torch.Tensor:
    """`lutc.hardware.rows.IntegerSoftmaxModel` along the last axis."""
    q = q.to(torch.int64)
    lowest = -(1 << (model.bits - 1))
    top = (q if mask is None else torch.where(mask, q, lowest)).amax(-1, keepdim=True)
    acc = _accumulated(model.exp, (q - top).clamp(max=0))
    weights = _requantise(acc, *requantiser(model.exp.unit * 2.0**EXP_BITS)).clamp(0, (2 << EXP_BITS) - 1)
    weights = weights if mask is None else torch.where(mask, weights, 0)
    total = weights.sum(-1, keepdim=True).clamp(min=1)
    leading = _leading_one(total)
    mantissa = _shift_to(total, 14 - leading).clamp(max=RECIPROCAL_INPUTS.maximum)
    roots = _requantise(_accumulated(model.reciprocal, mantissa), *requantiser(model.reciprocal.unit * 2.0**ROOT_BITS))
    multiplier, shift = requantiser(2.0**-ROOT_BITS / model.out.scale)
    return _saturated(_requantise(weights * roots, multiplier, shift + leading), model.out, dtype)


def integer_norm(q: torch.Tensor, model: Any, dtype: torch.dtype) -> torch.Tensor:
    """`lutc.hardware.rows.IntegerNormModel` along the last axis."""
    c = q.to(torch.int64) - model.zero_point
    rest = torch.zeros_like(c[..., :1])
    if model.centred:
        total = c.sum(-1, keepdim=True)
        mean = _divide(total, model.n)
        c, rest = c - mean, total - model.n * mean
    scale = 1 << model.fraction
    squares = (c * c).sum(-1, keepdim=True) * scale - _divide(rest * rest * scale, model.n)
    spread = (squares + model.epsilon).clamp(min=1)
    half = _floor_divide(_leading_one(spread), 2)
    mantissa = _shift_to(spread, 13 - 2 * half).clamp(max=RSQRT_INPUTS.maximum)
    roots = _requantise(_accumulated(model.rsqrt, mantissa), *requantiser(model.rsqrt.unit * 2.0**ROOT_BITS))
    deviation = c * (1 << DEVIATION_BITS) - _divide(rest * (1 << DEVIATION_BITS), model.n)
    multiplier, shift = model.hidden_requantiser
    product = deviation * roots
    if model.dropped:
        product = _floor_divide(product + (1 << (model.dropped - 1)), 1 << model.dropped)
    acc = _requantise(product, multiplier, shift + half).clamp(-32768, 32767)
    acc = acc if model.weight is None else acc * constant(model.weight, acc)
    acc = acc if model.bias is None else acc + constant(model.bias, acc)
    return _saturated(_requantise(acc, *requantiser(model.unit / model.out.scale)), model.out, dtype)
