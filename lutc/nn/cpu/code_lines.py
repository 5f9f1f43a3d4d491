"""Lines over 16-bit codes in vectors, by the integer rule, on processors with AVX-512: a table of all 65,536 codes lies
in the second-level cache, up to 32 segments lie in registers.

    place = number of starts <= q;  acc = slopes[place] * q + intercepts[place] in int32
    code = saturated(rounded(acc * multiplier * 2**-shift) + zero point), or the float32 acc * unit

The zero point of q is in the starts and the intercepts. Bit for bit `lutc.table.integer`; codes beyond the width
saturate. `lines_of` says what fits.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
import numba.extending
import numpy as np
from llvmlite import ir
from numba.core import cgutils

from lutc.formats.codes import HALF_AWAY, HALF_EVEN, ROUNDINGS
from lutc.formats.requantise import INT32_MAX, requantiser
from lutc.nn.cpu.base import TASK, codes, compiled, integers, native, packed, plan_words, processor_has
from lutc.nn.cpu.team import run
from lutc.table.integer import IntegerLines

SEGMENTS = 32  # at most
SLICE = 1 << 15  # elements of a part at least
_LANES = 32
# int32 words: the numbers below, then starts, slopes and intercepts
_KIND, _LOWEST, _HIGHEST, _MULTIPLIER, _SHIFT, _ZERO, _LEAST, _MOST, _UNIT, _FIRST, _NUMBERS = range(11)
# kinds: twice the rounding, + 1 with a multiplier, or 6 for floats; 8 more where more than 8 segments are reached
_VALUES, _MANY, _FEW = 2 * len(ROUNDINGS), 8, 8
_LARGEST_SLOPE = 2**15 - 1
_TABLES = [_NUMBERS + part * SEGMENTS for part in range(3)]
SIZE = _NUMBERS + 3 * SEGMENTS

_short, _number, _long, _single = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_shorts, _numbers, _longs, _singles = map(ir.VectorType, (_short, _number, _long, _single), (_LANES, 16, 8, 16))


def permutes_halves() -> bool:
    """Whether the processor that numba compiles for has AVX-512 for 16-bit lanes."""
    return processor_has("avx512bw")


def lines_of(lines: IntegerLines, out: Any = None) -> np.ndarray | None:
    """The words (int32, SIZE) that `through_lines` takes, for output codes `out` or float32; None where it does not
    hold them exactly: more than 32 segments that are reached, factors or sums beyond their width, a scale of floats
    that is no power of two.
    """
    inputs = lines.inputs
    codes = np.arange(inputs.minimum, inputs.maximum + 1, dtype=np.int64)
    acc = lines.accumulate(codes)
    starts = lines.cuts + inputs.zero_point + 1
    reached = np.unique(np.searchsorted(starts, codes, side="right"))
    slopes, intercepts = lines.slopes[reached], lines.intercepts[reached] - lines.slopes[reached] * inputs.zero_point
    if len(reached) > SEGMENTS or np.abs(slopes).max() > _LARGEST_SLOPE:
        return None
    numbers = np.zeros(_NUMBERS, np.int64)
    numbers[[_LOWEST, _HIGHEST]] = inputs.minimum, inputs.maximum
    if out is None:
        unit = np.float32(lines.unit)
        if float(unit) != lines.unit or np.frexp(unit)[0] != 0.5 or unit < np.finfo(np.float32).tiny:
            return None
        numbers[[_KIND, _UNIT]] = _VALUES, unit.view(np.int32)
    else:
        multiplier, shift = requantiser(lines.unit / out.scale)
        largest = int(np.abs(acc).max()) * multiplier
        half = 1 << max(shift - 1, 0)
        wide = multiplier > 1
        if shift < 0 or shift > (62 if wide else 30) or (not wide and largest + half > INT32_MAX):
            return None
        if (largest + half >> shift) + abs(out.zero_point) > INT32_MAX:
            return None
        kind = 2 * ROUNDINGS.index(out.rounding) + wide
        numbers[_MULTIPLIER:_UNIT] = multiplier, shift, out.zero_point, out.minimum, out.maximum
        numbers[_KIND] = kind

    def padded(values):
        return np.append(values, np.repeat(values[-1:], SEGMENTS - len(values)))

    first = np.append(starts[reached[1:] - 1], INT32_MAX >> 16)  # behind the last segment: any, the line is the same
    numbers[_KIND] += _MANY * (len(reached) > _FEW)
    words = np.concatenate([numbers, padded(first), padded(slopes), padded(intercepts)])
    return words.astype(np.uint64).astype(np.uint32).view(np.int32)  # intercepts modulo 2**32, as sums of int32 are


def _shuffled(builder, pair, lanes):
    lanes = list(lanes)
    return builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(_number, len(lanes)), lanes))


def _splat(builder, value, count):
    alone = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    return _shuffled(builder, [builder.insert_element(alone, value, ir.Constant(_number, 0)), alone], [0] * count)


def _constant(kind, value):
    return ir.Constant(kind, [value] * kind.count)


def _within(builder, value, low, high):
    value = builder.select(builder.icmp_signed(">", value, low), value, low)
    return builder.select(builder.icmp_signed("<", value, high), value, high)


def _rounded(builder, product, shift, half, rounding):
    """(product + h) >> shift with the h of `lutc.formats.requantise.requantise`."""
    kind = product.type
    if rounding == HALF_AWAY:
        half = builder.add(half, builder.ashr(product, _constant(kind, kind.element.width - 1)))
    elif rounding == HALF_EVEN:
        last = builder.and_(builder.ashr(product, shift), _constant(kind, 1))
        half = builder.add(half, builder.sub(last, _constant(kind, 1)))
    return builder.ashr(builder.add(product, half), shift)


@functools.cache
def _evaluated(kind: int) -> Any:
    """A numba function of the addresses of codes, outputs and words and the number of _LANES codes each."""
    values, wide, steps = kind % _MANY == _VALUES, bool(kind % 2), (16, 8, 4, 2, 1) if kind >= _MANY else (4, 2, 1)
    rounding = ROUNDINGS[0 if values else kind % _MANY // 2]

    @numba.extending.intrinsic
    def evaluate(typing, source, target, words, blocks):
        def generate(context, builder, signature, arguments):
            source, target, words, blocks = arguments
            intrinsic = builder.module.declare_intrinsic
            pair = ir.FunctionType(_shorts, [_shorts] * 2)
            pick = intrinsic("llvm.x86.avx512.permvar.hi.512", [], pair)
            upper_product = intrinsic("llvm.x86.avx512.pmulh.w.512", [], pair)
            saturated = intrinsic("llvm.x86.avx512.packssdw.512", [], ir.FunctionType(_shorts, [_numbers] * 2))

            def at(address, kind, index):
                return builder.gep(builder.inttoptr(address, kind.as_pointer()), [index])

            def number(name):
                return builder.load(at(words, _number, ir.Constant(_long, name)))

            def table(part):  # the lower and the upper halves of its words
                first = builder.bitcast(at(words, _number, ir.Constant(_long, _TABLES[part])), _shorts.as_pointer())
                both = [builder.load(builder.gep(first, [ir.Constant(_long, i)]), align=4) for i in (0, 1)]
                return [_shuffled(builder, both, range(side, 2 * _LANES, 2)) for side in (0, 1)]

            starts, slopes, intercepts = table(0)[0], table(1)[0], table(2)
            # starts[place + step - 1] stands at place
            ahead = {step: _shuffled(builder, [starts] * 2, range(step - 1, step - 1 + _LANES)) for step in steps}
            # first is 0; LLVM, which does not know that, adds under a mask instead of choosing between sums
            first, lowest, highest, least, most = (
                _splat(builder, builder.trunc(number(name), _short), _LANES)
                for name in (_FIRST, _LOWEST, _HIGHEST, _LEAST, _MOST)
            )
            unit, zero = (
                _splat(builder, builder.bitcast(number(_UNIT), _single), 16),
                _splat(builder, number(_ZERO), 16),
            )
            kind_of_product, width = (_longs, _long) if wide else (_numbers, _number)
            multiplier, shift = (
                _splat(builder, builder.sext(number(name), width) if wide else number(name), kind_of_product.count)
                for name in (_MULTIPLIER, _SHIFT)
            )
            one = _constant(kind_of_product, 1)
            half = builder.lshr(builder.shl(one, shift), one)

            def requantised(acc):  # int32
                if not wide:
                    return _rounded(builder, acc, shift, half, rounding)
                both, by_32 = builder.bitcast(acc, _longs), _constant(_longs, 32)
                even, odd = builder.ashr(builder.shl(both, by_32), by_32), builder.ashr(both, by_32)
                even, odd = (
                    _rounded(builder, builder.mul(part, multiplier), shift, half, rounding) for part in (even, odd)
                )
                pairs = [builder.bitcast(part, _numbers) for part in (even, odd)]
                return _shuffled(builder, pairs, [i + side for i in range(0, 16, 2) for side in (0, 16)])

            with cgutils.for_range(builder, blocks) as loop:
                start = builder.mul(loop.index, ir.Constant(_long, _LANES))
                q = builder.load(builder.bitcast(at(source, _short, start), _shorts.as_pointer()), align=2)
                q, place = _within(builder, q, lowest, highest), first
                for step in steps:
                    beyond = builder.icmp_signed(">=", q, builder.call(pick, [ahead[step], place]))
                    place = builder.select(beyond, builder.add(place, _constant(_shorts, step)), place)
                slope, low, high = (builder.call(pick, [row, place]) for row in (slopes, *intercepts))
                product = builder.mul(q, slope), builder.call(upper_product, [q, slope])
                results = []
                for half_lane in (0, 4):  # within lanes of 8, as what packs them again does
                    lanes = [8 * lane + half_lane + i + side for lane in range(4) for i in range(4) for side in (0, 32)]
                    parts = [builder.bitcast(_shuffled(builder, p, lanes), _numbers) for p in (product, (low, high))]
                    acc = builder.add(*parts)
                    results.append(acc if values else builder.add(requantised(acc), zero))
                if values:
                    for half_lane in (0, 1):
                        fours = [8 * half_lane + 4 * (k // 2) + 16 * (k % 2) for k in range(4)]
                        lanes = [four + i for four in fours for i in range(4)]
                        result = builder.sitofp(_shuffled(builder, results, lanes), _singles)
                        address = at(target, _single, builder.add(start, ir.Constant(_long, 16 * half_lane)))
                        address = builder.bitcast(address, _singles.as_pointer())
                        builder.store(builder.fmul(result, unit), address, align=4)
                else:
                    result = _within(builder, builder.call(saturated, results), least, most)
                    address = at(target, _short, start)
                    builder.store(result, builder.bitcast(address, _shorts.as_pointer()), align=2)
            return context.get_dummy_value()

        return numba.types.void(*[numba.types.int64] * 4), generate

    return evaluate


_few_up, _few_up_wide, _few_away, _few_away_wide, _few_even, _few_even_wide, _few_values = map(_evaluated, range(7))
_up, _up_wide, _away, _away_wide, _even, _even_wide, _values = map(_evaluated, range(_MANY, _MANY + 7))


@compiled
def _of_few(kind, source, target, words, blocks):
    if kind == 0:
        _few_up(source, target, words, blocks)
    elif kind == 1:
        _few_up_wide(source, target, words, blocks)
    elif kind == 2:
        _few_away(source, target, words, blocks)
    elif kind == 3:
        _few_away_wide(source, target, words, blocks)
    elif kind == 4:
        _few_even(source, target, words, blocks)
    elif kind == 5:
        _few_even_wide(source, target, words, blocks)
    else:
        _few_values(source, target, words, blocks)


@compiled
def _of_many(kind, source, target, words, blocks):
    if kind == 0:
        _up(source, target, words, blocks)
    elif kind == 1:
        _up_wide(source, target, words, blocks)
    elif kind == 2:
        _away(source, target, words, blocks)
    elif kind == 3:
        _away_wide(source, target, words, blocks)
    elif kind == 4:
        _even(source, target, words, blocks)
    elif kind == 5:
        _even_wide(source, target, words, blocks)
    else:
        _values(source, target, words, blocks)


@compiled
def _any(kind, source, target, words, blocks):
    if kind < _MANY:
        _of_few(kind, source, target, words, blocks)
    else:
        _of_many(kind - _MANY, source, target, words, blocks)


@native(TASK)
def _through_lines(first, last, job):
    """job: addresses of codes, outputs and words."""
    numbers = integers(job)
    words = numbers[2]
    kind = np.int64(plan_words(words)[_KIND])
    width = 4 if kind % _MANY == _VALUES else 2
    source, target = numbers[0] + 2 * first, numbers[1] + width * first
    blocks = (last - first) // _LANES
    _any(kind, source, target, words, blocks)
    rest = (last - first) % _LANES
    if rest:
        given, found = np.zeros(_LANES, np.uint16), np.empty(2 * _LANES, np.uint16)
        few, answers = codes(source + 2 * _LANES * blocks, rest), codes(target + width * _LANES * blocks, 2 * rest)
        for i in range(rest):
            given[i] = few[i]
        _any(kind, given.ctypes.data, found.ctypes.data, words, 1)
        given[0] = 0  # it lives until here
        for i in range(rest * width // 2):
            answers[i] = found[i]


def through_lines(codes: int, out: int, n: int, words: int, threads: int) -> None:
    """The outputs of n int16 codes without gaps, int16 codes or float32, all by address; words: of `lines_of`."""
    run(_through_lines, n, SLICE, packed(codes, out, words), threads, multiple=64)
