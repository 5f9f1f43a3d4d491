"""Attention with a table's exponential in blocks of queries and keys, in torch operations on any device: memory grows
with the number of tokens, not with its square.

The online softmax of Milakov and Gimelshein (arXiv:1805.02867) as FlashAttention (arXiv:2205.14135) uses it, with the
table T for exp: m is the largest score so far, w = T(s - m), and where m grows to m' what was summed is multiplied by
R(m - m'). R is exp, or T itself, or there is none: with `rescale` "none" the largest score of each row is found first,
in a pass of its own. Arithmetic is float32, or float64 for float64 inputs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from lutc.nn import plain, rows
from lutc.nn.cpu import attention as cpu_attention
from lutc.nn.row_tables import Plans

_SCORES = 1 << 20  # scores at a time: 4 MiB
_KEYS = 512


@dataclass(frozen=True)
class Form:
    """The numbers of a call. period: of the exp table, 0 for one without; reciprocal: whether the second table is one
    of 1/x; offset: the position of the first query among the keys; window: keys that a query sees before itself, and
    after where not causal, itself included, 0 for all; softcap: 0 for none; rescale: "exact", "table" or "none".
    """

    period: float
    reciprocal: bool
    scale: float
    causal: bool
    offset: int
    window: int
    softcap: float
    rescale: str

    def keys(self, first: int, last: int, count: int) -> tuple[int, int]:
        """The range of keys that any of the queries first ... last - 1 sees, of `count`."""
        start = max(0, first + self.offset - self.window + 1) if self.window else 0
        end = count
        if self.causal:
            end = min(end, last + self.offset)
        elif self.window:
            end = min(end, last + self.offset + self.window - 1)
        end = max(0, end)
        return min(start, end), end


@dataclass(frozen=True, eq=False)
class Operands:
    """q (batch, heads, queries, size), k and v (batch, key heads, keys, size of each), and what goes over the scores:
    mask, broadcast to (batch, heads, queries, keys), bool (True: seen) or added; sinks (heads,) and alibi (batch or 1,
    heads), float32; lengths (batch,), int32: keys that there are.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    mask: torch.Tensor | None
    sinks: torch.Tensor | None
    alibi: torch.Tensor | None
    lengths: torch.Tensor | None

    @property
    def wide(self) -> torch.dtype:
        return torch.float64 if self.q.dtype == torch.float64 else torch.float32


def distances(form: Form, first: int, last: int, j: int, end: int, device: torch.device) -> torch.Tensor:
    """|position of the query - that of the key| of a block, (queries, keys)."""
    at = torch.arange(first + form.offset, last + form.offset, device=device)[:, None]
    return (at - torch.arange(j, end, device=device)).abs()


def unseen(
    form: Form, lengths: torch.Tensor | None, first: int, last: int, j: int, end: int, device: torch.device
) -> torch.Tensor | None:
    """What positions and lengths hide of a block, bool, broadcast to (batch, heads, queries, keys); or None."""
    at = torch.arange(first + form.offset, last + form.offset, device=device)[:, None]
    key = torch.arange(j, end, device=device)
    hidden = []
    if form.causal and end - 1 > first + form.offset:
        hidden.append(key > at)
    if form.window and j < last + form.offset - form.window:
        hidden.append(key <= at - form.window)
    if form.window and not form.causal and end - 1 > first + form.offset + form.window - 1:
        hidden.append(key >= at + form.window)
    if lengths is not None:
        hidden.append((key >= lengths[:, None])[:, None, None])
    return functools.reduce(torch.logical_or, hidden) if hidden else None


