"""The backward of attention with a table's exponential: the weights are computed again, block by block."""

from __future__ import annotations

import triton
import triton.language as tl
from lutc.kernels.attention_forward import RUNTIME
from lutc.kernels.attention_parts import capped, dot, load_rows, seen_scores, weights


@triton.jit
def _again(
    q, k, row, at, key, top, share, limit, queries, mask_ptr, mask_row, mask_key, slope, window, scale, c, floor, last,
    softcap, e_words, e0, e1, e2, e3, e4, e5, t_words, t0, t1, t2, t3, t4, t5,
    E_KIND: tl.constexpr, E_FLAGS: tl.constexpr, T_KIND: tl.constexpr, T_FLAGS: tl.constexpr, PERIOD: tl.constexpr,
    EXP: tl.constexpr, MASK: tl.constexpr, ALIBI: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(probabilities, derivative of the cap) of a block, computed again."""
    s = dot(q, tl.trans(k), None, PRECISION) * scale
    slope_of_cap = tl.full(s.shape, 1.0, tl.float32)
    if SOFTCAP:
        tanh = capped(s, softcap, t_words, t0, t1, t2, t3, t4, t5, T_KIND, T_FLAGS)
        s = softcap * tanh
        slope_of_cap = 1.0 - tanh * tanh
    s = seen_scores(s, at, key, row, limit, queries, mask_ptr, mask_row, mask_key, slope, window,
                    MASK, ALIBI, CAUSAL, WINDOW, True)  # fmt: skip
    w = weights(s, top[:, None], c, floor, last, e_words, 0, e0, e1, e2, e3, e4, e5,
                E_KIND, E_FLAGS, PERIOD, EXP, True, False)  # fmt: skip
    return w * share[:, None], slope_of_cap


@triton.jit
def _of_rows(
    q_ptr, gradient_ptr, top_ptr, share_ptr, inner_ptr, q_row, rows, row, queries,
    SIZE: tl.constexpr, V_SIZE: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """(queries, gradient of the result, largest scores, shares, inner products) of a block of rows; what is not q lies
    at `rows`.
    """
    q = load_rows(q_ptr, row, q_row, queries, SIZE, BLOCK_D, True)
    above = load_rows(gradient_ptr + rows * V_SIZE, row, V_SIZE, queries, V_SIZE, BLOCK_V, True)
    top = tl.load(top_ptr + rows + row, mask=row < queries, other=0.0)
    share = tl.load(share_ptr + rows + row, mask=row < queries, other=0.0)
    return q, above, top, share, tl.load(inner_ptr + rows + row, mask=row < queries, other=0.0)


@triton.jit(do_not_specialize=RUNTIME)
def keys_kernel(
    q_ptr, k_ptr, v_ptr, gradient_ptr, top_ptr, share_ptr, inner_ptr, to_k_ptr, to_v_ptr,
    mask_ptr, alibi_ptr, lengths_ptr,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
    mask_batch, mask_head, mask_row, mask_key, alibi_batch,
    heads, groups, queries, keys, offset, window, scale, c, floor, last, softcap,
    e_words, e0, e1, e2, e3, e4, e5, t_words, t0, t1, t2, t3, t4, t5,
    E_KIND: tl.constexpr, E_FLAGS: tl.constexpr, T_KIND: tl.constexpr, T_FLAGS: tl.constexpr,
    PERIOD: tl.constexpr, EXP: tl.constexpr, MASK: tl.constexpr, ALIBI: tl.constexpr, LENGTHS: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, SIZE: tl.constexpr, V_SIZE: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of keys and values, grid (ceil(keys / BLOCK_N), batch * key heads), over the queries of a key head's
    group. gradient (batch, heads, queries, V_SIZE) and top, share (1 / total, 0 for rows that see nothing) and inner
    (sum of gradient * out), (batch, heads, queries), are contiguous, as results are.
    """
    key_heads = heads // groups
    batch = (tl.program_id(1) // key_heads).to(tl.int64)
    key_head = (tl.program_id(1) % key_heads).to(tl.int64)
    j = tl.program_id(0) * BLOCK_N
    limit = tl.minimum(tl.load(lengths_ptr + batch), keys) if LENGTHS else keys
    key = j + tl.arange(0, BLOCK_N)
    k = load_rows(k_ptr + batch * k_batch + key_head * k_head, key, k_row, limit, SIZE, BLOCK_D, True)
    v = load_rows(v_ptr + batch * v_batch + key_head * v_head, key, v_row, limit, V_SIZE, BLOCK_V, True)
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
            q, above, top, share, inner = _of_rows(
                q_ptr + batch * q_batch + head * q_head, gradient_ptr, top_ptr, share_ptr, inner_ptr, q_row, rows, row,
                queries, SIZE, V_SIZE, BLOCK_D, BLOCK_V,
            )  # fmt: skip
            p, slope_of_cap = _again(
                q, k, row, row + offset, key, top, share, limit, queries,
                mask_ptr + batch * mask_batch + head * mask_head, mask_row, mask_key, slope, window, scale, c,
                floor, last, softcap, e_words, e0, e1, e2, e3, e4, e5, t_words, t0, t1, t2, t3, t4, t5,
                E_KIND, E_FLAGS, T_KIND, T_FLAGS, PERIOD, EXP, MASK, ALIBI, CAUSAL, WINDOW, SOFTCAP, PRECISION,
            )  # fmt: skip
            of_v = dot(tl.trans(p.to(above.dtype)), above, of_v, PRECISION)
            change = p * (dot(above, tl.trans(v), None, PRECISION) - inner[:, None]) * slope_of_cap
            of_k = dot(tl.trans(change.to(q.dtype)), q, of_k, PRECISION)
    at_key = (batch * key_heads + key_head) * keys + key
    column, v_column, inside = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_V), key[:, None] < keys
    tl.store(to_k_ptr + at_key[:, None] * SIZE + column[None, :], (of_k * scale).to(to_k_ptr.dtype.element_ty),
             mask=inside & (column[None, :] < SIZE))  # fmt: skip
    tl.store(to_v_ptr + at_key[:, None] * V_SIZE + v_column[None, :], of_v.to(to_v_ptr.dtype.element_ty),
             mask=inside & (v_column[None, :] < V_SIZE))  # fmt: skip


@triton.jit(do_not_specialize=RUNTIME)
def queries_kernel(
    q_ptr, k_ptr, v_ptr, gradient_ptr, top_ptr, share_ptr, inner_ptr, to_q_ptr,
    mask_ptr, alibi_ptr, lengths_ptr,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row,
    mask_batch, mask_head, mask_row, mask_key, alibi_batch,
    heads, groups, queries, keys, offset, window, scale, c, floor, last, softcap,
    e_words, e0, e1, e2, e3, e4, e5, t_words, t0, t1, t2, t3, t4, t5,
    E_KIND: tl.constexpr, E_FLAGS: tl.constexpr, T_KIND: tl.constexpr, T_FLAGS: tl.constexpr,
    PERIOD: tl.constexpr, EXP: tl.constexpr, MASK: tl.constexpr, ALIBI: tl.constexpr, LENGTHS: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, SIZE: tl.constexpr, V_SIZE: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of queries, grid (ceil(queries / BLOCK_M), batch * heads), over the keys; see `keys_kernel`."""
    batch, head = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    limit = tl.minimum(tl.load(lengths_ptr + batch), keys) if LENGTHS else keys
    k_ptr += batch * k_batch + head // groups * k_head
    v_ptr += batch * v_batch + head // groups * v_head
    first = tl.program_id(0) * BLOCK_M
    row = first + tl.arange(0, BLOCK_M)
    slope = tl.load(alibi_ptr + batch * alibi_batch + head) if ALIBI else 0.0
    rows = (batch * heads + head) * queries
    q, above, top, share, inner = _of_rows(
        q_ptr + batch * q_batch + head * q_head, gradient_ptr, top_ptr, share_ptr, inner_ptr, q_row, rows, row, queries,
        SIZE, V_SIZE, BLOCK_D, BLOCK_V,
    )  # fmt: skip
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
        k = load_rows(k_ptr, key, k_row, limit, SIZE, BLOCK_D, True)
        v = load_rows(v_ptr, key, v_row, limit, V_SIZE, BLOCK_V, True)
        p, slope_of_cap = _again(
            q, k, row, row + offset, key, top, share, limit, queries,
            mask_ptr + batch * mask_batch + head * mask_head, mask_row, mask_key, slope, window, scale, c,
            floor, last, softcap, e_words, e0, e1, e2, e3, e4, e5, t_words, t0, t1, t2, t3, t4, t5,
            E_KIND, E_FLAGS, T_KIND, T_FLAGS, PERIOD, EXP, MASK, ALIBI, CAUSAL, WINDOW, SOFTCAP, PRECISION,
        )  # fmt: skip
        change = p * (dot(above, tl.trans(v), None, PRECISION) - inner[:, None]) * slope_of_cap
        of_q = dot(change.to(k.dtype), k, of_q, PRECISION)
    column = tl.arange(0, BLOCK_D)
    tl.store(to_q_ptr + (rows + row)[:, None] * SIZE + column[None, :], (of_q * scale).to(to_q_ptr.dtype.element_ty),
             mask=(row[:, None] < queries) & (column[None, :] < SIZE))  # fmt: skip
