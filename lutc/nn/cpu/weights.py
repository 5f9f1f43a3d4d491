"""Weights of a softmax on the CPU: a table's exponential of x - top, in blocks that stay in the first-level cache.

Behind a period, x - top = k period + r and the weight is 2**k T(r). Where T is a plan of cells, its lines are found
here and not by the table's kernel: r is not negative, so its bits are in the order of the numbers, and one subtraction
of 64 bits compares r with the threshold of its cell and gives the place of its line. What it is taken from stands
ready: the place in the upper half, the threshold in the lower.

Where the table has a plan of pieces (`lutc.lower.piece_plans`) and the processor AVX-512, lines are found by
arithmetic, and in this way only in blocks with a number too near to a threshold.
"""

from __future__ import annotations

import ctypes
import functools
import math
from typing import Any

import numba
import numba.extending
import numpy as np
from llvmlite import ir

from lutc.lower.plans import edge
from lutc.measures import EXP_FLOOR
from lutc.nn.cpu.base import call_kernel, compiled, float_bits, float_of, floats, integers, packed, pointer, single
from lutc.nn.cpu.lines import CELLS, kernel_of
from lutc.nn.cpu.pieces import LINES, UNDONE, weigh_pieces

FLOOR = np.float32(EXP_FLOOR)
BLOCK = 256  # elements at most that `weigh` takes
_MOST = 16384  # cells that are made ready
_ANY, _PERIOD, _CELLS = 0, 1, 2  # a table that takes every d <= 0; one behind a period; one of cells behind it
_OPEN = int(np.float32(-np.inf).view(np.int32))  # the threshold of a cell that has none
_FLIPPED, _LESS = np.uint64(0x80000000), np.uint64(0x7FFFFFFF)


def table_of(plans: Any, period: float) -> tuple[ctypes.Array, ctypes.Array]:
    """What tasks are told of an exp table, by its address, and what must live as long as that.

    plans: `Plans` (`lutc.nn.row_tables`) of it; period: of its prologue, 0 where it has none.
    """
    words, meta = plans.vector
    pieces = plans.pieces[0].data_ptr() if plans.pieces[1] else 0
    kernel, numbers, form, constants = _constants_of(tuple(meta), period)
    if form == _CELLS and words[2 * meta[2] + 2].item() != _OPEN:  # below the cell `first` it is not as in it
        form = _PERIOD
    at_words = words.data_ptr(), ctypes.addressof(numbers)
    table = packed(form, kernel.address, *at_words, *constants, pieces, pieces + LINES)
    return table, numbers


def plain_table(plan: tuple[Any, Any]) -> tuple[ctypes.Array, tuple[int, int, int]]:
    """What must live while a plan, (words, meta), is used, and the addresses of its kernel, words and numbers."""
    words, meta = plan
    kernel, numbers = kernel_of(tuple(meta), False)
    return numbers, (kernel.address, words.data_ptr(), ctypes.addressof(numbers))


@functools.lru_cache(maxsize=256)
def _constants_of(meta: tuple[int, ...], period: float) -> tuple[Any, ctypes.Array, int, tuple[int, ...]]:
    """(kernel, its numbers, form, what a task is told besides addresses)."""
    kernel, numbers = kernel_of(meta, False)
    high = math.ldexp(round(math.ldexp(period, 14)), -14)
    periods = [np.float32(v) for v in (1 / period if period else 0.0, high, period - high, period * (1 - 2.0**-24))]
    form, cells = _PERIOD if period else _ANY, (0, 0, 0, 0, np.float32(0.0))
    if period and meta[0] == CELLS:
        _, _, segments, shift, first, positive, _ = meta
        keys = (int(periods[-1].view(np.int32)) >> shift) - first + 1  # r is below the period
        if 0 < keys <= _MOST:
            form, cells = _CELLS, (segments, keys, positive - first, shift, np.float32(edge(first, shift)))
    return kernel, numbers, form, tuple(packed(*periods, *cells))


@numba.extending.intrinsic
def _long(typing, address, index):
    """The 64 bits at an index of those at an address."""

    def generate(context, builder, signature, values):
        start = builder.inttoptr(values[0], ir.IntType(64).as_pointer())
        return builder.load(builder.gep(start, [values[1]]), align=8)

    return numba.types.uint64(numba.types.int64, numba.types.uint64), generate


@numba.extending.intrinsic
def _copy_two(typing, target, source, i, j):
    """target[:2] = source[i], source[j] of 64 bits each, by address, with one store: two take longer than the rest."""

    def generate(context, builder, signature, values):
        number = ir.DoubleType()
        pair = ir.Constant(ir.VectorType(number, 2), ir.Undefined)
        source = builder.inttoptr(values[1], number.as_pointer())
        for lane, index in enumerate(values[2:]):
            value = builder.load(builder.gep(source, [index]), align=8)
            pair = builder.insert_element(pair, value, ir.Constant(ir.IntType(32), lane))
        builder.store(pair, builder.inttoptr(values[0], pair.type.as_pointer()), align=8)
        return context.get_dummy_value()

    address, index = numba.types.int64, numba.types.uint64
    return numba.types.void(address, address, index, index), generate


