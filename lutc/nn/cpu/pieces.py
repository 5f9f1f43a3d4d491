"""Weights of a softmax by a `lutc.lower.piece_plans.PiecePlan`, on processors with AVX-512: 16 lines are found at a
time by arithmetic and permutations, and each takes one access of 8 bytes.

Places and lines have a loop each: a vector that is stored and read again in parts at once makes the processor wait.
"""

from __future__ import annotations

from typing import Any

import numba
import numba.extending
import numpy as np
from llvmlite import ir
from numba.core import cgutils

from lutc.lower.piece_plans import CELLS, FIRST, NEAR, SHIFT
from lutc.measures import EXP_FLOOR
from lutc.nn.cpu.base import compiled
from lutc.nn.cpu.permuted import LANES, permutes

UNDONE = np.float32(-1.0)  # what `weigh_pieces` returns where it leaves a block to others
LINES = 4 * 6 * CELLS - 8 * FIRST  # bytes from a plan's words to the line of place 0
_MAGIC = 1.5 * 2**23  # a number added to it is rounded to a whole one, in its lowest bits
_TOO_NEAR = (1 << 32) - (NEAR << 32 - SHIFT)
_NOTHING = -1000.0  # a power that makes 0 of a weight
_single, _double, _number, _long = ir.FloatType(), ir.DoubleType(), ir.IntType(32), ir.IntType(64)
_bits = ir.IntType(LANES)
_singles, _numbers, _doubles = (ir.VectorType(*kind) for kind in ((_single, 16), (_number, 16), (_double, 8)))
# slopes and intercepts come apart within lanes of 4: those of two halves of lines that are taken in this order
_HALVES = [[4 * lane + 2 * half + i for lane in range(4) for i in range(2)] for half in range(2)]


