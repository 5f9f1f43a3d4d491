"""Attention in integers as a custom operator: floats in and out, codes of 8 bits and int32 sums between them.

Triton on CUDA for heads of up to 256, `lutc.nn.integer_attention_blocks` for all else; both give
`lutc.hardware.attention.IntegerAttentionModel`'s codes.
"""

from __future__ import annotations

import torch

from lutc.errors import LutcError
from lutc.hardware.attention import VALUE_BITS
from lutc.nn import integer_attention_blocks as blocks
from lutc.nn.attention_blocks import Form, Operands
from lutc.nn.attention_ops import LARGEST_HEAD
from lutc.nn.batched import one_by_one
from lutc.nn.lowered import has_triton
from lutc.nn.row_tables import check_device, no_autocast


@torch.library.custom_op("lutc::integer_attention", mutates_args=())
def integer_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    sinks: torch.Tensor | None,
    alibi: torch.Tensor | None,
    lengths: torch.Tensor | None,
    weights: torch.Tensor,
    roots: list[torch.Tensor],
    requantiser: list[int],
    scale: float,
    causal: bool,
    offset: int,
    window: int,
    rescale: str,
    block: int,
) -> torch.Tensor:
    """The result in q's dtype; shapes as in `attention_blocks.Operands`. weights: int8, `weight_table`; roots: cuts,
    slopes and intercepts (int32) of 1/x with its requantiser, none to divide; rescale: "shift" or "none".
    """
    check_device(q, (k, v, mask, sinks, alibi, lengths, weights, *roots))
    form = Form(0.0, bool(roots), scale, causal, offset, window, 0.0, rescale)
    codes, scales, wrong = blocks.in_codes(Operands(q, k, v, mask, sinks, alibi, lengths), scale, block)
    of_roots = (roots[0], roots[1], roots[2]) if roots else None
    tables = blocks.Tables(weights, of_roots, (requantiser[0], requantiser[1]))
    if q.is_cuda and has_triton() and max(q.shape[-1], v.shape[-1]) <= LARGEST_HEAD:
        from lutc.kernels import integer_attention as kernels  # brings triton

        out = kernels.forward(codes, tables, form, block)
    else:
        with no_autocast(q):
            out = blocks.forward(codes, tables, form, block)
    return (out * (scales * 2.0**-VALUE_BITS)).masked_fill_(wrong, float("nan")).to(q.dtype)


@integer_attention.register_fake
def _(q, k, v, *rest):
    return q.new_empty((*q.shape[:3], v.shape[-1]))


def _no_gradient(ctx, gradient):
    raise LutcError("attention in integers has no gradient; train with LUTAttention, or call it under torch.no_grad()")


integer_attention.register_autograd(_no_gradient)
integer_attention.register_vmap(lambda info, dims, *arguments: one_by_one(integer_attention, info, dims, *arguments))
