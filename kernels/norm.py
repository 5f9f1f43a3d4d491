"""LayerNorm and RMSNorm of rows with an rsqrt table: one read and one write of a row of up to LONGEST elements.

Arithmetic is float32; the mean comes first, then the mean square of deviations. Longer rows take a pass for each.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from lutc.kernels import pwl
from lutc.kernels.softmax import LONGEST, plan_arguments, tile


@triton.jit
def rsqrt(v, words, p0, p1, p2, p3, p4, p5, KIND: tl.constexpr, FLAGS: tl.constexpr):
    """1 / sqrt(v) for a float32 block: the table at the mantissa in [1, 4), half the exponent negated. 0 gives inf, inf
    0, below 0 NaN.
    """
    regular = (v > 0) & (v < float("inf"))
    subnormal = v < 1.1754943508222875e-38
    bits = tl.where(subnormal, v * 16777216.0, v).to(tl.int32, bitcast=True)
    exponent = ((bits >> 23) & 0xFF) - 127 - tl.where(subnormal, 24, 0)
    half = exponent >> 1
    mantissa = ((bits & 0x7FFFFF) | ((127 + exponent - 2 * half) << 23)).to(tl.float32, bitcast=True)
    power = ((127 - half) << 23).to(tl.float32, bitcast=True)
    value = pwl.evaluate(tl.where(regular, mantissa, 1.0), words, p0, p1, p2, p3, p4, p5, KIND, FLAGS) * power
    ends = tl.where(v == 0, float("inf"), tl.where(v == float("inf"), 0.0, float("nan")))
    return tl.where(regular, value, ends)


@triton.jit
def _affine(y, w_ptr, b_ptr, column, inside, WEIGHT: tl.constexpr, BIAS: tl.constexpr):
    if WEIGHT:
        y = y * tl.load(w_ptr + column, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        y = y + tl.load(b_ptr + column, mask=inside, other=0.0).to(tl.float32)
    return y


_RUNTIME = ["rows", "eps", *(f"s{i}" for i in range(6))]


@triton.jit(do_not_specialize=_RUNTIME)
def norm_rows(
    x_ptr, w_ptr, b_ptr, out_ptr, mean_ptr, variance_ptr, rows, n, eps, s_words, s0, s1, s2, s3, s4, s5,
    S_KIND: tl.constexpr, S_FLAGS: tl.constexpr, CENTRED: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (ceil(rows / ROWS),); BLOCK >= n. Without CENTRED the mean counts as 0."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < n)
    x = tl.load(x_ptr + row * n + column, mask=inside, other=0.0).to(tl.float32)
    size = n * 1.0
    mean = tl.zeros((ROWS, 1), tl.float32)
    if CENTRED:
        mean = tl.sum(x, axis=1, keep_dims=True) / size
    deviation = tl.where(inside, x - mean, 0.0)
    variance = tl.sum(deviation * deviation, axis=1, keep_dims=True) / size
    y = deviation * rsqrt(variance + eps, s_words, s0, s1, s2, s3, s4, s5, S_KIND, S_FLAGS)
    y = _affine(y, w_ptr, b_ptr, column, column < n, WEIGHT, BIAS)
    tl.store(out_ptr + row * n + column, y.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(mean_ptr + row, mean, mask=row < rows)
    tl.store(variance_ptr + row, variance, mask=row < rows)


@triton.jit(do_not_specialize=_RUNTIME)
def norm_long_rows(
    x_ptr, w_ptr, b_ptr, out_ptr, mean_ptr, variance_ptr, rows, n, eps, s_words, s0, s1, s2, s3, s4, s5,
    S_KIND: tl.constexpr, S_FLAGS: tl.constexpr, CENTRED: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (rows,), BLOCK elements at a time. ROWS is 1."""
    row = tl.program_id(0).to(tl.int64) + tl.arange(0, ROWS)[:, None]
    start = tl.program_id(0).to(tl.int64) * n
    column = tl.arange(0, BLOCK)[None, :]
    size = n * 1.0
    mean = tl.zeros((ROWS, 1), tl.float32)
    if CENTRED:
        total = tl.zeros((ROWS, BLOCK), tl.float32)
        for at in range(0, n, BLOCK):
            total += tl.load(x_ptr + start + at + column, mask=at + column < n, other=0.0).to(tl.float32)
        mean = tl.sum(total, axis=1, keep_dims=True) / size
    squares = tl.zeros((ROWS, BLOCK), tl.float32)
    for at in range(0, n, BLOCK):
        inside = at + column < n
        deviation = tl.load(x_ptr + start + at + column, mask=inside, other=0.0).to(tl.float32) - mean
        squares += tl.where(inside, deviation * deviation, 0.0)
    variance = tl.sum(squares, axis=1, keep_dims=True) / size
    root = rsqrt(variance + eps, s_words, s0, s1, s2, s3, s4, s5, S_KIND, S_FLAGS)
    for at in range(0, n, BLOCK):
        inside = at + column < n
        x = tl.load(x_ptr + start + at + column, mask=inside, other=0.0).to(tl.float32)
        y = _affine((x - mean) * root, w_ptr, b_ptr, at + column, inside, WEIGHT, BIAS)
        tl.store(out_ptr + start + at + column, y.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(mean_ptr + row, mean)
    tl.store(variance_ptr + row, variance)


def norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    eps: float,
    centred: bool,
    plan: tuple[torch.Tensor, Sequence[int]],
) -> None:
    """out = LayerNorm (`centred`) or RMSNorm of the rows of x, dense (rows, n), 16 or 32 bits; mean, variance: float32
    (rows, 1).

    weight, bias: (n,) of any float dtype, or None. plan: (words, meta) of an rsqrt table on [1, 4).
    """
    rows, n = x.shape
    shape = tile(n)
    kernel = norm_long_rows if n > LONGEST else norm_rows
    given = {"CENTRED": centred, "WEIGHT": weight is not None, "BIAS": bias is not None}
    pointers = (x, x if weight is None else weight, x if bias is None else bias, out, mean, variance)
    grid = (triton.cdiv(rows, shape["ROWS"]),)
    with torch.cuda.device_of(x):
        kernel[grid](
            *pointers, rows, n, float(eps), **plan_arguments("s", plan, "S"), **given, **shape, enable_fp_fusion=False
        )
