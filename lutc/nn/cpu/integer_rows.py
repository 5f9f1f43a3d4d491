"""Integer softmax and norms of rows on the CPU: one numba function each, row by row, with what is in between in the
cache; rows are shared among the threads. Bit for bit `lutc.hardware.rows`: every sum and product there fits int64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np

from lutc.nn.cpu.base import TASK, compiled, integers, native, packed, pointer
from lutc.nn.cpu.team import run

_BLOCK = 512  # elements of a row between two steps, which stay in the first-level cache
_FEW = 1 << 14  # elements for each thread below which one is as fast


def _arrays(dtype):
    @compiled
    def array(address, n):
        return numba.carray(pointer(address), n, dtype)

    return array


_int8, _int16, _int32 = _arrays(np.int8), _arrays(np.int16), _arrays(np.int32)
_uint8, _uint16 = _arrays(np.uint8), _arrays(np.uint16)


@compiled
def _leading_one(x):
    """Index of the highest set bit of 0 < x < 2**63."""
    index = np.int64(0)
    for step in (32, 16, 8, 4, 2, 1):
        if x >= np.int64(1) << np.int64(step):
            index += step
            x >>= np.int64(step)
    return index


@compiled
def _shift_to(x, places):
    """x * 2**places, rounded half up where places < 0."""
    return x << places if places >= 0 else ((x >> (-places - 1)) + 1) >> 1


@compiled
def _divide(numerator, n):
    """numerator / n rounded half up, n > 0."""
    return (2 * numerator + n) // (2 * n)


@compiled
def _requantised(acc, multiplier, shift):
    """round(acc * multiplier * 2**-shift), halves up."""
    product = acc * multiplier
    if shift > 62:
        return np.int64(0)
    return (product + (np.int64(1) << (shift - 1))) >> shift if shift > 0 else product << -shift


@compiled
def _root(lines, mantissa):
    """The table at a mantissa. lines: addresses of cuts, slopes and intercepts (int32), number of cuts, multiplier and
    shift.
    """
    count = lines[3]
    cuts, slopes, intercepts = _int32(lines[0], count), _int32(lines[1], count + 1), _int32(lines[2], count + 1)
    at = np.int64(0)
    for i in range(count):
        at += np.int64(cuts[i] < mantissa)
    return _requantised(np.int64(slopes[at]) * mantissa + np.int64(intercepts[at]), lines[4], lines[5])


@compiled
def _top(x, lowest):
    top = np.int32(lowest)
    for i in range(x.size):
        top = max(top, np.int32(x[i]))
    return top


@compiled
def _top_of_kept(x, keep, lowest):
    top = np.int32(lowest)
    for i in range(x.size):
        top = max(top, np.int32(x[i]) if keep[i] else np.int32(lowest))
    return top


@compiled
def _sum(weights):
    total = np.uint32(0)
    for i in range(weights.size):
        total = np.uint32(total + np.uint32(weights[i]))
    return np.int64(total)


@compiled
def _weigh(x_at, n, width, table, weights):
    """weights[i] = table[code as an unsigned one, from the lowest code up]. Eight bytes by one load, as in
    `lutc.nn.cpu.codes`, which is faster than what LLVM makes of it.
    """
    words = integers(x_at)
    if width == 1:
        codes = _uint8(x_at, n)
        for block in range(n // 8):
            eight = np.uint64(words[block]) ^ np.uint64(0x8080808080808080)
            for k in range(8):
                weights[8 * block + k] = table[(eight >> np.uint64(8 * k)) & np.uint64(0xFF)]
        for i in range(n // 8 * 8, n):
            weights[i] = table[codes[i] ^ np.uint8(0x80)]
    else:
        halves = _uint16(x_at, n)
        for block in range(n // 4):
            four = np.uint64(words[block]) ^ np.uint64(0x8000800080008000)
            for k in range(4):
                weights[4 * block + k] = table[(four >> np.uint64(16 * k)) & np.uint64(0xFFFF)]
        for i in range(n // 4 * 4, n):
            weights[i] = table[halves[i] ^ np.uint16(0x8000)]


@compiled
def _share(weights, root, multiplier, shift, zero_point, highest, out):
    """out[i] = weights[i] * root * multiplier * 2**-shift, halves up, beside the zero point, at most `highest`."""
    most = np.int32(highest - zero_point)
    zero = np.int32(zero_point)
    if multiplier == 1 and shift < 32:  # 13 bits by 17
        factor, places = np.uint32(root), np.uint32(shift)
        half = np.uint32(np.uint32(1) << np.uint32(shift - 1))
        for i in range(weights.size):
            value = np.uint32(np.uint32(np.uint32(weights[i]) * factor) + half) >> places
            out[i] = np.int32(min(np.uint32(value), np.uint32(most))) + zero
    else:
        factor, places = np.uint32(root), np.uint64(min(shift, 62))
        half, times = np.uint64(1) << (places - np.uint64(1)), np.uint32(multiplier)
        for i in range(weights.size):
            product = np.uint64(np.uint32(np.uint32(weights[i]) * factor)) * np.uint64(times)
            value = (product + half) >> places
            out[i] = np.int32(min(value, np.uint64(most))) + zero


@compiled
def _softmax_rows(first, last, x_all, out_all, numbers):
    """Rows first ... last - 1. Returns how many gave codes of 0 alone."""
    n, keep_at, table_at = numbers[3], numbers[1], numbers[4]
    multiplier, shift, zero_point, highest = numbers[13], numbers[14], numbers[15], numbers[16]
    width, lines = x_all.itemsize, numbers[7:13]
    lowest = -(1 << (8 * width - 1))
    weights = np.empty(n, np.uint16)
    nothing = np.int64(0)
    for row in range(first, last):
        x, out, keep = x_all[n * row : n * row + n], out_all[n * row : n * row + n], _uint8(keep_at + n * row, n)
        top = _top_of_kept(x, keep, lowest) if keep_at else _top(x, lowest)
        table = _uint16(table_at + 2 * (lowest - np.int64(top) - 2 * lowest - 1), -4 * lowest)
        _weigh(numbers[0] + width * n * row, n, width, table, weights)
        if keep_at:
            for i in range(n):
                weights[i] = weights[i] if keep[i] else np.uint16(0)
        total = _sum(weights)
        if total == 0:  # nothing takes part
            for i in range(n):
                out[i] = zero_point
            continue
        leading = _leading_one(total)
        root = _root(lines, min(_shift_to(total, 14 - leading), 32767))
        _share(weights, root, multiplier, shift + leading, zero_point, highest, out)
        heaviest = np.int64(_uint16(table_at, -2 * lowest)[-2 * lowest - 1])
        nothing += np.int64(_requantised(heaviest * root, multiplier, min(shift + leading, 62)) == 0)
    return nothing


@native(TASK)
def _softmax(first, last, job):
    """job: addresses of codes, mask (0: none), outputs; n; address of the weights; bytes of a code and of an output;
    lines of the reciprocal (see `_root`); multiplier, shift, zero point, highest code; rows whose codes are all 0,
    counted here.
    """
    numbers = integers(job)
    x, out, end = numbers[0], numbers[2], numbers[3] * last
    narrow, small = numbers[5] == 1, numbers[6] == 1
    if narrow and small:
        nothing = _softmax_rows(first, last, _int8(x, end), _uint8(out, end), numbers)
    elif narrow:
        nothing = _softmax_rows(first, last, _int8(x, end), _uint16(out, end), numbers)
    elif small:
        nothing = _softmax_rows(first, last, _int16(x, end), _uint8(out, end), numbers)
    else:
        nothing = _softmax_rows(first, last, _int16(x, end), _uint16(out, end), numbers)
    if nothing:
        numbers[17] = nothing


def softmax(
    x: int,
    keep: int,
    out: int,
    shape: tuple[int, int],
    widths: tuple[int, int],
    table: int,
    numbers: np.ndarray,
    threads: int,
) -> bool:
    """Codes of rows without gaps, by address (keep: bytes of a mask, or 0). widths: bytes of a code and of an output.
    table: 16-bit weights, not negative, of the differences of two codes, ascending. numbers: what `_softmax` says from
    the lines on.
    Returns whether some row gave codes of 0 alone, though elements took part.
    """
    rows, n = shape
    job = packed(x, keep, out, n, table, *widths, *numbers, 0)
    run(_softmax, rows, max(1, _FEW // n), job, threads)
    return job[17] != 0


@compiled
def _sums(x):
    """Sum and sum of squares of codes."""
    total, squares = np.int64(0), np.int64(0)
    if x.itemsize == 1:  # rows of bytes are so short that int32 holds both
        few, many = np.int32(0), np.int32(0)
        for i in range(x.size):
            v = np.int32(x[i])
            few, many = np.int32(few + v), np.int32(many + np.int32(v * v))
        return np.int64(few), np.int64(many)
    for i in range(x.size):
        v = np.int32(x[i])
        total += np.int64(v)
        squares += np.int64(np.int32(v * v))
    return total, squares


@compiled
def _hide(x, offset, less, root, drop, multiplier, shift, hidden):
    """hidden[i] = (((x[i] - offset) * 2**7 - less) * root * 2**-drop) * multiplier * 2**-shift, each rounded half up,
    in 16 bits.
    """
    factor, times, places = np.int64(np.int32(root)), np.int64(np.int32(multiplier)), np.int64(shift)
    half = (np.int64(1) << places) >> np.int64(1)
    if drop == 0:
        for i in range(x.size):
            deviation = np.int32(np.int32(np.int32(np.int32(x[i]) - offset) << np.int32(7)) - less)
            acc = np.int32(deviation * np.int32(factor))
            value = (np.int64(acc) * times + half) >> places
            hidden[i] = np.int32(min(max(value, np.int64(-32768)), np.int64(32767)))
    else:
        few = np.int64(1) << np.int64(drop - 1)
        for i in range(x.size):
            deviation = np.int32(np.int32(np.int32(np.int32(x[i]) - offset) << np.int32(7)) - less)
            acc = (np.int64(deviation) * factor + few) >> np.int64(drop)
            value = (acc * times + half) >> places
            hidden[i] = np.int32(min(max(value, np.int64(-32768)), np.int64(32767)))


@compiled
def _give(acc, multiplier, shift, zero_point, lowest, highest, out):
    """out[i] = acc[i] * multiplier * 2**-shift, rounded half up, beside the zero point, saturated."""
    if 0 < shift <= 62:
        times, places = np.int64(np.int32(multiplier)), np.int64(shift)
        half = np.int64(1) << np.int64(places - 1)
        for i in range(acc.size):
            value = ((np.int64(acc[i]) * times + half) >> places) + zero_point
            out[i] = min(max(value, lowest), highest)
    else:
        for i in range(acc.size):
            value = _requantised(np.int64(acc[i]), multiplier, shift) + zero_point
            out[i] = min(max(value, lowest), highest)


@compiled
def _norm_rows(first, last, x_all, out_all, numbers):
    n, weight_at, bias_at = numbers[2], numbers[5], numbers[6]
    centred, offset, fraction, epsilon, drop = numbers[13], numbers[14], numbers[15], numbers[16], numbers[17]
    multiplier, shift = numbers[18], numbers[19]
    weight, bias = _int32(weight_at, n), _int32(bias_at, n)
    hidden = np.empty(_BLOCK, np.int32)
    for row in range(first, last):
        x, out = x_all[n * row : n * row + n], out_all[n * row : n * row + n]
        total, squares = _sums(x)
        squares += n * offset * offset - 2 * offset * total
        total -= n * offset
        mean, rest = np.int64(0), np.int64(0)
        if centred:
            mean = _divide(total, n)
            squares += n * mean * mean - 2 * mean * total
            rest = total - n * mean
        spread = max((squares << fraction) - _divide((rest * rest) << fraction, n) + epsilon, 1)
        half = _leading_one(spread) >> 1
        root = _root(numbers[7:13], min(_shift_to(spread, 13 - 2 * half), 32767))
        away, less, places = np.int32(offset + mean), np.int32(_divide(rest << 7, n)), max(min(shift + half, 62), 0)
        for start in range(0, n, _BLOCK):
            part = x[start : start + _BLOCK]
            acc = hidden[: part.size]
            _hide(part, away, less, root, drop, multiplier, places, acc)
            if weight_at:
                for i in range(part.size):
                    acc[i] = np.int32(acc[i] * weight[start + i])
            if bias_at:
                for i in range(part.size):
                    acc[i] = np.int32(acc[i] + bias[start + i])
            _give(acc, numbers[20], numbers[21], numbers[22], numbers[23], numbers[24], out[start : start + _BLOCK])


@native(TASK)
def _norm(first, last, job):
    """job: addresses of codes and outputs; n; bytes of a code and of an output; addresses of weight and bias (int32; 0:
    none); lines of the root (see `_root`); centred, zero point, fraction, epsilon, bits dropped of a product,
    multiplier and shift of what is hidden, of the result; zero point, lowest and highest code.
    """
    numbers = integers(job)
    x, out, end = numbers[0], numbers[1], numbers[2] * last
    narrow, small = numbers[3] == 1, numbers[4] == 1
    if narrow and small:
        _norm_rows(first, last, _int8(x, end), _int8(out, end), numbers)
    elif narrow:
        _norm_rows(first, last, _int8(x, end), _int16(out, end), numbers)
    elif small:
        _norm_rows(first, last, _int16(x, end), _int8(out, end), numbers)
    else:
        _norm_rows(first, last, _int16(x, end), _int16(out, end), numbers)


def norm(
    x: int,
    out: int,
    shape: tuple[int, int],
    widths: tuple[int, int],
    affine: Sequence[int],
    numbers: np.ndarray,
    threads: int,
) -> None:
    """Codes of rows without gaps, by address. affine: addresses of weight and bias. numbers: what `_norm` says from the
    lines on.
    """
    rows, n = shape
    job = packed(x, out, n, *widths, *affine, *numbers)
    run(_norm, rows, max(1, _FEW // n), job, threads)
