"""Plans on the CPU: a numba kernel for each kind (a table kernel, as `lutc.nn.cpu.base` has it), and what walks over
contiguous memory with it.

Addresses and numbers are all they take: making numpy arrays of small tensors would take longer than the table does.
Small inputs are done by the caller, large ones in parts by several threads (`lutc.nn.cpu.team`).
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from lutc.lower.plans import KIND_CODES, LARGEST, edge
from lutc.lower.reduced_plans import EXPONENT
from lutc.nn.cpu import reduced, team
from lutc.nn.cpu.base import (
    TABLE_KERNEL,
    TASK,
    call_kernel,
    codes,
    compiled,
    float_bits,
    floats,
    integers,
    native,
    packed,
    plan_words,
    prefetch,
    single,
)
from lutc.nn.cpu.half import FORMATS, FP16, FP32, from_bf16, from_fp16, to_bf16, to_fp16
from lutc.nn.cpu.permuted import LANES, lines, permutes

_AHEAD = 1 << 10  # bytes
_BLOCK = 1 << 12  # elements between a table and a multiplication
SLICE = 1 << 15  # elements per thread below which handing work over costs more than it saves
CELLS, SEARCH, DIRECT, REDUCED = (KIND_CODES[kind] for kind in ("cells", "search", "direct", "reduced"))


@compiled
def _finite(v, low, high):
    """v clamped to [low, high]; NaN stays."""
    return low if v < low else (high if v > high else v)


@compiled
def _line(slope, intercept, v, slope_only):
    """slope * v + intercept, or the slope alone with NaN for NaN."""
    return (slope if v == v else v) if slope_only else slope * v + intercept


@compiled
def _common(numbers):
    """Whether slopes are wanted, and the ends to clamp to."""
    return numbers[0] != 0, single(numbers[1]), single(numbers[2])


@compiled
def _block7(v, slope, intercept, thresholds, slopes, intercepts):
    """Compare v with 7 thresholds held in tuples, which are values: LLVM unrolls this loop (not one of 15) and
    vectorises over v.
    """
    for j in range(7):
        beyond = v >= thresholds[j]
        slope = slopes[j] if beyond else slope
        intercept = intercepts[j] if beyond else intercept
    return slope, intercept


@compiled
def _block8(v, slope, intercept, thresholds, slopes, intercepts):
    for j in range(8):
        beyond = v >= thresholds[j]
        slope = slopes[j] if beyond else slope
        intercept = intercepts[j] if beyond else intercept
    return slope, intercept


@native(TABLE_KERNEL)
def _chain8(x_at, out_at, n, words_at, numbers_at):
    x, out, plan = floats(x_at, n), floats(out_at, n), floats(words_at, 24)
    slope_only, low, high = _common(integers(numbers_at))
    thresholds = to_fixed_tuple(plan[:7], 7)
    slopes, intercepts = to_fixed_tuple(plan[10:24:2], 7), to_fixed_tuple(plan[11:24:2], 7)
    first_slope, first_intercept = plan[8], plan[9]
    for i in range(n):
        v = _finite(x[i], low, high)
        slope, intercept = _block7(v, first_slope, first_intercept, thresholds, slopes, intercepts)
        out[i] = _line(slope, intercept, v, slope_only)


@native(TABLE_KERNEL)
def _chain16(x_at, out_at, n, words_at, numbers_at):
    x, out, plan = floats(x_at, n), floats(out_at, n), floats(words_at, 48)
    slope_only, low, high = _common(integers(numbers_at))
    a, b = to_fixed_tuple(plan[:7], 7), to_fixed_tuple(plan[7:15], 8)
    a_slopes, a_intercepts = to_fixed_tuple(plan[18:32:2], 7), to_fixed_tuple(plan[19:32:2], 7)
    b_slopes, b_intercepts = to_fixed_tuple(plan[32:48:2], 8), to_fixed_tuple(plan[33:48:2], 8)
    first_slope, first_intercept = plan[16], plan[17]
    for i in range(n):
        v = _finite(x[i], low, high)
        slope, intercept = _block7(v, first_slope, first_intercept, a, a_slopes, a_intercepts)
        slope, intercept = _block8(v, slope, intercept, b, b_slopes, b_intercepts)
        out[i] = _line(slope, intercept, v, slope_only)


@native(TABLE_KERNEL)
def _uniform(x_at, out_at, n, words_at, numbers_at):
    x, out, numbers = floats(x_at, n), floats(out_at, n), integers(numbers_at)
    slope_only, low, high = _common(numbers)
    cells, first, scale = numbers[3], numbers[4], single(numbers[5])
    plan, bottom, top = floats(words_at, 2 * cells), np.float32(first + 1), np.float32(first + cells)
    for i in range(n):
        v = _finite(x[i], low, high)
        up = np.ceil(v * scale)
        up = up if up < top else top  # NaN too goes to the last cell
        cell = np.int32((bottom if up < bottom else up) - bottom)
        out[i] = _line(plan[2 * cell], plan[2 * cell + 1], v, slope_only)


@native(TABLE_KERNEL)
def _cells(x_at, out_at, n, words_at, numbers_at):
    x, out, numbers = floats(x_at, n), floats(out_at, n), integers(numbers_at)
    slope_only, low, high = _common(numbers)
    segments, shift, first = numbers[3], np.int32(numbers[4]), np.int32(numbers[5])
    smallest, largest_positive, largest_negative = single(numbers[6]), single(numbers[7]), single(numbers[8])
    words = plan_words(words_at)
    plan, cells = words.view(np.float32), words[2 * segments + 2 :]
    thresholds, raw = cells.view(np.float32), x.view(np.int32)
    behind = np.int32((float_bits(largest_positive) >> shift) - first + 1)
    for i in range(n):
        v = _finite(x[i], low, high)
        inside = v if v > -largest_negative else -largest_negative  # NaN falls into this cell
        inside = inside if inside < largest_positive else largest_positive
        magnitude = abs(inside)
        magnitude = magnitude if magnitude > smallest else smallest
        key = float_bits(magnitude) >> shift
        cell = np.uint32(2) * np.uint32(key - first + (behind if raw[i] < np.int32(0) else np.int32(0)))
        pair = np.uint32(2) * np.uint32(cells[cell + np.uint32(1)] + np.int32(v < thresholds[cell]))
        out[i] = _line(plan[pair], plan[pair + np.uint32(1)], v, slope_only)


@native(TABLE_KERNEL)
def _search(x_at, out_at, n, words_at, numbers_at):
    x, out, numbers = floats(x_at, n), floats(out_at, n), integers(numbers_at)
    slope_only, low, high = _common(numbers)
    size, steps = numbers[3], numbers[4]
    plan = floats(words_at, 3 * size)
    # Step by step over a block rather than element by element: LLVM vectorises this, and would branch in the other.
    block = 256
    segments = np.empty(block, np.uint32)
    for start in range(0, n, block):
        part, result = x[start : start + block], out[start : start + block]
        segments[:] = 0
        step = np.uint32(size >> 1)
        for _ in range(steps):
            for i in range(part.size):
                ahead = np.uint32(segments[i] + step)
                segments[i] = ahead if part[i] >= plan[ahead - np.uint32(1)] else segments[i]
            step = np.uint32(step >> np.uint32(1))
        for i in range(part.size):
            pair = np.uint32(size) + np.uint32(2) * segments[i]
            result[i] = _line(plan[pair], plan[pair + np.uint32(1)], _finite(part[i], low, high), slope_only)


@native(TABLE_KERNEL)
def _direct(x_at, out_at, n, words_at, numbers_at):
    """Two codes to an access, 32 to a line of memory. A processor's own prefetching ends with each page; asking ahead
    bridges that.
    """
    slope_only, size = integers(numbers_at)[0], integers(numbers_at)[1]
    x, out, table = codes(x_at, n), codes(out_at, n), codes(words_at + 2 * size * slope_only, size)
    lines = n // 32 if (x_at | out_at) & 3 == 0 else 0
    pairs, results = plan_words(x_at).view(np.uint32), plan_words(out_at).view(np.uint32)
    for line in range(lines):
        prefetch(x_at + 64 * line + _AHEAD)
        for i in range(16 * line, 16 * line + 16):
            pair = pairs[i]
            results[i] = np.uint32(table[np.uint16(pair)]) | np.uint32(table[pair >> np.uint32(16)]) << np.uint32(16)
    for i in range(32 * lines, n):
        out[i] = table[x[i]]


_lines8, _slopes8, _lines16, _slopes16 = (lines(size, slope_only) for size in (8, 16) for slope_only in (False, True))


@compiled
def _behind(x, out, done, plan, size, slope_only, low, high):
    """The elements from `done` on, one by one."""
    for i in range(done, x.size):
        v, place = _finite(x[i], low, high), 0
        for j in range(size - 1):
            place += v >= plan[j]
        out[i] = _line(plan[size + 2 * place], plan[size + 2 * place + 1], v, slope_only)


@native(TABLE_KERNEL)
def _permuted8(x_at, out_at, n, words_at, numbers_at):
    slope_only, low, high = _common(integers(numbers_at))
    if slope_only:
        _slopes8(x_at, out_at, n // LANES, words_at, low, high)
    else:
        _lines8(x_at, out_at, n // LANES, words_at, low, high)
    _behind(floats(x_at, n), floats(out_at, n), n // LANES * LANES, floats(words_at, 24), 8, slope_only, low, high)


@native(TABLE_KERNEL)
def _permuted16(x_at, out_at, n, words_at, numbers_at):
    slope_only, low, high = _common(integers(numbers_at))
    if slope_only:
        _slopes16(x_at, out_at, n // LANES, words_at, low, high)
    else:
        _lines16(x_at, out_at, n // LANES, words_at, low, high)
    _behind(floats(x_at, n), floats(out_at, n), n // LANES * LANES, floats(words_at, 48), 16, slope_only, low, high)


_CHAINS = {
    8: _permuted8 if permutes() else _chain8,
    16: _permuted16 if permutes() else _chain16,
}  # where lanes do not permute, comparing with every threshold beats searching while they fit vector registers


@functools.lru_cache(maxsize=1024)
def kernel_of(meta: tuple[int, ...], slope_only: bool) -> tuple[Any, ctypes.Array]:
    """(kernel, its numbers) of a plan. The numbers must live while the kernel runs."""
    kind, flags, size, *rest = meta
    if kind == DIRECT:
        return _direct, packed(slope_only, size)
    if kind == REDUCED:
        reduction, step, growth, sign, cells, shift, first = rest
        exponent = reduction == EXPONENT
        kernel = reduced.exponent(slope_only, step, growth, sign) if exponent else reduced.period(slope_only, growth)
        return kernel, packed(size, cells, shift, first)
    common = slope_only, np.float32(-LARGEST if flags & 1 else -np.inf), np.float32(LARGEST if flags & 2 else np.inf)
    if kind == SEARCH:
        return _CHAINS.get(size, _search), packed(*common, size, rest[0])
    if kind == CELLS:
        shift, first, positive, negative = rest
        return _cells, packed(
            *common, size, shift, first, *(np.float32(edge(key, shift)) for key in (first, positive, negative))
        )
    bits, first = rest
    return _uniform, packed(*common, size, first, np.float32(2.0**bits))


@native(TASK)
def _walk(first, last, job):
    """A range of elements through a table kernel, and times a factor (at an address that is not 0) while they are in
    the cache.
    """
    numbers = integers(job)
    kernel, words, of_kernel, form = numbers[0], numbers[1], numbers[2], numbers[3]
    width = 4 if form == FP32 else 2
    x_at, out_at, y_at = numbers[4] + width * first, numbers[5] + width * first, numbers[6]
    if y_at == 0:
        call_kernel(kernel, x_at, out_at, last - first, words, of_kernel)
        return
    y_at += width * first
    for start in range(0, last - first, _BLOCK):
        n, at = min(_BLOCK, last - first - start), width * start
        call_kernel(kernel, x_at + at, out_at + at, n, words, of_kernel)
        if form == FP32:
            single_values, single_factors = floats(out_at + at, n), floats(y_at + at, n)
            for i in range(n):
                single_values[i] *= single_factors[i]
        else:
            values, factors = codes(out_at + at, n), codes(y_at + at, n)
            if form == FP16:
                for i in range(n):
                    values[i] = to_fp16(from_fp16(values[i]) * from_fp16(factors[i]))
            else:
                for i in range(n):
                    values[i] = to_bf16(from_bf16(values[i]) * from_bf16(factors[i]))


def run(
    x: int,
    out: int,
    n: int,
    words: int,
    meta: Sequence[int],
    slope_only: bool,
    threads: int,
    factor: int = 0,
    dtype: str = "fp32",
) -> None:
    """Write the plan's values at n inputs, or its slopes, from the address x to the address out, perhaps times those at
    `factor`.

    All are of `dtype`, without gaps: "fp32", or with a `direct` plan "fp16" or "bf16". words: the address of the plan's
    int32.
    """
    kernel, numbers = kernel_of(tuple(meta), slope_only)
    at_numbers = ctypes.addressof(numbers)
    if not factor and (threads < 2 or n < 2 * SLICE):
        kernel.call(x, out, n, words, at_numbers)
        return
    job = packed(kernel.address, words, at_numbers, FORMATS[dtype], x, out, factor)
    team.run(_walk, n, SLICE, job, threads, multiple=64)  # whole cache lines


def evaluate(
    x: np.ndarray, out: np.ndarray, words: np.ndarray, meta: Sequence[int], slope_only: bool, threads: int
) -> None:
    """`run` over flat contiguous numpy arrays: float32, or uint16 with a `direct` plan."""
    at_x, at_out, at_words = (array.__array_interface__["data"][0] for array in (x, out, words))
    run(at_x, at_out, x.size, at_words, meta, slope_only, threads, dtype="fp32" if x.itemsize == 4 else "fp16")