class _Blocks:
    """Walks over the blocks of one call. Rows of scores are laid out as (batch, key heads, queries of one key head):
    those of a group of heads are one product with their common keys.
    """

    def __init__(self, inputs: Operands, plans: list[Plans], form: Form):
        self.inputs, self.form, self.exp = inputs, form, plans[0]
        self.of_reciprocal = plans[1] if form.reciprocal else None
        self.of_tanh = plans[1 + form.reciprocal] if len(plans) > 1 + form.reciprocal else None
        q, k, v = inputs.q, inputs.k, inputs.v
        self.batch, self.heads, self.queries, self.size = q.shape
        self.key_heads, self.count = k.shape[1:3]
        self.groups = self.heads // self.key_heads
        self.k = k.reshape(self.batch * self.key_heads, self.count, k.shape[-1])
        self.v = v.reshape(self.batch * self.key_heads, self.count, v.shape[-1])
        many = max(1, self.batch * self.heads)
        self.keys = max(_KEYS, _SCORES // many) if self.queries == 1 else _KEYS
        self.step = max(16, min(256, _SCORES // (many * self.keys)))
        self.shortest = self.end = self.count
        if inputs.lengths is not None and self.batch:
            self.shortest, self.end = (min(self.count, int(one)) for one in inputs.lengths.aminmax())

    def query_blocks(self) -> Iterator[tuple[int, int]]:
        queries = self.queries if self.batch * self.heads else 0
        return ((first, min(first + self.step, queries)) for first in range(0, queries, self.step))

    def key_blocks(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        start, end = self.form.keys(first, last, self.end)
        return ((j, min(j + self.keys, end)) for j in range(start, end, self.keys))

    def folded(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, heads, n, size) as (batch * key heads, groups * n, size)."""
        return x.to(self.inputs.wide).reshape(self.batch * self.key_heads, -1, x.shape[-1])

    def whole(self, x: torch.Tensor, n: int) -> torch.Tensor:
        """Its inverse, for n queries; rows without a last dimension too."""
        return x.view(self.batch, self.heads, n, -1)

    def part(self, x: torch.Tensor, j: int, end: int) -> torch.Tensor:
        """Keys or values j ... end - 1; 0 behind the lengths, where anything may lie."""
        x, lengths = x[:, j:end].to(self.inputs.wide), self.inputs.lengths
        if lengths is None or end <= self.shortest:
            return x
        behind = torch.arange(j, end, device=x.device) >= lengths.repeat_interleave(self.key_heads)[:, None]
        return x.masked_fill(behind[..., None], 0.0)

    def scores(
        self, q: torch.Tensor, k: torch.Tensor, first: int, last: int, j: int, end: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(scores of a block, (batch, heads, queries, keys); tanh of what was capped, or None)."""
        s = self.whole(torch.bmm(q, k.transpose(1, 2)), last - first)
        inputs, form, capped = self.inputs, self.form, None
        if form.softcap:
            s.div_(form.softcap)
            capped = self._tanh(s)
            s = capped * form.softcap
        if inputs.alibi is not None:
            s -= inputs.alibi.to(s.dtype)[:, :, None, None] * distances(form, first, last, j, end, s.device)
        if inputs.mask is not None:
            mask = part_of(inputs.mask, first, last, j, end)
            s = s.masked_fill_(~mask, -math.inf) if mask.dtype == torch.bool else s.add_(mask)
        hidden = unseen(form, inputs.lengths, first, last, j, end, s.device)
        if hidden is not None:
            s.masked_fill_(hidden, -math.inf)
        return s, capped

    def _tanh(self, x: torch.Tensor) -> torch.Tensor:
        if self.of_tanh is None:
            return torch.tanh(x)
        words, meta = self.of_tanh.exact
        return plain.evaluate(x.double(), words, meta, False).to(x.dtype)

    def weights_(self, s: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
        """T(s - top) in the place of the scores s (rows, n); their sums (rows,)."""
        if s.device.type == "cpu" and s.dtype == torch.float32:
            return cpu_attention.weights(s, top, self.exp, self.form.period)
        s.copy_(rows.exp(s - top[:, None], self.exp, self.form.period))
        return s.sum(-1)

    def factor(self, d: torch.Tensor) -> torch.Tensor:
        """R(d) of d <= 0; 1 where the largest score stayed."""
        if self.form.rescale == "exact":
            return torch.exp(d)
        factor = d.clone()[:, None]
        self.weights_(factor, torch.zeros_like(d))
        return torch.where(d == 0, 1.0, factor[:, 0])

    def inverse(self, total: torch.Tensor) -> torch.Tensor | None:
        """1 / total by the table; None where the division is exact."""
        return None if self.of_reciprocal is None else rows.reciprocal(total, self.of_reciprocal)

    def sinks(self, n: int) -> torch.Tensor | None:
        """The sink's score of each row of n queries."""
        if self.inputs.sinks is None:
            return None
        return self.inputs.sinks.to(self.inputs.wide).expand(self.batch, -1)[..., None].expand(-1, -1, n).reshape(-1)


def _bounds(size: int, first: int, last: int) -> slice:
    return slice(None) if size == 1 else slice(first, last)


def part_of(mask: torch.Tensor, first: int, last: int, j: int, end: int) -> torch.Tensor:
    """A block of what is broadcast to (batch, heads, queries, keys)."""
    return mask[:, :, _bounds(mask.shape[2], first, last), _bounds(mask.shape[3], j, end)]


def _finite(top: torch.Tensor) -> torch.Tensor:
    """A reference for rows that have seen nothing: -inf less -inf would be NaN."""
    return top.masked_fill(top == -math.inf, 0.0)


def forward(inputs: Operands, plans: list[Plans], form: Form) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(out, top, total): out (batch, heads, queries, value size), contiguous, of q's dtype; the largest score and the
    sum of weights of each row, (batch, heads, queries), float32 or float64. A row that sees no key gives 0.
    """
    blocks, q = _Blocks(inputs, plans, form), inputs.q
    out = q.new_empty(*q.shape[:3], inputs.v.shape[-1])
    tops, totals = (torch.empty(q.shape[:3], dtype=inputs.wide, device=q.device) for _ in range(2))
    for first, last in blocks.query_blocks():
        n = last - first
        part = blocks.folded(q[:, :, first:last]) * form.scale
        count = blocks.batch * blocks.heads * n
        sinks = blocks.sinks(n)
        top = part.new_full((count,), -math.inf) if sinks is None else sinks
        if form.rescale == "none":
            for j, end in blocks.key_blocks(first, last):
                s, _ = blocks.scores(part, blocks.part(blocks.k, j, end), first, last, j, end)
                top = torch.maximum(top, s.amax(-1).view(-1))
        total = torch.zeros_like(top)
        if sinks is not None:
            total = blocks.weights_(sinks[:, None].clone(), _finite(top))
        result = part.new_zeros(*part.shape[:2], inputs.v.shape[-1])
        for j, end in blocks.key_blocks(first, last):
            s, _ = blocks.scores(part, blocks.part(blocks.k, j, end), first, last, j, end)
            s = s.view(count, -1)
            if form.rescale != "none":
                higher = torch.maximum(top, s.amax(-1))
                factor = blocks.factor(top - _finite(higher))
                top = higher
                total *= factor
                result *= factor.view(*result.shape[:2], 1)
            total += blocks.weights_(s, _finite(top))
            result.baddbmm_(s.view(*result.shape[:2], -1), blocks.part(blocks.v, j, end))
        inverse = blocks.inverse(total)
        by = total.view(*result.shape[:2], 1)
        result = result / by if inverse is None else result * inverse.view_as(by)
        result.masked_fill_((top == -math.inf).view_as(by), 0.0)
        out[:, :, first:last] = blocks.whole(result, n)
        tops[:, :, first:last], totals[:, :, first:last] = (t.view(*q.shape[:2], n) for t in (top, total))
    return out, tops, totals


@dataclass(frozen=True, eq=False)
class Gradients:
    """Of each input, in its dtype; None where there is none or none was asked for."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    mask: torch.Tensor | None
    sinks: torch.Tensor | None


def backward(
    gradient: torch.Tensor,
    inputs: Operands,
    out: torch.Tensor,
    tops: torch.Tensor,
    totals: torch.Tensor,
    plans: list[Plans],
    form: Form,
    to_mask: bool,
) -> Gradients:
    """The exact softmax's derivative at the table's weights T(s - top) / total, which are computed again."""
    blocks, wide = _Blocks(inputs, plans, form), inputs.wide
    q = inputs.q
    to_q = torch.empty(q.shape, dtype=wide, device=q.device)
    to_k, to_v = torch.zeros_like(blocks.k, dtype=wide), torch.zeros_like(blocks.v, dtype=wide)
    of_mask = torch.zeros(inputs.mask.shape, dtype=wide, device=q.device) if to_mask else None
    of_sinks = None if inputs.sinks is None else torch.zeros(blocks.heads, dtype=wide, device=q.device)
    for first, last in blocks.query_blocks():
        n = last - first
        part = blocks.folded(q[:, :, first:last]) * form.scale
        above = blocks.folded(gradient[:, :, first:last])
        inner = (above * blocks.folded(out[:, :, first:last])).sum(-1, keepdim=True)
        top, total = (t[:, :, first:last].reshape(-1) for t in (tops, totals))
        inverse = blocks.inverse(total)
        inverse = (1.0 / total if inverse is None else inverse).masked_fill(top == -math.inf, 0.0)
        inverse, top = inverse.view(*part.shape[:2], 1), _finite(top)
        sinks = blocks.sinks(n)
        if sinks is not None:
            weights = sinks[:, None].clone()
            blocks.weights_(weights, top)
            shares = weights.view_as(inverse) * inverse * inner
            of_sinks -= blocks.whole(shares, n).sum((0, 2, 3))
        gained = torch.zeros_like(part)
        for j, end in blocks.key_blocks(first, last):
            k, v = blocks.part(blocks.k, j, end), blocks.part(blocks.v, j, end)
            s, capped = blocks.scores(part, k, first, last, j, end)
            blocks.weights_(s.view(top.numel(), -1), top)
            shares = s.view(*part.shape[:2], -1) * inverse
            to_v[:, j:end].baddbmm_(shares.transpose(1, 2), above)
            change = shares.mul_(torch.bmm(above, v.transpose(1, 2)).sub_(inner))
            if to_mask:
                target = part_of(of_mask, first, last, j, end)
                target += blocks.whole(change, n).sum_to_size(target.shape)
            if capped is not None:
                change *= (1.0 - capped.square()).view_as(change)
            gained.baddbmm_(change, k)
            to_k[:, j:end].baddbmm_(change.transpose(1, 2), part)
        to_q[:, :, first:last] = blocks.whole(gained, n) * form.scale
    return Gradients(
        to_q.to(q.dtype),
        to_k.view(inputs.k.shape).to(inputs.k.dtype),
        to_v.view(inputs.v.shape).to(inputs.v.dtype),
        None if of_mask is None else of_mask.to(inputs.mask.dtype),
        None if of_sinks is None else of_sinks.to(inputs.sinks.dtype),
    )
