"""Floats through the codes of their channels on the CPU, and the gradients on the way back, in one pass
(`lutc.nn.channel_ops`).

Elements lie in the order (outer, channels, inner). Floats go in blocks, as in `lutc.nn.cpu.through_codes`; beside a
block lies what belongs to the channel of each of its elements, so that loops are vector instructions along any axis.
"""

from __future__ import annotations

import numba
import numpy as np

from lutc.nn.cpu.base import TASK, codes, compiled, floats, integers, native, packed, pointer
from lutc.nn.cpu.half import FORMATS, FP32, widened, written
from lutc.nn.cpu.team import run
from lutc.nn.cpu.through_codes import SLICE, _bytes, _doubles, _kept, _look_up, _write_bits

_BLOCK = 512

_f32, _i32 = np.float32, np.int32


@compiled
def _ints(address, n):
    return numba.carray(pointer(address), n, np.int32)


@compiled
def _spread(at, n, numbers, scale_at, low_at, base_at):
    """Of n elements from the one at `at` on: the scale of the channel, its lowest code less the zero point, and what is
    added to a code less the zero point for its place in all tables; by address. numbers: as `_job` has them.
    """
    channels, inner, lowest, size = numbers[0], numbers[1], _i32(numbers[2]), _i32(numbers[3] - numbers[2] + 2)
    done = np.int64(0)
    channel, left = (at // inner) % channels, inner - at % inner
    while done < n:
        m = min(n - done, channels - channel if inner == 1 else left)
        scale, low, base = floats(scale_at + 4 * done, m), floats(low_at + 4 * done, m), _ints(base_at + 4 * done, m)
        scales, zeros = floats(numbers[4] + 4 * channel, m), _ints(numbers[5] + 4 * channel, m)
        rows = _ints(numbers[6] + 4 * channel, m)
        if inner == 1:
            for i in range(m):
                scale[i] = scales[i]
            for i in range(m):
                low[i] = _f32(lowest - zeros[i])
            for i in range(m):
                base[i] = rows[i] * size + zeros[i] - lowest
            channel = channel + m
        else:
            one, least, first = scales[0], _f32(lowest - zeros[0]), rows[0] * size + zeros[0] - lowest
            for i in range(m):
                scale[i] = one
            for i in range(m):
                low[i] = least
            for i in range(m):
                base[i] = first
            channel, left = channel + 1, inner
        channel = channel if channel < channels else np.int64(0)
        done += m


# Loops of few arrays each, or LLVM would not tell that they do not overlap, and take one element at a time.


@compiled
def _steps(x_at, n, scale, low, span, steps, code):
    """x / scale, and its code less the zero point: rounded half to even, clamped; NaN stays NaN."""
    x = floats(x_at, n)
    for i in range(n):
        steps[i] = x[i] / scale[i]
    for i in range(n):
        least, most, nearest = low[i], low[i] + span, np.rint(steps[i])
        nearest = least if nearest < least else nearest
        code[i] = most if nearest > most else nearest


@compiled
def _places(n, code, low, base, nan, places):
    for i in range(n):
        places[i] = (_i32(code[i]) if code[i] == code[i] else _i32(low[i]) + nan) + base[i]


@compiled
def _within(step, low, span):
    return (step >= low - _f32(0.5)) & (step <= low + span + _f32(0.5))


@native(TASK)
def _through(first, last, job):
    """job: `_job`, then form; addresses of x, outputs and values or 0, and of codes and bits to keep, or 0; bytes of a
    code.
    """
    numbers = integers(job)
    form, values_at, codes_at, bits_at, code_bytes = numbers[7], numbers[10], numbers[11], numbers[12], numbers[13]
    span, width, nan = _f32(numbers[3] - numbers[2]), 4 if form == FP32 else 2, _i32(numbers[3] - numbers[2] + 1)
    room, out = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    steps, code = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    scale, low, base = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.int32)
    places, flags = np.empty(_BLOCK, np.int32), np.empty(_BLOCK, np.uint8)
    for at in range(first, last, _BLOCK):
        n = min(_BLOCK, last - at)
        _spread(at, n, numbers, scale.ctypes.data, low.ctypes.data, base.ctypes.data)
        _steps(widened(numbers[8] + width * at, n, form, room), n, scale, low, span, steps, code)
        if bits_at != 0:
            for i in range(n):
                flags[i] = np.uint8(_within(steps[i], low[i], span))
        if values_at == 0:
            for i in range(n):
                out[i] = code[i] * scale[i]
        else:
            _places(n, code, low, base, nan, places)
            _look_up(places.ctypes.data, out.ctypes.data, n, FP32, values_at)
        if codes_at != 0:
            for i in range(n):
                places[i] = places[i] - base[i] - _i32(low[i])
            if code_bytes == 1:
                short = _bytes(codes_at + at, n)
                for i in range(n):
                    short[i] = np.uint8(places[i])
            else:
                long = codes(codes_at + 2 * at, n)
                for i in range(n):
                    long[i] = np.uint16(places[i])
        if bits_at != 0:
            _write_bits(flags, n, bits_at + at // 8)
        written(out, numbers[9] + width * at, n, form)


def _job(sides, ends, scales, zeros, rows):
    """What `_spread` reads."""
    return *sides[1:], *ends, scales, zeros, rows


def through(
    x: int,
    out: int,
    values: int,
    channels: tuple[int, int, int],
    sides: tuple[int, int, int],
    ends: tuple[int, int],
    threads: int,
    form: str = "fp32",
    kept: tuple[int, int, int] = (0, 0, 1),
) -> None:
    """out = values[row of the channel, code of x] by address, without gaps; without values (0) scale * (code - zero
    point).

    form: of x and outputs. values: float32, each row of all codes and then of NaN. channels: addresses of scales
    (float32), zero points and rows (int32); sides: as in `look_up`; ends: smallest and largest code. kept: where the
    backward pass finds the codes, counted from the smallest, and the bits that say which x were not clamped, or 0;
    bytes of a code.
    """
    job = packed(*_job(sides, ends, *channels), FORMATS[form], x, out, values, *kept)
    run(_through, sides[0] * sides[1] * sides[2], SLICE, job, threads, multiple=64)


@native(TASK)
def _backward(first, last, job):
    """job: `_job`, then form; addresses of incoming and outgoing gradients, of slopes, codes and bits; bytes of a
    code.
    """
    numbers = integers(job)
    form, slopes_at, code_bytes, most = numbers[7], numbers[10], numbers[13], _i32(numbers[3] - numbers[2] + 1)
    width = 4 if form == FP32 else 2
    room, out, slopes = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    scale, low, base = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.int32)
    places, flags = np.empty(_BLOCK, np.int32), np.empty(_BLOCK, np.float32)
    for at in range(first, last, _BLOCK):
        n = min(_BLOCK, last - at)
        given = floats(widened(numbers[8] + width * at, n, form, room), n)
        _spread(at, n, numbers, scale.ctypes.data, low.ctypes.data, base.ctypes.data)
        _kept(numbers[12] + at // 8, n, flags)
        if code_bytes == 1:
            short = _bytes(numbers[11] + at, n)
            for i in range(n):
                places[i] = min(_i32(short[i]), most) + base[i] + _i32(low[i])
        else:
            long = codes(numbers[11] + 2 * at, n)
            for i in range(n):
                places[i] = min(_i32(long[i]), most) + base[i] + _i32(low[i])
        _look_up(places.ctypes.data, slopes.ctypes.data, n, FP32, slopes_at)
        for i in range(n):
            out[i] = given[i] * slopes[i] if flags[i] != _f32(0.0) else _f32(0.0)
        written(out, numbers[9] + width * at, n, form)


def backward(
    gradient: int,
    out: int,
    slopes: int,
    channels: tuple[int, int, int],
    sides: tuple[int, int, int],
    ends: tuple[int, int],
    kept: tuple[int, int, int],
    threads: int,
    form: str = "fp32",
) -> None:
    """out = gradient * slopes[row, code], 0 where x was clamped, from what `through` kept, by address."""
    job = packed(*_job(sides, ends, *channels), FORMATS[form], gradient, out, slopes, *kept)
    run(_backward, sides[0] * sides[1] * sides[2], SLICE, job, threads, multiple=64)


@compiled(reorder=True)
def _sum(values, first, last):
    total = _f32(0.0)
    for i in range(first, last):
        total += values[i]
    return total


@compiled
def _add_to_channels(parts, n, at, channels, inner, totals):
    """Add n numbers of the elements from the one at `at` on to the totals of their channels (float64)."""
    channel, left, done = (at // inner) % channels, inner - at % inner, np.int64(0)
    if inner == 1:  # all of one row of channels
        for i in range(n):
            totals[channel + i] += np.float64(parts[i])
        return
    while done < n:
        m = min(n - done, left)
        totals[channel] += np.float64(_sum(parts, done, done + m))
        done, channel, left = done + m, channel + 1, inner


@native(TASK)
def _backward_with_scales(first, last, job):
    """job: `_job`, then form; addresses of incoming gradients, x, outgoing gradients, slopes or 0, and sums (float64);
    outer; how many of it and of the channels make a unit.
    """
    numbers = integers(job)
    channels, inner, form, slopes_at = numbers[0], numbers[1], numbers[7], numbers[11]
    outer, deep, wide = numbers[13], numbers[14], numbers[15]
    span, width = _f32(numbers[3] - numbers[2]), 4 if form == FP32 else 2
    nan, groups = _i32(span) + _i32(1), (channels + wide - 1) // wide
    room, other, out = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    scale, low, base = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.int32)
    slopes, places, parts = np.ones(_BLOCK, np.float32), np.empty(_BLOCK, np.int32), np.empty(_BLOCK, np.float32)
    steps, code = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    for unit in range(first, last):
        chunk, start = unit // groups, unit % groups * wide
        totals = _doubles(numbers[12] + 8 * chunk * channels, channels)
        for row in range(chunk * deep, min(outer, (chunk + 1) * deep)):
            begin, end = (row * channels + start) * inner, (row * channels + min(channels, start + wide)) * inner
            for at in range(begin, end, _BLOCK):
                n = min(_BLOCK, end - at)
                given = floats(widened(numbers[8] + width * at, n, form, room), n)
                _spread(at, n, numbers, scale.ctypes.data, low.ctypes.data, base.ctypes.data)
                _steps(widened(numbers[9] + width * at, n, form, other), n, scale, low, span, steps, code)
                if slopes_at != 0:
                    _places(n, code, low, base, nan, places)
                    _look_up(places.ctypes.data, slopes.ctypes.data, n, FP32, slopes_at)
                for i in range(n):
                    deviation = code[i] - steps[i] if _within(steps[i], low[i], span) else code[i]
                    parts[i] = deviation if code[i] == code[i] else _f32(0.0)
                for i in range(n):
                    out[i] = given[i] * slopes[i]
                for i in range(n):
                    parts[i] = parts[i] * out[i]
                for i in range(n):
                    out[i] = out[i] if _within(steps[i], low[i], span) else _f32(0.0)
                _add_to_channels(parts, n, at, channels, inner, totals)
                written(out, numbers[10] + width * at, n, form)


def backward_with_scales(
    gradient: int,
    x: int,
    out: int,
    slopes: int,
    channels: tuple[int, int, int],
    sides: tuple[int, int, int],
    ends: tuple[int, int],
    threads: int,
    form: str = "fp32",
) -> np.ndarray:
    """The same from x itself, all by address; returns the gradient of every channel's scale, float32 (channels,), as
    `lutc.nn.cpu.through_codes` has it. The sums are the same whatever the threads.
    """
    outer, n, inner = sides
    deep, wide = max(1, SLICE // max(1, n * inner)), min(n, max(1, SLICE // max(1, inner)))
    chunks = -(-outer // deep)
    sums = np.zeros((chunks, n))
    given = packed(
        *_job(sides, ends, *channels), FORMATS[form], gradient, x, out, slopes, sums.ctypes.data, outer, deep, wide
    )
    run(_backward_with_scales, chunks * -(-n // wide), 1, given, threads)
    return sums.sum(0).astype(np.float32)
