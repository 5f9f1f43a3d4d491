"""Integer softmax and norms of rows, bit for bit `lutc.hardware.rows`: one read and one write of a row of up to LONGEST
codes. Longer rows take three passes, the latter two from the cache. Nothing is sent back to the host.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from lutc.kernels.softmax import LONGEST, tile


@triton.jit
def leading_one(x):
    """Index of the highest set bit of positive int64."""
    index = tl.zeros_like(x)
    for step in tl.static_range(6):
        large = (x >> (32 >> step)) > 0
        index += tl.where(large, 32 >> step, 0).to(tl.int64)
        x = tl.where(large, x >> (32 >> step), x)
    return index


@triton.jit
def shift_to(x, places):
    """x * 2**places, rounded half up where places < 0."""
    right = tl.maximum(-places, 0)
    return tl.where(places >= 0, x << tl.maximum(places, 0), (x + ((1 << right) >> 1)) >> right)


@triton.jit
def divide(numerator, n):
    """numerator / n rounded half up, n > 0: floor division, whichever way `//` rounds."""
    a, b = 2 * numerator + n, 2 * n
    quotient = a // b
    return quotient - (a - quotient * b < 0).to(tl.int64)


@triton.jit
def requantised(acc, multiplier, shift):
    """round(acc * multiplier * 2**-shift), halves up; acc and multiplier fit int32."""
    product = acc.to(tl.int64) * multiplier.to(tl.int64)
    right = tl.minimum(tl.maximum(shift, 0), 62).to(tl.int64)
    one = tl.full((1, 1), 1, tl.int64)
    return ((product << tl.maximum(-shift, 0).to(tl.int64)) + ((one << right) >> 1)) >> right


@triton.jit
def roots(mantissa, cuts, slopes, intercepts, count, multiplier, shift):
    """The table at mantissas in int32, (ROWS, 1)."""
    at = tl.zeros_like(mantissa)
    for i in range(count):
        at += (tl.load(cuts + i) < mantissa).to(tl.int32)
    acc = tl.load(slopes + at) * mantissa + tl.load(intercepts + at)
    return requantised(acc, multiplier, shift).to(tl.int32)


@triton.jit
def _weights(q_ptr, keep_ptr, w_ptr, offsets, inside, top, LOWEST: tl.constexpr, MASK: tl.constexpr):
    """Weights (int32) of codes below `top`; 0 where an element takes no part."""
    if MASK:
        inside = inside & (tl.load(keep_ptr + offsets, mask=inside, other=0) != 0)
    q = tl.load(q_ptr + offsets, mask=inside, other=LOWEST).to(tl.int32)
    return tl.load(w_ptr + (q - top - 2 * LOWEST - 1), mask=inside, other=0).to(tl.int32)


@triton.jit
def _codes(q_ptr, keep_ptr, offsets, inside, LOWEST: tl.constexpr, MASK: tl.constexpr):
    """Codes that take part, the lowest elsewhere."""
    if MASK:
        inside = inside & (tl.load(keep_ptr + offsets, mask=inside, other=0) != 0)
    return tl.load(q_ptr + offsets, mask=inside, other=LOWEST).to(tl.int32)


@triton.jit
def _root_of_sum(total, cuts, slopes, intercepts, count, r_multiplier, r_shift):
    """(root, leading) of sums, int32."""
    total = tl.maximum(total, 1).to(tl.int64)
    leading = leading_one(total)
    mantissa = tl.minimum(shift_to(total, 14 - leading), 32767).to(tl.int32)
    return roots(mantissa, cuts, slopes, intercepts, count, r_multiplier, r_shift), leading.to(tl.int32)


@triton.jit
def _share(weights, root, multiplier, shift, zero_point, lowest, highest, POWER: tl.constexpr):
    """Codes: weights (13 bits) times root (17 bits), requantised. POWER: the multiplier is 1, so that int32 does."""
    if POWER:
        places = tl.minimum(tl.maximum(shift, 0), 31)
        value = (weights * root + ((1 << places) >> 1)) >> places
        places_of_31 = shift > 30
        value = tl.where(places_of_31, 0, value)
    else:
        value = requantised(weights * root, multiplier, shift)
    return tl.minimum(tl.maximum(value + zero_point, lowest), highest)


_RUNTIME = [
    "rows", "count", "r_multiplier", "r_shift", "multiplier", "shift", "zero_point", "lowest", "highest", "offset",
    "fraction", "epsilon", "h_multiplier", "h_shift",
]  # fmt: skip


@triton.jit(do_not_specialize=_RUNTIME)
def softmax_rows(
    q_ptr, keep_ptr, w_ptr, out_ptr, cuts, slopes, intercepts, rows, n, count, r_multiplier, r_shift, multiplier, shift,
    zero_point, lowest, highest,
    LOWEST: tl.constexpr, MASK: tl.constexpr, POWER: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (ceil(rows / ROWS),); BLOCK >= n. LOWEST: the smallest code. w_ptr: 4 * -LOWEST weights by difference."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < n)
    offsets = row * n + column
    top = tl.max(_codes(q_ptr, keep_ptr, offsets, inside, LOWEST, MASK), axis=1, keep_dims=True)
    weights = _weights(q_ptr, keep_ptr, w_ptr, offsets, inside, top, LOWEST, MASK)
    total = tl.sum(weights, axis=1, keep_dims=True)
    root, leading = _root_of_sum(total, cuts, slopes, intercepts, count, r_multiplier, r_shift)
    codes = _share(weights, root, multiplier, shift + leading, zero_point, lowest, highest, POWER)
    tl.store(out_ptr + offsets, codes.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=_RUNTIME)
def softmax_long_rows(
    q_ptr, keep_ptr, w_ptr, out_ptr, cuts, slopes, intercepts, rows, n, count, r_multiplier, r_shift, multiplier, shift,
    zero_point, lowest, highest,
    LOWEST: tl.constexpr, MASK: tl.constexpr, POWER: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (rows,): maximum, sum, result, BLOCK elements at a time. ROWS is 1."""
    start = tl.program_id(0).to(tl.int64) * n
    column = tl.arange(0, BLOCK)[None, :]
    top = tl.full((ROWS, BLOCK), LOWEST, tl.int32)
    for at in range(0, n, BLOCK):
        top = tl.maximum(top, _codes(q_ptr, keep_ptr, start + at + column, at + column < n, LOWEST, MASK))
    top = tl.max(top, axis=1, keep_dims=True)
    total = tl.zeros((ROWS, BLOCK), tl.int32)
    for at in range(0, n, BLOCK):
        total += _weights(q_ptr, keep_ptr, w_ptr, start + at + column, at + column < n, top, LOWEST, MASK)
    total = tl.sum(total, axis=1, keep_dims=True)
    root, leading = _root_of_sum(total, cuts, slopes, intercepts, count, r_multiplier, r_shift)
    for at in range(0, n, BLOCK):
        inside = at + column < n
        weights = _weights(q_ptr, keep_ptr, w_ptr, start + at + column, inside, top, LOWEST, MASK)
        codes = _share(weights, root, multiplier, shift + leading, zero_point, lowest, highest, POWER)
        tl.store(out_ptr + start + at + column, codes.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _statistics(total, n, CENTRED: tl.constexpr):
    """(mean, rest) of a sum, int64."""
    mean, rest = tl.zeros_like(total), tl.zeros_like(total)
    if CENTRED:
        mean = divide(total, n)
        rest = total - n * mean
    return mean, rest


@triton.jit
def _root_of_spread(squares, rest, n, fraction, epsilon, cuts, slopes, intercepts, count, r_multiplier, r_shift):
    """(root, half) of the sum of squared deviations from the rounded mean (int64), int32."""
    spread = (squares << fraction) - divide((rest * rest) << fraction, n) + epsilon
    spread = tl.maximum(spread, 1)
    half = leading_one(spread) >> 1
    mantissa = tl.minimum(shift_to(spread, 13 - 2 * half), 32767).to(tl.int32)
    return roots(mantissa, cuts, slopes, intercepts, count, r_multiplier, r_shift), half.to(tl.int32)


@triton.jit
def _normal(
    c, less, n, root, half, h_multiplier, h_shift, weight_ptr, bias_ptr, column, multiplier, shift, zero_point, lowest,
    highest, DROPPED: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """Codes of deviations c (int32) from the rounded mean, which `less` corrects by 2**-7."""
    deviation = (c << 7) - less
    if DROPPED:
        product = deviation.to(tl.int64) * root.to(tl.int64)
        product = (product + ((1 << DROPPED) >> 1)) >> DROPPED
    else:
        product = deviation * root
    hidden = requantised(product, h_multiplier, tl.maximum(h_shift + half, 0))
    acc = tl.minimum(tl.maximum(hidden, -32768), 32767).to(tl.int32)
    inside = column < n
    if WEIGHT:
        acc = acc * tl.load(weight_ptr + column, mask=inside, other=0)
    if BIAS:
        acc = acc + tl.load(bias_ptr + column, mask=inside, other=0)
    value = tl.where(shift > 62, 0, requantised(acc, multiplier, shift)) + zero_point
    return tl.minimum(tl.maximum(value, lowest), highest)


@triton.jit(do_not_specialize=_RUNTIME)
def norm_rows(
    q_ptr, weight_ptr, bias_ptr, out_ptr, cuts, slopes, intercepts, rows, n, count, r_multiplier, r_shift, offset,
    fraction, epsilon, h_multiplier, h_shift, multiplier, shift, zero_point, lowest, highest,
    CENTRED: tl.constexpr, DROPPED: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (ceil(rows / ROWS),); BLOCK >= n. offset: the zero point of the codes that come in."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < rows) & (column < n)
    c = tl.load(q_ptr + row * n + column, mask=inside, other=0).to(tl.int32)
    c = tl.where(inside, c - offset, 0)
    mean, rest = _statistics(tl.sum(c.to(tl.int64), axis=1, keep_dims=True), n, CENTRED)
    c = tl.where(inside, c - mean.to(tl.int32), 0)
    squares = tl.sum(c.to(tl.int64) * c.to(tl.int64), axis=1, keep_dims=True)
    root, half = _root_of_spread(
        squares, rest, n, fraction, epsilon, cuts, slopes, intercepts, count, r_multiplier, r_shift
    )
    less = divide(rest << 7, n).to(tl.int32)
    codes = _normal(
        c, less, n, root, half, h_multiplier, h_shift, weight_ptr, bias_ptr, column, multiplier, shift, zero_point,
        lowest, highest, DROPPED, WEIGHT, BIAS,
    )  # fmt: skip
    tl.store(out_ptr + row * n + column, codes.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=_RUNTIME)
def norm_long_rows(
    q_ptr, weight_ptr, bias_ptr, out_ptr, cuts, slopes, intercepts, rows, n, count, r_multiplier, r_shift, offset,
    fraction, epsilon, h_multiplier, h_shift, multiplier, shift, zero_point, lowest, highest,
    CENTRED: tl.constexpr, DROPPED: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (rows,): sum, sum of squares, result, BLOCK elements at a time. ROWS is 1."""
    start = tl.program_id(0).to(tl.int64) * n
    column = tl.arange(0, BLOCK)[None, :]
    total = tl.zeros((ROWS, BLOCK), tl.int64)
    if CENTRED:
        for at in range(0, n, BLOCK):
            inside = at + column < n
            c = tl.load(q_ptr + start + at + column, mask=inside, other=0).to(tl.int32)
            total += tl.where(inside, c - offset, 0).to(tl.int64)
    mean, rest = _statistics(tl.sum(total, axis=1, keep_dims=True), n, CENTRED)
    away = offset + mean.to(tl.int32)
    squares = tl.zeros((ROWS, BLOCK), tl.int64)
    for at in range(0, n, BLOCK):
        inside = at + column < n
        c = tl.load(q_ptr + start + at + column, mask=inside, other=0).to(tl.int32)
        c = tl.where(inside, c - away, 0).to(tl.int64)
        squares += c * c
    squares = tl.sum(squares, axis=1, keep_dims=True)
    root, half = _root_of_spread(
        squares, rest, n, fraction, epsilon, cuts, slopes, intercepts, count, r_multiplier, r_shift
    )
    less = divide(rest << 7, n).to(tl.int32)
    for at in range(0, n, BLOCK):
        inside = at + column < n
        c = tl.load(q_ptr + start + at + column, mask=inside, other=0).to(tl.int32) - away
        codes = _normal(
            c, less, n, root, half, h_multiplier, h_shift, weight_ptr, bias_ptr, at + column, multiplier, shift,
            zero_point, lowest, highest, DROPPED, WEIGHT, BIAS,
        )  # fmt: skip
        tl.store(out_ptr + start + at + column, codes.to(out_ptr.dtype.element_ty), mask=inside)


def softmax(
    q: torch.Tensor,
    keep: torch.Tensor | None,
    weights: torch.Tensor,
    out: torch.Tensor,
    roots: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    numbers: Sequence[int],
) -> None:
    """Codes of the rows of q, dense (rows, n) int8 or int16; keep: bool of the same shape, or None. weights (int16),
    roots (cuts, slopes, intercepts; int32) and numbers: as `torch.ops.lutc.integer_softmax` takes them.
    """
    rows, n = q.shape
    r_multiplier, r_shift, multiplier, shift, zero_point, lowest, highest = numbers
    kernel, shape = (softmax_long_rows if n > LONGEST else softmax_rows), tile(n)
    given = {"LOWEST": torch.iinfo(q.dtype).min, "MASK": keep is not None, "POWER": multiplier == 1}
    mask = q if keep is None else keep.view(torch.int8)
    grid = (triton.cdiv(rows, shape["ROWS"]),)
    with torch.cuda.device_of(q):
        kernel[grid](
            q, mask, weights, out, *roots, rows, n, roots[0].numel(), r_multiplier, r_shift, multiplier, shift,
            zero_point, lowest, highest, **given, **shape,
        )  # fmt: skip


def norm(
    q: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    roots: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    numbers: Sequence[int],
) -> None:
    """Codes of the rows of q, dense (rows, n) int8 or int16; weight, bias: int32 (n,) or None. roots, numbers: as
    `torch.ops.lutc.integer_norm` takes them.
    """
    rows, n = q.shape
    r_multiplier, r_shift, centred, offset, fraction, epsilon, dropped, *rest = numbers
    kernel, shape = (norm_long_rows if n > LONGEST else norm_rows), tile(n)
    given = {"CENTRED": bool(centred), "DROPPED": dropped, "WEIGHT": weight is not None, "BIAS": bias is not None}
    pointers = q, q if weight is None else weight, q if bias is None else bias, out
    grid = (triton.cdiv(rows, shape["ROWS"]),)
    with torch.cuda.device_of(q):
        kernel[grid](
            *pointers, *roots, rows, n, roots[0].numel(), r_multiplier, r_shift, offset, fraction, epsilon, *rest,
            **given, **shape,
        )  # fmt: skip
