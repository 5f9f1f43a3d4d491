"""Plans on the CPU: numba kernels over contiguous arrays, serial for small inputs, in slices on a few threads for large ones.

Every kernel takes the addresses of x and out, their common length n, the address and length of `words` (the plan's int32 vector,
`lutc.plans`), and the plan's numbers: making numpy arrays of small tensors would take longer than the table does. The threads are our
own rather than numba's: its OpenMP layer ends a forked process, and its work queue any process that calls from two threads at once;
these kernels release the interpreter lock and need neither.
"""

from __future__ import annotations

import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from lutc.nn import cpu_reduced
from lutc.nn.cpu_base import arrays, compiled, float_bits, pointer
from lutc.plans import KIND_CODES, LARGEST, edge
from lutc.reduced_plans import EXPONENT

_BLOCK = 1 << 12  # elements between a table and a multiplication
SLICE = 1 << 16  # elements per thread below which handing work over costs more than it saves
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
def _block7(v, slope, intercept, thresholds, slopes, intercepts):
    """Compare v with 7 thresholds held in tuples, which are values: LLVM unrolls this loop (not one of 15) and vectorises over v."""
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


@compiled
def _chain8(x_at, out_at, n, words_at, length, low, high, slope_only):
    x, out, words = arrays(x_at, out_at, n, words_at, length)
    plan = words.view(np.float32)
    thresholds = to_fixed_tuple(plan[:7], 7)
    slopes, intercepts = to_fixed_tuple(plan[10:24:2], 7), to_fixed_tuple(plan[11:24:2], 7)
    first_slope, first_intercept = plan[8], plan[9]
    for i in range(n):
        v = _finite(x[i], low, high)
        slope, intercept = _block7(v, first_slope, first_intercept, thresholds, slopes, intercepts)
        out[i] = _line(slope, intercept, v, slope_only)


@compiled
def _chain16(x_at, out_at, n, words_at, length, low, high, slope_only):
    x, out, words = arrays(x_at, out_at, n, words_at, length)
    plan = words.view(np.float32)
    a, b = to_fixed_tuple(plan[:7], 7), to_fixed_tuple(plan[7:15], 8)
    a_slopes, a_intercepts = to_fixed_tuple(plan[18:32:2], 7), to_fixed_tuple(plan[19:32:2], 7)
    b_slopes, b_intercepts = to_fixed_tuple(plan[32:48:2], 8), to_fixed_tuple(plan[33:48:2], 8)
    first_slope, first_intercept = plan[16], plan[17]
    for i in range(n):
        v = _finite(x[i], low, high)
        slope, intercept = _block7(v, first_slope, first_intercept, a, a_slopes, a_intercepts)
        slope, intercept = _block8(v, slope, intercept, b, b_slopes, b_intercepts)
        out[i] = _line(slope, intercept, v, slope_only)


@compiled
def _uniform(x_at, out_at, n, words_at, length, low, high, slope_only, cells, bits, first):
    x, out, words = arrays(x_at, out_at, n, words_at, length)
    plan = words.view(np.float32)
    scale, bottom, top = np.float32(2.0**bits), np.float32(first + 1), np.float32(first + cells)
    for i in range(n):
        v = _finite(x[i], low, high)
        up = np.ceil(v * scale)
        up = up if up < top else top  # NaN too goes to the last cell
        cell = np.int32((bottom if up < bottom else up) - bottom)
        out[i] = _line(plan[2 * cell], plan[2 * cell + 1], v, slope_only)


@compiled
def _cells(x_at, out_at, n, words_at, length, low, high, slope_only, segments, shift, first, smallest, largest_positive, largest_negative):
    x, out, words = arrays(x_at, out_at, n, words_at, length)
    plan, cells = words.view(np.float32), words[2 * segments + 2 :]
    thresholds, shift, raw = cells.view(np.float32), np.int32(shift), x.view(np.int32)
    first, behind = np.int32(first), np.int32((float_bits(largest_positive) >> shift) - first + 1)
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


@compiled
def _search(x_at, out_at, n, words_at, length, low, high, slope_only, size, steps):
    x, out, words = arrays(x_at, out_at, n, words_at, length)
    plan = words.view(np.float32)
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


