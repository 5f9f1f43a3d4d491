"""Codes through the tables of their channels on the CPU, in one pass (`lutc.nn.channel_ops`). Elements lie in the order
(outer, channels, inner).
"""

from __future__ import annotations

import functools

import numba
import numpy as np

from lutc.nn.cpu.base import TASK, integers, native, packed, pointer
from lutc.nn.cpu.team import run

_LEAST = 1 << 15  # elements of a part at least
_TYPES = {1: np.uint8, 2: np.uint16, 4: np.uint32}  # of a code or an output of so many bytes

_u64 = np.uint64


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
    run(task, outer * channels, max(1, _LEAST // max(inner, 1)), job, threads)
