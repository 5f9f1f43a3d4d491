"""Plans in plain torch operations: any device, slow. Serves float64, range reduction in fp32, and GPUs without Triton;
oracle in tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lutc.lower.plans import KIND_CODES, LARGEST
from lutc.lower.reduced_plans import EVEN, ODD

_REDUCTIONS = {1: "exponent", 2: "period"}


def evaluate(x: torch.Tensor, words: torch.Tensor, meta: Sequence[int], slope_only: bool) -> torch.Tensor:
    """Values, or slopes, of a `search`, `direct` or `reference` plan at x: same shape, dtype and device."""
    kind = meta[0]
    if kind == KIND_CODES["direct"]:
        return _direct(x, words, meta, slope_only)
    if kind == KIND_CODES["search"]:
        return _search(x, words, meta, slope_only)
    if kind == KIND_CODES["reference"]:
        return _reference(x, words, meta, slope_only)
    raise NotImplementedError(
        f"plan {kind} has no plain form; a module lowers 'search' for a {x.device.type} without Triton"
    )


def _direct(x, words, meta, slope_only):
    half = words.view(torch.int16)[meta[2] :] if slope_only else words.view(torch.int16)[: meta[2]]
    return half[x.view(torch.int16).long() & 0xFFFF].view(x.dtype)


def _search(x, words, meta, slope_only):
    _, flags, size, _, segments = meta
    plan = words.view(torch.float32)
    v = x.float().contiguous()  # bucketize warns otherwise
    v = v.clamp(-LARGEST if flags & 1 else None, LARGEST if flags & 2 else None) if flags else v
    index = torch.bucketize(v, plan[: segments - 1], right=True)
    slope, intercept = plan[size::2][index], plan[size + 1 :: 2][index]
    value = torch.where(v.isnan(), v, slope) if slope_only else slope * v + intercept
    return value.to(x.dtype)


def _line(slope, intercept, x):
    """slope * x + intercept; the intercept alone where the slope is 0, NaN for NaN."""
    return torch.where(slope == 0, intercept + torch.where(x.isnan(), x, 0.0), slope * x + intercept)


def _body(v, plan, segments, slope_only):
    index = torch.bucketize(v, plan[: segments - 1], right=True).clamp(max=segments - 1)
    slope = plan[segments - 1 : 2 * segments - 1][index]
    return slope if slope_only else _line(slope, plan[2 * segments - 1 : 3 * segments - 1][index], v)


def _reference(x, words, meta, slope_only):
    _, _, segments, reduction, *numbers = meta
    plan, v = words.view(torch.float64), x.double().contiguous()
    if not reduction:
        value = _body(v, plan, segments, slope_only)
    elif _REDUCTIONS[reduction] == "exponent":
        value = _exponent(v, plan, segments, *numbers, slope_only)
    else:
        value = _period(v, plan, segments, numbers[1], slope_only)
    return torch.where(v.isnan(), v, value).to(x.dtype)


def _exponent(v, plan, segments, step, growth, sign, slope_only):
    """f(x) = T(m) 2^(growth e) + offset e with x = m 2^(step e), m in [1, 2^step); f'(x) = T'(m)
    2^((growth - step) e).
    """
    magnitude = v.abs()
    regular = magnitude.isfinite() & (magnitude > 0)
    mantissa, exponent = torch.frexp(torch.where(regular, magnitude, 1.0))
    e = torch.div(exponent - 1, step, rounding_mode="floor")
    body = _body(torch.ldexp(mantissa, exponent - step * e), plan, segments, slope_only)
    power, offset = (growth - step, torch.zeros_like(plan[-1])) if slope_only else (growth, plan[-1])
    limit = torch.where(magnitude == 0, -torch.inf, torch.inf)
    ends = body * (torch.exp2(power * limit) if power else 1.0) + _line(offset, torch.zeros_like(offset), limit)
    # in two steps, for 2^(power e) alone may overflow where the product does not
    half = torch.div(power * e, 2, rounding_mode="floor")
    value = torch.where(regular, torch.ldexp(torch.ldexp(body, half), power * e - half) + offset * e, ends)
    if sign == EVEN:
        return torch.where(v.signbit(), -value, value) if slope_only else value
    if sign == ODD:
        return value if slope_only else torch.copysign(value, v)
    value = torch.where(v < 0, torch.nan, value)
    return value if slope_only else torch.where((v == 0) & (plan[-1] == 0), torch.copysign(value, v), value)


def _period(v, plan, segments, growth, slope_only):
    """f(x) = T(r) 2^(growth n) with x = n period + r, r in [0, period)."""
    period = plan[-1]
    finite = torch.where(v.isfinite(), v, 0.0)
    r = torch.fmod(finite, period)  # exact, unlike torch.remainder's x - n * period
    r = torch.where(r < 0, r + period, r)
    value = _body(r, plan, segments, slope_only)
    if not growth:
        return torch.where(v.isfinite(), value, torch.nan)
    n = torch.round((finite - r) / period).clamp(-(2.0**20), 2.0**20)
    half = torch.floor(n / 2)
    value = torch.ldexp(torch.ldexp(value, half), n - half)
    return torch.where(v.isfinite(), value, torch.where(v > 0, torch.inf, 0.0))