@compiled
def _direct(x_at, out_at, n, table_at, length):
    x, out = numba.carray(pointer(x_at), n, np.uint16), numba.carray(pointer(out_at), n, np.uint16)
    table = numba.carray(pointer(table_at), length, np.uint16)
    for i in range(n):
        out[i] = table[x[i]]


_CHAINS = {8: _chain8, 16: _chain16}  # comparing with every threshold beats searching as long as they fit vector registers


@functools.lru_cache(maxsize=1024)
def _numbers(meta, slope_only: bool):
    """(kernel, its arguments behind the plan) for a plan of float32 inputs."""
    kind, flags, size, *rest = meta
    if kind == REDUCED:
        reduction, step, growth, sign, cells, shift, first = rest
        exponent = reduction == EXPONENT
        kernel = cpu_reduced.exponent(slope_only, step, growth, sign) if exponent else cpu_reduced.period(slope_only, growth)
        return kernel, (size, cells, np.int64(shift), np.int64(first))
    low, high = np.float32(-LARGEST if flags & 1 else -np.inf), np.float32(LARGEST if flags & 2 else np.inf)
    if kind == SEARCH:
        return (_CHAINS[size], (low, high, slope_only)) if size in _CHAINS else (_search, (low, high, slope_only, size, rest[0]))
    if kind == CELLS:
        shift, first, positive, negative = rest
        edges = (np.float32(edge(key, shift)) for key in (first, positive, negative))
        return _cells, (low, high, slope_only, size, shift, first, *edges)
    return _uniform, (low, high, slope_only, size, *rest)


@functools.cache
def _multiplied(kernel):
    """A kernel whose values are multiplied by those at another address while they are in the cache."""

    @compiled
    def product(x, out, y, n, words, length, numbers):
        for start in range(0, n, _BLOCK):
            count, at = min(_BLOCK, n - start), 4 * start
            kernel(x + at, out + at, count, words, length, *numbers)
            values, factors = numba.carray(pointer(out + at), count, np.float32), numba.carray(pointer(y + at), count, np.float32)
            for i in range(count):
                values[i] *= factors[i]

    return product


def run(x: int, out: int, n: int, words: int, length: int, meta, slope_only: bool, threads: int, factor: int | None = None) -> None:
    """Write the plan's values at n inputs, or its slopes, from the address x to the address out; in float32 perhaps times those at `factor`.

    All are float32 without gaps, or x and out the 16-bit codes of a `direct` plan. words, length: address and number of the plan's int32.
    """
    if meta[0] == DIRECT:
        _spread(_direct, 2, (x, out), n, (words + 2 * meta[2] * slope_only, meta[2]), threads)
        return
    kernel, numbers = _numbers(tuple(meta), slope_only)
    if factor is not None:
        _spread(_multiplied(kernel), 4, (x, out, factor), n, (words, length, numbers), threads)
        return
    _spread(kernel, 4, (x, out), n, (words, length, *numbers), threads)


def evaluate(x: np.ndarray, out: np.ndarray, words: np.ndarray, meta, slope_only: bool, threads: int) -> None:
    """`run` over flat contiguous numpy arrays."""
    at_x, at_out, at_words = (array.__array_interface__["data"][0] for array in (x, out, words))
    run(at_x, at_out, x.size, at_words, words.size, meta, slope_only, threads)


def _spread(kernel, width: int, addresses: tuple[int, ...], n: int, arguments, threads: int) -> None:
    """Call a kernel, in slices on several threads where there is enough for them; width: bytes of an element."""
    parts = min(threads, n // SLICE)
    if parts < 2:
        kernel(*addresses, n, *arguments)
        return
    step = -(-n // parts // 64) * 64  # whole cache lines of output per slice
    pool = _pool(threads)
    jobs = [pool.submit(kernel, *(at + width * a for at in addresses), min(step, n - a), *arguments) for a in range(step, n, step)]
    kernel(*addresses, step, *arguments)
    for job in jobs:
        job.result()


_pools: dict[int, ThreadPoolExecutor] = {}
_lock = threading.Lock()


def _pool(threads: int) -> ThreadPoolExecutor:
    with _lock:
        if threads not in _pools:
            _pools[threads] = ThreadPoolExecutor(threads - 1, thread_name_prefix="lutc")
        return _pools[threads]


def _after_fork() -> None:
    """Threads do not survive a fork, and the lock may be held by one of them."""
    global _lock
    _lock = threading.Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
