"""Attention with a table softmax: torch's functional forms and the interface that transformers picks by name."""

from __future__ import annotations

import copy
import functools
import inspect
import math
import types
import warnings
from typing import Any

import torch
from torch.nn import functional as F

from lutc.errors import LutcError
from lutc.nn import transforms
from lutc.nn.attention import attention as fused_attention
from lutc.nn.integer_attention import IntegerAttention

# Names of the attention and its mask in transformers' registries, by the attention that they replace: each keeps its
# kind of mask.
NAMES = {"sdpa": "lutc_sdpa", "eager": "lutc_eager"}

# What `patch` takes as attention=, and how what is summed in blocks is rescaled (lutc.nn.attention, and in integers
# lutc.nn.integer_attention); None: the whole matrix of scores in memory.
FORMS = {"materialised": None, "fused": "none", "fused-exact": "exact", "fused-table": "table", "integer": "shift"}


def in_form(softmax: Any, form: str | None) -> Any:
    """A copy of a LUTSoftmax that computes attention in one of FORMS; itself where none is asked for."""
    if form is None:
        return softmax
    if form not in FORMS:
        raise LutcError(f"attention is one of {', '.join(FORMS)}; given {form!r}")
    if softmax is None:
        raise LutcError("attention= says how a table softmax computes attention; give softmax= with it")
    softmax = copy.deepcopy(softmax)
    softmax.rescale = FORMS[form]
    if form == "integer":
        softmax.integer = IntegerAttention(softmax.held["exp"], softmax.held.get("reciprocal"))
    return softmax


def in_blocks(operator: Any) -> bool:
    """Whether what stands for softmax computes attention in blocks; an observer does not."""
    return getattr(getattr(operator, "module", None), "rescale", None) is not None


def _autocast(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """In autocast's dtype where it is on, as torch's own attention takes them; float64 stays."""
    kind = tensors[0].device.type
    if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return [*tensors]
    dtype = torch.get_autocast_dtype(kind)
    return [x.to(dtype) if x.is_floating_point() and x.dtype != torch.float64 else x for x in tensors]


def _attend_in_blocks(softmax, query, key, value, mask, **options) -> torch.Tensor:
    query, key, value = _autocast(query, key, value)
    integer = getattr(softmax, "integer", None)
    if integer is not None:
        return integer(query, key, value, mask, **options)
    return fused_attention(softmax, query, key, value, mask, rescale=softmax.rescale, **options)


def _fused(softmax, query, key, value, weights: bool = False) -> bool:
    """Whether attention runs in blocks. Where blocks were asked for and do not serve, that is said once."""
    if getattr(softmax, "rescale", None) is None:
        return False
    said = functools.partial(_said, integer=getattr(softmax, "integer", None) is not None)
    if weights:
        return said("the weights of attention are asked for")
    if transforms.active():
        return said("torch.func and forward-mode differentiation go through no custom operator")
    if not query.dim() == key.dim() == value.dim() >= 3 or not query.shape[:-3] == key.shape[:-3] == value.shape[:-3]:
        return said("query, key and value differ in their batch dimensions, or have none for heads")
    heads, key_heads, value_heads = (x.shape[-3] for x in (query, key, value))
    if key_heads != value_heads or not key_heads or heads % key_heads:
        return said(f"{heads} heads of query, {key_heads} of key and {value_heads} of value are no groups")
    return True


@functools.cache
def _said(why: str, integer: bool) -> bool:
    how = "runs in floats and materialises" if integer else "materialises"
    warnings.warn(f"attention by tables {how} its scores here: {why}", stacklevel=4)
    return False


def attend(
    softmax: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    softcap: float | None = None,
    weights: bool = False,
) -> Any:
    """`F.scaled_dot_product_attention` with the rows' softmax taken by `softmax` (a LUTSoftmax); same arguments, shapes
    and masks.

    As there, a row whose keys are all masked by -inf gives zeros. softcap: scores become softcap * tanh(scores /
    softcap). weights: also return the attention weights, shape (..., queries, keys), before dropout.
    """
    if is_causal and attn_mask is not None:
        raise LutcError("attention takes either a mask or is_causal=True; given both")
    if attn_mask is not None and not (attn_mask.dtype == torch.bool or attn_mask.is_floating_point()):
        raise LutcError(f"a mask is bool (True: seen) or of a float dtype (added); given {attn_mask.dtype}")
    if _fused(softmax, query, key, value, weights):
        options: dict[str, Any] = {
            "causal": is_causal,
            "offset": 0,
            "scale": scale,
            "softcap": softcap,
            "dropout": dropout_p,
        }
        return _attend_in_blocks(softmax, query, key, value, attn_mask, **options)
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * scale) @ key.transpose(-2, -1)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    probabilities = softmax.along(scores, -1)
    if attn_mask is not None:
        probabilities = probabilities.masked_fill((scores == -math.inf).all(-1, keepdim=True), 0.0)
    probabilities = probabilities.to(value.dtype)
    output = F.dropout(probabilities, dropout_p, training=dropout_p > 0) @ value
    return (output, probabilities) if weights else output


def multi_head_attention(softmax: Any, *args, **kwargs) -> Any:
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


def _original(module: Any, name: Any):
    """The attention function that `module` used before its config named ours."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if name == "eager":
        return inspect.unwrap(type(module).forward).__globals__["eager_attention_forward"]
    return ALL_ATTENTION_FUNCTIONS[name]


def interface(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    position_bias: torch.Tensor | None = None,
    **kwargs,
) -> Any:
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
    weights = bool(kwargs.get("output_attentions", getattr(module.config, "output_attentions", False)))
    fused = _fused(softmax, query, key, value, weights)
    for name in ("cache", "block_table", "indices", *(() if fused else ("s_aux",))):
        if kwargs.get(name) is not None:
            raise LutcError(
                f"attention with '{name}' cannot run with a table softmax; unpatch {type(module).__name__} or leave it "
                "out (skip=...)"
            )
    groups = query.shape[1] // key.shape[1]
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    causal = bool(is_causal) and attention_mask is None and query.shape[2] > 1
    if fused:
        if position_bias is not None:
            attention_mask = _biased(position_bias, attention_mask, False)
        options: dict[str, Any] = {
            "causal": causal,
            "offset": 0,
            "scale": scaling,
            "softcap": softcap,
            "sinks": kwargs.get("s_aux"),
            "dropout": dropout,
        }
        output = _attend_in_blocks(softmax, query, key, value, attention_mask, **options)
        return output.transpose(1, 2).contiguous(), None
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


NAMED = {name: before for before, name in NAMES.items()}  # by the name that a patched config has


def register() -> None:
    """Put the interface and, under the same names, the masks into transformers' registries; without the mask padding is
    lost.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    for before, name in NAMES.items():
        ALL_ATTENTION_FUNCTIONS.register(name, interface)
        ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[before])
