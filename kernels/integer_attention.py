"""Attention in integers, bit for bit `lutc.hardware.attention`: int8 codes in, scores, weights and sums in int32 on the
chip, 16-bit codes out.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from lutc.kernels import pwl
from lutc.kernels.attention import blocks_of
from lutc.kernels.attention_parts import within_reach
from lutc.kernels.integer_rows import divide, leading_one, requantised, roots, shift_to

FARTHEST = tl.constexpr(1 << 20)
HIDDEN = tl.constexpr(-(1 << 30))


@triton.jit
def _codes(ptr, rows, stride, limit, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Rows of SIZE codes as (rows, BLOCK), 0 outside."""
    column = tl.arange(0, BLOCK)
    places = ptr + rows[:, None].to(tl.int64) * stride + column[None, :]
    return tl.load(places, mask=(rows[:, None] < limit) & (column[None, :] < SIZE), other=0)


@triton.jit
def _byte(pointer):
    """A weight. Not by tl.load: in a loop with matrix products Triton would load it ahead of the product that the place
    follows from, and fail.
    """
    if pwl._INTERPRETED:
        return tl.load(pointer).to(tl.int32)
    return tl.inline_asm_elementwise(
        "ld.global.nc.s8 $0, [$1];", "=r,l", [pointer.to(tl.int64)], dtype=tl.int32, is_pure=True, pack=1
    )


@triton.jit
def _weighed(difference, w_ptr):
    """Weights of differences of at most 0."""
    far = tl.minimum(-difference, 255)
    return tl.where(difference > -256, _byte(w_ptr + far), 0)


@triton.jit
def _shifted_down(x, octaves):
    """x * 2**-octaves, halves up; octaves from 0 to 31."""
    return tl.where(octaves > 0, ((x >> tl.maximum(octaves - 1, 0)) + 1) >> 1, x)


