"""Looking up codes on the CPU in one pass: codes to codes or floats.

Bytes to bytes goes 32 at a time where the processor shuffles bytes of a register (AVX2): a table of 256 entries is 16
rows of 16, and a shuffle picks from a row by the low four bits of a code, or gives 0 where the code's top bit is set.
With c the code as a signed byte, c - 16 k (saturating) keeps its low bits and becomes negative where c lies before row
k; so rows that are stored as the exclusive or of neighbours add up, over all rows up to c's own, to that row. Negative
codes do the same with their top bit flipped. Three instructions a row, whatever the table. With AVX-512 VBMI, bytes to
bytes and to words go 64 at a time (`lutc.nn.cpu.byte_planes`).
"""

from __future__ import annotations

import numba
import numba.extending
import numpy as np
from llvmlite import ir

from lutc.nn.cpu.base import TASK, Native, compiled, integers, native, packed, pointer, processor_has
from lutc.nn.cpu.byte_planes import LANES, looked_up, permutes_bytes
from lutc.nn.cpu.team import run

SLICE = 1 << 15  # elements of a part at least
_MANY = 1 << 23  # words of an output that no cache would hold for whoever reads it next
_BLOCK, _ROW = 32, 16
_FEW = 1 << 9  # codes for which laying a table out takes longer than they do
_byte = ir.IntType(8)
_block = ir.VectorType(_byte, _BLOCK)


def _shuffles() -> bool:
    """Whether the processor that numba compiles for has AVX2."""
    return processor_has("avx2")


@numba.extending.intrinsic
def _shuffle(typing, source, target, rows):
    """Look up 32 bytes at `source` into `target`; rows: the address of 16 rows as `_rows` lays them out."""

    def generate(context, builder, signature, arguments):
        module = builder.module
        pair = ir.FunctionType(_block, [_block, _block])
        shuffle = module.declare_intrinsic("llvm.x86.avx2.pshuf.b", [], pair)
        minus = module.declare_intrinsic("llvm.ssub.sat.v32i8", [], pair)

        def splat(value):
            return ir.Constant(_block, [value] * _BLOCK)

        def at(address, offset=0):
            moved = builder.add(address, ir.Constant(ir.IntType(64), offset)) if offset else address
            return builder.inttoptr(moved, _block.as_pointer())

        codes = builder.load(at(arguments[0]), align=1)
        found = splat(0)
        for half, place in enumerate((codes, builder.xor(codes, splat(0x80)))):
            for row in range(8):
                values = builder.load(at(arguments[2], _BLOCK * (8 * half + row)), align=1)
                found = builder.xor(found, builder.call(shuffle, [values, place]))
                if row < 7:
                    place = builder.call(minus, [place, splat(_ROW)])
        builder.store(found, at(arguments[1]), align=1)
        return context.get_dummy_value()

    return numba.types.void(*[numba.types.int64] * 3), generate


@compiled
def _bytes(address, n):
    return numba.carray(pointer(address), n, np.uint8)


@compiled
def _halves(address, n):
    return numba.carray(pointer(address), n, np.uint16)


@compiled
def _words(address, n):
    return numba.carray(pointer(address), n, np.uint32)


@compiled
def _rows(table):
    """The 16 rows of a table by unsigned code, each the exclusive or with the row before in its half, and twice, for
    both halves of a register.
    """
    rows = np.empty(16 * 32, np.uint8)
    for row in range(16):
        for i in range(16):
            value = table[16 * row + i]
            if row % 8:
                value ^= table[16 * (row - 1) + i]
            rows[32 * row + i] = value
            rows[32 * row + 16 + i] = value
    return rows


