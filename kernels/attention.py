"""Launches of the attention kernels: tiles, arguments, forward and backward.

`forward` takes "exp2", or "cubic" as FlashAttention-4 has it, in the table's place, to be counted and timed beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from lutc.kernels import softmax
from lutc.kernels.attention_backward import keys_kernel, queries_kernel
from lutc.kernels.attention_forward import forward_kernel

from lutc.measures import EXP_FLOOR

LOG2E = 1.4426950408889634


def tile(size: int, itemsize: int, backward: bool = False) -> dict:
    """Blocks and warps for heads of `size` (rounded up to a power of two): what fits shared memory on sm_80."""
    wide = size * itemsize > 256
    if backward:
        block = 32 if wide else 64
        return {"BLOCK_M": block, "BLOCK_N": block, "num_warps": 4, "num_stages": 1 if wide else 2}
    if itemsize == 4:  # one stage: a second one spills
        block = 32 if wide else 64
        return {"BLOCK_M": block, "BLOCK_N": block, "num_warps": 8, "num_stages": 1}
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
    tanh = (plans[1 + form.reciprocal] if capped else plans[0]).fast
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
        **softmax.plan_arguments("e", plans[0].fast, "E"),
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
    plans: `lutc.nn.row_tables.Plans` of each table. exp: "table", or "exp2" or "cubic" in its place.

    In 16 bits weights are looked up in even pieces, where the table has such a plan (`lutc.lower.even_plans`).
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
    even = exp == "table" and q.itemsize == 2 and plans[0].even[1]
    shared = _shared(q, k, v, inputs, plans, form, "even" if even else exp)
    if even:
        shared |= {"e_words": plans[0].even[0], "E_KIND": 0, "E_FLAGS": 0}
        unit /= plans[0].even[1][0]
    by = {"r_words": shared["e_words"], **{f"r{i}": 0 for i in range(6)}, "R_KIND": 0, "R_FLAGS": 0}
    if form.reciprocal:
        by = softmax.plan_arguments("r", plans[1].fast, "R")
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
            **shared,
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
        keys_kernel[by_keys](to_k_ptr=to_k, to_v_ptr=to_v, **common, **shape, enable_fp_fusion=False)
        queries_kernel[by_queries](to_q_ptr=to_q, **common, **shape, enable_fp_fusion=False)
    return to_q, to_k, to_v
