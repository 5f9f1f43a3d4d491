"""Attention in one pass with a table's exponential: scores, weights and their sum stay on the chip (FlashAttention-2,
arXiv:2307.08691, with the table for exp).

Scores are held before their scale where nothing else is done to them; weights are T((s - m) c). With a table behind the
period of exp, c brings scores to periods: d = k + f, T(f period) 2^k. `EXP` puts `tl.exp2`, or a cubic as
FlashAttention-4 has it, in the table's place, to be counted and timed beside it. Sums are float32; weights are rounded
to the values' dtype for the product with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from lutc.kernels import pwl, softmax

from lutc.measures import EXP_FLOOR

INFINITY = tl.constexpr(float("inf"))
MAGIC = tl.constexpr(12582912.0)  # 1.5 * 2^23: the last bits of x + MAGIC are those of the integer below x
LOG2E = 1.4426950408889634
# 2^f on [0, 1): the cubic of least relative error that is 1 at 0, 8.6e-5
CUBIC = tuple(map(tl.constexpr, (0.695116631, 0.227644978, 0.0770672403)))
_C1, _C2, _C3 = CUBIC


@triton.jit
def _floored(x):
    """floor(x) + MAGIC, |x| < 2^21: one addition that rounds down."""
    if pwl._INTERPRETED:
        return tl.floor(x) + MAGIC
    return tl.inline_asm_elementwise("add.rm.f32 $0, $1, 0f4B400000;", "=r,r", [x], tl.float32, True, 1)


@triton.jit
def _dot(a, b, acc, PRECISION: tl.constexpr):
    """a b + acc, acc None for 0. The interpreter would multiply the codes of bfloat16."""
    if pwl._INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def _weights(
    s, top, c, floor, last, words, p0, p1, p2, p3, p4, p5,
    KIND: tl.constexpr, FLAGS: tl.constexpr, PERIOD: tl.constexpr, EXP: tl.constexpr, HIDDEN: tl.constexpr,
    PLAIN: tl.constexpr,
):  # fmt: skip
    """T((s - top) c); never negative, 0 below the floor (with PERIOD and without HIDDEN scores: as at the floor, which
    is 1e-38). NaN stays.
    """
    d = tl.fma(s, c, -(top * c)) if PLAIN else (s - top) * c  # the latter for scores near the largest float
    if EXP == "exp2":
        return tl.exp2(d)
    if PERIOD:
        inside = tl.maximum(d, floor, propagate_nan=tl.PropagateNan.ALL)
        shifted = _floored(inside)
        f = inside - (shifted - MAGIC)
        power = ((shifted.to(tl.int32, bitcast=True) << 23) + 0x3F800000).to(tl.float32, bitcast=True)
        if EXP == "cubic":
            value = tl.fma(tl.fma(tl.fma(f, _C3, _C2), f, _C1), f, 1.0) * power
        else:
            value = pwl.evaluate(f * last, words, p0, p1, p2, p3, p4, p5, KIND, FLAGS)
            value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL) * power
        return tl.where(d < floor, 0.0, value) if HIDDEN else value
    else:
        value = pwl.evaluate(d, words, p0, p1, p2, p3, p4, p5, KIND, FLAGS)
        return tl.where((value < 0) | (d < floor), 0.0, value)


@triton.jit
def _capped(s, softcap, words, p0, p1, p2, p3, p4, p5, KIND: tl.constexpr, FLAGS: tl.constexpr):
    """tanh(s / softcap): by the table, or exactly where KIND is 0."""
    x = s / softcap
    if KIND == 0:
        return 1.0 - 2.0 / (1.0 + tl.exp(2.0 * x))
    else:
        return pwl.evaluate(x, words, p0, p1, p2, p3, p4, p5, KIND, FLAGS)


@triton.jit
def _seen(s, at, key, row, limit, rows, mask_ptr, mask_row, mask_key, slope, window,
          MASK: tl.constexpr, ALIBI: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """Scores with bias and mask. at: positions of the queries among the keys; row: their numbers; EDGE: the block may
    reach beyond what is seen.
    """
    if ALIBI:
        s -= slope * tl.abs((at[:, None] - key[None, :]).to(tl.float32))
    if MASK:
        places = mask_ptr + row[:, None].to(tl.int64) * mask_row + key[None, :].to(tl.int64) * mask_key
        inside = (row[:, None] < rows) & (key[None, :] < limit)
        if MASK == 1:
            s = tl.where(tl.load(places, mask=inside, other=0) != 0, s, -INFINITY)
        else:
            s += tl.load(places, mask=inside, other=0.0).to(tl.float32)
    if EDGE:
        seen = key[None, :] < limit
        if CAUSAL:
            seen = seen & (key[None, :] <= at[:, None])
        if WINDOW:
            seen = seen & (key[None, :] > at[:, None] - window)
            if not CAUSAL:
                seen = seen & (key[None, :] < at[:, None] + window)
        s = tl.where(seen, s, -INFINITY)
    return s


@triton.jit
def _load(ptr, rows, stride, limit, SIZE: tl.constexpr, BLOCK: tl.constexpr, EDGE: tl.constexpr):
    """Rows of SIZE elements as (rows, BLOCK), 0 outside."""
    column = tl.arange(0, BLOCK)
    places = ptr + rows[:, None].to(tl.int64) * stride + column[None, :]
    if EDGE and SIZE != BLOCK:
        return tl.load(places, mask=(rows[:, None] < limit) & (column[None, :] < SIZE), other=0.0)
    elif EDGE:
        return tl.load(places, mask=rows[:, None] < limit, other=0.0)
    elif SIZE != BLOCK:
        return tl.load(places, mask=column[None, :] < SIZE, other=0.0)
    else:
        return tl.load(places)


_TABLES = [f"{table}{i}" for table in "ert" for i in range(6)]
_RUNTIME = [*_TABLES, "offset", "window", "scale", "c", "to_two", "floor", "last", "softcap", "queries", "keys"]
_RUNTIME += ["heads", "groups"]


@triton.jit(do_not_specialize=_RUNTIME)
def forward_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, top_ptr, total_ptr, mask_ptr, sinks_ptr, alibi_ptr, lengths_ptr,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
    mask_batch, mask_head, mask_row, mask_key, alibi_batch,
    heads, groups, queries, keys, offset, window, scale, c, to_two, floor, last, softcap,
    e_words, e0, e1, e2, e3, e4, e5, r_words, r0, r1, r2, r3, r4, r5, t_words, t0, t1, t2, t3, t4, t5,
    E_KIND: tl.constexpr, E_FLAGS: tl.constexpr, R_KIND: tl.constexpr, R_FLAGS: tl.constexpr,
    T_KIND: tl.constexpr, T_FLAGS: tl.constexpr, PERIOD: tl.constexpr, EXP: tl.constexpr, RESCALE: tl.constexpr,
    MASK: tl.constexpr, SINKS: tl.constexpr, ALIBI: tl.constexpr, LENGTHS: tl.constexpr, CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, PLAIN: tl.constexpr, SIZE: tl.constexpr, V_SIZE: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (ceil(queries / BLOCK_M), batch * heads). MASK: 0 none, 1 bool, 2 added. PLAIN: nothing but scale and
    positions; scores are then held before their scale, which is above 0.
    """
    first = tl.program_id(0) * BLOCK_M
    batch, head = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    key_head = head // groups
    k_ptr += batch * k_batch + key_head * k_head
    v_ptr += batch * v_batch + key_head * v_head
    mask_ptr += batch * mask_batch + head * mask_head
    slope = tl.load(alibi_ptr + batch * alibi_batch + head) if ALIBI else 0.0
    limit = tl.minimum(tl.load(lengths_ptr + batch), keys) if LENGTHS else keys
    row = first + tl.arange(0, BLOCK_M)
    at = row + offset
    q = _load(q_ptr + batch * q_batch + head * q_head, row, q_row, queries, SIZE, BLOCK_D, True)
    top = tl.full((BLOCK_M,), -INFINITY, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
    HIDDEN: tl.constexpr = MASK != 0

    # [start, full) and [whole, end) are blocks at an edge of what is seen, between them all is seen by all
    start, end, full, whole = 0, limit, 0, limit
    if CAUSAL:
        end = tl.minimum(end, first + BLOCK_M + offset)
        whole = tl.minimum(whole, first + offset + 1)
    elif WINDOW:
        end = tl.minimum(end, first + BLOCK_M + offset + window - 1)
        whole = tl.minimum(whole, first + offset + window)
    if WINDOW:
        start = tl.maximum(first + offset - window + 1, 0) // BLOCK_N * BLOCK_N
        full = tl.cdiv(tl.maximum(first + BLOCK_M + offset - window, 0), BLOCK_N) * BLOCK_N
    whole = tl.maximum(tl.maximum(whole, 0) // BLOCK_N * BLOCK_N, start)
    full = tl.minimum(tl.maximum(full, start), whole)

    if RESCALE == "none":
        for j in range(start, end, BLOCK_N):
            key = j + tl.arange(0, BLOCK_N)
            s = _dot(q, tl.trans(_load(k_ptr, key, k_row, limit, SIZE, BLOCK_D, True)), None, PRECISION)
            if not PLAIN:
                s = s * scale
                if SOFTCAP:
                    s = softcap * _capped(s, softcap, t_words, t0, t1, t2, t3, t4, t5, T_KIND, T_FLAGS)
            s = _seen(s, at, key, row, limit, queries, mask_ptr, mask_row, mask_key, slope, window,
                      MASK, ALIBI, CAUSAL, WINDOW, True)  # fmt: skip
            top = tl.maximum(top, tl.max(s, axis=1))
    if SINKS:
        sink = tl.load(sinks_ptr + head).to(tl.float32) * (1.0 / scale if PLAIN else 1.0)
        top = tl.maximum(top, sink)
        total = _weights(tl.zeros_like(top) + sink, top, c, floor, last, e_words, e0, e1, e2, e3, e4, e5,
                         E_KIND, E_FLAGS, PERIOD, EXP, True, PLAIN)  # fmt: skip

    for phase in tl.static_range(3):
        if phase != 0 or WINDOW:
            begin = start if phase == 0 else (full if phase == 1 else whole)
            until = full if phase == 0 else (whole if phase == 1 else end)
            for j in tl.range(begin, until, BLOCK_N, num_stages=None if phase == 1 else 1):
                key = j + tl.arange(0, BLOCK_N)
                k = _load(k_ptr, key, k_row, limit, SIZE, BLOCK_D, phase != 1)
                s = _dot(q, tl.trans(k), None, PRECISION)
                if not PLAIN:
                    s = s * scale
                    if SOFTCAP:
                        s = softcap * _capped(s, softcap, t_words, t0, t1, t2, t3, t4, t5, T_KIND, T_FLAGS)
                s = _seen(s, at, key, row, limit, queries, mask_ptr, mask_row, mask_key, slope, window,
                          MASK, ALIBI, CAUSAL, WINDOW, phase != 1)  # fmt: skip
                if RESCALE != "none":
                    higher = tl.maximum(top, tl.max(s, axis=1))
                    reference = tl.where(higher == -INFINITY, 0.0, higher) if HIDDEN or phase != 1 else higher
                    if RESCALE == "exact":
                        factor = tl.exp2((top - reference) * to_two)
                    else:
                        factor = _weights(top, reference, c, floor, last, e_words, e0, e1, e2, e3, e4, e5,
                                          E_KIND, E_FLAGS, PERIOD, EXP, True, PLAIN)  # fmt: skip
                        factor = tl.where(top == higher, 1.0, factor)
                    top = higher
                    total = total * factor
                    acc = acc * factor[:, None]
                else:
                    reference = tl.where(top == -INFINITY, 0.0, top)
                w = _weights(s, reference[:, None], c, floor, last, e_words, e0, e1, e2, e3, e4, e5,
                             E_KIND, E_FLAGS, PERIOD, EXP, HIDDEN or phase != 1, PLAIN)  # fmt: skip
                total += tl.sum(w, axis=1)
                v = _load(v_ptr, key, v_row, limit, V_SIZE, BLOCK_V, phase != 1)
                acc = _dot(w.to(v.dtype), v, acc, PRECISION)

    if R_KIND == 0:
        share = 1.0 / total
    else:
        share = softmax.reciprocal(total, r_words, r0, r1, r2, r3, r4, r5, R_KIND, R_FLAGS)
    acc = tl.where((total == 0)[:, None], 0.0, acc * share[:, None])
    rows = (batch * heads + head) * queries + row
    column = tl.arange(0, BLOCK_V)
    inside = (row[:, None] < queries) & (column[None, :] < V_SIZE)
    tl.store(out_ptr + rows[:, None] * V_SIZE + column[None, :], acc.to(out_ptr.dtype.element_ty), mask=inside)
    tl.store(top_ptr + rows, top * scale if PLAIN else top, mask=row < queries)
    tl.store(total_ptr + rows, total, mask=row < queries)


@triton.jit
def _again(
    q, k, row, at, key, top, share, limit, queries, mask_ptr, mask_row, mask_key, slope, window, scale, c, floor, last,
    softcap, e_words, e0, e1, e2, e3, e4, e5, t_words, t0, t1, t2, t3, t4, t5,
    E_KIND: tl.constexpr, E_FLAGS: tl.constexpr, T_KIND: tl.constexpr, T_FLAGS: tl.constexpr, PERIOD: tl.constexpr,
    EXP: tl.constexpr, MASK: tl.constexpr, ALIBI: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(probabilities, derivative of the cap) of a block, computed again."""
    s = _dot(q, tl.trans(k), None, PRECISION) * scale
    slope_of_cap = tl.full(s.shape, 1.0, tl.float32)
    if SOFTCAP:
        capped = _capped(s, softcap, t_words, t0, t1, t2, t3, t4, t5, T_KIND, T_FLAGS)
        s = softcap * capped
        slope_of_cap = 1.0 - capped * capped
    s = _seen(s, at, key, row, limit, queries, mask_ptr, mask_row, mask_key, slope, window,
              MASK, ALIBI, CAUSAL, WINDOW, True)  # fmt: skip
    w = _weights(s, top[:, None], c, floor, last, e_words, e0, e1, e2, e3, e4, e5,
                 E_KIND, E_FLAGS, PERIOD, EXP, True, False)  # fmt: skip
    return w * share[:, None], slope_of_cap


@triton.jit(do_not_specialize=_RUNTIME)
def backward_kernel(
    q_ptr, k_ptr, v_ptr, gradient_ptr, top_ptr, share_ptr, inner_ptr, a_ptr, b_ptr,
    mask_ptr, alibi_ptr, lengths_ptr,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
    mask_batch, mask_head, mask_row, mask_key, alibi_batch,
    heads, groups, queries, keys, offset, window, scale, c, floor, last, softcap,
    e_words, e0, e1, e2, e3, e4, e5, t_words, t0, t1, t2, t3, t4, t5,
    E_KIND: tl.constexpr, E_FLAGS: tl.constexpr, T_KIND: tl.constexpr, T_FLAGS: tl.constexpr,
    PERIOD: tl.constexpr, EXP: tl.constexpr, MASK: tl.constexpr, ALIBI: tl.constexpr, LENGTHS: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, SIZE: tl.constexpr, V_SIZE: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr, OF_KEYS: tl.constexpr,
):  # fmt: skip
    """OF_KEYS: gradients of keys (a) and values (b), grid (ceil(keys / BLOCK_N), batch * key heads), over the queries
    of a key head's group; else of queries (a), grid (ceil(queries / BLOCK_M), batch * heads), over the keys.

    gradient (batch, heads, queries, V_SIZE) and top, share (1 / total, 0 for rows that see nothing) and inner (sum of
    gradient * out), (batch, heads, queries), are contiguous, as a and b are.
    """
    if OF_KEYS:
        key_heads = heads // groups
        batch = (tl.program_id(1) // key_heads).to(tl.int64)
        key_head = (tl.program_id(1) % key_heads).to(tl.int64)
        j = tl.program_id(0) * BLOCK_N
    else:
        batch = (tl.program_id(1) // heads).to(tl.int64)
        key_head = (tl.program_id(1) % heads).to(tl.int64) // groups
        j = 0
    limit = tl.minimum(tl.load(lengths_ptr + batch), keys) if LENGTHS else keys
    k_ptr += batch * k_batch + key_head * k_head
    v_ptr += batch * v_batch + key_head * v_head
    column, v_column = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_V)

    if OF_KEYS:
        key = j + tl.arange(0, BLOCK_N)
        k = _load(k_ptr, key, k_row, limit, SIZE, BLOCK_D, True)
        v = _load(v_ptr, key, v_row, limit, V_SIZE, BLOCK_V, True)
        of_k = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
        of_v = tl.zeros((BLOCK_N, BLOCK_V), tl.float32)
        start, end = 0, queries
        if CAUSAL:
            start = tl.maximum(j - offset, 0) // BLOCK_M * BLOCK_M
        elif WINDOW:
            start = tl.maximum(j - offset - window + 1, 0) // BLOCK_M * BLOCK_M
        if WINDOW:
            end = tl.minimum(end, j + BLOCK_N + window - 1 - offset)
        for group in range(groups):
            head = key_head * groups + group
            slope = tl.load(alibi_ptr + batch * alibi_batch + head) if ALIBI else 0.0
            rows = (batch * heads + head) * queries
            for i in range(start, end, BLOCK_M):
                row = i + tl.arange(0, BLOCK_M)
                q = _load(q_ptr + batch * q_batch + head * q_head, row, q_row, queries, SIZE, BLOCK_D, True)
                above = _load(gradient_ptr + rows * V_SIZE, row, V_SIZE, queries, V_SIZE, BLOCK_V, True)
                top = tl.load(top_ptr + rows + row, mask=row < queries, other=0.0)
                share = tl.load(share_ptr + rows + row, mask=row < queries, other=0.0)
                inner = tl.load(inner_ptr + rows + row, mask=row < queries, other=0.0)
                p, slope_of_cap = _again(
                    q, k, row, row + offset, key, top, share, limit, queries,
                    mask_ptr + batch * mask_batch + head * mask_head, mask_row, mask_key, slope, window, scale, c,
                    floor, last, softcap, e_words, e0, e1, e2, e3, e4, e5, t_words, t0, t1, t2, t3, t4, t5,
                    E_KIND, E_FLAGS, T_KIND, T_FLAGS, PERIOD, EXP, MASK, ALIBI, CAUSAL, WINDOW, SOFTCAP, PRECISION,
                )  # fmt: skip
                of_v = _dot(tl.trans(p.to(above.dtype)), above, of_v, PRECISION)
                change = p * (_dot(above, tl.trans(v), None, PRECISION) - inner[:, None]) * slope_of_cap
                of_k = _dot(tl.trans(change.to(q.dtype)), q, of_k, PRECISION)
        at_key = (batch * (heads // groups) + key_head) * keys + key
        inside = key[:, None] < keys
        tl.store(a_ptr + at_key[:, None] * SIZE + column[None, :], (of_k * scale).to(a_ptr.dtype.element_ty),
                 mask=inside & (column[None, :] < SIZE))  # fmt: skip
        tl.store(b_ptr + at_key[:, None] * V_SIZE + v_column[None, :], of_v.to(b_ptr.dtype.element_ty),
                 mask=inside & (v_column[None, :] < V_SIZE))  # fmt: skip
    else:
        head = (tl.program_id(1) % heads).to(tl.int64)
        first = tl.program_id(0) * BLOCK_M
        row = first + tl.arange(0, BLOCK_M)
        slope = tl.load(alibi_ptr + batch * alibi_batch + head) if ALIBI else 0.0
        rows = (batch * heads + head) * queries
        q = _load(q_ptr + batch * q_batch + head * q_head, row, q_row, queries, SIZE, BLOCK_D, True)
        above = _load(gradient_ptr + rows * V_SIZE, row, V_SIZE, queries, V_SIZE, BLOCK_V, True)
        top = tl.load(top_ptr + rows + row, mask=row < queries, other=0.0)
        share = tl.load(share_ptr + rows + row, mask=row < queries, other=0.0)
        inner = tl.load(inner_ptr + rows + row, mask=row < queries, other=0.0)
        of_q = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
        start, end = 0, limit
        if CAUSAL:
            end = tl.minimum(end, first + BLOCK_M + offset)
        elif WINDOW:
            end = tl.minimum(end, first + BLOCK_M + offset + window - 1)
        if WINDOW:
            start = tl.maximum(first + offset - window + 1, 0) // BLOCK_N * BLOCK_N
        for at in range(start, end, BLOCK_N):
            key = at + tl.arange(0, BLOCK_N)
            k = _load(k_ptr, key, k_row, limit, SIZE, BLOCK_D, True)
            v = _load(v_ptr, key, v_row, limit, V_SIZE, BLOCK_V, True)
            p, slope_of_cap = _again(
                q, k, row, row + offset, key, top, share, limit, queries,
                mask_ptr + batch * mask_batch + head * mask_head, mask_row, mask_key, slope, window, scale, c,
                floor, last, softcap, e_words, e0, e1, e2, e3, e4, e5, t_words, t0, t1, t2, t3, t4, t5,
                E_KIND, E_FLAGS, T_KIND, T_FLAGS, PERIOD, EXP, MASK, ALIBI, CAUSAL, WINDOW, SOFTCAP, PRECISION,
            )  # fmt: skip
            change = p * (_dot(above, tl.trans(v), None, PRECISION) - inner[:, None]) * slope_of_cap
            of_q = _dot(change.to(k.dtype), k, of_q, PRECISION)
        inside = (row[:, None] < queries) & (column[None, :] < SIZE)
        tl.store(a_ptr + (rows + row)[:, None] * SIZE + column[None, :], (of_q * scale).to(a_ptr.dtype.element_ty),
                 mask=inside)  # fmt: skip


def tile(size: int, itemsize: int, backward: bool = False) -> dict:
    """Blocks and warps for heads of `size` (rounded up to a power of two): what fits shared memory on sm_80."""
    wide = size * itemsize > 256
    if backward:
        block = 32 if wide else 64
        return {"BLOCK_M": block, "BLOCK_N": block, "num_warps": 4, "num_stages": 1 if wide else 2}
    if itemsize == 4:
        return {"BLOCK_M": 64, "BLOCK_N": 32 if wide else 64, "num_warps": 4, "num_stages": 1 if wide else 2}
    return {"BLOCK_M": 64 if wide else 128, "BLOCK_N": 32 if wide else 64, "num_warps": 8, "num_stages": 2}


def blocks_of(size: int) -> int:
    return max(16, triton.next_power_of_2(size))


def _row_major(x):
    """x, or a copy whose last dimension is contiguous."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _shared(q, k, v, inputs, plans, form, exp: str) -> dict:
    """Arguments of both kernels but for tiles and what each reads and writes."""
    mask, alibi = inputs.mask, inputs.alibi
    batch, heads, queries, size = q.shape
    kind = 0 if mask is None else (1 if mask.dtype == torch.bool else 2)
    held = q if mask is None else (mask.view(torch.int8) if kind == 1 else mask).expand(batch, heads, queries, -1)
    strides = (0, 0, 0, 0) if mask is None else held.expand(batch, heads, queries, k.shape[2]).stride()
    period = form.period
    capped = len(plans) > 1 + form.reciprocal
    tanh = plans[1 + form.reciprocal] if capped else plans[0]
    named = dict(zip(("q_batch", "q_head", "q_row"), q.stride()))
    named |= dict(zip(("k_batch", "k_head", "k_row"), k.stride())) | dict(
        zip(("v_batch", "v_head", "v_row"), v.stride())
    )
    named |= dict(zip(("mask_batch", "mask_head", "mask_row", "mask_key"), strides))
    t = softmax.plan_arguments("t", tanh, "T")
    if not capped:
        t |= {"T_KIND": 0, "T_FLAGS": 0}
    return {
        **named,
        "mask_ptr": held,
        "alibi_ptr": q if alibi is None else alibi,
        "alibi_batch": 0 if alibi is None or alibi.shape[0] == 1 else heads,
        "lengths_ptr": q if inputs.lengths is None else inputs.lengths,
        "heads": heads,
        "groups": heads // k.shape[1],
        "queries": queries,
        "keys": k.shape[2],
        "offset": form.offset,
        "window": form.window,
        "scale": form.scale,
        "floor": EXP_FLOOR / period if period else EXP_FLOOR,
        "last": period * (1 - 2.0**-24),
        "softcap": form.softcap or 1.0,
        **softmax.plan_arguments("e", plans[0], "E"),
        **t,
        "PERIOD": period != 0,
        "EXP": exp,
        "MASK": kind,
        "ALIBI": alibi is not None,
        "LENGTHS": inputs.lengths is not None,
        "CAUSAL": form.causal,
        "WINDOW": form.window != 0,
        "SOFTCAP": form.softcap != 0,
        "SIZE": size,
        "V_SIZE": v.shape[-1],
        "BLOCK_D": blocks_of(size),
        "BLOCK_V": blocks_of(v.shape[-1]),
        "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32",
    }


def forward(
    inputs: Any, plans: Sequence, form: Any, exp: str = "table"
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(out, largest scores, sums of weights), as lutc.nn.attention_blocks.forward; inputs, form: its Operands and Form;
    plans: (words, meta) of float32 plans. exp: "table", or "exp2" or "cubic" in its place.
    """
    q, k, v = (_row_major(x) for x in (inputs.q, inputs.k, inputs.v))
    batch, heads, queries, size = q.shape
    out = q.new_empty(batch, heads, queries, v.shape[-1])
    top, total = (torch.empty(q.shape[:3], dtype=torch.float32, device=q.device) for _ in range(2))
    if not out.numel():
        return out, top, total
    plain = form.scale > 0 and not form.softcap and inputs.alibi is None and inputs.mask is None
    unit = 1 / form.period if form.period else 1.0
    shape = tile(max(blocks_of(size), blocks_of(v.shape[-1])), q.itemsize)
    by = {"r_words": plans[0][0], **{f"r{i}": 0 for i in range(6)}, "R_KIND": 0, "R_FLAGS": 0}
    if form.reciprocal:
        by = softmax.plan_arguments("r", plans[1], "R")
    grid = (triton.cdiv(queries, shape["BLOCK_M"]), batch * heads)
    with torch.cuda.device_of(q):
        forward_kernel[grid](
            q_ptr=q,
            k_ptr=k,
            v_ptr=v,
            out_ptr=out,
            top_ptr=top,
            total_ptr=total,
            sinks_ptr=q if inputs.sinks is None else inputs.sinks,
            **_shared(q, k, v, inputs, plans, form, exp),
            **by,
            c=form.scale * unit if plain else unit,
            to_two=form.scale * LOG2E if plain else LOG2E,
            RESCALE=form.rescale,
            SINKS=inputs.sinks is not None,
            PLAIN=plain,
            **shape,
            enable_fp_fusion=False,
        )
    return out, top, total


def backward(
    gradient: torch.Tensor,
    inputs: Any,
    inner: torch.Tensor,
    top: torch.Tensor,
    share: torch.Tensor,
    plans: Sequence,
    form: Any,
    exp: str = "table",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v, contiguous. inner: sum of gradient * out; share: 1 / total, 0 where a row sees nothing;
    both (batch, heads, queries), float32, as top is, which is finite.
    """
    q, k, v = (_row_major(x) for x in (inputs.q, inputs.k, inputs.v))
    to_q, to_k, to_v = (torch.zeros_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    if not to_q.numel() or not to_k.numel():
        return to_q, to_k, to_v
    batch, heads, queries, size = q.shape
    shape = tile(max(blocks_of(size), blocks_of(v.shape[-1])), q.itemsize, backward=True)
    common = _shared(q, k, v, inputs, plans, form, exp)
    common |= {"q_ptr": q, "k_ptr": k, "v_ptr": v, "gradient_ptr": gradient.to(q.dtype).contiguous()}
    common |= {"top_ptr": top, "share_ptr": share, "inner_ptr": inner, "c": 1 / form.period if form.period else 1.0}
    by_keys = (triton.cdiv(k.shape[2], shape["BLOCK_N"]), batch * k.shape[1])
    by_queries = (triton.cdiv(queries, shape["BLOCK_M"]), batch * heads)
    with torch.cuda.device_of(q):
        backward_kernel[by_keys](a_ptr=to_k, b_ptr=to_v, OF_KEYS=True, **common, **shape, enable_fp_fusion=False)
        backward_kernel[by_queries](a_ptr=to_q, b_ptr=to_q, OF_KEYS=False, **common, **shape, enable_fp_fusion=False)
    return to_q, to_k, to_v
