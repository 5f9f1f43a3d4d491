"""The tables of many scales on the CPU, in one pass: what a table over codes answers to every code at each scale, by
the integer rule, as `lutc.nn.responses` has it in plain torch operations.

Codes ascend, so those of a segment lie side by side and share a line: a vector loop for each segment.
"""

from __future__ import annotations

import numba
import numpy as np

from lutc.formats.codes import HALF_AWAY, HALF_EVEN, HALF_UP
from lutc.nn.cpu.base import TASK, compiled, integers, native, packed, pointer, single
from lutc.nn.cpu.team import run

_LEAST = 1 << 13  # codes of a part at least
_ROUNDINGS = {HALF_UP: 0, HALF_AWAY: 1, HALF_EVEN: 2}

_f32, _i64 = np.float32, np.int64


@compiled
def _doubles(address, n):
    return numba.carray(pointer(address), n, np.float64)


@compiled
def _longs(address, n):
    return numba.carray(pointer(address), n, np.int64)


@compiled
def _last_of_segment(cut, first, scale, n):
    """How many of the codes that start `first` above the zero point have x <= cut."""
    least, most = _i64(0), n
    while least < most:
        middle = (least + most) // 2
        if cut < np.float64(first + middle) * scale:
            most = middle
        else:
            least = middle + 1
    return least


@compiled
def _requantised(acc, n, multiplier, shift, rounding, zero, low, high):
    """Accumulators -> output codes, in place; shift: at least 1, above 62 for what rounds to 0."""
    half = _i64(1) << (shift - _i64(1))
    for i in range(n):
        product = acc[i] * multiplier
        added = half
        if rounding == 1:
            added = half - (_i64(1) if product < 0 else _i64(0))
        elif rounding == 2:
            added = half - _i64(1) + ((product >> shift) & _i64(1))
        acc[i] = min(max(((product + added) >> shift) + zero, low), high)


@native(TASK)
def _tables(first, last, job):
    """job: addresses of scales, units, zero points, keys, multipliers, shifts and whether each holds; of cuts, slopes
    and intercepts of all keys; segments; lowest code, codes; bit patterns, bytes of an output; addresses of outputs by
    bit pattern and of values (float32), or 0; whether outputs are codes: rounding, zero point, smallest, largest, what
    unsigned codes have more, scale (float32).
    """
    numbers = integers(job)
    segments, lowest, n, patterns, bytes_ = numbers[10], numbers[11], numbers[12], numbers[13], numbers[14]
    outputs_at, values_at, coded, rounding = numbers[15], numbers[16], numbers[17], numbers[18]
    zero, low, high, offset, out_scale = numbers[19], numbers[20], numbers[21], numbers[22], single(numbers[23])
    scales, units = _doubles(numbers[0], last), _doubles(numbers[1], last)
    zeros, keys = _longs(numbers[2], last), _longs(numbers[3], last)
    multipliers, shifts, held = _longs(numbers[4], last), _longs(numbers[5], last), _longs(numbers[6], last)
    acc, found = np.empty(n, np.int64), np.empty(n + 1, np.float32)
    for row in range(first, last):
        scale, key, start = scales[row], keys[row], lowest - zeros[row]
        cuts = _doubles(numbers[7] + 8 * key * (segments - 1), segments - 1)
        slopes = _doubles(numbers[8] + 8 * key * segments, segments)
        intercepts = _doubles(numbers[9] + 8 * key * segments, segments)
        known, at = held[row] != 0, _i64(0)
        for segment in range(segments):
            end = n
            if known and segment < segments - 1:
                end = _last_of_segment(cuts[segment], start, scale, n)
            slope = _i64(slopes[segment]) if known else _i64(0)
            intercept = _i64(np.floor(intercepts[segment] / scale + 0.5)) if known else _i64(0)
            for i in range(at, end):
                acc[i] = slope * (start + i) + intercept
            at = max(at, end)
        if coded != 0:
            _requantised(acc, n, multipliers[row], shifts[row], rounding, zero, low, high)
        unit = units[row]
        if coded != 0:
            for i in range(n):
                found[i] = _f32(acc[i] - zero) * out_scale
        else:
            for i in range(n):
                found[i] = _f32(np.float64(acc[i]) * unit)
        found[n] = np.nan
        if not known:
            found[:] = np.nan
        if values_at != 0:
            values = numba.carray(pointer(values_at + 4 * row * (n + 1)), n + 1, np.float32)
            for i in range(n + 1):
                values[i] = found[i]
        if outputs_at != 0:
            _by_pattern(acc, found, n, lowest, patterns, bytes_, offset, outputs_at + bytes_ * patterns * row)


@compiled
def _by_pattern(acc, found, n, lowest, patterns, bytes_, offset, at):
    """Outputs in the order of the codes' bits; codes beyond the width saturate."""
    short = numba.carray(pointer(at), patterns, np.uint8)
    long = numba.carray(pointer(at), patterns, np.uint16)
    real = numba.carray(pointer(at), patterns, np.float32)
    first = _i64(0) if lowest >= 0 else -patterns // 2
    for code in range(first, first + patterns):
        place, bits = min(max(code - lowest, _i64(0)), n - 1), code & (patterns - 1)
        if bytes_ == 1:
            short[bits] = np.uint8(acc[place] + offset)
        elif bytes_ == 2:
            long[bits] = np.uint16(acc[place] + offset)
        else:
            real[bits] = found[place]


def tables_of(
    rows: tuple[np.ndarray, ...],
    sides: tuple[np.ndarray, ...],
    codes: tuple[int, int, int],
    out: tuple[str, int, int, int, int, float] | None,
    wanted: tuple[int, int, int],
    threads: int,
) -> None:
    """The outputs by bit pattern, and the real values of all codes ascending and of NaN, of every row.

    rows: of each scale it itself and the unit of its accumulator (float64); zero point, key, multiplier, shift (1 to
    62) and whether the rule holds (int64): where not, values are NaN. sides: cuts, slopes and intercepts of all keys,
    as `lutc.nn.responses.side_by_side` has them. codes: smallest, how many, bit patterns. out: rounding, zero point,
    smallest and largest of output codes as the rule sees them, what unsigned ones have more, scale; None for values.
    wanted: addresses of outputs and of values (float32), or 0; bytes of an output.
    """
    outputs_at, values_at, bytes_ = wanted
    rounding, *numbers, scale = out or (HALF_UP, 0, 0, 0, 0, 1.0)
    at = (array.ctypes.data for array in (*rows, *sides))
    end = bool(out), _ROUNDINGS[rounding], *numbers, np.float32(scale)
    job = packed(*at, sides[1].shape[1], *codes, bytes_, outputs_at, values_at, *end)
    run(_tables, len(rows[0]), max(1, _LEAST // codes[1]), job, threads)
