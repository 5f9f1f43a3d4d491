"""Attention with a table's exponential as custom operators: the forward, the backward that computes the weights again,
and what torch.compile, torch.export and vmap need of them.

Triton on CUDA for float16, bfloat16 and float32 with heads of up to 256; `lutc.nn.attention_blocks` for all else.
"""

from __future__ import annotations

import torch

from lutc.nn import attention_blocks as blocks
from lutc.nn import rows
from lutc.nn.batched import one_by_one
from lutc.nn.lowered import has_triton
from lutc.nn.row_tables import Plans, check_device, no_autocast, plans_of

LARGEST_HEAD = 256


def _fused(q: torch.Tensor, v: torch.Tensor) -> bool:
    largest = max(q.shape[-1], v.shape[-1])
    return q.is_cuda and q.dtype != torch.float64 and has_triton() and largest <= LARGEST_HEAD


@torch.library.custom_op("lutc::attention", mutates_args=())
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    sinks: torch.Tensor | None,
    alibi: torch.Tensor | None,
    lengths: torch.Tensor | None,
    words: list[torch.Tensor],
    meta: list[int],
    period: float,
    reciprocal: bool,
    scale: float,
    causal: bool,
    offset: int,
    window: int,
    softcap: float,
    rescale: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(out, largest scores, sums of weights); shapes as in `attention_blocks.Operands` and `forward`, the numbers as in
    its `Form`. words, meta: of the exp table, the reciprocal's where `reciprocal`, and the tanh's if it caps.
    """
    check_device(q, (k, v, mask, sinks, alibi, lengths, *words))
    inputs = blocks.Operands(q, k, v, mask, sinks, alibi, lengths)
    form = blocks.Form(period, reciprocal, scale, causal, offset, window, softcap, rescale)
    if _fused(q, v):
        from lutc.kernels import attention as kernels  # brings triton

        return kernels.forward(inputs, plans_of(words, meta), form)
    with no_autocast(q):
        return blocks.forward(inputs, plans_of(words, meta), form)


@attention.register_fake
def _(q, k, v, mask, sinks, alibi, lengths, words, meta, period, reciprocal, scale, causal, offset, window, softcap,
      rescale):  # fmt: skip
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    rows = q.shape[:3]
    return q.new_empty((*rows, v.shape[-1])), *(q.new_empty(rows, dtype=wide) for _ in range(2))


def fused_backward(
    gradient: torch.Tensor,
    inputs: blocks.Operands,
    out: torch.Tensor,
    tops: torch.Tensor,
    totals: torch.Tensor,
    plans: list[Plans],
    form: blocks.Form,
) -> blocks.Gradients:
    """`attention_blocks.backward` by the Triton kernels, without a mask's gradient."""
    from lutc.kernels import attention as kernels  # brings triton

    seen = totals != 0
    share = rows.reciprocal(totals, plans[1]) if form.reciprocal else 1.0 / totals
    share, top = torch.where(seen, share, 0.0), torch.where(seen, tops, 0.0)
    inner = (gradient.float() * out.float()).sum(-1)
    to_sinks = None
    if inputs.sinks is not None:
        weights = rows.exp(inputs.sinks.float()[:, None] - top, plans[0], form.period)
        to_sinks = -(weights * share * inner).sum((0, 2)).to(inputs.sinks.dtype)
    to_q, to_k, to_v = kernels.backward(gradient, inputs, inner, top, share, plans, form)
    return blocks.Gradients(to_q, to_k, to_v, None, to_sinks)


@torch.library.custom_op("lutc::attention_backward", mutates_args=())
def attention_backward(
    gradient: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    sinks: torch.Tensor | None,
    alibi: torch.Tensor | None,
    lengths: torch.Tensor | None,
    out: torch.Tensor,
    tops: torch.Tensor,
    totals: torch.Tensor,
    words: list[torch.Tensor],
    meta: list[int],
    period: float,
    reciprocal: bool,
    scale: float,
    causal: bool,
    offset: int,
    window: int,
    softcap: float,
    rescale: str,
    to_mask: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k, v, the mask (if `to_mask`) and the sinks; those of what is not there are empty."""
    inputs = blocks.Operands(q, k, v, mask, sinks, alibi, lengths)
    form = blocks.Form(period, reciprocal, scale, causal, offset, window, softcap, rescale)
    with no_autocast(q):
        if _fused(q, v) and not to_mask:
            found = fused_backward(gradient, inputs, out, tops, totals, plans_of(words, meta), form)
        else:
            found = blocks.backward(gradient, inputs, out, tops, totals, plans_of(words, meta), form, to_mask)
    rest = (q.new_empty(0) if one is None else one for one in (found.mask, found.sinks))
    return found.q, found.k, found.v, *rest


@attention_backward.register_fake
def _(gradient, q, k, v, mask, sinks, alibi, lengths, out, tops, totals, words, meta, period, reciprocal, scale, causal,
      offset, window, softcap, rescale, to_mask):  # fmt: skip
    def like(x):
        return torch.empty_like(x, memory_format=torch.contiguous_format)

    return (
        like(q),
        like(k),
        like(v),
        like(mask) if to_mask else q.new_empty(0),
        q.new_empty(0) if sinks is None else like(sinks),
    )


def _save(ctx, inputs, output):
    q, k, v, mask, sinks, alibi, lengths, words, *ctx.rest = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, mask, sinks, alibi, lengths, *output, *words)


def _backward(ctx, gradient, *_):
    if gradient is None:
        return (None,) * 17
    q, k, v, mask, sinks, alibi, lengths, out, tops, totals, *words = ctx.saved_tensors  # once: see torch's checkpoints
    given = q, k, v, mask, sinks, alibi, lengths
    found = attention_backward(gradient, *given, out, tops, totals, words, *ctx.rest, ctx.needs_input_grad[3])
    to_mask = found[3] if ctx.needs_input_grad[3] else None
    to_sinks = None if sinks is None else found[4]
    return *found[:3], to_mask, to_sinks, None, None, [None] * len(words), *[None] * 9


attention.register_autograd(_backward, setup_context=_save)
attention.register_vmap(lambda info, dims, *arguments: one_by_one(attention, info, dims, *arguments))
attention_backward.register_vmap(lambda info, dims, *arguments: one_by_one(attention_backward, info, dims, *arguments))
