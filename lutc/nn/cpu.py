"""Plans on the CPU: numba kernels over contiguous arrays, serial for small inputs, in slices on a few threads for large ones.

Every kernel takes (x, out, words, ...) as flat numpy arrays of equal length; `words` is the plan's int32 vector (`lutc.plans`). The
threads are our own rather than numba's: its OpenMP layer ends a forked process, and its work queue any process that calls from two
threads at once; these kernels release the interpreter lock and need neither.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numba
import numba.extending
import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from lutc.plans import KIND_CODES, LARGEST, edge

SLICE = 1 << 16  # elements per thread below which handing work over costs more than it saves
UNIFORM, CELLS, SEARCH, DIRECT = (KIND_CODES[kind] for kind in ("uniform", "cells", "search", "direct"))


def compiled(function):
    """numba.njit without the interpreter lock, fused multiply-add allowed, cached on disk where some folder for it is writable."""
    options = {"nogil": True, "fastmath": {"contract"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # "cannot cache function: no locator available": neither the package nor the user's cache folder is writable
        return numba.njit(**options)(function)


@compiled
def _finite(v, low, high):
    """v clamped to [low, high]; NaN stays."""
    return low if v < low else (high if v > high else v)


@numba.extending.intrinsic
def _key(typing, value):
    """The bits of a float32 as int32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(numba.int32))

    return numba.int32(numba.float32), generate


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
def _chain8(x, out, words, low, high, slope_only):
    plan = words.view(np.float32)
    thresholds = to_fixed_tuple(plan[:7], 7)
    slopes, intercepts = to_fixed_tuple(plan[10:24:2], 7), to_fixed_tuple(plan[11:24:2], 7)
    first_slope, first_intercept = plan[8], plan[9]
    for i in range(x.size):
        v = _finite(x[i], low, high)
        slope, intercept = _block7(v, first_slope, first_intercept, thresholds, slopes, intercepts)
        out[i] = _line(slope, intercept, v, slope_only)


@compiled
def _chain16(x, out, words, low, high, slope_only):
    plan = words.view(np.float32)
    a, b = to_fixed_tuple(plan[:7], 7), to_fixed_tuple(plan[7:15], 8)
    a_slopes, a_intercepts = to_fixed_tuple(plan[18:32:2], 7), to_fixed_tuple(plan[19:32:2], 7)
    b_slopes, b_intercepts = to_fixed_tuple(plan[32:48:2], 8), to_fixed_tuple(plan[33:48:2], 8)
    first_slope, first_intercept = plan[16], plan[17]
    for i in range(x.size):
        v = _finite(x[i], low, high)
        slope, intercept = _block7(v, first_slope, first_intercept, a, a_slopes, a_intercepts)
        slope, intercept = _block8(v, slope, intercept, b, b_slopes, b_intercepts)
        out[i] = _line(slope, intercept, v, slope_only)


@compiled
def _uniform(x, out, words, low, high, slope_only, cells, bits, first):
    plan = words.view(np.float32)
    scale, bottom, top = np.float32(2.0**bits), np.float32(first + 1), np.float32(first + cells)
    for i in range(x.size):
        v = _finite(x[i], low, high)
        up = np.ceil(v * scale)
        up = up if up < top else top  # NaN too goes to the last cell
        cell = np.int32((bottom if up < bottom else up) - bottom)
        out[i] = _line(plan[2 * cell], plan[2 * cell + 1], v, slope_only)


@compiled
def _cells(x, out, words, low, high, slope_only, segments, shift, first, smallest, largest_positive, largest_negative):
    plan, cells = words.view(np.float32), words[2 * segments + 2 :]
    thresholds, shift, raw = cells.view(np.float32), np.int32(shift), x.view(np.int32)
    first, behind = np.int32(first), np.int32((_key(largest_positive) >> shift) - first + 1)
    for i in range(x.size):
        v = _finite(x[i], low, high)
        inside = v if v > -largest_negative else -largest_negative  # NaN falls into this cell
        inside = inside if inside < largest_positive else largest_positive
        magnitude = abs(inside)
        magnitude = magnitude if magnitude > smallest else smallest
        key = _key(magnitude) >> shift
        cell = np.int32(2) * np.int32(key - first + (behind if raw[i] < np.int32(0) else np.int32(0)))
        pair = np.int32(2) * np.int32(cells[cell + 1] + np.int32(v < thresholds[cell]))
        out[i] = _line(plan[pair], plan[pair + 1], v, slope_only)


@compiled
def _search(x, out, words, low, high, slope_only, size, steps):
    plan = words.view(np.float32)
    for i in range(x.size):
        v = _finite(x[i], low, high)
        segment, step = np.int32(0), np.int32(size >> 1)
        for _ in range(steps):
            ahead = np.int32(segment + step)
            segment = ahead if v >= plan[ahead - 1] else segment
            step = np.int32(step >> 1)
        out[i] = _line(plan[size + 2 * segment], plan[size + 2 * segment + 1], v, slope_only)


@compiled
def _direct(x, out, table):
    for i in range(x.size):
        out[i] = table[x[i]]


def evaluate(x: np.ndarray, out: np.ndarray, words: np.ndarray, meta, slope_only: bool, threads: int) -> None:
    """Fill `out` with the plan's values at x, or its slopes. Flat contiguous arrays; uint16 codes for `direct`, float32 otherwise."""
    kind, flags, size, *rest = meta
    if kind == DIRECT:
        half = words[size // 2 :] if slope_only else words[: size // 2]
        _spread(_direct, x, out, (half.view(np.uint16),), threads)
        return
    low, high = np.float32(-LARGEST if flags & 1 else -np.inf), np.float32(LARGEST if flags & 2 else np.inf)
    if kind == SEARCH:
        kernel, numbers = (_CHAINS[size], ()) if size in _CHAINS else (_search, (size, rest[0]))
    elif kind == CELLS:
        shift, first, positive, negative = rest
        edges = (np.float32(edge(key, shift)) for key in (first, positive, negative))
        kernel, numbers = _cells, (size, shift, first, *edges)
    else:
        kernel, numbers = _uniform, (size, *rest)
    _spread(kernel, x, out, (words, low, high, slope_only, *numbers), threads)


_CHAINS = {8: _chain8, 16: _chain16}  # comparing with every threshold beats searching as long as they fit vector registers


def _spread(kernel, x, out, arguments, threads: int) -> None:
    parts = min(threads, x.size // SLICE)
    if parts < 2:
        kernel(x, out, *arguments)
        return
    step = -(-x.size // parts // 16) * 16  # whole cache lines of output per slice
    jobs = [_pool(threads).submit(kernel, x[a : a + step], out[a : a + step], *arguments) for a in range(step, x.size, step)]
    kernel(x[:step], out[:step], *arguments)
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
