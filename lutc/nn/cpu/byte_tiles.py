"""Bytes through a table of 256 bytes for each column, in tiles of 64 rows by 64 columns, on processors with AVX-512
VBMI.

A column has one table, but its bytes lie apart. So a tile is transposed, looked up a register of one column at a time
as in `lutc.nn.cpu.byte_planes`, and transposed back. Interleaving 16 rows four times transposes each square of 16 by 16
in the lanes of 16 bytes: a byte's place is eight bits, row and then column, and one interleaving rotates them by one.
Lanes of four such groups of rows are then exchanged.
"""

from __future__ import annotations

import numba
import numba.extending
import numpy as np
from llvmlite import ir
from numba.core import cgutils

from lutc.nn.cpu.base import TASK, integers, native, packed, pointer
from lutc.nn.cpu.byte_planes import LANES
from lutc.nn.cpu.team import run

TILE = LANES  # rows and columns
_LANE, _GROUPS, _DEEP = 16, 4, 8  # bytes of a lane; groups of 16 rows; tiles of a unit
_byte, _long = ir.IntType(8), ir.IntType(64)
_bytes, _longs = ir.VectorType(_byte, LANES), ir.VectorType(_long, LANES // 8)


def _picked(builder, a, b, places):
    wanted = ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places)
    return builder.shuffle_vector(a, b, wanted)


def _interleaved(builder, rows):
    """16 registers, lane by lane a square of bytes each, transposed."""
    for _ in range(4):
        found = []
        for a, b in zip(rows[:8], rows[8:], strict=True):
            for half in (0, 8):
                lane = [half + i + side for i in range(8) for side in (0, LANES)]
                places = [start + place for start in range(0, LANES, _LANE) for place in lane]
                found.append(_picked(builder, a, b, places))
        rows = found
    return rows


def _exchanged(builder, four):
    """Four registers of four lanes each, transposed."""
    four = [builder.bitcast(register, _longs) for register in four]
    halves = []
    for a, b in (four[:2], four[2:]):
        halves += [_picked(builder, a, b, [at + i + side for side in (0, 8) for i in range(4)]) for at in (0, 4)]
    found = [
        _picked(builder, a, b, [at + i + side for side in (0, 4, 8, 12) for i in range(2)])
        for a, b in (halves[::2], halves[1::2])
        for at in (0, 2)
    ]
    return [builder.bitcast(register, _bytes) for register in found]


@numba.extending.intrinsic
def _look_up_tile(typing, source, target, stride, tables, rows, room):
    """The tile at `source` into the one at `target`, rows of both `stride` bytes apart. tables: 256 bytes each, by
    unsigned code; rows: the table of each column, int32; room: TILE * TILE bytes; all by address.
    """

    def generate(context, builder, signature, values):
        source, target, stride, tables, rows, room = values
        permute = builder.module.declare_intrinsic(
            "llvm.x86.avx512.vpermi2var.qi.512", [], ir.FunctionType(_bytes, [_bytes] * 3)
        )

        def number(value):
            return ir.Constant(_long, value)

        def at(address, offset):
            return builder.inttoptr(builder.add(address, offset), _bytes.as_pointer())

        def load(address, offset):
            return builder.load(at(address, offset), align=1)

        def store(register, address, offset):
            builder.store(register, at(address, offset), align=1)

        def turned(given, given_stride, out, out_stride):
            with cgutils.for_range(builder, number(_GROUPS)) as loop:
                first = builder.mul(loop.index, number(_LANE))
                places = [builder.add(first, number(i)) for i in range(_LANE)]
                registers = [load(given, builder.mul(place, given_stride)) for place in places]
                for register, place in zip(_interleaved(builder, registers), places, strict=True):
                    store(register, out, builder.mul(place, out_stride))

        turned(source, stride, room, number(LANES))
        with cgutils.for_range(builder, number(_LANE)) as loop:
            places = [builder.mul(builder.add(loop.index, number(_LANE * i)), number(LANES)) for i in range(_GROUPS)]
            found = []
            for i, codes in enumerate(_exchanged(builder, [load(room, place) for place in places])):
                column = builder.mul(builder.add(loop.index, number(_LANE * i)), number(4))
                row = builder.load(builder.inttoptr(builder.add(rows, column), ir.IntType(32).as_pointer()))
                start = builder.mul(builder.zext(row, _long), number(256))
                a, b, c, d = (load(tables, builder.add(start, number(LANES * k))) for k in range(4))
                upper = builder.icmp_signed("<", codes, ir.Constant(_bytes, [0] * LANES))
                low, high = builder.call(permute, [a, codes, b]), builder.call(permute, [c, codes, d])
                found.append(builder.select(upper, high, low))
            for place, register in zip(places, _exchanged(builder, found), strict=True):
                store(register, room, place)
        turned(room, number(LANES), target, stride)
        return context.get_dummy_value()

    return numba.types.void(*[numba.types.int64] * 6), generate


@native(TASK)
def _tiles(first, last, job):
    """job: addresses of codes, outputs, tables and rows; rows and columns, both at least TILE. Units: _DEEP tiles one
    below the other, those of the first columns first. Tiles at the ends overlap, for they write the same bytes.
    """
    numbers = integers(job)
    height, width = numbers[4], numbers[5]
    deep = _DEEP * TILE
    chunks = (height + deep - 1) // deep
    room = np.empty(TILE * TILE, np.uint8)
    for unit in range(first, last):
        left, top = min(unit // chunks * TILE, width - TILE), unit % chunks * deep
        for line in range(top, min(top + deep, height), TILE):
            at = min(line, height - TILE) * width + left
            _look_up_tile(numbers[0] + at, numbers[1] + at, width, numbers[2], numbers[3] + 4 * left, room.ctypes.data)
    numba.carray(pointer(room.ctypes.data), 1, np.uint8)[0] = 0  # it lives until here


def look_up_columns(codes: int, out: int, tables: int, rows: int, height: int, width: int, threads: int) -> None:
    """out = tables[row of the column, code] by address, of `height` rows of `width` bytes, each at least TILE."""
    job = packed(codes, out, tables, rows, height, width)
    units = -(-width // TILE) * -(-height // (_DEEP * TILE))
    run(_tiles, units, 1, job, threads)
