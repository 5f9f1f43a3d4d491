"""Codes and floats through the tables of their channels, and gradients back, in one pass (`lutc.nn.channel_ops` has the
layouts). Element i belongs to channel i // inner % channels, `inner` being the elements behind the channels' axis.

Full blocks run without masks, as in `lutc.kernels.codes`. Divisions for each element would cost more than all else: a
block lies within two runs of a channel each (RUNS), or multiplications stand in for them (SIDE where inner is 1, else
SHORT); only where those would not be exact is there a division (ANY).
"""

import torch
import triton
import triton.language as tl
from lutc.kernels.codes import BLOCK as WIDE
from lutc.kernels.codes import MORE, NARROW, WARPS, _load, _store, _within

RUNS, SIDE, SHORT, ANY = range(4)
TALL, BLOCK = 64, 512  # rows and columns that a program of `columns_kernel` takes: 4 columns for each thread


@triton.jit
def _of(values, start, channels, inner, by_inner, by_channels, LAYOUT: tl.constexpr, BLOCK: tl.constexpr):
    """values[channel] of the elements from `start` on. by_inner, by_channels: 2^32 // d + 1, by which a product's upper
    half is the quotient.
    """
    offsets = tl.arange(0, BLOCK)
    if LAYOUT == 0:
        run = start // inner
        first = (run % channels).to(tl.int32)
        here, next = tl.load(values + first), tl.load(values + tl.where(first + 1 < channels, first + 1, 0))
        return tl.where(offsets < ((run + 1) * inner - start).to(tl.int32), here, next)
    else:
        place = (start % (channels * inner)).to(tl.int32) + offsets
        if LAYOUT == 3:
            channel = (start + offsets) // inner % channels
        else:
            if LAYOUT == 2:
                place = ((place.to(tl.uint64) * by_inner.to(tl.uint64)) >> 32).to(tl.int32)
            round = ((place.to(tl.uint64) * by_channels.to(tl.uint64)) >> 32).to(tl.int32)
            channel = place - round * channels
        return tl.load(values + channel)


