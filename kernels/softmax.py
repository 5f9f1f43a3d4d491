"""Softmax of rows with an exp table, and a reciprocal table or a division: one read and one write of a row of up to
LONGEST elements.

Arithmetic is float32. Rows are dense; several short ones share a program. Longer rows take three passes, the latter two
from the cache.
"""

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from lutc.kernels import pwl

from lutc.measures import EXP_FLOOR

LONGEST = (
    16384  # elements of a row that stay in registers: 32 warps of 32 lanes hold 16 each; twice as many would spill
)
TILE = 4096  # elements at a time of longer rows
FLOOR = tl.constexpr(EXP_FLOOR)


@triton.jit
def _exp(
    d,
    words,
    p0,
    p1,
    p2,
    p3,
    p4,
    p5,
    high,
    low,
    inverse,
    last,
    KIND: tl.constexpr,
    FLAGS: tl.constexpr,
    PERIOD: tl.constexpr,
):
    """Weights of d <= 0: the table, never negative, 0 below the floor; NaN stays. With PERIOD, d = k * (high + low) + r
    and 2^k T(r).
    """
    if PERIOD:
        inside = tl.maximum(d, FLOOR)
        k = tl.floor(inside * inverse)
        r = tl.minimum(tl.maximum((inside - k * high) - k * low, 0.0), last)
        power = ((k.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
        value = pwl.evaluate(r, words, p0, p1, p2, p3, p4, p5, KIND, FLAGS) * power
        value = tl.where(d == d, value, d)
    else:
        value = pwl.evaluate(d, words, p0, p1, p2, p3, p4, p5, KIND, FLAGS)
    return tl.where((value < 0) | (d < FLOOR), 0.0, value)


@triton.jit
def reciprocal(s, words, p0, p1, p2, p3, p4, p5, KIND: tl.constexpr, FLAGS: tl.constexpr):
    """1 / s for a block of positive normal float32: the table at the mantissa in [1, 2), the exponent negated. NaN
    stays.
    """
    bits = s.to(tl.int32, bitcast=True)
    mantissa = ((bits & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)
    power = ((254 - ((bits >> 23) & 0xFF)) << 23).to(tl.float32, bitcast=True)
    return tl.where(s == s, pwl.evaluate(mantissa, words, p0, p1, p2, p3, p4, p5, KIND, FLAGS) * power, s)


@triton.jit
def _share(weights, total, words, p0, p1, p2, p3, p4, p5, KIND: tl.constexpr, FLAGS: tl.constexpr):
    """weights / total, by the table unless KIND is 0."""
    if KIND == 0:
        return weights / total
    else:
        return weights * reciprocal(total, words, p0, p1, p2, p3, p4, p5, KIND, FLAGS)


# n is specialised on its divisibility by 16, which makes 16-byte accesses; tables and numbers of rows compile nothing
# anew.
_RUNTIME = ["rows", *(f"{table}{i}" for table in "er" for i in range(6)), "high", "low", "inverse", "last"]


@triton.jit(do_not_specialize=_RUNTIME)
def softmax_rows(
    x_ptr, out_ptr, rows, n, e_words, e0, e1, e2, e3, e4, e5, high, low, inverse, last, r_words, r0, r1, r2, r3, r4, r5,
    E_KIND: tl.constexpr, E_FLAGS: tl.constexpr, R_KIND: tl.constexpr, R_FLAGS: tl.constexpr,
    PERIOD: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (ceil(rows / ROWS),); BLOCK >= n. R_KIND 0 divides."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < n)
    offsets = row * n + column
    x = tl.load(x_ptr + offsets, mask=inside, other=-float("inf")).to(tl.float32)
    d = x - tl.max(x, axis=1, keep_dims=True)
    weights = _exp(d, e_words, e0, e1, e2, e3, e4, e5, high, low, inverse, last, E_KIND, E_FLAGS, PERIOD)
    total = tl.sum(weights, axis=1, keep_dims=True)
    y = _share(weights, total, r_words, r0, r1, r2, r3, r4, r5, R_KIND, R_FLAGS)
    tl.store(out_ptr + offsets, y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=_RUNTIME)
def softmax_long_rows(
    x_ptr, out_ptr, rows, n, e_words, e0, e1, e2, e3, e4, e5, high, low, inverse, last, r_words, r0, r1, r2, r3, r4, r5,
    E_KIND: tl.constexpr, E_FLAGS: tl.constexpr, R_KIND: tl.constexpr, R_FLAGS: tl.constexpr,
    PERIOD: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (rows,): maximum, sum, result, BLOCK elements at a time. ROWS is 1."""
    start = tl.program_id(0).to(tl.int64) * n
    column = tl.arange(0, BLOCK)[None, :]
    top = tl.full((ROWS, BLOCK), -float("inf"), tl.float32)
    for at in range(0, n, BLOCK):
        x = tl.load(x_ptr + start + at + column, mask=at + column < n, other=-float("inf")).to(tl.float32)
        top = tl.maximum(top, x)
    top = tl.max(top, axis=1, keep_dims=True)
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for at in range(0, n, BLOCK):
        x = tl.load(x_ptr + start + at + column, mask=at + column < n, other=-float("inf")).to(tl.float32)
        total += _exp(x - top, e_words, e0, e1, e2, e3, e4, e5, high, low, inverse, last, E_KIND, E_FLAGS, PERIOD)
    total = tl.sum(total, axis=1, keep_dims=True)
    for at in range(0, n, BLOCK):
        inside = at + column < n
        x = tl.load(x_ptr + start + at + column, mask=inside, other=-float("inf")).to(tl.float32)
        weights = _exp(x - top, e_words, e0, e1, e2, e3, e4, e5, high, low, inverse, last, E_KIND, E_FLAGS, PERIOD)
        y = _share(weights, total, r_words, r0, r1, r2, r3, r4, r5, R_KIND, R_FLAGS)
        tl.store(out_ptr + start + at + column, y.to(out_ptr.dtype.element_ty), mask=inside)


def plan_arguments(prefix: str, plan: tuple[torch.Tensor, Sequence[int]], kind: str) -> dict:
    """A plan's (words, meta) as keyword arguments: `prefix`_words and prefix0 ... prefix5, and `kind`_KIND,
    `kind`_FLAGS.
    """
    words, meta = plan
    numbers = pwl.arguments(meta)
    named = {f"{prefix}{i}": numbers[f"p{i}"] for i in range(6)}
    return {f"{prefix}_words": words, **named, f"{kind}_KIND": numbers["KIND"], f"{kind}_FLAGS": numbers["FLAGS"]}


def period_arguments(period: float) -> dict:
    """The period in two parts, the first short enough for an exact product with |k| < 128, its inverse, and the last
    number below it.
    """
    high = math.ldexp(round(math.ldexp(period, 14)), -14)
    return {
        "high": high,
        "low": period - high,
        "inverse": 1 / period if period else 0.0,
        "last": period * (1 - 2.0**-24),
        "PERIOD": period != 0,
    }


def tile(n: int) -> dict:
    """ROWS, BLOCK and warps for rows of n: about 2,048 elements to a program of short rows, 16 elements to a lane of
    long ones.
    """
    if n > LONGEST:
        return {"ROWS": 1, "BLOCK": TILE, "num_warps": 16}
    block = triton.next_power_of_2(max(n, 16))
    rows = max(1, min(64, 2048 // block))
    return {"ROWS": rows, "BLOCK": block, "num_warps": max(4, min(32, rows * block // 512))}


def softmax(
    x: torch.Tensor,
    out: torch.Tensor,
    exp: tuple[torch.Tensor, Sequence[int]],
    reciprocal_plan: tuple[torch.Tensor, Sequence[int]] | None,
    period: float,
) -> None:
    """out = softmax of the rows of x, both dense (rows, n), 16 or 32 bits. exp, reciprocal_plan: (words, meta); the
    latter None to divide.
    """
    rows, n = x.shape
    divide = {"r_words": exp[0], **{f"r{i}": 0 for i in range(6)}, "R_KIND": 0, "R_FLAGS": 0}
    by = divide if reciprocal_plan is None else plan_arguments("r", reciprocal_plan, "R")
    shape = tile(n)
    kernel = softmax_long_rows if n > LONGEST else softmax_rows
    grid = (triton.cdiv(rows, shape["ROWS"]),)
    with torch.cuda.device_of(x):
        kernel[grid](
            x,
            out,
            rows,
            n,
            **plan_arguments("e", exp, "E"),
            **by,
            **period_arguments(period),
            **shape,
            enable_fp_fusion=False,
        )
