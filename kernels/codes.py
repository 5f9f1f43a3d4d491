"""Codes through a table: one output for every bit pattern of a code, and floats through the code of each, with the
gradients back. Full blocks run without masks, which leaves 16-byte accesses to the compiler whatever the size is.
"""

import torch
import triton
import triton.language as tl

BLOCK, WARPS = 4096, 4  # 32 codes for each thread, and the entry's instructions are spread thin
NARROW, MORE = 2048, 8  # block and warps of what reads floats: 8 elements for each thread


@triton.jit
def _load(at, offsets, inside, FULL: tl.constexpr):
    if FULL:
        return tl.load(at + offsets)
    else:
        return tl.load(at + offsets, mask=inside, other=0)


@triton.jit
def _store(at, offsets, value, inside, FULL: tl.constexpr):
    if FULL:
        tl.store(at + offsets, value.to(at.dtype.element_ty))
    else:
        tl.store(at + offsets, value.to(at.dtype.element_ty), mask=inside)


@triton.jit
def _codes(q, table, out, rest, MASK: tl.constexpr, BLOCK: tl.constexpr, FULL: tl.constexpr):
    offsets = tl.arange(0, BLOCK)
    place = _load(q, offsets, offsets < rest, FULL).to(tl.uint32) & MASK
    _store(out, offsets, tl.load(table + place), offsets < rest, FULL)


@triton.jit(do_not_specialize=["n"])
def codes_kernel(q, table, out, n, MASK: tl.constexpr, BLOCK: tl.constexpr):
    """out[i] = table[q[i]], the table in the order of unsigned codes."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    if start + BLOCK <= n:
        _codes(q + start, table, out + start, BLOCK, MASK, BLOCK, True)
    else:
        _codes(q + start, table, out + start, n - start, MASK, BLOCK, False)


@triton.jit
def _rounded(x, scale, low, high):
    """(x / scale in float32, 0 for NaN; whether it is a number; its code less the zero point)"""
    step = tl.math.div_rn(x.to(tl.float32), scale)
    known = step == step
    step = tl.where(known, step, 0.0)
    code = tl.minimum(tl.maximum(step, low - 1.0), high + 1.0)
    code = (code + 12582912.0) - 12582912.0  # added to 1.5 * 2^23 it is rounded to a whole number, half to even
    return step, known, tl.minimum(tl.maximum(code, low), high)


@triton.jit
def _within(step, low, high):
    """Whether it rounds to a code without being clamped."""
    return (step >= low - 0.5) & (step <= high + 0.5)


@triton.jit
def _through(
    x, scale, values, out, codes, bits, rest, low, high, zero, nan,
    CODES: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    offsets = tl.arange(0, BLOCK)
    inside = offsets < rest
    step, known, code = _rounded(_load(x, offsets, inside, FULL), tl.load(scale), low, high)
    place = tl.where(known, code.to(tl.int32) + zero, nan)
    _store(out, offsets, tl.load(values + place), inside, FULL)
    if CODES:
        _store(codes, offsets, place, inside, FULL)
    if BITS:
        flags = (known & _within(step, low, high) & inside).to(tl.int32)
        eights, at = tl.reshape(flags, (BLOCK // 8, 8)) << tl.arange(0, 8)[None, :], tl.arange(0, BLOCK // 8)
        _store(bits, at, tl.sum(eights, 1), at * 8 < rest, FULL)


@triton.jit(do_not_specialize=["n", "low", "high", "zero", "nan"])
def through_codes_kernel(
    x, scale, values, out, codes, bits, n, low, high, zero, nan,
    CODES: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out[i] = values[code of x[i]], rounded half to even and clamped to [low, high], both less the zero point; `zero`
    and `nan`: the places of the zero point and of NaN. scale: one float32 in memory. CODES, BITS: write the place of
    each code, and one bit for each x that is not clamped.
    """
    start = tl.program_id(0).to(tl.int64) * BLOCK
    x, out, codes, bits = x + start, out + start, codes + start, bits + start // 8
    if start + BLOCK <= n:
        _through(x, scale, values, out, codes, bits, BLOCK, low, high, zero, nan, CODES, BITS, BLOCK, True)
    else:
        _through(x, scale, values, out, codes, bits, n - start, low, high, zero, nan, CODES, BITS, BLOCK, False)