@triton.jit
def _codes(
    q, tables, rows, out, start, rest, channels, inner, by_inner, by_channels,
    LAYOUT: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    offsets = tl.arange(0, BLOCK)
    row = _of(rows, start, channels, inner, by_inner, by_channels, LAYOUT, BLOCK).to(tl.uint32)
    place = _load(q + start, offsets, offsets < rest, FULL).to(tl.uint32) & (SIZE - 1)
    _store(out + start, offsets, tl.load(tables + (row * SIZE + place)), offsets < rest, FULL)


@triton.jit(do_not_specialize=["n", "channels", "inner", "by_inner", "by_channels"])
def codes_kernel(
    q, tables, rows, out, n, channels, inner, by_inner, by_channels,
    LAYOUT: tl.constexpr, FAR: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out[i] = tables[row of the channel, q[i]], each table's SIZE outputs in the order of unsigned codes."""
    start = tl.program_id(0).to(tl.int64 if FAR else tl.int32) * BLOCK
    if start + BLOCK <= n:
        _codes(
            q, tables, rows, out, start, BLOCK, channels, inner, by_inner, by_channels, LAYOUT, SIZE, BLOCK, True
        )  # fmt: skip
    else:
        _codes(
            q, tables, rows, out, start, n - start, channels, inner, by_inner, by_channels, LAYOUT, SIZE, BLOCK, False
        )  # fmt: skip


@triton.jit
def _code(x, scale, low, high):
    """As `lutc.kernels.codes._rounded`, each with a scale and ends of its own."""
    step = tl.math.div_rn(x.to(tl.float32), scale)
    known = step == step
    step = tl.where(known, step, 0.0)
    code = tl.minimum(tl.maximum(step, low - 1.0), high + 1.0)
    code = (code + 12582912.0) - 12582912.0  # added to 1.5 * 2^23 it is rounded to a whole number, half to even
    return step, known, tl.minimum(tl.maximum(code, low), high)


@triton.jit
def _through(
    x, scales, zeros, rows, values, out, codes, bits, start, rest, lowest, highest, channels, inner, by_inner,
    by_channels, LAYOUT: tl.constexpr, VALUES: tl.constexpr, CODES: tl.constexpr, BITS: tl.constexpr,
    BLOCK: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    offsets = tl.arange(0, BLOCK)
    inside = offsets < rest
    scale = _of(scales, start, channels, inner, by_inner, by_channels, LAYOUT, BLOCK)
    zero = _of(zeros, start, channels, inner, by_inner, by_channels, LAYOUT, BLOCK)
    low, high = (lowest - zero).to(tl.float32), (highest - zero).to(tl.float32)
    given = _load(x + start, offsets, inside, FULL)
    step, known, code = _code(given, scale, low, high)
    if VALUES:
        row = _of(rows, start, channels, inner, by_inner, by_channels, LAYOUT, BLOCK)
        place = tl.where(known, (code - low).to(tl.int32), highest - lowest + 1)
        value = tl.load(values + (row * (highest - lowest + 2) + place))
        if CODES:
            _store(codes + start, offsets, place, inside, FULL)
    else:
        value = tl.where(known, code * scale, float("nan"))
    _store(out + start, offsets, value, inside, FULL)
    if BITS:
        flags = (known & _within(step, low, high) & inside).to(tl.int32)
        eights, at = tl.reshape(flags, (BLOCK // 8, 8)) << tl.arange(0, 8)[None, :], tl.arange(0, BLOCK // 8)
        _store(bits + start // 8, at, tl.sum(eights, 1), at * 8 < rest, FULL)


@triton.jit(do_not_specialize=["n", "lowest", "highest", "channels", "inner", "by_inner", "by_channels"])
def through_kernel(
    x, scales, zeros, rows, values, out, codes, bits, n, lowest, highest, channels, inner, by_inner, by_channels,
    LAYOUT: tl.constexpr, FAR: tl.constexpr, VALUES: tl.constexpr, CODES: tl.constexpr, BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """out[i] = values[row of the channel, code of x[i]], of all codes ascending and then of NaN; without VALUES scale *
    (code - zero point). CODES, BITS: write the place of each code, and one bit for each x that is not clamped.
    """
    start = tl.program_id(0).to(tl.int64 if FAR else tl.int32) * BLOCK
    if start + BLOCK <= n:
        _through(
            x, scales, zeros, rows, values, out, codes, bits, start, BLOCK, lowest, highest, channels, inner, by_inner,
            by_channels, LAYOUT, VALUES, CODES, BITS, BLOCK, True,
        )  # fmt: skip
    else:
        _through(
            x, scales, zeros, rows, values, out, codes, bits, start, n - start, lowest, highest, channels, inner,
            by_inner, by_channels, LAYOUT, VALUES, CODES, BITS, BLOCK, False,
        )  # fmt: skip


@triton.jit
def _backward(
    gradient, codes, bits, slopes, rows, out, start, rest, size, channels, inner, by_inner, by_channels,
    LAYOUT: tl.constexpr, MASK: tl.constexpr, BLOCK: tl.constexpr, FULL: tl.constexpr,
):  # fmt: skip
    offsets, at = tl.arange(0, BLOCK), tl.arange(0, BLOCK // 8)
    inside = offsets < rest
    value = _load(gradient + start, offsets, inside, FULL).to(tl.float32)
    row = _of(rows, start, channels, inner, by_inner, by_channels, LAYOUT, BLOCK)
    place = _load(codes + start, offsets, inside, FULL).to(tl.int32) & MASK
    value *= tl.load(slopes + (row * size + tl.minimum(place, size - 1)))
    byte = _load(bits + start // 8, at, at * 8 < rest, FULL).to(tl.int32)
    flags = tl.reshape((byte[:, None] >> tl.arange(0, 8)[None, :]) & 1, (BLOCK,))
    _store(out + start, offsets, tl.where(flags != 0, value, 0.0), inside, FULL)


@triton.jit(do_not_specialize=["n", "size", "channels", "inner", "by_inner", "by_channels"])
def backward_kernel(
    gradient, codes, bits, slopes, rows, out, n, size, channels, inner, by_inner, by_channels,
    LAYOUT: tl.constexpr, FAR: tl.constexpr, MASK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out = gradient * slopes[row of the channel, code], 0 where the bit of an element is not set."""
    start = tl.program_id(0).to(tl.int64 if FAR else tl.int32) * BLOCK
    if start + BLOCK <= n:
        _backward(
            gradient, codes, bits, slopes, rows, out, start, BLOCK, size, channels, inner, by_inner, by_channels,
            LAYOUT, MASK, BLOCK, True,
        )  # fmt: skip
    else:
        _backward(
            gradient, codes, bits, slopes, rows, out, start, n - start, size, channels, inner, by_inner, by_channels,
            LAYOUT, MASK, BLOCK, False,
        )  # fmt: skip


@triton.jit
def _gradients(given, x, scale, zero, row, slopes, lowest, highest, SLOPES: tl.constexpr):
    """(gradient of x, its part in that of the scale)"""
    low, high = (lowest - zero).to(tl.float32), (highest - zero).to(tl.float32)
    value = given.to(tl.float32)
    step, known, code = _code(x, scale, low, high)
    if SLOPES:
        place = tl.where(known, (code - low).to(tl.int32), highest - lowest + 1)
        value *= tl.load(slopes + (row * (highest - lowest + 2) + place))
    kept = known & _within(step, low, high)
    deviation = tl.where(known, tl.where(kept, code - step, code), 0.0)
    return tl.where(kept, value, 0.0), value * deviation


@triton.jit(do_not_specialize=["channels", "lowest", "highest", "blocks"])
def runs_kernel(
    gradient, x, scales, zeros, rows, slopes, out, sums, channels, inner, lowest, highest, blocks,
    SLOPES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of x, and the part of a block of a run in that of its channel's scale: sums (runs, blocks)."""
    run, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    channel, offsets = run % channels, block * BLOCK + tl.arange(0, BLOCK)
    scale, zero, row = tl.load(scales + channel), tl.load(zeros + channel), tl.load(rows + channel)
    inside, at = offsets < inner, run * inner
    given = tl.load(gradient + at + offsets, mask=inside, other=0.0)
    one = tl.load(x + at + offsets, mask=inside, other=0.0)
    to_x, part = _gradients(given, one, scale, zero, row, slopes, lowest, highest, SLOPES)
    tl.store(out + at + offsets, to_x.to(out.dtype.element_ty), mask=inside)
    tl.store(sums + tl.program_id(0), tl.sum(part, 0))


@triton.jit(do_not_specialize=["outer", "inner", "lowest", "highest"])
def columns_kernel(
    gradient, x, scales, zeros, rows, slopes, out, sums, outer, width, inner, lowest, highest,
    SLOPES: tl.constexpr, TALL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The same where runs are short, of x as (outer, width): sums (outer / TALL, width), a column after the other."""
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    first, inside = tl.program_id(1).to(tl.int64) * TALL, columns < width
    channel = columns // inner
    scale = tl.load(scales + channel, mask=inside, other=1.0)
    zero, row = tl.load(zeros + channel, mask=inside, other=0), tl.load(rows + channel, mask=inside, other=0)
    total = tl.zeros((BLOCK,), tl.float32)
    for i in range(first, tl.minimum(first + TALL, outer)):
        at = i * width + columns
        given, one = tl.load(gradient + at, mask=inside, other=0.0), tl.load(x + at, mask=inside, other=0.0)
        to_x, part = _gradients(given, one, scale, zero, row, slopes, lowest, highest, SLOPES)
        tl.store(out + at, to_x.to(out.dtype.element_ty), mask=inside)
        total += part
    tl.store(sums + tl.program_id(1).to(tl.int64) * width + columns, total, mask=inside)


def layout(sides: tuple[int, int, int], block: int) -> tuple[int, int, int, int, int, bool]:
    """What blocks of so many elements are told: channels, inner, what stands in for division by either, the layout's
    number, and whether indices leave int32. sides: elements before, along and behind the axis of the channels.
    """
    outer, channels, inner = sides
    far = outer * channels * inner + block >= 1 << 31
    if channels == 1:
        inner = max(outer * inner, block)
    if inner >= block:
        return channels, inner, 0, 0, RUNS, far
    most = channels * inner + block
    exact = max(most * inner, (most // inner + 1) * channels) < 1 << 32 and most < 1 << 31
    stand_ins = (0 if inner == 1 else (1 << 32) // inner + 1), (1 << 32) // channels + 1
    return channels, inner, *stand_ins, (SIDE if inner == 1 else SHORT) if exact else ANY, far


def codes(
    q: torch.Tensor, tables: torch.Tensor, rows: torch.Tensor, out: torch.Tensor, sides: tuple[int, int, int]
) -> None:
    """Look codes up in the tables of their channels, of 2^32 outputs at most, all contiguous. rows: int32, of every
    channel; sides: elements before, along and behind the axis of the channels.
    """
    grid = (triton.cdiv(q.numel(), WIDE),)
    with torch.cuda.device_of(q):
        codes_kernel[grid](
            q, tables, rows, out, q.numel(), *layout(sides, WIDE), tables.shape[1], WIDE, num_warps=WARPS
        )


def through(
    x: torch.Tensor,
    of_channels: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    values: torch.Tensor | None,
    out: torch.Tensor,
    sides: tuple[int, int, int],
    ends: tuple[int, int],
    places: torch.Tensor | None = None,
    bits: torch.Tensor | None = None,
) -> None:
    """Take floats of 16 or 32 bits through the codes of their channels, all contiguous; where asked for write places
    (uint8 or int16) and bits (uint8, one for each x) too. of_channels: scales (float32), zero points and rows (int32);
    values: float32 (rows, codes + 1); ends: smallest and largest code. Without values scale * (code - zero point).
    """
    grid, asked = (triton.cdiv(x.numel(), NARROW),), (values is not None, places is not None, bits is not None)
    more = tuple(x if tensor is None else tensor for tensor in (values, out, places, bits))
    with torch.cuda.device_of(x):
        through_kernel[grid](
            x, *of_channels, *more, x.numel(), *ends, *layout(sides, NARROW), *asked, NARROW, num_warps=MORE
        )


def backward(
    gradient: torch.Tensor,
    places: torch.Tensor,
    bits: torch.Tensor,
    slopes: torch.Tensor,
    rows: torch.Tensor,
    out: torch.Tensor,
    sides: tuple[int, int, int],
) -> None:
    """Write gradient * slopes[row of the channel, place] to `out`, 0 where the bit of an element is not set; slopes:
    float32 (rows, codes + 1).
    """
    grid, mask = (triton.cdiv(gradient.numel(), NARROW),), (1 << 8 * places.itemsize) - 1
    with torch.cuda.device_of(gradient):
        backward_kernel[grid](
            gradient, places, bits, slopes, rows, out, gradient.numel(), slopes.shape[1], *layout(sides, NARROW), mask,
            NARROW, num_warps=MORE,
        )  # fmt: skip


def backward_with_scales(
    gradient: torch.Tensor,
    x: torch.Tensor,
    of_channels: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    slopes: torch.Tensor | None,
    out: torch.Tensor,
    sides: tuple[int, int, int],
    ends: tuple[int, int],
) -> torch.Tensor:
    """The same from x itself; returns the gradients of the scales (float32, (channels,)), whose sums have one order."""
    outer, channels, inner = sides
    table, asked = x if slopes is None else slopes, slopes is not None
    with torch.cuda.device_of(x):
        if inner >= 256:
            blocks = triton.cdiv(inner, NARROW)
            sums = torch.empty((outer, channels, blocks), dtype=torch.float32, device=x.device)
            runs_kernel[(outer * channels * blocks,)](
                gradient, x, *of_channels, table, out, sums, channels, inner, *ends, blocks, asked, NARROW,
                num_warps=MORE,
            )  # fmt: skip
            return sums.sum((0, 2))
        width, chunks = channels * inner, triton.cdiv(outer, TALL)
        sums = torch.empty((chunks, channels, inner), dtype=torch.float32, device=x.device)
        columns_kernel[(triton.cdiv(width, BLOCK), chunks)](
            gradient, x, *of_channels, table, out, sums, outer, width, inner, *ends, asked, TALL, BLOCK, num_warps=WARPS
        )
        return sums.sum((0, 2))
