"""Floats through the code of each on the CPU, and the gradients on the way back, in one pass.

A block of floats at a time stays in the first-level cache: places among the codes in vectors, then what stands there.
Blocks are read by address and counted from 0, for an index that might be negative would keep loops from becoming
vector instructions. 16 bits are widened on the way in and rounded on the way out; all between is float32.
"""

from __future__ import annotations

import numba
import numpy as np

from lutc.nn.cpu.base import TASK, codes, compiled, floats, integers, native, packed, pointer, single
from lutc.nn.cpu.half import FORMATS, FP32, widened, written
from lutc.nn.cpu.team import run

SLICE = 1 << 15  # elements of a part at least; the sum of a gradient is that of slices of so many, in their order
_BLOCK = 512

_f32, _i32, _u64 = np.float32, np.int32, np.uint64


@compiled
def _bytes(address, n):
    return numba.carray(pointer(address), n, np.uint8)


@compiled
def _words(address, n):
    return numba.carray(pointer(address), n, np.uint32)


@compiled
def _doubles(address, n):
    return numba.carray(pointer(address), n, np.float64)


@compiled
def _clamped(step, low, high):
    """The code of x less the zero point, as a float, of x / scale: rounded half to even; NaN stays NaN."""
    code = np.rint(step)
    code = low if code < low else code
    return high if code > high else code


@compiled
def _places(at, n, scale, low, high, zero, nan, places):
    x = floats(at, n)
    for i in range(n):
        code = _clamped(x[i] / scale, low, high)
        places[i] = _i32(code) + zero if code == code else nan