@compiled
def _words_of(codes, out, n, table):
    """table[code] for n bytes at `codes`, into words at `out`. Eight codes by one load: left to itself LLVM gathers,
    which takes longer on many processors.
    """
    eights, bytes_, words = integers(codes), _bytes(codes, n), _words(out, n)
    for block in range(n // 8):
        eight = np.uint64(eights[block])
        for k in range(8):
            words[8 * block + k] = table[(eight >> np.uint64(8 * k)) & np.uint64(255)]
    for i in range(n // 8 * 8, n):
        words[i] = table[bytes_[i]]


_bytes_by_planes, _words_by_planes, _words_past_caches = looked_up(1), looked_up(4), looked_up(4, past_caches=True)


# Tasks. job: addresses of codes, outputs and the table, by unsigned code, and the number of all codes.


@native(TASK)
def _shuffled_bytes(first, last, job):
    numbers = integers(job)
    x, out, table = _bytes(numbers[0], last), _bytes(numbers[1], last), _bytes(numbers[2], 256)
    rows = _rows(table)
    at = first
    while at + 32 <= last:
        _shuffle(numbers[0] + at, numbers[1] + at, rows.ctypes.data)
        at += 32
    for i in range(at, last):
        out[i] = table[x[i]]


@native(TASK)
def _permuted_bytes(first, last, job):
    numbers = integers(job)
    x, out, table = _bytes(numbers[0], last), _bytes(numbers[1], last), _bytes(numbers[2], 256)
    blocks = (last - first) // LANES
    _bytes_by_planes(numbers[0] + first, numbers[1] + first, blocks, numbers[2])
    for i in range(first + LANES * blocks, last):
        out[i] = table[x[i]]


@native(TASK)
def _permuted_words(first, last, job):
    numbers = integers(job)
    table, planes = _words(numbers[2], 256), np.empty(1024, np.uint8)
    for i in range(256):
        for plane in range(4):
            planes[256 * plane + i] = table[i] >> np.uint32(8 * plane)
    blocks = (last - first) // LANES
    if numbers[3] >= _MANY and numbers[1] % LANES == 0 and first % 16 == 0:
        _words_past_caches(numbers[0] + first, numbers[1] + 4 * first, blocks, planes.ctypes.data)
    else:
        _words_by_planes(numbers[0] + first, numbers[1] + 4 * first, blocks, planes.ctypes.data)
    planes[0] = 0  # it lives until here
    done = first + LANES * blocks
    _words_of(numbers[0] + done, numbers[1] + 4 * done, last - done, table)


@native(TASK)
def _bytes_to_bytes(first, last, job):
    numbers = integers(job)
    x, out, table = _bytes(numbers[0], last), _bytes(numbers[1], last), _bytes(numbers[2], 256)
    for i in range(first, last):
        out[i] = table[x[i]]


@native(TASK)
def _bytes_to_halves(first, last, job):
    numbers = integers(job)
    x, out, table = _bytes(numbers[0], last), _halves(numbers[1], last), _halves(numbers[2], 256)
    for i in range(first, last):
        out[i] = table[x[i]]


@native(TASK)
def _bytes_to_words(first, last, job):
    numbers = integers(job)
    table = _words(numbers[2], 256)
    _words_of(numbers[0] + first, numbers[1] + 4 * first, last - first, table)


@native(TASK)
def _halves_to_bytes(first, last, job):
    numbers = integers(job)
    x, out, table = _halves(numbers[0], last), _bytes(numbers[1], last), _bytes(numbers[2], 65536)
    for i in range(first, last):
        out[i] = table[x[i]]


@native(TASK)
def _halves_to_halves(first, last, job):
    numbers = integers(job)
    x, out, table = _halves(numbers[0], last), _halves(numbers[1], last), _halves(numbers[2], 65536)
    fours, at = integers(numbers[0] + 2 * first), first  # four codes by one load, as above
    for block in range((last - first) // 4):
        four = np.uint64(fours[block])
        for k in range(4):
            out[at + k] = table[(four >> np.uint64(16 * k)) & np.uint64(65535)]
        at += 4
    for i in range(at, last):
        out[i] = table[x[i]]


@native(TASK)
def _halves_to_words(first, last, job):
    numbers = integers(job)
    x, out, table = _halves(numbers[0], last), _words(numbers[1], last), _words(numbers[2], 65536)
    for i in range(first, last):
        out[i] = table[x[i]]


_TASKS = {
    (1, 2): _bytes_to_halves,
    (1, 4): _bytes_to_words,
    (2, 1): _halves_to_bytes,
    (2, 2): _halves_to_halves,
    (2, 4): _halves_to_words,
}
_PERMUTED = {(1, 1): _permuted_bytes, (1, 4): _permuted_words}
WIDTHS = ((1, 1), *_TASKS)  # bytes of a code and of an output that are served


def look_up(codes: int, out: int, n: int, table: int, widths: tuple[int, int], threads: int) -> None:
    """out[i] = table[codes[i]] for n codes without gaps, all by address.

    widths: bytes of a code and of an output, one of WIDTHS. table: an output for every bit pattern of a code, in the
    order of unsigned ones.
    """
    run(task_of(widths), n, SLICE, packed(codes, out, table, n), threads, multiple=64)


def task_of(widths: tuple[int, int], several: int = 1 << 20) -> Native:
    """The task for these widths and `several` codes by one table: where these are few, one that lays no table out."""
    few = several < _FEW
    if permutes_bytes() and widths in _PERMUTED and not (few and widths[1] > 1):
        return _PERMUTED[widths]
    if widths in _TASKS:
        return _TASKS[widths]
    return _shuffled_bytes if _shuffles() and not few else _bytes_to_bytes
