"""Softmax of rows on the CPU: one numba function around the table's own kernel (lutc.nn.cpu), row by row, with what is
in between in the cache; rows are shared among the threads. All is computed in float32; 16-bit rows are widened and
rounded on the way.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import numba
import numba.extending
import numpy as np
import torch
from llvmlite import ir
from numba.core import cgutils
from torch import Tensor

from lutc.nn.cpu import team
from lutc.nn.cpu.base import TASK, ask_ahead, call_kernel, codes, compiled, floats, integers, native, packed
from lutc.nn.cpu.half import BF16, FORMATS, FP16, FP32, to_bf16, to_fp16, widened
from lutc.nn.cpu.weights import BLOCK, aligned, plain_table, room, table_of, weigh
from lutc.nn.lowered import DTYPES

_LEAST = 1 << 14  # elements for each thread below which one is as fast
_LONG = 1 << 18  # bytes
_FEW = 1 << 11  # elements of the rows that are worked on together, so that a table is asked once for all of them


@numba.extending.intrinsic
def _largest_of_vectors(typing, address, n):
    """Maximum of n float32 at an address, n >= 16; NaN is left out."""

    def generate(context, builder, signature, values):
        address, n = values
        long, vector = n.type, ir.VectorType(ir.FloatType(), 16)

        def number(value):
            return ir.Constant(long, value)

        def wider(top, at):
            x = builder.load(builder.inttoptr(builder.add(address, at), vector.as_pointer()), align=4)
            top = builder.load(tops[top])
            return builder.select(builder.fcmp_ordered(">", x, top), x, top)

        tops = [cgutils.alloca_once_value(builder, ir.Constant(vector, [-np.inf] * 16)) for _ in range(4)]
        with cgutils.for_range(builder, builder.udiv(n, number(64))) as loop:
            for i in range(4):
                at = builder.add(builder.mul(loop.index, number(256)), number(64 * i))
                builder.store(wider(i, at), tops[i])
        done = builder.and_(n, number(-64))
        with cgutils.for_range(builder, builder.udiv(builder.sub(n, done), number(16))) as loop:
            at = builder.mul(builder.add(builder.mul(loop.index, number(16)), done), number(4))
            builder.store(wider(0, at), tops[0])
        last = builder.mul(builder.sub(n, number(16)), number(4))  # some of them once more
        builder.store(wider(0, last), tops[0])
        found = [builder.load(top) for top in tops]
        while len(found) > 1:
            one, other = found.pop(), found.pop(0)
            found.append(builder.select(builder.fcmp_ordered(">", one, other), one, other))
        (top,) = found
        for size in (8, 4, 2, 1):
            places = [ir.Constant(ir.VectorType(ir.IntType(32), size), list(range(a, a + size))) for a in (0, size)]
            one, other = (builder.shuffle_vector(top, top, place) for place in places)
            top = builder.select(builder.fcmp_ordered(">", one, other), one, other)
        return builder.extract_element(top, ir.Constant(ir.IntType(32), 0))

    return numba.float32(numba.int64, numba.int64), generate


@compiled
def _largest(at, n):
    """Maximum of n float32 at an address; NaN is left out."""
    if n >= 16:
        return _largest_of_vectors(at, n)
    x, top = floats(at, n), np.float32(-np.inf)
    for i in range(n):
        top = x[i] if x[i] > top else top
    return top


@compiled
def _write_scaled(at, n, form, values, factor):
    """values * factor in the form of a row at an address, where float32 may be already."""
    row = codes(at, n)
    if form == FP16:
        for i in range(n):
            row[i] = to_fp16(values[i] * factor)
    elif form == BF16:
        for i in range(n):
            row[i] = to_bf16(values[i] * factor)
    elif values.ctypes.data == at:
        for i in range(n):
            values[i] *= factor
    else:
        singles = floats(at, n)
        for i in range(n):
            singles[i] = values[i] * factor


@native(TASK)
def _softmax(first, last, job):
    """Rows first ... last - 1, some at a time: weights, then 1 / sums, then their products. r_kernel 0 divides."""
    numbers = integers(job)
    form, x_at, out_at, n, exp_at = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
    r_kernel, r_words, of_r = numbers[5], numbers[6], numbers[7]
    width, few = 4 if form == FP32 else 2, max(1, _FEW // n)
    step = width * n
    apart = form != FP32 or step > _LONG  # where weights lie: long rows in memory that stays in the cache
    wide = np.empty(16 + (few * n if apart else 0), np.float32)
    wide_at = aligned(wide)
    tops, mantissas, factors = np.empty(few, np.float32), np.empty(few, np.float32), np.empty(few, np.float32)
    exponents, work = np.empty(few, np.int32), room(exp_at)
    room_at = aligned(work)
    for start in range(first, last, few):
        rows, at = min(few, last - start), step * start
        # the largest of all before the weights of any: the processor waits for none of them then
        for i in range(rows):
            source = widened(x_at + at + step * i, n, form, floats(wide_at + 4 * n * i, n))
            tops[i] = _largest(source, n)  # a NaN comes back through its own weight
        for i in range(rows):
            here = at + step * i
            target, total = wide_at + 4 * n * i if apart else out_at + here, 0.0
            source = x_at + here if form == FP32 else target
            for block in range(0, n, BLOCK):
                m = min(BLOCK, n - block)
                ask_ahead(x_at + here + width * block, out_at + here + width * block, few * step, width * m)
                total += np.float64(weigh(exp_at, room_at, source + 4 * block, tops[i], target + 4 * block, m))
            factors[i] = np.float32(1.0 / total)
            if r_kernel != 0:
                mantissa, exponents[i] = math.frexp(np.float32(total)) if total == total else (total, 0)
                mantissas[i] = 2 * mantissa
        if r_kernel != 0:
            call_kernel(r_kernel, mantissas.ctypes.data, factors.ctypes.data, rows, r_words, of_r)
            for i in range(rows):
                factors[i] = math.ldexp(factors[i], 1 - exponents[i])
        for i in range(rows):
            target = out_at + at + step * i
            _write_scaled(target, n, form, floats(wide_at + 4 * n * i if apart else target, n), factors[i])
    work[0] = wide[0] = 0  # they live until here


def softmax(
    x: Tensor,
    out: Tensor,
    exp: Any,
    reciprocal: tuple[Tensor, Sequence[int]] | None,
    period: float,
) -> None:
    """out = softmax of the rows of x, (rows, n), 16 or 32 bits, both contiguous. exp: `Plans` (`lutc.nn.row_tables`);
    reciprocal: (words, meta), None to divide.
    """
    exp_table, exp_numbers = table_of(exp, period)
    r_numbers, r_table = (None, (0, 0, 0)) if reciprocal is None else plain_table(reciprocal)
    rows, n = x.shape
    at_exp = ctypes.addressof(exp_table)
    job = packed(FORMATS[DTYPES[x.dtype]], x.data_ptr(), out.data_ptr(), n, at_exp, *r_table)
    team.run(_softmax, rows, max(1, _LEAST // n), job, torch.get_num_threads())