@compiled
def _look_up(places, out_at, n, form, table_at):
    """table[place] of n places at an address; the table has the form of the output. Two places by one load: left to
    itself LLVM gathers, which takes longer on many processors.
    """
    twos, last = integers(places), n - 1
    if form == FP32:
        out, table = _words(out_at, n), _words(table_at, 1 << 17)
        for k in range(n // 2):
            two = _u64(twos[k])
            out[2 * k] = table[two & _u64(0xFFFFFFFF)]
            out[2 * k + 1] = table[two >> _u64(32)]
        if n % 2:
            out[last] = table[_u64(twos[n // 2]) & _u64(0xFFFFFFFF)]
    else:
        halves, short = codes(out_at, n), codes(table_at, 1 << 17)
        for k in range(n // 2):
            two = _u64(twos[k])
            halves[2 * k] = short[two & _u64(0xFFFFFFFF)]
            halves[2 * k + 1] = short[two >> _u64(32)]
        if n % 2:
            halves[last] = short[_u64(twos[n // 2]) & _u64(0xFFFFFFFF)]


@compiled
def _inside(at, n, scale, low, high, flags):
    """Of n floats a byte each: whether it rounds to a code without being clamped."""
    x = floats(at, n)
    lowest, highest = low - _f32(0.5), high + _f32(0.5)
    for i in range(n):
        step = x[i] / scale
        flags[i] = np.uint8((step >= lowest) & (step <= highest))


@compiled
def _write_bits(flags, n, bits_at):
    """n flags, a byte each in a multiple of 8 bytes, as bits. Bit i of a byte: element i."""
    bits = _bytes(bits_at, (n + 7) // 8)
    for i in range(n, (n + 7) // 8 * 8):
        flags[i] = 0
    eights = integers(flags.ctypes.data)
    for k in range((n + 7) // 8):  # the product brings the eight lowest bits together
        bits[k] = np.uint8((_u64(eights[k]) * _u64(0x0102040810204080)) >> _u64(56))


@compiled
def _kept(bits_at, n, flags):
    """The bits of `_write_bits` as one float each, 1 or 0."""
    bits = _bytes(bits_at, (n + 7) // 8)
    for k in range((n + 7) // 8):
        byte = np.uint32(bits[k])
        for i in range(8):
            flags[8 * k + i] = _f32((byte >> np.uint32(i)) & np.uint32(1))


@native(TASK)
def _through_codes(first, last, job):
    """job: form; addresses of x, outputs, values, and of codes and bits to keep, or 0; bytes of a code; scale, lowest
    and highest code less the zero point (float32); the places of the zero point and of NaN.
    """
    numbers = integers(job)
    form, code_bytes = numbers[0], numbers[6]
    scale, low, high = single(numbers[7]), single(numbers[8]), single(numbers[9])
    zero, nan = _i32(numbers[10]), _i32(numbers[11])
    width = 4 if form == FP32 else 2
    room, places, flags = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.int32), np.empty(_BLOCK, np.uint8)
    for at in range(first, last, _BLOCK):
        n = min(_BLOCK, last - at)
        x = widened(numbers[1] + width * at, n, form, room)
        _places(x, n, scale, low, high, zero, nan, places)
        _look_up(places.ctypes.data, numbers[2] + width * at, n, form, numbers[3])
        if numbers[4] != 0:
            if code_bytes == 1:
                short = _bytes(numbers[4] + at, n)
                for i in range(n):
                    short[i] = np.uint8(places[i])
            else:
                long = codes(numbers[4] + 2 * at, n)
                for i in range(n):
                    long[i] = np.uint16(places[i])
        if numbers[5] != 0:
            _inside(x, n, scale, low, high, flags)
            _write_bits(flags, n, numbers[5] + at // 8)


def _job(scale: np.float32, limits: tuple[int, int, int]):
    lowest, highest, zero_point = limits
    ends = np.float32(lowest - zero_point), np.float32(highest - zero_point)
    return scale, *ends, zero_point - lowest, highest - lowest + 1


def through_codes(
    x: int,
    out: int,
    n: int,
    values: int,
    scale: np.float32,
    limits: tuple[int, int, int],
    threads: int,
    form: str = "fp32",
    kept: tuple[int, int, int] = (0, 0, 1),
) -> None:
    """out[i] = values[code of x[i]] for n floats without gaps, by address.

    form: of x, outputs and values, one of `lutc.nn.cpu.half.FORMATS`. values: of all codes ascending and then of NaN.
    limits: smallest and largest code, zero point. kept: where the backward pass finds the codes, counted from the
    smallest, and the bits that say which x were not clamped, or 0; bytes of a code.
    """
    job = packed(FORMATS[form], x, out, values, *kept, *_job(scale, limits))
    run(_through_codes, n, SLICE, job, threads, multiple=64)


@native(TASK)
def _backward(first, last, job):
    """job: form; addresses of incoming and outgoing gradients, of slopes (float32) and codes, or 0, and of bits; bytes
    of a code.
    """
    numbers = integers(job)
    form = numbers[0]
    width = 4 if form == FP32 else 2
    room, slopes, flags = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    places, out = np.empty(_BLOCK, np.int32), np.empty(_BLOCK, np.float32)
    for at in range(first, last, _BLOCK):
        n = min(_BLOCK, last - at)
        given = floats(widened(numbers[1] + width * at, n, form, room), n)
        _kept(numbers[5] + at // 8, n, flags)
        if numbers[3] != 0:
            if numbers[6] == 1:
                short = _bytes(numbers[4] + at, n)
                for i in range(n):
                    places[i] = short[i]
            else:
                long = codes(numbers[4] + 2 * at, n)
                for i in range(n):
                    places[i] = long[i]
            _look_up(places.ctypes.data, slopes.ctypes.data, n, FP32, numbers[3])
            for i in range(n):
                out[i] = given[i] * slopes[i] if flags[i] != _f32(0.0) else _f32(0.0)
        else:
            for i in range(n):
                out[i] = given[i] if flags[i] != _f32(0.0) else _f32(0.0)
        written(out, numbers[2] + width * at, n, form)


def backward(
    gradient: int, out: int, n: int, slopes: int, kept: tuple[int, int, int], threads: int, form: str = "fp32"
) -> None:
    """out[i] = gradient[i] * slopes[code i], 0 where x was clamped, from what `through_codes` kept; by address.

    slopes: float32, of all codes; 0 is a slope of 1 everywhere.
    """
    job = packed(FORMATS[form], gradient, out, slopes, *kept)
    run(_backward, n, SLICE, job, threads, multiple=64)


@compiled
def _deviations(at, n, scale, low, high, zero, nan, places, deviations, inside):
    """Of n float32: places; the derivative of scale * code by the scale; 1 where x was not clamped, else 0."""
    x = floats(at, n)
    lowest, highest = low - _f32(0.5), high + _f32(0.5)
    for i in range(n):
        step = x[i] / scale
        code = _clamped(step, low, high)
        known = code == code
        within = (step >= lowest) & (step <= highest)
        places[i] = _i32(code) + zero if known else nan
        deviation = code - step if within else code
        deviations[i] = deviation if known else _f32(0.0)
        inside[i] = _f32(1.0) if within else _f32(0.0)


@compiled(reorder=True)
def _multiplied(given, slopes, deviations, inside, n, out):
    """Gradients by slopes, 0 where x was clamped, into `out`; returns the sum of all by the deviations."""
    total = _f32(0.0)
    for i in range(n):
        value = given[i] * slopes[i]
        total += value * deviations[i]
        out[i] = value if inside[i] != _f32(0.0) else _f32(0.0)
    return total


@native(TASK)
def _backward_with_scale(first, last, job):
    """job: form; addresses of incoming gradients, x, outgoing gradients, slopes or 0 (float32), and a sum for every
    slice (float64); scale, lowest and highest code less the zero point (float32); the places of the zero point and NaN.
    """
    numbers = integers(job)
    form = numbers[0]
    scale, low, high = single(numbers[6]), single(numbers[7]), single(numbers[8])
    zero, nan = _i32(numbers[9]), _i32(numbers[10])
    width = 4 if form == FP32 else 2
    room, other, out = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    slopes, places = np.ones(_BLOCK, np.float32), np.empty(_BLOCK, np.int32)
    deviations, inside = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    sums = _doubles(numbers[5], (last - 1) // SLICE + 1)
    for start in range(first, last, SLICE):
        total = 0.0
        for at in range(start, min(start + SLICE, last), _BLOCK):
            n = min(_BLOCK, last - at)
            given = floats(widened(numbers[1] + width * at, n, form, room), n)
            x = widened(numbers[2] + width * at, n, form, other)
            _deviations(x, n, scale, low, high, zero, nan, places, deviations, inside)
            if numbers[4] != 0:
                _look_up(places.ctypes.data, slopes.ctypes.data, n, FP32, numbers[4])
            total += np.float64(_multiplied(given, slopes, deviations, inside, n, out))
            written(out, numbers[3] + width * at, n, form)
        sums[start // SLICE] = total


def backward_with_scale(
    gradient: int,
    x: int,
    out: int,
    n: int,
    slopes: int,
    scale: np.float32,
    limits: tuple[int, int, int],
    threads: int,
    form: str = "fp32",
) -> float:
    """The same from x itself, all by address; returns the gradient of the scale: eq. 3 of LSQ (arXiv:1902.08153), x
    taken for clamped where its code is. slopes end in that of NaN. The sum is the same whatever the threads.
    """
    sums = np.zeros(-(-n // SLICE))
    job = packed(FORMATS[form], gradient, x, out, slopes, sums.ctypes.data, *_job(scale, limits))
    run(_backward_with_scale, n, SLICE, job, threads, multiple=SLICE)
    return float(sums.sum())
