"""Attention with a table softmax: torch's functional forms and the interface that transformers picks by name."""

from __future__ import annotations

import inspect
import math
import types

import torch
from torch.nn import functional as F

from lutc.errors import LutcError

# Names of the attention and its mask in transformers' registries, by the attention that they replace: each keeps its
# kind of mask.
NAMES = {"sdpa": "lutc_sdpa", "eager": "lutc_eager"}


def attend(
    softmax,
    query,
    key,
    value,
    attn_mask=None,
    dropout_p=0.0,
    is_causal=False,
    scale=None,
    enable_gqa=False,
    *,
    softcap=None,
    weights=False,
):
    """`F.scaled_dot_product_attention` with the rows' softmax taken by `softmax` (a LUTSoftmax); same arguments, shapes
    and masks.

    As there, a row whose keys are all masked by -inf gives zeros. softcap: scores become softcap * tanh(scores /
    softcap). weights: also return the attention weights, shape (..., queries, keys), before dropout.
    """
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * scale) @ key.transpose(-2, -1)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if is_causal:
        if attn_mask is not None:
            raise LutcError("attention takes either a mask or is_causal=True; given both")
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    probabilities = softmax.along(scores, -1)
    if attn_mask is not None:
        probabilities = probabilities.masked_fill((scores == -math.inf).all(-1, keepdim=True), 0.0)
    probabilities = probabilities.to(value.dtype)
    output = F.dropout(probabilities, dropout_p, training=dropout_p > 0) @ value
    return (output, probabilities) if weights else output


def multi_head_attention(softmax, *args, **kwargs):
    """`F.multi_head_attention_forward` with its softmax taken by a table: torch's own code over other names."""
    original = F.multi_head_attention_forward
    names = {
        **original.__globals__,
        "has_torch_function": lambda tensors: False,  # we are inside the answer already
        "softmax": lambda input, dim: softmax.along(input, dim),
        "scaled_dot_product_attention": lambda *a: attend(softmax, *a),
    }
    rebound = types.FunctionType(
        original.__code__, names, original.__name__, original.__defaults__, original.__closure__
    )
    return rebound(*args, **kwargs)


def _original(module, name: str):
    """The attention function that `module` used before its config named ours."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if name == "eager":
        return inspect.unwrap(type(module).forward).__globals__["eager_attention_forward"]
    return ALL_ATTENTION_FUNCTIONS[name]


def interface(
    module,
    query,
    key,
    value,
    attention_mask,
    dropout=0.0,
    scaling=None,
    is_causal=None,
    softcap=None,
    position_bias=None,
    **kwargs,
):
    """transformers' attention interface: (batch, heads, length, size) in, ((batch, length, heads, size), weights) out.

    Modules without a table softmax (left out of the patch, but sharing the config) go on as before.
    """
    softmax = getattr(module, "lutc_softmax", None)
    if softmax is None:
        own = {
            k: v
            for k, v in {"is_causal": is_causal, "softcap": softcap, "position_bias": position_bias}.items()
            if v is not None
        }
        before = _original(module, module.lutc_attention)
        return before(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **own, **kwargs)
    for name in ("s_aux", "cache", "block_table", "indices"):
        if kwargs.get(name) is not None:
            raise LutcError(
                f"attention with '{name}' cannot run with a table softmax; unpatch {type(module).__name__} or leave it "
                "out (skip=...)"
            )
    groups = query.shape[1] // key.shape[1]
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    causal = bool(is_causal) and attention_mask is None and query.shape[2] > 1
    if position_bias is not None:
        attention_mask = _biased(position_bias, attention_mask, causal)
        causal = False
    output, weights = attend(
        softmax, query, key, value, attention_mask, dropout, causal, scaling, groups > 1, softcap=softcap, weights=True
    )  # fmt: skip
    return output.transpose(1, 2).contiguous(), weights


def _biased(bias, mask, causal: bool):
    """A position bias with the mask laid over it, as an additive mask."""
    if causal:
        mask = torch.ones(bias.shape[-2:], dtype=torch.bool, device=bias.device).tril()
    if mask is None:
        return bias
    return bias.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else bias + mask


def register() -> None:
    """Put the interface and, under the same names, the masks into transformers' registries; without the mask padding is
    lost.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    for before, name in NAMES.items():
        ALL_ATTENTION_FUNCTIONS.register(name, interface)
        ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[before])
