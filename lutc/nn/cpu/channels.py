"""Codes and floats through the tables of their channels on the CPU, in one pass (`lutc.nn.channels`). The work is
shared by runs: the elements behind the axis of one channel, which lie side by side.
"""

from __future__ import annotations

import functools

import numba
import numpy as np

from lutc.nn.cpu.base import TASK, compiled, floats, integers, native, packed, pointer
from lutc.nn.cpu.team import run

_LEAST = 1 << 15  # elements of a part at least
_TYPES = {1: np.uint8, 2: np.uint16, 4: np.uint32}  # of a code or an output of so many bytes


@functools.cache
def _codes(code, output):
    """The task of codes and outputs of two types. job: addresses of codes, outputs and tables; channels and the
    elements of a run.
    """
    size, code_bytes, bytes_ = 1 << 8 * np.dtype(code).itemsize, np.dtype(code).itemsize, np.dtype(output).itemsize

    @native(TASK)
    def look_up(first, last, job):
        numbers = integers(job)
        channels, inner = numbers[3], numbers[4]
        tables = numba.carray(pointer(numbers[2]), channels * size, output)
        channel = np.uint64(first % channels)
        if inner == 1:
            q = numba.carray(pointer(numbers[0]), last, code)
            out = numba.carray(pointer(numbers[1]), last, output)
            for i in range(first, last):
                out[i] = tables[channel * np.uint64(size) + np.uint64(q[i])]
                channel = channel + np.uint64(1) if channel + np.uint64(1) < np.uint64(channels) else np.uint64(0)
            return
        for row in range(first, last):
            q = numba.carray(pointer(numbers[0] + code_bytes * inner * row), inner, code)
            out = numba.carray(pointer(numbers[1] + bytes_ * inner * row), inner, output)
            table = tables[channel * np.uint64(size) :]
            for i in range(inner):
                out[i] = table[q[i]]
            channel = channel + np.uint64(1) if channel + np.uint64(1) < np.uint64(channels) else np.uint64(0)

    return look_up


def look_up(
    codes: int, out: int, tables: int, sides: tuple[int, int, int], widths: tuple[int, int], threads: int
) -> None:
    """out = tables[channel, code] by address, without gaps. sides: elements before, along and behind the channels'
    axis; widths: bytes of a code (1, 2) and of an output (1, 2, 4).
    """
    outer, channels, inner = sides
    task = _codes(_TYPES[widths[0]], _TYPES[widths[1]])
    run(task, outer * channels, max(1, _LEAST // max(inner, 1)), packed(codes, out, tables, channels, inner), threads)


@compiled
def _place(x, scale, low, high):
    """Where x stands in a row of values, from scale, lowest and highest code less the zero point."""
    step = x / scale
    code = np.rint(step)
    code = low if code < low else code
    code = high if code > high else code
    beyond = np.float32(0.0) if step < low - np.float32(0.5) else high - low + np.float32(2.0)
    inside = (step >= low - np.float32(0.5)) & (step <= high + np.float32(0.5))
    place = code - low + np.float32(1.0) if inside else beyond
    return np.uint32(np.int32(place if step == step else high - low + np.float32(3.0)))


@native(TASK)
def _through(first, last, job):
    """job: addresses of x, outputs, scales, zero points and values; channels, elements of a run, ends."""
    numbers = integers(job)
    channels, inner, lowest, highest = numbers[5], numbers[6], numbers[7], numbers[8]
    size = highest - lowest + 4
    scales = floats(numbers[2], channels)
    zeros = numba.carray(pointer(numbers[3]), channels, np.int32)
    values = floats(numbers[4], channels * size)
    channel = first % channels
    for row in range(first, last):
        scale, low, high = scales[channel], np.float32(lowest - zeros[channel]), np.float32(highest - zeros[channel])
        x, out = floats(numbers[0] + 4 * inner * row, inner), floats(numbers[1] + 4 * inner * row, inner)
        if numbers[4] == 0:
            for i in range(inner):
                code = np.rint(x[i] / scale)
                code = low if code < low else code
                out[i] = (high if code > high else code) * scale
        else:
            for i in range(inner):
                out[i] = values[np.uint64(channel * size) + np.uint64(_place(x[i], scale, low, high))]
        channel = channel + 1 if channel + 1 < channels else 0


def through(
    x: int,
    out: int,
    scales: int,
    zeros: int,
    values: int,
    sides: tuple[int, int, int],
    ends: tuple[int, int],
    threads: int,
) -> None:
    """out = values[channel, place of x] by address, float32 without gaps; `sides` as in `look_up`, ends: smallest and
    largest code. scales: float32; zeros: int32; values: codes + 3 for each channel, as `lutc.nn.channels` has them, or
    0 for none.
    """
    outer, channels, inner = sides
    job = packed(x, out, scales, zeros, values, channels, inner, *ends)
    run(_through, outer * channels, max(1, _LEAST // max(inner, 1)), job, threads)