@triton.jit
def _scores(
    q, k, row, at, key, of_query, query_places, of_key, key_places, limit, queries, mask_ptr, mask_row, mask_key, slope,
    window, MASK: tl.constexpr, ALIBI: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Codes of a block's scores, HIDDEN where a key is not seen."""
    product = tl.dot(q, tl.trans(k), out_dtype=tl.int32).to(tl.int64)
    places = tl.minimum(tl.maximum(query_places - key_places, 1), 62).to(tl.int64)  # one number for the block
    s = product * (of_query * of_key).to(tl.int64) + (tl.full((), 1, tl.int64) << (places - 1))
    s = tl.minimum(tl.maximum(s >> places, -FARTHEST), FARTHEST).to(tl.int32)
    seen = (key[None, :] < limit) & (row[:, None] < queries)
    if ALIBI:
        far = tl.abs(at[:, None] - key[None, :]).to(tl.int64) * slope
        s = s.to(tl.int64) - ((far + 32768) >> 16)
    if MASK:
        held = tl.load(
            mask_ptr + row[:, None].to(tl.int64) * mask_row + key[None, :].to(tl.int64) * mask_key, mask=seen, other=0
        )
        if MASK == 1:
            seen = seen & (held != 0)
        else:
            s, seen = s + held, seen & (held != HIDDEN)
    if ALIBI or MASK == 2:
        s = tl.minimum(tl.maximum(s, -FARTHEST), FARTHEST).to(tl.int32)
    return tl.where(within_reach(seen, at, key, window, CAUSAL, WINDOW), s, HIDDEN)


@triton.jit
def _shared(acc, total, cuts, slopes, intercepts, count, r_multiplier, r_shift, RECIPROCAL: tl.constexpr):
    """acc / total with 8 fraction bits, halves up; 0 where nothing was seen."""
    some, wide = tl.maximum(total, 1).to(tl.int64)[:, None], acc.to(tl.int64)
    if RECIPROCAL:
        leading = leading_one(some)
        mantissa = tl.minimum(shift_to(some, 14 - leading), 32767).to(tl.int32)
        root = roots(mantissa, cuts, slopes, intercepts, count, r_multiplier, r_shift)
        codes = requantised(wide, root, 7 + leading)
        codes = tl.minimum(tl.maximum(codes, -32768), 32767)
    else:
        codes = divide(wide << 8, some)
    return tl.where((total > 0)[:, None], codes, 0)


_RUNTIME = ["offset", "window", "queries", "keys", "heads", "groups", "count", "r_multiplier", "r_shift"]


@triton.jit(do_not_specialize=_RUNTIME)
def forward_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, q_numbers, q_exponents, k_numbers, k_exponents, mask_ptr, sinks_ptr, alibi_ptr,
    lengths_ptr, w_ptr, cuts, slopes, intercepts, mask_batch, mask_head, mask_row, mask_key, alibi_batch,
    heads, groups, queries, keys, offset, window, count, r_multiplier, r_shift,
    ONE_PASS: tl.constexpr, RECIPROCAL: tl.constexpr, MASK: tl.constexpr, SINKS: tl.constexpr, ALIBI: tl.constexpr,
    LENGTHS: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, SIZE: tl.constexpr, V_SIZE: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Grid (ceil(queries / BLOCK), batch * heads); all but the mask is contiguous. *_numbers, *_exponents: of each
    block's multiplier, (batch, heads, blocks). MASK: 0 none, 1 bool, 2 codes.
    """
    first = tl.program_id(0) * BLOCK
    batch, head = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    of_keys = batch * (heads // groups) + head // groups
    k_ptr += of_keys * keys * SIZE
    v_ptr += of_keys * keys * V_SIZE
    k_numbers += of_keys * tl.cdiv(keys, BLOCK)
    k_exponents += of_keys * tl.cdiv(keys, BLOCK)
    mask_ptr += batch * mask_batch + head * mask_head
    slope = tl.load(alibi_ptr + batch * alibi_batch + head).to(tl.int64) if ALIBI else 0
    limit = tl.minimum(tl.load(lengths_ptr + batch), keys) if LENGTHS else keys
    row = first + tl.arange(0, BLOCK)
    at = row + offset
    rows = (batch * heads + head) * queries + row
    q = _codes(q_ptr + (batch * heads + head) * queries * SIZE, row, SIZE, queries, SIZE, BLOCK_D)
    mine = (batch * heads + head) * tl.cdiv(queries, BLOCK) + tl.program_id(0)
    of_query = tl.load(q_numbers + mine)
    query_places = 30 - tl.load(q_exponents + mine)

    start, end = 0, limit
    if CAUSAL:
        end = tl.minimum(end, first + BLOCK + offset)
    elif WINDOW:
        end = tl.minimum(end, first + BLOCK + offset + window - 1)
    if WINDOW:
        start = tl.maximum(first + offset - window + 1, 0) // BLOCK * BLOCK

    reference = tl.full((BLOCK,), HIDDEN, tl.int32)
    total = tl.zeros((BLOCK,), tl.int32)
    acc = tl.zeros((BLOCK, BLOCK_V), tl.int32)
    if SINKS:
        sink = tl.load(sinks_ptr + head)
        reference = tl.zeros((BLOCK,), tl.int32) + sink
    if not ONE_PASS:
        for j in range(start, end, BLOCK):
            key = j + tl.arange(0, BLOCK)
            k = _codes(k_ptr, key, SIZE, limit, SIZE, BLOCK_D)
            s = _scores(q, k, row, at, key, of_query, query_places, tl.load(k_numbers + j // BLOCK),
                        tl.load(k_exponents + j // BLOCK), limit, queries, mask_ptr, mask_row, mask_key, slope, window,
                        MASK, ALIBI, CAUSAL, WINDOW)  # fmt: skip
            reference = tl.maximum(reference, tl.max(s, axis=1))
    if SINKS:
        total = _weighed(sink - reference, w_ptr)
    for j in range(start, end, BLOCK):
        key = j + tl.arange(0, BLOCK)
        k = _codes(k_ptr, key, SIZE, limit, SIZE, BLOCK_D)
        s = _scores(q, k, row, at, key, of_query, query_places, tl.load(k_numbers + j // BLOCK),
                    tl.load(k_exponents + j // BLOCK), limit, queries, mask_ptr, mask_row, mask_key, slope, window,
                    MASK, ALIBI, CAUSAL, WINDOW)  # fmt: skip
        if ONE_PASS:
            top = tl.max(s, axis=1)
            octaves = tl.maximum((top - reference + 31) >> 5, 0)
            new = reference == HIDDEN
            reference = tl.where(new, top, reference + 32 * octaves)
            octaves = tl.where(new, 0, tl.minimum(octaves, 31))
            acc = _shifted_down(acc, octaves[:, None])
            total = _shifted_down(total, octaves)
        w = tl.where(s == HIDDEN, 0, _weighed(s - reference[:, None], w_ptr))
        total += tl.sum(w, axis=1)
        acc = tl.dot(w.to(tl.int8), _codes(v_ptr, key, V_SIZE, limit, V_SIZE, BLOCK_V), acc, out_dtype=tl.int32)

    codes = _shared(acc, total, cuts, slopes, intercepts, count, r_multiplier, r_shift, RECIPROCAL)
    column = tl.arange(0, BLOCK_V)
    inside = (row[:, None] < queries) & (column[None, :] < V_SIZE)
    tl.store(out_ptr + rows[:, None] * V_SIZE + column[None, :], codes.to(tl.int16), mask=inside)


def options(block: int) -> dict:
    return {"num_warps": 4 if block < 128 else 8, "num_stages": 1}


def forward(inputs: Any, tables: Any, form: Any, block: int) -> torch.Tensor:
    """Codes (int16), as `lutc.nn.integer_attention_blocks.forward`; inputs, tables, form: its Codes and Tables, and
    `attention_blocks.Form`.
    """
    q, k, v = (x.contiguous() for x in (inputs.q, inputs.k, inputs.v))
    batch, heads, queries, size = q.shape
    keys = k.shape[2]
    out = torch.zeros((batch, heads, queries, v.shape[-1]), dtype=torch.int16, device=q.device)
    if not out.numel() or not keys:
        return out
    mask = inputs.mask
    kind = 0 if mask is None else (1 if mask.dtype == torch.bool else 2)
    held, strides = q, (0, 0, 0, 0)
    if mask is not None:
        held = (mask.view(torch.int8) if kind == 1 else mask).expand(batch, heads, queries, keys)
        strides = held.stride()
    roots_of = tables.roots or (q, q, q)
    scales = (x.contiguous() for x in (*inputs.of_query, *inputs.of_key))
    alibi, sinks, lengths = (q if x is None else x for x in (inputs.alibi, inputs.sinks, inputs.lengths))
    alibi_batch = 0 if inputs.alibi is None or inputs.alibi.shape[0] == 1 else heads
    with torch.cuda.device_of(q):
        forward_kernel[triton.cdiv(queries, block), batch * heads](
            q, k, v, out, *scales, held, sinks, alibi, lengths, tables.weights, *roots_of, *strides, alibi_batch,
            heads, heads // k.shape[1], queries, keys, form.offset, form.window,
            roots_of[0].numel() if tables.roots else 0, *tables.requantiser,
            ONE_PASS=form.rescale == "shift", RECIPROCAL=tables.roots is not None, MASK=kind,
            SINKS=inputs.sinks is not None, ALIBI=inputs.alibi is not None, LENGTHS=inputs.lengths is not None,
            CAUSAL=form.causal, WINDOW=form.window != 0, SIZE=size, V_SIZE=v.shape[-1],
            BLOCK_D=max(32, blocks_of(size)), BLOCK_V=max(32, blocks_of(v.shape[-1])), BLOCK=block,
            **options(block),
        )  # fmt: skip
    return out
