"""Gradients through the codes of channels on the CPU, in one pass (`lutc.nn.channel_ops`); blocks and their order are
those of `lutc.nn.cpu.channels`.
"""

from __future__ import annotations

import numpy as np

from lutc.nn.cpu.base import TASK, codes, compiled, floats, integers, native, packed
from lutc.nn.cpu.channel_layout import LONG, SLICE, in_rows
from lutc.nn.cpu.channels import BLOCK, Channels, ints, places_of_columns, run_at
from lutc.nn.cpu.half import FORMATS, FP32, widened, written
from lutc.nn.cpu.team import run
from lutc.nn.cpu.through_codes import _bytes, _clamped, _deviations, _doubles, _kept, _look_up, _multiplied

_f32, _i32 = np.float32, np.int32


@compiled
def _widened_codes(at, n, code_bytes, most, places):
    """Codes of so many bytes at an address, at most the last place."""
    if code_bytes == 1:
        short = _bytes(at, n)
        for i in range(n):
            places[i] = min(_i32(short[i]), most)
    else:
        long = codes(at, n)
        for i in range(n):
            places[i] = min(_i32(long[i]), most)


@compiled
def _moved(places, n, base):
    for i in range(n):
        places[i] += base


@compiled
def _moved_columns(places, n, base, low):
    for i in range(n):
        places[i] += base[i] + _i32(low[i])