@compiled
def _halves(address, n):
    return numba.carray(pointer(address), n, np.uint32)


@compiled
def _longs(address, n):
    return numba.carray(pointer(address), n, np.uint64)


@compiled
def room(table_at):
    """What `weigh` works in: five vectors of BLOCK numbers of 32 bits and the cells of the table, from its element on
    that `aligned` gives the address of. Addresses hold nothing: name it again after the last use of its address.
    """
    table = integers(table_at)
    numbers = np.empty(5 * BLOCK // 2 + table[9] + 8, np.uint64)
    start = (aligned(numbers) - numbers.ctypes.data) // 8
    numbers[start : start + BLOCK // 2] = np.uint64(np.uint32(table[12])) * np.uint64((1 << 32) + 1)  # bits
    last = table[10]
    cells, ready = _longs(table[2] + 8 * (table[8] + 1), last + 1), numbers[start + 5 * BLOCK // 2 :]
    for i in range(table[9]):
        ready[i] = (cells[min(i, last)] ^ _FLIPPED) + _LESS
    return numbers


@compiled
def aligned(numbers):
    """The first address in an array at which a line of the cache begins."""
    return (numbers.ctypes.data + 63) & ~63


@compiled
def _reduce(part, top, r, power, bits, periods, least):
    """x - top as k period + r: r, its bits or those of `least`, and 2**k; 0 below the floor, NaN for NaN."""
    inverse, high, low, end = periods
    for i in range(part.size):
        d = part[i] - top
        inside = d if d > FLOOR else FLOOR
        k = np.floor(inside * inverse)
        two = float_of((np.int32(k) + np.int32(127)) << np.int32(23))
        power[i] = two if d >= FLOOR else (np.float32(0.0) if d < 0 else d)
        rest = (inside - k * high) - k * low
        rest = rest if rest > np.float32(0.0) else np.float32(0.0)
        rest = rest if rest < end else end
        r[i] = rest
        bits[i] = np.uint32(float_bits(rest if rest > least else least))


@compiled
def _place(bits, ready_at, shift):
    return (_long(ready_at, bits >> shift) - bits) >> np.uint64(32)


@compiled
def _find(n, bits, lines_at, found_at, ready_at, shift):
    """The lines, slope and intercept, of n numbers or one more."""
    for i in range(0, n, 2):
        one, other = _place(np.uint64(bits[i]), ready_at, shift), _place(np.uint64(bits[i + 1]), ready_at, shift)
        _copy_two(found_at + 8 * i, lines_at, one, other)


@compiled(reorder=True)
def _weigh_lines(r, power, found, body):
    total = np.float32(0.0)
    for i in range(body.size):
        value = (found[2 * i] * r[i] + found[2 * i + 1]) * power[i]
        value = np.float32(0.0) if value < 0 else value
        body[i] = value
        total += value
    return total


@compiled(reorder=True)
def _weigh_values(power, body):
    total = np.float32(0.0)
    for i in range(body.size):
        value = body[i] * power[i]
        value = np.float32(0.0) if value < 0 else value
        body[i] = value
        total += value
    return total


@compiled(reorder=True)
def _weigh_inside(d, body):
    total = np.float32(0.0)
    for i in range(body.size):
        value = np.float32(0.0) if (body[i] < 0) | (d[i] < FLOOR) else body[i]
        body[i] = value
        total += value
    return total


@compiled
def weigh(table_at, room_at, part_at, top, body_at, n):
    """body = T(part - top) of n <= BLOCK float32 by address, which may be one: never negative, 0 below the floor, NaN
    for NaN; returns the sum. Addresses, for arrays would be counted.
    """
    table = integers(table_at)
    form, kernel, words, of_kernel = table[0], table[1], table[2], table[3]
    r_at, found_at = room_at + 4 * BLOCK, room_at + 12 * BLOCK
    part, body, r, power = floats(part_at, n), floats(body_at, n), floats(r_at, n), floats(room_at + 8 * BLOCK, n)
    if form == _ANY:
        for i in range(n):
            r[i] = part[i] - top
        call_kernel(kernel, r_at, body_at, n, words, of_kernel)
        return _weigh_inside(r, body)
    periods = single(table[4]), single(table[5]), single(table[6]), single(table[7])
    if table[13] != 0:
        total = weigh_pieces(
            table[13], table[14], part_at, top, body_at, n, r_at, room_at + 8 * BLOCK, found_at, periods
        )
        if total != UNDONE:
            return total
    bits = _halves(room_at, n)
    shift, least = np.uint64(table[11]), single(table[12])
    _reduce(part, top, r, power, bits, periods, least)
    if form == _PERIOD:
        call_kernel(kernel, r_at, body_at, n, words, of_kernel)
        return _weigh_values(power, body)
    first = np.int64(np.uint64(np.uint32(table[12])) >> shift)
    _find(n, bits, words, found_at, room_at + 20 * BLOCK - 8 * first, shift)
    return _weigh_lines(r, power, floats(found_at, 2 * n), body)
