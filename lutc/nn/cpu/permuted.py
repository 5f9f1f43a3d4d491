"""Up to 16 lines in the lanes of a register, on processors with AVX-512: a permutation of lanes looks up in one
instruction, so that a binary search takes three a step and a line two.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
import numba.extending
from llvmlite import ir
from numba.core import cgutils

from lutc.nn.cpu.base import processor_has

LANES = 16
_single, _number = ir.FloatType(), ir.IntType(32)
_floats, _numbers = ir.VectorType(_single, LANES), ir.VectorType(_number, LANES)


def permutes() -> bool:
    """Whether the processor that numba compiles for has AVX-512."""
    return processor_has("avx512f")


@functools.cache
def lines(size: int, slope_only: bool) -> Any:
    """A numba function of the addresses of x and of the outputs, the number of LANES float32 each, the address of the
    words of a `SearchPlan` of 8 or 16 segments, and the ends that x is clamped to; NaN gives NaN.
    """

    @numba.extending.intrinsic
    def evaluate(typing, x, out, count, words, low, high):
        def generate(context, builder, signature, values):
            x_at, out_at, count, words_at, *ends = values
            permute = builder.module.declare_intrinsic(
                "llvm.x86.avx512.permvar.sf.512", [], ir.FunctionType(_floats, [_floats, _numbers])
            )
            multiply_add = builder.module.declare_intrinsic(
                "llvm.fma.v16f32", [], ir.FunctionType(_floats, [_floats] * 3)
            )

            def pointer(address, number, offset=0):
                at = builder.inttoptr(address, ir.VectorType(_single, number).as_pointer())
                return builder.gep(at, [ir.Constant(_number, offset)]) if offset else at

            def picked(vector, places):
                undefined = ir.Constant(vector.type, ir.Undefined)
                return builder.shuffle_vector(
                    vector, undefined, ir.Constant(ir.VectorType(_number, len(places)), places)
                )

            def splat(value):
                alone = builder.insert_element(ir.Constant(_floats, ir.Undefined), value, ir.Constant(_number, 0))
                return picked(alone, [0] * LANES)

            def number(value):
                return ir.Constant(_numbers, [value] * LANES)

            def loaded(offset):  # `size` words, as many lanes as there are
                vector = builder.load(pointer(words_at, size, offset), align=4)
                return picked(vector, [lane % size for lane in range(LANES)])

            thresholds = loaded(0)
            halves = [builder.load(pointer(words_at, size, 1 + half), align=4) for half in (0, 1)]
            mask = ir.Constant(ir.VectorType(_number, size), [2 * lane for lane in range(size)])
            odd = ir.Constant(ir.VectorType(_number, size), [2 * lane + 1 for lane in range(size)])
            wide = [lane % size for lane in range(LANES)]
            slopes = picked(builder.shuffle_vector(*halves, mask), wide)
            intercepts = picked(builder.shuffle_vector(*halves, odd), wide)
            low, high = map(splat, ends)
            with cgutils.for_range(builder, count) as loop:
                at = builder.mul(loop.index, ir.Constant(ir.IntType(64), 4 * LANES))
                v = builder.load(pointer(builder.add(x_at, at), LANES), align=4)
                v = builder.select(
                    builder.fcmp_ordered("<", v, low), low, builder.select(builder.fcmp_ordered(">", v, high), high, v)
                )
                place, step = number(0), size // 2
                while step:
                    threshold = builder.call(permute, [thresholds, builder.add(place, number(step - 1))])
                    beyond = builder.fcmp_ordered(">=", v, threshold)
                    place = builder.select(beyond, builder.add(place, number(step)), place)
                    step //= 2
                slope = builder.call(permute, [slopes, place])
                if slope_only:
                    value = builder.select(builder.fcmp_ordered("ord", v, v), slope, v)
                else:
                    value = builder.call(multiply_add, [slope, v, builder.call(permute, [intercepts, place])])
                builder.store(value, pointer(builder.add(out_at, at), LANES), align=4)
            return context.get_dummy_value()

        address, end = numba.types.int64, numba.types.float32
        return numba.types.void(address, address, address, address, end, end), generate

    return evaluate
