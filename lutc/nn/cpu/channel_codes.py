"""Codes through the tables of their channels on the CPU, in one pass (`lutc.nn.channel_ops`). Elements lie in the order
(outer, channels, inner).

A long run of one channel goes as codes of one table do (`lutc.nn.cpu.codes`). Where runs are short, every place of
(channels, inner) is a column that has a table: bytes go in tiles (`lutc.nn.cpu.byte_tiles`) where the processor
permutes them, all else one element after another, some channels at a time whose tables a cache holds.
"""

from __future__ import annotations

import functools

import numba
import numpy as np

from lutc.nn.cpu import byte_tiles
from lutc.nn.cpu import codes as one_table
from lutc.nn.cpu.base import TASK, call_task, integers, native, packed, pointer
from lutc.nn.cpu.byte_planes import permutes_bytes
from lutc.nn.cpu.channel_layout import LONG, SLICE, in_columns, repeated
from lutc.nn.cpu.team import run

_TYPES = {1: np.uint8, 2: np.uint16, 4: np.uint32}  # of a code or an output of so many bytes

_u64 = np.uint64


@native(TASK)
def _runs(first, last, job):
    """Units of SLICE elements. job: addresses of codes, outputs, tables and rows; channels and the elements of a run;
    bytes of a code and of an output; how many elements; the task of one table.
    """
    numbers = integers(job)
    channels, inner, code_bytes, bytes_, n, task = (
        numbers[4],
        numbers[5],
        numbers[6],
        numbers[7],
        numbers[8],
        numbers[9],
    )
    rows = numba.carray(pointer(numbers[3]), channels, np.int32)
    table_bytes = bytes_ << (8 * code_bytes)
    one = np.empty(4, np.int64)
    end = min(last * SLICE, n)
    at = first * SLICE
    while at < end:
        m = min(inner - at % inner, end - at)
        one[0], one[1] = numbers[0] + code_bytes * at, numbers[1] + bytes_ * at
        one[2], one[3] = numbers[2] + table_bytes * np.int64(rows[(at // inner) % channels]), m
        call_task(task, 0, m, one.ctypes.data)
        at += m


@functools.cache
def _columns(code, output):
    """The task of codes and outputs of two types. job: addresses of codes, outputs, tables and of where each place's
    begins, in elements (int64); then `Pieces`.
    """
    code_bytes, bytes_ = np.dtype(code).itemsize, np.dtype(output).itemsize
    together = 8 // code_bytes  # by one load
    bits, mask = _u64(8 * code_bytes), _u64((1 << 8 * code_bytes) - 1)

    @native(TASK)
    def look_up(first, last, job):
        numbers = integers(job)
        tables = numba.carray(pointer(numbers[2]), 1 << 40, output)
        width, piece, deep, height = numbers[5], numbers[6], numbers[7], numbers[4]
        groups = (width + piece - 1) // piece
        for unit in range(first, last):
            left = unit % groups * piece
            n = min(piece, width - left)
            starts = numba.carray(pointer(numbers[3] + 8 * left), n, np.uint64)
            for row in range(unit // groups * deep, min(height, (unit // groups + 1) * deep)):
                at = row * width + left
                words = integers(numbers[0] + code_bytes * at)
                q = numba.carray(pointer(numbers[0] + code_bytes * at), n, code)
                out = numba.carray(pointer(numbers[1] + bytes_ * at), n, output)
                for block in range(n // together):
                    word = _u64(words[block])
                    for k in range(together):
                        place = together * block + k
                        out[place] = tables[starts[place] + ((word >> (bits * _u64(k))) & mask)]
                for i in range(n // together * together, n):
                    out[i] = tables[starts[i] + _u64(q[i])]

    return look_up


def look_up(
    codes: int,
    out: int,
    tables: int,
    rows: np.ndarray,
    sides: tuple[int, int, int],
    widths: tuple[int, int],
    threads: int,
) -> None:
    """out = tables[row of the channel, code], without gaps; all but rows by address. sides: elements before, along and
    behind the channels' axis; rows: int32, of every channel; widths: bytes of a code (1, 2) and of an output (1, 2, 4).
    """
    outer, channels, inner = sides
    n = outer * channels * inner
    if not n:
        return
    if inner >= LONG:
        task = one_table.task_of(widths, inner)
        job = packed(codes, out, tables, rows.ctypes.data, channels, inner, *widths, n, task.address)
        run(_runs, -(-n // SLICE), 1, job, threads)
        return
    done = 0
    if widths == (1, 1) and permutes_bytes():
        done = _in_tiles(codes, out, tables, rows, sides, threads)
    size, row = 1 << 8 * widths[0], channels * inner
    starts = rows.astype(np.int64) * size
    for first, copies, pieces in in_columns(
        (outer - done, channels, inner), size * widths[1], int(rows.max(initial=0)) + 1
    ):
        at = done * row + first
        of_columns = repeated(starts, inner, copies)
        addresses = codes + widths[0] * at, out + widths[1] * at, tables, of_columns.ctypes.data
        run(_columns(_TYPES[widths[0]], _TYPES[widths[1]]), pieces.units, 1, packed(*addresses, *pieces), threads)


def _in_tiles(codes: int, out: int, tables: int, rows: np.ndarray, sides: tuple[int, int, int], threads: int) -> int:
    """As many of `outer` as make tiles, some of them side by side until as wide as one; returns their number."""
    outer, channels, inner = sides
    several = -(-byte_tiles.TILE // (channels * inner))
    height = outer // several
    if height < byte_tiles.TILE:
        return 0
    every = repeated(rows, inner, several)
    byte_tiles.look_up_columns(codes, out, tables, every.ctypes.data, height, len(every), threads)
    return height * several
