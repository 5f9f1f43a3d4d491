"""Floats through the codes of their channels on the CPU, in one pass (`lutc.nn.channel_ops`).

Floats go in blocks, as in `lutc.nn.cpu.through_codes`, and in the order of `lutc.nn.cpu.channel_layout`: parts of a
block that lie in one run have one scale, elsewhere every column has its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import numba
import numpy as np

from lutc.nn.cpu.base import TASK, codes, compiled, floats, integers, native, packed, pointer
from lutc.nn.cpu.channel_layout import LONG, Pieces, in_columns, repeated, without_rows
from lutc.nn.cpu.half import FORMATS, FP32, widened, written
from lutc.nn.cpu.team import run
from lutc.nn.cpu.through_codes import _bytes, _clamped, _inside, _look_up, _places, _write_bits

BLOCK = 512

_f32, _i32 = np.float32, np.int32


class Channels:
    """What kernels need to know of channels: scales, lowest codes less the zero point (float32), and what is added to a
    code less the zero point for its place in all tables (int32).

    scales, zeros, rows: float32 and int32 vectors; ends: smallest and largest code; tables: how many rows there are, of
    `bytes_` for each code.
    """

    def __init__(self, scales: np.ndarray, zeros: np.ndarray, rows: np.ndarray, ends: tuple[int, int], bytes_: int):
        lowest, highest = ends
        size, self.span = highest - lowest + 2, highest - lowest
        self.table_bytes, self.tables = bytes_ * size, int(rows.max(initial=0)) + 1
        self.sides = scales, (lowest - zeros).astype(np.float32), rows * np.int32(size) + zeros - np.int32(lowest)

    def parts(self, sides: tuple[int, int, int]) -> Iterator[tuple[int, Pieces, list[int], list[np.ndarray]]]:
        """(first element, units of work, the first 11 numbers of a job, arrays that must live until it is done)."""
        outer, channels, inner = sides
        if inner >= LONG:
            yield 0, *self._given(without_rows(outer * channels * inner), inner, channels, list(self.sides))
            return
        for first, copies, pieces in in_columns(sides, self.table_bytes, self.tables):
            yield first, *self._given(pieces, 0, 0, [repeated(side, inner, copies) for side in self.sides])

    def _given(self, pieces, inner, channels, arrays):
        return pieces, [*pieces, inner, channels, self.span, *(array.ctypes.data for array in arrays), 0], arrays


@compiled
def ints(address, n):
    return numba.carray(pointer(address), n, np.int32)


@compiled
def run_at(at, most, numbers):
    """(the channel of the element at `at`, how many from there on, at most `most`, belong to it)"""
    inner = numbers[4]
    return (at // inner) % numbers[5], min(most, inner - at % inner)


# Loops of few arrays each, or LLVM would not tell that they do not overlap, and take one element at a time.


@compiled
def places_of_columns(x_at, n, scale, low, base, span, places):
    x, nan = floats(x_at, n), _i32(span) + _i32(1)
    for i in range(n):
        code = _clamped(x[i] / scale[i], low[i], low[i] + span)
        places[i] = (_i32(code) if code == code else _i32(low[i]) + nan) + base[i]


@compiled
def _rounded_columns(x_at, n, scale, low, span, out):
    x = floats(x_at, n)
    for i in range(n):
        out[i] = _clamped(x[i] / scale[i], low[i], low[i] + span) * scale[i]


@compiled
def _rounded(x_at, n, scale, low, high, out):
    x = floats(x_at, n)
    for i in range(n):
        out[i] = _clamped(x[i] / scale, low, high) * scale


@compiled
def _inside_columns(x_at, n, scale, low, span, flags):
    x = floats(x_at, n)
    for i in range(n):
        step = x[i] / scale[i]
        flags[i] = np.uint8((step >= low[i] - _f32(0.5)) & (step <= low[i] + span + _f32(0.5)))


@compiled
def _codes_of_columns(places, n, low, base):
    """Places in all tables -> places among the codes."""
    for i in range(n):
        places[i] = places[i] - base[i] - _i32(low[i])


@compiled
def _narrowed(places, n, first, code_bytes, at):
    """Places less the first, as codes of so many bytes at an address."""
    if code_bytes == 1:
        short = _bytes(at, n)
        for i in range(n):
            short[i] = np.uint8(places[i] - first)
    else:
        long = codes(at, n)
        for i in range(n):
            long[i] = np.uint16(places[i] - first)


@compiled
def _of_runs(x_at, at, n, numbers, places, out, flags):
    """Places, or without values real values, and flags where they are wanted, of n floats in runs."""
    channels, span = numbers[5], _f32(numbers[6])
    scales, lows, bases = floats(numbers[7], channels), floats(numbers[8], channels), ints(numbers[9], channels)
    values_at, codes_at, bits_at, code_bytes = numbers[14], numbers[15], numbers[16], numbers[17]
    done = np.int64(0)
    while done < n:
        channel, m = run_at(at + done, n - done, numbers)
        scale, low, base = scales[channel], lows[channel], bases[channel]
        high, first, here = low + span, base + _i32(low), x_at + 4 * done
        if values_at != 0:
            _places(here, m, scale, low, high, base, first + _i32(span) + _i32(1), places[done:])
        else:
            _rounded(here, m, scale, low, high, out[done:])
        if codes_at != 0:
            _narrowed(places[done:], m, first, code_bytes, codes_at + code_bytes * (at + done))
        if bits_at != 0:
            _inside(here, m, scale, low, high, flags[done:])
        done += m


@compiled
def _of_columns(x_at, at, n, column, numbers, places, out, flags):
    """The same of n floats of the columns from `column` on."""
    span = _f32(numbers[6])
    scale, low = floats(numbers[7] + 4 * column, n), floats(numbers[8] + 4 * column, n)
    base = ints(numbers[9] + 4 * column, n)
    if numbers[14] != 0:
        places_of_columns(x_at, n, scale, low, base, span, places)
    else:
        _rounded_columns(x_at, n, scale, low, span, out)
    if numbers[16] != 0:
        _inside_columns(x_at, n, scale, low, span, flags)


@native(TASK)
def _through(first, last, job):
    """job: `Channels`, then form; addresses of x, outputs and values or 0, and of codes and bits to keep, or 0; bytes
    of a code.
    """
    numbers = integers(job)
    height, width, piece, deep, inner = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    form, values_at, codes_at, bits_at, code_bytes = numbers[11], numbers[14], numbers[15], numbers[16], numbers[17]
    bytes_, groups = 4 if form == FP32 else 2, (width + piece - 1) // piece
    room, out = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    places, flags = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.uint8)
    for unit in range(first, last):
        left, top = unit % groups * piece, unit // groups * deep
        for row in range(top, min(top + deep, height)):
            for column in range(left, min(left + piece, width), BLOCK):
                at, n = row * width + column, min(BLOCK, min(left + piece, width) - column)
                x_at, target = widened(numbers[12] + bytes_ * at, n, form, room), numbers[13] + bytes_ * at
                if inner != 0:
                    _of_runs(x_at, at, n, numbers, places, out, flags)
                else:
                    _of_columns(x_at, at, n, column, numbers, places, out, flags)
                if values_at != 0:
                    found = target if form == FP32 else np.int64(out.ctypes.data)
                    _look_up(places.ctypes.data, found, n, FP32, values_at)
                if values_at == 0 or form != FP32:
                    written(out, target, n, form)
                if codes_at != 0 and inner == 0:
                    low, base = floats(numbers[8] + 4 * column, n), ints(numbers[9] + 4 * column, n)
                    _codes_of_columns(places, n, low, base)
                    _narrowed(places, n, _i32(0), code_bytes, codes_at + code_bytes * at)
                if bits_at != 0:
                    _write_bits(flags, n, bits_at + at // 8)


def through(
    x: int,
    out: int,
    values: int,
    channels: Channels,
    sides: tuple[int, int, int],
    threads: int,
    form: str = "fp32",
    kept: tuple[int, int, int] = (0, 0, 1),
) -> None:
    """out = values[row of the channel, code of x] by address, without gaps; without values (0) scale * (code - zero
    point).

    form: of x and outputs. values: float32, each row of all codes and then of NaN. sides: elements before, along and
    behind the channels' axis. kept: where the backward pass finds the codes, counted from the smallest, and the bits
    that say which x were not clamped, or 0; bytes of a code.
    """
    bytes_, (codes_at, bits_at, code_bytes) = 4 if form == "fp32" else 2, kept
    for first, pieces, given, _arrays in channels.parts(sides):
        keeps = codes_at and codes_at + code_bytes * first, bits_at and bits_at + first // 8, code_bytes
        job = packed(*given, FORMATS[form], x + bytes_ * first, out + bytes_ * first, values, *keeps)
        run(_through, pieces.units, 1, job, threads)
