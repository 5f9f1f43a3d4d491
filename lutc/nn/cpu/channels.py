"""Codes and floats through the tables of their channels on the CPU, and the gradients on the way back, in one pass
(`lutc.nn.channel_ops`).

Elements lie in the order (outer, channels, inner). Floats go in blocks, as in `lutc.nn.cpu.through_codes`; beside a
block lies what belongs to the channel of each of its elements, so that loops are vector instructions along any axis.
"""

from __future__ import annotations

import functools

import numba
import numpy as np

from lutc.nn.cpu.base import TASK, codes, compiled, floats, integers, native, packed, pointer
from lutc.nn.cpu.half import FORMATS, FP32, widened, written
from lutc.nn.cpu.team import run
from lutc.nn.cpu.through_codes import SLICE, _bytes, _doubles, _kept, _look_up, _write_bits

_TYPES = {1: np.uint8, 2: np.uint16, 4: np.uint32}  # of a code or an output of so many bytes
_BLOCK = 512

_f32, _i32, _u64 = np.float32, np.int32, np.uint64


@functools.cache
def _codes(code, output):
    """The task of codes and outputs of two types. job: addresses of codes, outputs, tables and rows; channels and the
    elements of a run.
    """
    size, code_bytes, bytes_ = 1 << 8 * np.dtype(code).itemsize, np.dtype(code).itemsize, np.dtype(output).itemsize

    @native(TASK)
    def look_up(first, last, job):
        numbers = integers(job)
        channels, inner = numbers[4], numbers[5]
        rows = numba.carray(pointer(numbers[3]), channels, np.uint32)
        tables = numba.carray(pointer(numbers[2]), 1 << 40, output)
        channel = np.uint64(first % channels)
        if inner == 1:
            q = numba.carray(pointer(numbers[0]), last, code)
            out = numba.carray(pointer(numbers[1]), last, output)
            for i in range(first, last):
                out[i] = tables[_u64(rows[channel]) * _u64(size) + _u64(q[i])]
                channel = channel + _u64(1) if channel + _u64(1) < _u64(channels) else _u64(0)
            return
        for run_ in range(first, last):
            q = numba.carray(pointer(numbers[0] + code_bytes * inner * run_), inner, code)
            out = numba.carray(pointer(numbers[1] + bytes_ * inner * run_), inner, output)
            table = tables[_u64(rows[channel]) * _u64(size) :]
            for i in range(inner):
                out[i] = table[q[i]]
            channel = channel + _u64(1) if channel + _u64(1) < _u64(channels) else _u64(0)

    return look_up


def look_up(
    codes: int, out: int, tables: int, rows: int, sides: tuple[int, int, int], widths: tuple[int, int], threads: int
) -> None:
    """out = tables[row of the channel, code] by address, without gaps. sides: elements before, along and behind the
    channels' axis; rows: int32, of every channel; widths: bytes of a code (1, 2) and of an output (1, 2, 4).
    """
    outer, channels, inner = sides
    task, job = _codes(_TYPES[widths[0]], _TYPES[widths[1]]), packed(codes, out, tables, rows, channels, inner)
    run(task, outer * channels, max(1, SLICE // max(inner, 1)), job, threads)


@compiled
def _spread(at, n, numbers, scale, low, base):
    """Of n elements from the one at `at` on: the scale of the channel, its lowest code less the zero point, and what is
    added to a code less the zero point for its place in all tables. numbers: as `_job` has them.
    """
    channels, inner, lowest, size = numbers[0], numbers[1], _i32(numbers[2]), _i32(numbers[3] - numbers[2] + 2)
    scales, zeros = floats(numbers[4], channels), numba.carray(pointer(numbers[5]), channels, np.int32)
    rows = numba.carray(pointer(numbers[6]), channels, np.int32)
    done = np.int64(0)
    channel, left = (at // inner) % channels, inner - at % inner
    while done < n:
        if inner == 1:
            m = min(n - done, channels - channel)
            for i in range(m):
                c = channel + i
                scale[done + i], low[done + i] = scales[c], _f32(lowest - zeros[c])
                base[done + i] = rows[c] * size + zeros[c] - lowest
            channel = channel + m
        else:
            m = min(n - done, left)
            one, least = scales[channel], _f32(lowest - zeros[channel])
            first = rows[channel] * size + zeros[channel] - lowest
            for i in range(m):
                scale[done + i], low[done + i], base[done + i] = one, least, first
            channel, left = channel + 1, inner
        channel = channel if channel < channels else np.int64(0)
        done += m


@compiled
def _code(step, low, span):
    code = np.rint(step)
    code = low if code < low else code
    return low + span if code > low + span else code


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
    span, width = _f32(numbers[3] - numbers[2]), 4 if form == FP32 else 2
    room, out = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    scale, low, base = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.int32)
    places, flags = np.empty(_BLOCK, np.int32), np.empty(_BLOCK, np.uint8)
    for at in range(first, last, _BLOCK):
        n = min(_BLOCK, last - at)
        x = floats(widened(numbers[8] + width * at, n, form, room), n)
        _spread(at, n, numbers, scale, low, base)
        if bits_at != 0:
            for i in range(n):
                flags[i] = np.uint8(_within(x[i] / scale[i], low[i], span))
        if values_at == 0:
            for i in range(n):
                out[i] = _code(x[i] / scale[i], low[i], span) * scale[i]
        else:
            nan = _i32(span) + _i32(1)
            for i in range(n):
                code = _code(x[i] / scale[i], low[i], span)
                places[i] = (_i32(code) if code == code else _i32(low[i]) + nan) + base[i]
            _look_up(places.ctypes.data, out.ctypes.data, n, FP32, values_at)
        if codes_at != 0:
            if code_bytes == 1:
                short = _bytes(codes_at + at, n)
                for i in range(n):
                    short[i] = np.uint8(places[i] - base[i] - _i32(low[i]))
            else:
                long = codes(codes_at + 2 * at, n)
                for i in range(n):
                    long[i] = np.uint16(places[i] - base[i] - _i32(low[i]))
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
        _spread(at, n, numbers, scale, low, base)
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
    for unit in range(first, last):
        chunk, start = unit // groups, unit % groups * wide
        totals = _doubles(numbers[12] + 8 * chunk * channels, channels)
        for row in range(chunk * deep, min(outer, (chunk + 1) * deep)):
            begin, end = (row * channels + start) * inner, (row * channels + min(channels, start + wide)) * inner
            for at in range(begin, end, _BLOCK):
                n = min(_BLOCK, end - at)
                given = floats(widened(numbers[8] + width * at, n, form, room), n)
                x = floats(widened(numbers[9] + width * at, n, form, other), n)
                _spread(at, n, numbers, scale, low, base)
                if slopes_at != 0:
                    for i in range(n):
                        code = _code(x[i] / scale[i], low[i], span)
                        places[i] = (_i32(code) if code == code else _i32(low[i]) + nan) + base[i]
                    _look_up(places.ctypes.data, slopes.ctypes.data, n, FP32, slopes_at)
                for i in range(n):
                    step = x[i] / scale[i]
                    code, within = _code(step, low[i], span), _within(step, low[i], span)
                    value = given[i] * slopes[i]
                    deviation = code - step if within else code
                    parts[i] = value * (deviation if code == code else _f32(0.0))
                    out[i] = value if within else _f32(0.0)
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
