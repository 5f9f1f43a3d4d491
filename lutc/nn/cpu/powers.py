"""The power of two of least squared error on a sample of floats, on the CPU."""

from __future__ import annotations

import numpy as np

from lutc.nn.cpu.base import TASK, compiled, float_bits, float_of, floats, integers, native, packed, single
from lutc.nn.cpu.team import run

_LEAST = 1 << 13  # floats of a part at least

_f32, _i32 = np.float32, np.int32


@compiled
def _largest(x):
    """Largest magnitude of finite floats, whose bits are in the order of the numbers."""
    top = _i32(0)
    for i in range(x.size):
        bits = float_bits(x[i]) & _i32(0x7FFFFFFF)
        top = max(top, bits if bits < _i32(0x7F800000) else _i32(0))
    return top


@compiled(reorder=True)
def _error(x, scale, low, high):
    """Sum of the squared distances of finite floats to scale * code."""
    total = 0.0
    for i in range(x.size):
        value = x[i] if abs(x[i]) < _f32(np.inf) else _f32(0.0)
        code = np.rint(value / scale)
        code = low if code < low else code
        code = high if code > high else code
        distance = code * scale - value
        total += np.float64(distance * distance)
    return total


@native(TASK)
def _least(first, last, job):
    """Rows. job: address of float32; lowest and highest code (float32); powers of the scale at least and at most;
    candidates; address of the answers (float32); length of a row.
    """
    numbers = integers(job)
    low, high, n = single(numbers[1]), single(numbers[2]), numbers[7]
    least, most, answer = numbers[3], numbers[4], floats(numbers[6], last)
    for row in range(first, last):
        x = floats(numbers[0] + 4 * n * row, n)
        bits = np.int64(float_bits(float_of(_largest(x)) / high))
        top = min(max(((bits + 0x7FFFFF) >> 23) - 127, least), most)
        best, found = np.inf, top
        for k in range(numbers[5]):
            power = min(max(top - k, least), most)
            error = _error(x, _f32(2.0**power), low, high)
            if error < best:
                best, found = error, top - k
        answer[row] = _f32(found)


def least_squares(
    x: int,
    shape: tuple[int, int],
    answers: int,
    limits: tuple[int, int],
    powers: tuple[int, int],
    candidates: int,
    threads: int,
) -> None:
    """Write the power, as a float32, of least squared error on each row of float32, by address; what is not finite
    counts as 0. shape: rows, and floats of one.

    limits: smallest and largest code, the zero point being 0; powers: the least and the most that the scale takes.
    Tried are `candidates` of them, from the one whose codes reach all of x down; of equals the largest is taken.
    """
    (rows, n), (low, high) = shape, (np.float32(limit) for limit in limits)
    job = packed(x, low, high, *powers, candidates, answers, n)
    run(_least, rows, max(1, _LEAST // n), job, threads)
