"""What attention takes, checked: shapes, dtypes and numbers, each mistake in one line."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from lutc.errors import LutcError
from lutc.nn.attention_blocks import Operands
from lutc.nn.row_tables import check_float


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
        lengths = lengths.to(torch.int32).contiguous()
    if alibi is not None:
        alibi = alibi.detach().float().reshape(-1, q.shape[1]).contiguous()
    return Operands(q, k, v, mask, sinks, alibi, lengths)


def _folded(x: torch.Tensor) -> torch.Tensor:
    return x if x.dim() == 4 else x.reshape(-1, *x.shape[-3:])


def four(mask: torch.Tensor, lead: Sequence[int], query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """The mask with four dimensions."""
    if mask.dim() <= 4 and len(lead) <= 1:
        return mask[(None,) * (4 - mask.dim())]
    return mask.expand(*lead, *mask.shape[-3:]).reshape(-1, *mask.shape[-3:])


def positive(name: str, value: float) -> float:
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
    if dropout:
        raise LutcError(
            f"attention by tables has no dropout; given {dropout}: set the model's attention_dropout to 0, or use the "
            "materialising path (attention='materialised')"
        )
    if not (query.dtype == key.dtype == value.dtype):
        raise LutcError(f"query, key and value have one dtype; given {query.dtype}, {key.dtype}, {value.dtype}")
    fits = query.dim() == key.dim() == value.dim() >= 3
    fits = fits and query.shape[:-3] == key.shape[:-3] == value.shape[:-3] and key.shape[-3:-1] == value.shape[-3:-1]
    if not fits or query.shape[-1] != key.shape[-1]:
        raise LutcError(
            "attention takes query (..., heads, queries, size), key and value (..., key heads, keys, size); given "
            f"{_shapes(query, key, value)}"
        )
    heads, key_heads = query.shape[-3], key.shape[-3]
    if heads % key_heads if key_heads else heads:
        raise LutcError(f"the heads of query are a multiple of those of key; given {heads} and {key_heads}")
    batch, rows = math.prod(query.shape[:-3]), (*query.shape[:-1], key.shape[-2])
    if mask is not None:
        if mask.dtype != torch.bool and not mask.is_floating_point():
            raise LutcError(f"a mask is bool (True: seen) or of a float dtype (added); given {mask.dtype}")
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
    if lengths is not None and lengths.is_floating_point():
        raise LutcError(f"lengths are integers; given {lengths.dtype}")
