"""The forward of attention with a table's exponential: scores, weights and their sum stay on the chip
(FlashAttention-2, arXiv:2307.08691, with the table for exp).

Scores are held before their scale where nothing else is done to them; weights are T((s - m) c). With a table behind the
period of exp, c brings scores to periods: d = k + f, T(f period) 2^k. Sums are float32; weights are rounded to the
values' dtype for the product with them.
"""

from __future__ import annotations

import triton
import triton.language as tl
from lutc.kernels import softmax
from lutc.kernels.attention_parts import (
    INFINITY,
    PIECES,
    dot,
    larger,
    largest,
    load_rows,
    scores,
    seen_scores,
    weights,
)

_TABLES = [f"{table}{i}" for table in "ert" for i in range(6)]
RUNTIME = [*_TABLES, "offset", "window", "scale", "c", "to_two", "floor", "last", "softcap", "queries", "keys"]
RUNTIME += ["heads", "groups"]


@triton.jit
def _ranges(
    first, offset, limit, window, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """(start, full, whole, end): [start, full) and [whole, end) are blocks of keys at an edge of what the block of
    queries sees, between them all is seen by all.
    """
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
    return start, tl.minimum(tl.maximum(full, start), whole), whole, end


@triton.jit(do_not_specialize=RUNTIME)
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
    q = load_rows(q_ptr + batch * q_batch + head * q_head, row, q_row, queries, SIZE, BLOCK_D, True)
    top = tl.full((BLOCK_M,), -INFINITY, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    acc = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
    HIDDEN: tl.constexpr = MASK != 0

    start, full, whole, end = _ranges(first, offset, limit, window, CAUSAL, WINDOW, BLOCK_M, BLOCK_N)
    pairs = 0
    if EXP == "even":
        pairs = tl.load(e_words.to(tl.pointer_type(tl.int64)) + tl.arange(0, PIECES))

    if RESCALE == "none":
        for j in range(start, end, BLOCK_N):
            key = j + tl.arange(0, BLOCK_N)
            k = load_rows(k_ptr, key, k_row, limit, SIZE, BLOCK_D, True)
            s = scores(q, k, scale, softcap, t_words, t0, t1, t2, t3, t4, t5, T_KIND, T_FLAGS, PLAIN, SOFTCAP,
                       PRECISION)  # fmt: skip
            s = seen_scores(s, at, key, row, limit, queries, mask_ptr, mask_row, mask_key, slope, window,
                            MASK, ALIBI, CAUSAL, WINDOW, True)  # fmt: skip
            top = larger(top, largest(s, EXP), EXP)
    if SINKS:
        sink = tl.load(sinks_ptr + head).to(tl.float32) * (1.0 / scale if PLAIN else 1.0)
        top = larger(top, sink, EXP)
        total = weights(tl.zeros_like(top) + sink, top, c, floor, last, e_words, pairs, e0, e1, e2, e3, e4, e5,
                        E_KIND, E_FLAGS, PERIOD, EXP, True, PLAIN)  # fmt: skip

    for phase in tl.static_range(3):
        if phase != 0 or WINDOW:
            begin = start if phase == 0 else (full if phase == 1 else whole)
            until = full if phase == 0 else (whole if phase == 1 else end)
            for j in tl.range(begin, until, BLOCK_N, num_stages=None if phase == 1 else 1):
                key = j + tl.arange(0, BLOCK_N)
                k = load_rows(k_ptr, key, k_row, limit, SIZE, BLOCK_D, phase != 1)
                s = scores(q, k, scale, softcap, t_words, t0, t1, t2, t3, t4, t5, T_KIND, T_FLAGS, PLAIN, SOFTCAP,
                           PRECISION)  # fmt: skip
                s = seen_scores(s, at, key, row, limit, queries, mask_ptr, mask_row, mask_key, slope, window,
                                MASK, ALIBI, CAUSAL, WINDOW, phase != 1)  # fmt: skip
                if RESCALE != "none":
                    higher = larger(top, largest(s, EXP), EXP)
                    reference = tl.where(higher == -INFINITY, 0.0, higher) if HIDDEN or phase != 1 else higher
                    if RESCALE == "exact":
                        factor = tl.exp2((top - reference) * to_two)
                    else:
                        factor = weights(top, reference, c, floor, last, e_words, pairs, e0, e1, e2, e3, e4, e5,
                                         E_KIND, E_FLAGS, PERIOD, EXP, True, PLAIN)  # fmt: skip
                        factor = tl.where(top == higher, 1.0, factor)
                    top = higher
                    total = total * factor
                    acc = acc * factor[:, None]
                else:
                    reference = tl.where(top == -INFINITY, 0.0, top)
                w = weights(s, reference[:, None], c, floor, last, e_words, pairs, e0, e1, e2, e3, e4, e5,
                            E_KIND, E_FLAGS, PERIOD, EXP, HIDDEN or phase != 1, PLAIN)  # fmt: skip
                total += tl.sum(w, axis=1)
                v = load_rows(v_ptr, key, v_row, limit, V_SIZE, BLOCK_V, phase != 1)
                acc = dot(w.to(v.dtype), v, acc, PRECISION)

    if EXP == "even":  # NaN, infinities, and scores beyond what u can tell apart
        total = tl.where((total == 0) & (top != -INFINITY), float("nan"), total)
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