@native(TASK)
def _backward(first, last, job):
    """job: `Channels`, then form; addresses of incoming and outgoing gradients, of slopes, codes and bits; bytes of a
    code.
    """
    numbers = integers(job)
    height, width, piece, deep, inner = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    form, slopes_at, code_bytes, most = numbers[11], numbers[14], numbers[17], _i32(numbers[6]) + _i32(1)
    bytes_, groups = 4 if form == FP32 else 2, (width + piece - 1) // piece
    lows, bases = floats(numbers[8], numbers[5]), ints(numbers[9], numbers[5])
    room, out, slopes = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    places, flags = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.float32)
    for unit in range(first, last):
        left, top = unit % groups * piece, unit // groups * deep
        for row in range(top, min(top + deep, height)):
            for column in range(left, min(left + piece, width), BLOCK):
                at, n = row * width + column, min(BLOCK, min(left + piece, width) - column)
                given = floats(widened(numbers[12] + bytes_ * at, n, form, room), n)
                _kept(numbers[16] + at // 8, n, flags)
                _widened_codes(numbers[15] + code_bytes * at, n, code_bytes, most, places)
                if inner == 0:
                    low, base = floats(numbers[8] + 4 * column, n), ints(numbers[9] + 4 * column, n)
                    _moved_columns(places, n, base, low)
                else:
                    done = np.int64(0)
                    while done < n:
                        channel, m = run_at(at + done, n - done, numbers)
                        _moved(places[done:], m, bases[channel] + _i32(lows[channel]))
                        done += m
                _look_up(places.ctypes.data, slopes.ctypes.data, n, FP32, slopes_at)
                for i in range(n):
                    out[i] = given[i] * slopes[i] if flags[i] != _f32(0.0) else _f32(0.0)
                written(out, numbers[13] + bytes_ * at, n, form)


def backward(
    gradient: int,
    out: int,
    slopes: int,
    channels: Channels,
    sides: tuple[int, int, int],
    kept: tuple[int, int, int],
    threads: int,
    form: str = "fp32",
) -> None:
    """out = gradient * slopes[row, code], 0 where x was clamped, from what `channels.through` kept, by address."""
    bytes_, (codes_at, bits_at, code_bytes) = 4 if form == "fp32" else 2, kept
    for first, pieces, given, _arrays in channels.parts(sides):
        keeps = codes_at + code_bytes * first, bits_at + first // 8, code_bytes
        job = packed(*given, FORMATS[form], gradient + bytes_ * first, out + bytes_ * first, slopes, *keeps)
        run(_backward, pieces.units, 1, job, threads)


@compiled
def _deviations_of_columns(x_at, n, scale, low, span, deviations, inside):
    """As `_deviations` of `lutc.nn.cpu.through_codes`."""
    x = floats(x_at, n)
    for i in range(n):
        step = x[i] / scale[i]
        code = _clamped(step, low[i], low[i] + span)
        within = (step >= low[i] - _f32(0.5)) & (step <= low[i] + span + _f32(0.5))
        deviation = code - step if within else code
        deviations[i] = deviation if code == code else _f32(0.0)
        inside[i] = _f32(1.0) if within else _f32(0.0)


@compiled
def _multiplied_columns(given, slopes, deviations, inside, n, out):
    """Gradients by slopes, 0 where x was clamped, into `out`, and by the deviations, into these."""
    for i in range(n):
        deviations[i] = given[i] * slopes[i] * deviations[i]
    for i in range(n):
        out[i] = given[i] * slopes[i] if inside[i] != _f32(0.0) else _f32(0.0)


@compiled
def _added(sums, terms, n):
    for i in range(n):
        sums[i] += np.float64(terms[i])


@native(TASK)
def _backward_with_scales(first, last, job):
    """job: `Channels`, then form; addresses of incoming gradients, x, outgoing gradients, slopes or 0, and sums
    (float64): for every chunk of rows one of each channel, or column.
    """
    numbers = integers(job)
    height, width, piece, deep, inner = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    channels, span, form, slopes_at = numbers[5], _f32(numbers[6]), numbers[11], numbers[15]
    bytes_, groups = 4 if form == FP32 else 2, (width + piece - 1) // piece
    scales, lows, bases = floats(numbers[7], channels), floats(numbers[8], channels), ints(numbers[9], channels)
    room, other, out = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    slopes, places = np.ones(BLOCK, np.float32), np.empty(BLOCK, np.int32)
    deviations, inside = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for unit in range(first, last):
        left, top = unit % groups * piece, unit // groups * deep
        end, each = min(left + piece, width), width if inner == 0 else channels
        sums = _doubles(numbers[16] + 8 * (unit // groups) * each, each)
        for row in range(top, min(top + deep, height)):
            for column in range(left, end, BLOCK):
                at, n = row * width + column, min(BLOCK, end - column)
                given = floats(widened(numbers[12] + bytes_ * at, n, form, room), n)
                x_at, done = widened(numbers[13] + bytes_ * at, n, form, other), np.int64(0)
                if inner == 0:
                    scale, low = floats(numbers[7] + 4 * column, n), floats(numbers[8] + 4 * column, n)
                    _deviations_of_columns(x_at, n, scale, low, span, deviations, inside)
                    if slopes_at != 0:
                        base = ints(numbers[9] + 4 * column, n)
                        places_of_columns(x_at, n, scale, low, base, span, places)
                while done < n and inner != 0:
                    channel, m = run_at(at + done, n - done, numbers)
                    low, base = lows[channel], bases[channel]
                    limits = low, low + span, base, base + _i32(low) + _i32(span) + _i32(1)
                    found = places[done:], deviations[done:], inside[done:]
                    _deviations(x_at + 4 * done, m, scales[channel], *limits, *found)
                    done += m
                if slopes_at != 0:
                    _look_up(places.ctypes.data, slopes.ctypes.data, n, FP32, slopes_at)
                if inner == 0:
                    _multiplied_columns(given, slopes, deviations, inside, n, out)
                    _added(sums[column:], deviations, n)
                done = np.int64(0)
                while done < n and inner != 0:
                    channel, m = run_at(at + done, n - done, numbers)
                    terms = given[done:], slopes[done:], deviations[done:], inside[done:]
                    sums[channel] += np.float64(_multiplied(*terms, m, out[done:]))
                    done += m
                written(out, numbers[14] + bytes_ * at, n, form)


def backward_with_scales(
    gradient: int,
    x: int,
    out: int,
    slopes: int,
    channels: Channels,
    sides: tuple[int, int, int],
    threads: int,
    form: str = "fp32",
) -> np.ndarray:
    """The same from x itself, all by address; returns the gradient of every channel's scale, float32 (channels,), as
    `lutc.nn.cpu.through_codes` has it. The sums are the same whatever the threads.
    """
    outer, n, inner = sides
    bytes_, total = 4 if form == "fp32" else 2, np.zeros(n)
    for first, pieces, given, _arrays in channels.parts(sides):
        if inner >= LONG:
            pieces = in_rows(outer, n * inner, max(1, SLICE // inner) * inner)
            given = [*pieces, *given[4:]]
        sums = np.zeros((-(-pieces.height // pieces.deep), n if inner >= LONG else pieces.width))
        at = [address + bytes_ * first for address in (gradient, x, out)]
        job = packed(*given, FORMATS[form], *at, slopes, sums.ctypes.data)
        run(_backward_with_scales, pieces.units, 1, job, threads)
        total += sums.sum(0) if inner >= LONG else sums.sum(0).reshape(-1, n, inner).sum((0, 2))
    return total.astype(np.float32)