@triton.jit
def _backward(
    gradient, codes, bits, slopes, out, rest,
    SLOPES: tl.constexpr, MASK: tl.constexpr, BLOCK: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    offsets, at = tl.arange(0, BLOCK), tl.arange(0, BLOCK // 8)
    inside = offsets < rest
    value = _load(gradient, offsets, inside, FULL).to(tl.float32)
    if SLOPES:
        value *= tl.load(slopes + (_load(codes, offsets, inside, FULL).to(tl.uint32) & MASK))
    byte = _load(bits, at, at * 8 < rest, FULL).to(tl.int32)
    flags = tl.reshape((byte[:, None] >> tl.arange(0, 8)[None, :]) & 1, (BLOCK,))
    _store(out, offsets, tl.where(flags != 0, value, 0.0), inside, FULL)


@triton.jit(do_not_specialize=["n"])
def backward_kernel(
    gradient, codes, bits, slopes, out, n, SLOPES: tl.constexpr, MASK: tl.constexpr, BLOCK: tl.constexpr
):
    """out = gradient * slopes[code], 0 where the bit of an element is not set."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    gradient, codes, bits, out = gradient + start, codes + start, bits + start // 8, out + start
    if start + BLOCK <= n:
        _backward(gradient, codes, bits, slopes, out, BLOCK, SLOPES, MASK, BLOCK, True)
    else:
        _backward(gradient, codes, bits, slopes, out, n - start, SLOPES, MASK, BLOCK, False)


@triton.jit
def _backward_with_scale(
    gradient, x, scale, slopes, out, sum, rest, low, high, zero, nan,
    SLOPES: tl.constexpr, BLOCK: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    offsets = tl.arange(0, BLOCK)
    inside = offsets < rest
    value = _load(gradient, offsets, inside, FULL).to(tl.float32)
    step, known, code = _rounded(_load(x, offsets, inside, FULL), tl.load(scale), low, high)
    if SLOPES:
        value *= tl.load(slopes + tl.where(known, code.to(tl.int32) + zero, nan))
    kept = known & _within(step, low, high)
    deviation = tl.where(known, tl.where(kept, code - step, code), 0.0)
    tl.store(sum, tl.sum(value * deviation, 0))
    _store(out, offsets, tl.where(kept, value, 0.0), inside, FULL)


@triton.jit(do_not_specialize=["n", "low", "high", "zero", "nan"])
def backward_with_scale_kernel(
    gradient, x, scale, slopes, out, sums, n, low, high, zero, nan, SLOPES: tl.constexpr, BLOCK: tl.constexpr
):
    """The same from x, and the part of a block in the gradient of the scale."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    gradient, x, out, sum = gradient + start, x + start, out + start, sums + tl.program_id(0)
    if start + BLOCK <= n:
        _backward_with_scale(gradient, x, scale, slopes, out, sum, BLOCK, low, high, zero, nan, SLOPES, BLOCK, True)
    else:
        rest = n - start
        _backward_with_scale(gradient, x, scale, slopes, out, sum, rest, low, high, zero, nan, SLOPES, BLOCK, False)


def codes(q: torch.Tensor, table: torch.Tensor, out: torch.Tensor) -> None:
    """Write table[q] to `out`; all without gaps, in the same order. table: by unsigned code."""
    grid = (triton.cdiv(q.numel(), BLOCK),)
    mask = (1 << 8 * q.itemsize) - 1
    with torch.cuda.device_of(q):
        codes_kernel[grid](q, table, out, q.numel(), mask, BLOCK, num_warps=WARPS)


def _ends(limits: tuple[int, int, int]) -> tuple[float, float, int, int]:
    lowest, highest, zero_point = limits
    return float(lowest - zero_point), float(highest - zero_point), zero_point - lowest, highest - lowest + 1


def through_codes(
    x: torch.Tensor,
    scale: torch.Tensor,
    values: torch.Tensor,
    out: torch.Tensor,
    limits: tuple[int, int, int],
    places: torch.Tensor | None = None,
    bits: torch.Tensor | None = None,
) -> None:
    """Write values[code of x] to `out`, and where asked for places (uint8 or int16) and bits (uint8, one for each x).

    scale: float32, one element; values: of the dtype of `out`, of all codes and then of NaN; limits: smallest and
    largest code, zero point, of at most 16 bits.
    """
    grid, kept = (triton.cdiv(x.numel(), NARROW),), (places is not None, bits is not None)
    more = x if places is None else places, x if bits is None else bits
    with torch.cuda.device_of(x):
        through_codes_kernel[grid](
            x, scale, values, out, *more, x.numel(), *_ends(limits), *kept, NARROW, num_warps=MORE
        )


def backward(
    gradient: torch.Tensor, places: torch.Tensor, bits: torch.Tensor, slopes: torch.Tensor | None, out: torch.Tensor
) -> None:
    """Write gradient * slopes[place] to `out`, 0 where the bit of an element is not set. slopes: float32, one for
    whatever stands in a place's bits.
    """
    grid, mask = (triton.cdiv(gradient.numel(), NARROW),), (1 << 8 * places.itemsize) - 1
    table = gradient if slopes is None else slopes
    with torch.cuda.device_of(gradient):
        backward_kernel[grid](
            gradient, places, bits, table, out, gradient.numel(), slopes is not None, mask, NARROW, num_warps=MORE
        )


def backward_with_scale(
    gradient: torch.Tensor,
    x: torch.Tensor,
    scale: torch.Tensor,
    slopes: torch.Tensor | None,
    out: torch.Tensor,
    limits: tuple[int, int, int],
) -> torch.Tensor:
    """The same from x itself; returns the gradient of the scale (float32, 0-d), whose sum has one order."""
    blocks = triton.cdiv(x.numel(), NARROW)
    sums = torch.empty(blocks, dtype=torch.float32, device=x.device)
    table, given = x if slopes is None else slopes, slopes is not None
    with torch.cuda.device_of(x):
        backward_with_scale_kernel[(blocks,)](
            gradient, x, scale, table, out, sums, x.numel(), *_ends(limits), given, NARROW, num_warps=MORE
        )
    return sums.sum()
