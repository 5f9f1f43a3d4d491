"""What attention takes, checked: shapes, dtypes and numbers, each mistake in one line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import NoneType
from typing import Any

import numpy as np
import torch

from lutc.errors import LutcError
from lutc.nn import transforms
from lutc.nn.attention_blocks import Operands
from lutc.nn.row_tables import check_device, check_float

FARTHEST = 1 << 29  # of an offset or a window, either way: kernels add both to positions, in 32 bits
MASKS = (torch.bool, torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def operands(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    sinks: torch.Tensor | None,
    alibi: torch.Tensor | None,
    lengths: torch.Tensor | None,
    dropout: float,
) -> Operands:
    """Checked, with four dimensions each."""
    _check(query, key, value, mask, alibi, sinks, lengths, dropout)
    lead = query.shape[:-3]
    q, k, v = (_folded(x) for x in (query, key, value))
    if mask is not None:
        mask = four(mask, lead, query, key)
    if lengths is not None:
        lengths = lengths.long().clamp(0, key.shape[-2]).to(torch.int32).contiguous()
    if alibi is not None:
        alibi = alibi.detach().float().reshape(-1, q.shape[1]).contiguous()
    return Operands(q, k, v, mask, sinks, alibi, lengths)


def _folded(x: torch.Tensor) -> torch.Tensor:
    return x if x.dim() == 4 else x.reshape(-1, *x.shape[-3:])


def four(mask: torch.Tensor, lead: Sequence[int], query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """The mask with four dimensions."""
    if mask.dim() <= 4 and len(lead) <= 1:
        return mask[(None,) * (4 - mask.dim())]
    mask = mask[(None,) * (len(lead) + 3 - mask.dim())]
    return mask.expand(*lead, -1, -1, -1).reshape(-1, *mask.shape[-3:])


def whole(name: str, value: Any) -> int | torch.SymInt:
    """An integer that stays within 32 bits when positions are added to it."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer, torch.SymInt)):
        raise LutcError(f"{name} is an integer; given {value!r}")
    if not -FARTHEST <= value <= FARTHEST:
        raise LutcError(f"{name} lies within -2^29 and 2^29; given {value}")
    return int(value) if isinstance(value, np.integer) else value


def window_of(window: int | None) -> int | torch.SymInt:
    """0 for none; a window behind all positions is as good as one of 2^29."""
    if window is None:
        return 0
    if isinstance(window, int) and window > FARTHEST:
        return FARTHEST
    found = whole("window", window)
    positive("window", found)
    return found


def scale_of(scale: float | None, size: int) -> float:
    if scale is None:
        return 1.0 / math.sqrt(size)
    return number("scale", scale)


def number(name: str, value: Any) -> float:
    try:
        found = float(value + 0.0)  # a text has no sum
    except (TypeError, ValueError, RuntimeError) as error:
        raise LutcError(f"{name} is a number; given {value!r}") from error
    if not -math.inf < found < math.inf:
        raise LutcError(f"{name} is a finite number; given {value}")
    return found


def switch(name: str, value: Any) -> bool:
    if value not in (True, False):
        raise LutcError(f"{name} is True or False; given {value!r}")
    return bool(value)


def positive(name: str, value: Any) -> Any:
    if not value > 0:
        raise LutcError(f"{name} is a positive number, or None for no {name}; given {value}")
    return value


def one_of(allowed: tuple[str, ...], rescale: str) -> str:
    if rescale not in allowed:
        raise LutcError(f"rescale is one of {', '.join(allowed)}; given {rescale!r}")
    return rescale


def _shapes(*tensors) -> str:
    return ", ".join(str(tuple(x.shape)) for x in tensors)


def _check(query, key, value, mask, alibi, sinks, lengths, dropout) -> None:
    for name, x in (("query", query), ("key", key), ("value", value)):
        check_float(x, f"attention ({name})")
        if x.layout != torch.strided or x.is_nested:
            raise LutcError(f"attention takes dense tensors; {name} is sparse or nested: pad it, or pack its sequences")
    for name, x in (("mask", mask), ("sinks", sinks), ("alibi", alibi), ("lengths", lengths)):
        if not isinstance(x, (torch.Tensor, NoneType)):
            raise LutcError(f"{name} is a tensor or None; given {type(x).__name__}: torch.tensor makes one")
    if dropout:
        raise LutcError(
            f"attention by tables has no dropout; given {dropout}: set the model's attention_dropout to 0, or use the "
            "materialising path (attention='materialised')"
        )
    if transforms.differentiates():
        raise LutcError(
            "attention in blocks has no derivative under torch.func or in forward mode; use torch.autograd.grad, or "
            "lutc.patch with attention='materialised'"
        )
    if alibi is not None and alibi.requires_grad and torch.is_grad_enabled():
        raise LutcError("alibi has no gradient; detach() the slopes, or give slopes * distances as an added mask")
    if not (query.dtype == key.dtype == value.dtype):
        raise LutcError(f"query, key and value have one dtype; given {query.dtype}, {key.dtype}, {value.dtype}")
    fits = query.dim() == key.dim() == value.dim() >= 3
    fits = fits and query.shape[:-3] == key.shape[:-3] == value.shape[:-3] and key.shape[-3:-1] == value.shape[-3:-1]
    if not fits or query.shape[-1] != key.shape[-1]:
        raise LutcError(
            "attention takes query (..., heads, queries, size), key and value (..., key heads, keys, size); given "
            f"{_shapes(query, key, value)}"
        )
    if not query.shape[-1] or not value.shape[-1]:
        raise LutcError(f"attention takes heads of at least size 1; given {_shapes(query, key, value)}")
    heads, key_heads = query.shape[-3], key.shape[-3]
    if not key_heads or not heads or heads % key_heads:
        raise LutcError(f"the heads of query are a multiple of those of key; given {heads} and {key_heads}")
    batch, rows = math.prod(query.shape[:-3]), (*query.shape[:-1], key.shape[-2])
    if mask is not None:
        if mask.dtype not in MASKS:
            raise LutcError(
                f"a mask is bool (True: seen) or float32, float16, bfloat16 or float64 (added); given {mask.dtype}"
            )
        sizes = zip(reversed(mask.shape), reversed(rows))
        if mask.dim() > len(rows) or any(size not in (1, wanted) for size, wanted in sizes):
            raise LutcError(f"a mask of shape {tuple(mask.shape)} does not broadcast to {rows}")
    for name, given, allowed in (
        ("sinks", sinks, [(heads,)]),
        ("alibi", alibi, [(heads,), (batch, heads)]),
        ("lengths", lengths, [(batch,)]),
    ):
        if given is not None and tuple(given.shape) not in allowed:
            shapes = " or ".join(map(str, allowed))
            raise LutcError(f"{name} has the shape {shapes}; given {tuple(given.shape)}")
    if lengths is not None and lengths.dtype not in INTEGERS:
        raise LutcError(f"lengths are integers; given {lengths.dtype}")
    for name, x in (("sinks", sinks), ("alibi", alibi)):
        if x is not None and x.dtype not in (*MASKS[1:], *INTEGERS):
            raise LutcError(f"{name} are real numbers; given {x.dtype}")
    check_device(query, (key, value, mask, sinks, alibi, lengths))
