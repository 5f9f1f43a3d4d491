"""Tables of 256 entries in the registers of processors with AVX-512 VBMI, 64 codes at a time.

An instruction picks 64 bytes at once from 128 of two registers, so two of them and a choice by the top bit of each code
look up a byte. Entries of several bytes lie in as many planes, one for each byte, and are put together again by
interleaving, which works within lanes of 16 bytes: the codes are permuted first so that the outputs come in order.
"""

from __future__ import annotations

import functools
from typing import Any

import numba
import numba.extending
from llvmlite import ir
from numba.core import cgutils

from lutc.nn.cpu.base import processor_has

LANES = 64
_LANE = 16  # bytes within which registers interleave
_byte, _long = ir.IntType(8), ir.IntType(64)
_bytes = ir.VectorType(_byte, LANES)


def permutes_bytes() -> bool:
    """Whether the processor that numba compiles for has AVX-512 VBMI."""
    return processor_has("avx512vbmi")


def _places(places):
    return ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places)


def _in_order(builder, codes, planes):
    """The codes as interleaving `planes` registers wants them: lane L of output k is made of the k-th part of lane L,
    and holds the (4 k + L)-th.
    """
    size = _LANE // planes
    parts = builder.bitcast(codes, ir.VectorType(ir.IntType(8 * size), LANES // size))
    wanted = [4 * k + lane for lane in range(4) for k in range(planes)]
    moved = builder.shuffle_vector(parts, ir.Constant(parts.type, ir.Undefined), _places(wanted))
    return builder.bitcast(moved, _bytes)


def _interleaved(builder, planes, width=8):
    """Registers of the bytes of entries, lowest first -> registers of entries, in the order of the outputs."""
    if len(planes) == 1:
        return planes
    size, lane = 8 * LANES // width, 8 * _LANE // width
    planes = [builder.bitcast(plane, ir.VectorType(ir.IntType(width), size)) for plane in planes]

    def half(start):
        each = [at + start + i for at in range(0, size, lane) for i in range(lane // 2)]
        places = _places([place + side for place in each for side in (0, size)])
        pairs = [builder.shuffle_vector(*pair, places) for pair in zip(planes[::2], planes[1::2], strict=True)]
        return _interleaved(builder, pairs, 2 * width)

    return half(0) + half(lane // 2)


@functools.cache
def looked_up(planes: int, past_caches: bool = False) -> Any:
    """A numba function of the addresses of codes and outputs, the number of LANES codes each, and the address of
    `planes` times 256 bytes: byte p of the entry of every unsigned code, for p from the lowest. past_caches: outputs,
    which lie at a multiple of 64 then, go straight to memory, which need not be read first.
    """
    alignment = LANES if past_caches else 1

    @numba.extending.intrinsic
    def look_up(typing, source, target, blocks, tables):
        def generate(context, builder, signature, values):
            source, target, blocks, tables = values
            permute = builder.module.declare_intrinsic(
                "llvm.x86.avx512.vpermi2var.qi.512", [], ir.FunctionType(_bytes, [_bytes] * 3)
            )

            def at(address, offset):
                return builder.inttoptr(builder.add(address, offset), _bytes.as_pointer())

            quarters = [builder.load(at(tables, ir.Constant(_long, LANES * i)), align=1) for i in range(4 * planes)]
            with cgutils.for_range(builder, blocks) as loop:
                start = builder.mul(loop.index, ir.Constant(_long, LANES))
                codes = builder.load(at(source, start), align=1)
                codes = _in_order(builder, codes, planes) if planes > 1 else codes
                upper = builder.icmp_signed("<", codes, ir.Constant(_bytes, [0] * LANES))
                found = []
                for a, b, c, d in zip(*[iter(quarters)] * 4, strict=True):
                    low, high = builder.call(permute, [a, codes, b]), builder.call(permute, [c, codes, d])
                    found.append(builder.select(upper, high, low))
                start = builder.mul(start, ir.Constant(_long, planes))
                for i, vector in enumerate(_interleaved(builder, found)):
                    address = at(target, builder.add(start, ir.Constant(_long, LANES * i)))
                    store = builder.store(builder.bitcast(vector, _bytes), address, align=alignment)
                    if past_caches:
                        one = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
                        store.set_metadata("nontemporal", one)
            if past_caches:  # other threads see these stores before those that follow
                fence = builder.module.declare_intrinsic("llvm.x86.sse.sfence", [], ir.FunctionType(ir.VoidType(), []))
                builder.call(fence, [])
            return context.get_dummy_value()

        return numba.types.void(*[numba.types.int64] * 4), generate

    return look_up