class _Emitter:
    """The instructions of a plan's evaluation, by what stays in registers."""

    def __init__(self, builder, words, lines, periods, top):
        self.builder = builder
        declare = builder.module.declare_intrinsic
        types = {
            "llvm.x86.avx512.permvar.sf.512": [_singles, _numbers],
            "llvm.x86.avx512.vpermi2var.ps.512": [_singles, _numbers, _singles],
            "llvm.x86.avx512.mask.scalef.ps.512": [_singles] * 3 + [_bits, _number],
            "llvm.fma.v16f32": [_singles] * 3,
            "llvm.floor.v16f32": [_singles],
        }
        self.permute, self.permute_two, self.scale, self.fma, self.floor = (
            declare(name, [], ir.FunctionType(_singles, arguments)) for name, arguments in types.items()
        )
        self.inverse, high, low, self.end = map(self.splat, periods)
        self.high, self.low, self.top = builder.fneg(high), builder.fneg(low), self.splat(top)
        self.cell, self.cuts, *ends = (self.load(self.after(words, 64 * i), _singles) for i in range(6))
        self.scales, self.offsets = ends[:2], ends[2:]
        self.lines = builder.inttoptr(lines, _double.as_pointer())

    def after(self, address, offset):
        return self.builder.add(address, ir.Constant(_long, offset) if isinstance(offset, int) else offset)

    def load(self, address, kind):
        return self.builder.load(self.builder.inttoptr(address, kind.as_pointer()), align=4)

    def store(self, value, address):
        self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer()), align=4)

    def splat(self, value):
        alone = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
        alone = self.builder.insert_element(alone, value, ir.Constant(_number, 0))
        return self.builder.shuffle_vector(alone, alone, ir.Constant(_numbers, [0] * LANES))

    def find(self, x_at, r_at, power_at, place_at):
        """Write r, its power of two and the places of the lines; returns what lies behind a place, from _TOO_NEAR on of
        an r that is too near to a threshold.
        """
        builder, call = self.builder, self.builder.call
        d = builder.fsub(self.load(x_at, _singles), self.top)
        floor = _all(EXP_FLOOR)
        k = call(self.floor, [builder.fmul(d, self.inverse)])  # of NaN NaN
        r = call(self.fma, [self.low, k, call(self.fma, [self.high, k, d])])
        r = builder.select(builder.fcmp_ordered(">", r, _all(0.0)), r, _all(0.0))  # of NaN 0
        r = builder.select(builder.fcmp_ordered("<", r, self.end), r, self.end)
        cell = builder.bitcast(call(self.fma, [r, self.cell, _all(_MAGIC)]), _numbers)
        beyond = builder.fcmp_ordered(">=", r, call(self.permute, [self.cuts, cell]))
        # the tables of two registers, of which permutations read 5 bits: the side of the cut goes above those of a cell
        cell = builder.select(beyond, builder.or_(cell, _all(CELLS, _numbers)), cell)
        scale, offset = (call(self.permute_two, [low, cell, high]) for low, high in (self.scales, self.offsets))
        u = builder.bitcast(call(self.fma, [r, scale, offset]), _numbers)
        self.store(r, r_at)
        self.store(builder.select(builder.fcmp_ordered("<", d, floor), _all(_NOTHING), k), power_at)
        self.store(builder.lshr(u, _all(SHIFT, _numbers)), place_at)
        return builder.shl(u, _all(32 - SHIFT, _numbers))

    def look_up(self, place_at):
        """Slopes and intercepts."""
        places = []
        for pair in range(LANES // 2):
            # atomic, for LLVM would take the vector apart in registers, which takes longer
            address = self.builder.inttoptr(self.after(place_at, 8 * pair), _long.as_pointer())
            two = self.builder.load_atomic(address, "monotonic", 8)
            places += [self.builder.and_(two, ir.Constant(_long, 2**32 - 1))]
            places += [self.builder.lshr(two, ir.Constant(_long, 32))]
        halves = []
        for half in _HALVES:
            lines = ir.Constant(_doubles, ir.Undefined)
            for lane, i in enumerate(half):
                line = self.builder.load(self.builder.gep(self.lines, [places[i]]), align=8)
                lines = self.builder.insert_element(lines, line, ir.Constant(_number, lane))
            halves.append(self.builder.bitcast(lines, _singles))
        return (
            self.builder.shuffle_vector(
                *halves, ir.Constant(_numbers, [4 * lane + i + part for lane in range(4) for i in (0, 2, 16, 18)])
            )
            for part in (0, 1)
        )

    def weigh(self, r_at, power_at, place_at, body_at):
        """Write the weights and return them."""
        slope, intercept = self.look_up(place_at)
        value = self.builder.call(self.fma, [slope, self.load(r_at, _singles), intercept])
        everywhere, nearest = ir.Constant(_bits, -1), ir.Constant(_number, 4)
        power = self.load(power_at, _singles)
        weight = self.builder.call(self.scale, [value, power, _all(0.0), everywhere, nearest])
        self.store(weight, body_at)
        return weight


def _all(value, kind=_singles):
    return ir.Constant(kind, [float(value) if kind is _singles else value] * LANES)


@numba.extending.intrinsic
def _weigh(typing, words, lines, part, top, body, n, r, power, place, inverse, high, low, end):
    """`weigh_pieces` for n >= LANES; the last LANES overlap those before them."""

    def generate(context, builder, signature, arguments):
        words, lines, part, top, body, n, r, power, place, *periods = arguments
        emitter = _Emitter(builder, words, lines, periods, top)
        whole, rest = (getattr(builder, name)(n, ir.Constant(_long, LANES)) for name in ("udiv", "urem"))
        near = cgutils.alloca_once_value(builder, _all(0, _numbers))
        total = cgutils.alloca_once_value(builder, _all(0.0))
        answer = cgutils.alloca_once_value(builder, ir.Constant(_single, float(UNDONE)))
        partial = builder.icmp_unsigned(">", rest, ir.Constant(_long, 0))
        last = builder.sub(builder.mul(n, ir.Constant(_long, 4)), ir.Constant(_long, 4 * LANES))
        behind = builder.mul(whole, ir.Constant(_long, 4 * LANES))

        def room_of(slot):
            return [emitter.after(vector, slot) for vector in (r, power, place)]

        def find(at, slot):
            found = emitter.find(
                *(emitter.after(*pair) for pair in ((part, at), (r, slot), (power, slot), (place, slot)))
            )
            largest = builder.load(near)
            builder.store(builder.select(builder.icmp_unsigned(">", found, largest), found, largest), near)

        def weigh(at, slot):
            return emitter.weigh(
                *(emitter.after(*pair) for pair in ((r, slot), (power, slot), (place, slot), (body, at)))
            )

        with cgutils.for_range(builder, whole) as loop:
            at = builder.mul(loop.index, ir.Constant(_long, 4 * LANES))
            find(at, at)
        with builder.if_then(partial):
            find(last, behind)
        too_near = builder.icmp_unsigned(">=", builder.load(near), _all(_TOO_NEAR, _numbers))
        with builder.if_then(builder.icmp_unsigned("==", builder.bitcast(too_near, _bits), ir.Constant(_bits, 0))):
            with cgutils.for_range(builder, whole) as loop:
                at = builder.mul(loop.index, ir.Constant(_long, 4 * LANES))
                builder.store(builder.fadd(builder.load(total), weigh(at, at)), total)
            with builder.if_then(partial):
                fresh = emitter.splat(builder.trunc(builder.sub(ir.Constant(_long, LANES), rest), _number))
                fresh = builder.icmp_unsigned(">=", ir.Constant(_numbers, list(range(LANES))), fresh)
                weight = builder.select(fresh, weigh(last, behind), _all(0.0))
                builder.store(builder.fadd(builder.load(total), weight), total)
            added = builder.module.declare_intrinsic(
                "llvm.vector.reduce.fadd.v16f32", [], ir.FunctionType(_single, [_single, _singles])
            )
            zero = ir.Constant(_single, -0.0)
            builder.store(builder.call(added, [zero, builder.load(total)], fastmath=("reassoc",)), answer)
        return builder.load(answer)

    address, single = numba.types.int64, numba.types.float32
    return single(*[address] * 3, single, *[address] * 5, *[single] * 4), generate


@compiled
def _weigh_all(words, lines, part, top, body, n, r, power, place, periods):
    """body = T(part - top) of n float32 by address, which may be one, and their sum; UNDONE, and nothing written, where
    one lies too near to a threshold, or n is below LANES.

    words: of the plan; lines: LINES bytes behind them, as an address that is not made of that one here, from which LLVM
    would make more instructions; r, power, place: room for 32 bits times n, rounded up to LANES.
    """
    if n < LANES:
        return UNDONE
    inverse, high, low, end = periods
    return _weigh(words, lines, part, top, body, n, r, power, place, inverse, high, low, end)


@compiled
def _weigh_none(words, lines, part, top, body, n, r, power, place, periods):
    return UNDONE


weigh_pieces: Any = _weigh_all if permutes() else _weigh_none
