"""Attention in integers in torch operations on any device, in blocks: bit for bit `lutc.hardware.attention`.

Products of codes are taken in float32, where every sum of theirs is an integer below 2^24 and so exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from lutc.hardware.attention import (
    FARTHEST,
    HIDDEN,
    LARGEST_CODE,
    LEAST_SCALE,
    MULTIPLIER_BITS,
    OCTAVE,
    STEP,
    VALUE_BITS,
    WEIGHTS,
)
from lutc.hardware.rows import ROOT_BITS
from lutc.nn import integer_plain as plain
from lutc.nn.attention_blocks import Form, Operands, distances, part_of, unseen
from lutc.nn.cpu import integer_attention as cpu

_SCORES = 1 << 19  # at a time: 4 MiB of int64
_KEYS = 512
_FEW = 8  # blocks of the largest size, 128: sums of so many products of codes are exact in float32
ALIBI_BITS = 16  # fraction bits of ALiBi's slopes, in codes


def quantised(x: torch.Tensor, block: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """`lutc.hardware.attention.quantised`."""
    x = x.float()
    if not x.numel():
        rows = x.shape[-2]
        shape = (*x.shape[:-2], x.shape[-1] if block is None else -(-rows // block))
        return x.to(torch.int8), x.new_zeros(shape)
    if block is None:
        scales = x.abs().amax(-2) / LARGEST_CODE
        by = scales[..., None, :]
    else:
        largest = x.abs().amax(-1)
        padded = torch.nn.functional.pad(largest, (0, -largest.shape[-1] % block))
        scales = padded.unflatten(-1, (-1, block)).amax(-1) / LARGEST_CODE
        by = scales.repeat_interleave(block, -1)[..., : x.shape[-2], None]
    served = by.isfinite() & (by >= LEAST_SCALE)
    codes = torch.round(torch.where(served, x, 0.0) / torch.where(served, by, 1.0))
    return codes.to(torch.int8), scales


def multipliers(scales: torch.Tensor, factor: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """`lutc.hardware.attention.multipliers`, in int32."""
    scales = scales.double()
    served = scales.isfinite() & (scales >= LEAST_SCALE)
    mantissa, exponent = torch.frexp(torch.where(served, scales, 0.0) * factor)
    return torch.round(mantissa * 2.0**MULTIPLIER_BITS).int(), exponent.int()


def bias_codes(mask: torch.Tensor) -> torch.Tensor:
    """An added mask in codes, int32: -inf and NaN are HIDDEN."""
    codes = torch.round(mask.float() * (1 / STEP)).clamp(-4 * FARTHEST, 4 * FARTHEST)
    return torch.where(mask > float("-inf"), codes.nan_to_num(), HIDDEN).int()


@dataclass(frozen=True, eq=False)
class Codes:
    """Inputs in integers. q, k, v: int8, as `Operands` has them; of_query (batch, heads, blocks) and of_key (batch, key
    heads, blocks): `multipliers`; mask: bool or `bias_codes`, four dimensions; sinks (heads,) and alibi (batch or 1,
    heads; ALIBI_BITS): int32; lengths (batch,).
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    of_query: tuple[torch.Tensor, torch.Tensor]
    of_key: tuple[torch.Tensor, torch.Tensor]
    mask: torch.Tensor | None
    sinks: torch.Tensor | None
    alibi: torch.Tensor | None
    lengths: torch.Tensor | None


@dataclass(frozen=True, eq=False)
class Tables:
    """weights: int8 (WEIGHTS,); roots: cuts, slopes, intercepts (int32) of 1/x with its requantiser, None to divide."""

    weights: torch.Tensor
    roots: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None
    requantiser: tuple[int, int]


def in_codes(inputs: Operands, scale: float, block: int) -> tuple[Codes, torch.Tensor, torch.Tensor | None]:
    """(codes, the result's scales (batch, heads, 1, value size), where the result is NaN or None)."""
    q, k, v = inputs.q, inputs.k, inputs.v
    if inputs.lengths is not None:  # what lies behind is to say nothing
        behind = (torch.arange(k.shape[2], device=k.device) >= inputs.lengths[:, None])[:, None, :, None]
        k, v = k.masked_fill(behind, 0.0), v.masked_fill(behind, 0.0)
    (q, of_query), (k, of_key), (v, of_value) = quantised(q, block), quantised(k, block), quantised(v, None)
    groups = q.shape[1] // k.shape[1] if k.shape[1] else 1
    wrong = ~of_query.isfinite().repeat_interleave(block, -1)[..., : q.shape[2], None]
    wrong = wrong | ~of_key.isfinite().all(-1).repeat_interleave(groups, 1)[..., None, None]
    mask = inputs.mask
    if mask is not None and mask.dtype != torch.bool:
        wrong = wrong | mask.isnan().any(-1, keepdim=True)
        mask = bias_codes(mask)
    sinks, alibi = inputs.sinks, inputs.alibi
    if sinks is not None:
        wrong = wrong | sinks.isnan()[:, None, None]
        sinks = torch.round(sinks.float() * (1 / STEP)).nan_to_num().clamp(-FARTHEST, FARTHEST).int()
    if alibi is not None:
        wrong = wrong | alibi.isnan()[..., None, None]
        alibi = torch.round(alibi * (2.0**ALIBI_BITS / STEP)).nan_to_num().clamp(-(2.0**30), 2.0**30).int()
    codes = Codes(q, k, v, multipliers(of_query, scale / STEP), multipliers(of_key), mask, sinks, alibi, inputs.lengths)
    return codes, of_value.repeat_interleave(groups, 1)[..., None, :], wrong


def _native(x: torch.Tensor) -> bool:
    """Whether numba's functions run."""
    return x.device.type == "cpu"


class _Blocks:
    """Walks over the blocks of one call; rows of scores are (batch, key heads, queries of one key head)."""

    def __init__(self, inputs: Codes, form: Form, block: int):
        self.inputs, self.form, self.block = inputs, form, block
        self.batch, self.heads, self.queries, self.size = inputs.q.shape
        self.key_heads, self.count = inputs.k.shape[1:3]
        many = max(1, self.batch * self.heads)
        self.keys = max(_KEYS, _SCORES // many // block * block) if self.queries == 1 else _KEYS
        self.step = max(16, min(256, _SCORES // (many * self.keys)))
        self.k = inputs.k.reshape(self.batch * self.key_heads, self.count, self.size)
        self.v = inputs.v.reshape(self.batch * self.key_heads, self.count, inputs.v.shape[-1])

    def query_blocks(self) -> Iterator[tuple[int, int]]:
        queries = self.queries if self.batch * self.heads else 0
        return ((first, min(first + self.step, queries)) for first in range(0, queries, self.step))

    def key_blocks(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        start, end = self.form.keys(first, last, self.count)
        return ((j, min(j + self.keys, end)) for j in range(start // self.block * self.block, end, self.keys))

    def scores(self, first: int, last: int, j: int, end: int) -> torch.Tensor:
        """Codes of scores, int32 (batch, heads, queries, keys), with HIDDEN up to a whole block of keys."""
        inputs, form, block = self.inputs, self.form, self.block
        q = inputs.q[:, :, first:last].reshape(self.batch * self.key_heads, -1, self.size).float()
        product = torch.bmm(q, self.k[:, j:end].float().transpose(1, 2))
        row = torch.arange(first, last, device=q.device) // block
        blocks = slice(j // block, -(-end // block))
        by_row = [x[..., row] for x in inputs.of_query]
        by_key = [x[..., blocks] for x in inputs.of_key]
        if _native(q):
            s = cpu.scores(product, (by_row[0], by_row[1]), (by_key[0].flatten(0, 1), by_key[1].flatten(0, 1)), block)
        else:
            s = self._plain_scores(product, by_row, by_key)
        s = s.view(self.batch, self.heads, last - first, -1)
        bias, hidden = None, unseen(form, inputs.lengths, first, last, j, end, q.device)
        if inputs.alibi is not None:
            far = inputs.alibi.long()[:, :, None, None] * distances(form, first, last, j, end, q.device)
            bias = -((far + (1 << (ALIBI_BITS - 1))) >> ALIBI_BITS)
        if inputs.mask is not None:
            part = part_of(inputs.mask, first, last, j, end)
            away = ~part if part.dtype == torch.bool else part == HIDDEN
            hidden = away if hidden is None else hidden | away
            if part.dtype != torch.bool:
                bias = part if bias is None else bias + part
        if bias is not None:
            s = (s + bias).clamp_(-FARTHEST, FARTHEST).int()
        if hidden is not None:
            s = s.masked_fill_(hidden, HIDDEN)
        return torch.nn.functional.pad(s, (0, -s.shape[-1] % block), value=HIDDEN)

    def _plain_scores(self, product, by_row, by_key) -> torch.Tensor:
        """`cpu.scores` in torch operations, (batch, heads, queries, keys)."""
        product = product.view(self.batch, self.heads, -1, product.shape[-1])
        groups, n = self.heads // self.key_heads, product.shape[-1]
        rows = [x[..., None].long() for x in by_row]
        keys = [x.repeat_interleave(groups, 1).repeat_interleave(self.block, -1)[..., None, :n].long() for x in by_key]
        places = (2 * MULTIPLIER_BITS - rows[1] - keys[1]).clamp_(1, 62)
        s = (rows[0] * keys[0]) * product.long()
        return (s.add_(1 << (places - 1)) >> places).clamp_(-FARTHEST, FARTHEST).int()


def forward(inputs: Codes, tables: Tables, form: Form, block: int) -> torch.Tensor:
    """Codes (int16) of the result, (batch, heads, queries, value size): `IntegerAttentionModel`. form.rescale: "shift"
    or "none".
    """
    blocks = _Blocks(inputs, form, block)
    out = torch.zeros((*inputs.q.shape[:3], inputs.v.shape[-1]), dtype=torch.int16, device=inputs.q.device)
    table = torch.cat([tables.weights.float(), tables.weights.new_zeros(1, dtype=torch.float32)])
    weigh, one_pass = cpu.weights if _native(out) else _plain_weights, form.rescale == "shift"
    for first, last in blocks.query_blocks():
        shape = (blocks.batch, blocks.heads, last - first)
        reference = torch.full(shape, HIDDEN, dtype=torch.int32, device=out.device)
        total = torch.zeros_like(reference)
        if inputs.sinks is not None:
            reference = inputs.sinks[:, None].expand(shape).contiguous()
        if not one_pass:
            for j, end in blocks.key_blocks(first, last):
                reference = torch.maximum(reference, blocks.scores(first, last, j, end).amax(-1))
        if inputs.sinks is not None:
            total = _weighed(inputs.sinks[:, None] - reference, table).int()
        reference, total = reference.flatten(), total.flatten()
        rows = total.numel() // max(1, blocks.k.shape[0])
        acc = out.new_zeros(blocks.k.shape[0], rows, out.shape[-1], dtype=torch.int32)
        for j, end in blocks.key_blocks(first, last):
            scores = blocks.scores(first, last, j, end).flatten(0, 2)
            weights, octaves = weigh(scores, reference, total, table, block, one_pass)
            _accumulate(acc, weights, octaves, blocks.v[:, j:end].float(), block)
        out[:, :, first:last] = _shared(acc.view(*shape, -1), total.view(*shape, 1), tables)
    return out


def _accumulate(acc: torch.Tensor, weights: torch.Tensor, octaves: torch.Tensor, v: torch.Tensor, block: int) -> None:
    """acc (heads of keys, rows, value size), int32: shifted by the octaves before each block and added to, in place.
    Blocks before which no reference rose, up to _FEW, are one product.
    """
    rows, weights = acc.view(-1, acc.shape[-1]), weights.view(v.shape[0], -1, weights.shape[-1])
    risen = octaves.any(0).tolist()
    starts = [b for b, any_risen in enumerate(risen) if any_risen or b == 0 or not b % _FEW]
    for b, end in zip(starts, [*starts[1:], len(risen)]):
        if risen[b]:
            some = octaves[:, b].nonzero()[:, 0]
            rows[some] = _shifted_down(rows[some], octaves[some, b, None])
        part = v[:, b * block : end * block]
        acc += torch.bmm(weights[..., b * block : b * block + part.shape[1]], part).int()


def _weighed(difference: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Weights (float32) of differences of at most 0; table: by distance, with a 0 at its end."""
    return table[difference.neg().clamp_(0, WEIGHTS)]


def _plain_weights(scores, reference, total, table, block: int, one_pass: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """`cpu.weights` in torch operations."""
    weights, octaves = [], []
    for part in scores.split(block, -1):
        risen = torch.zeros_like(reference)
        if one_pass:
            top, new = part.amax(-1), reference == HIDDEN
            risen = ((top - reference + (OCTAVE - 1)) >> (OCTAVE.bit_length() - 1)).clamp_(min=0).masked_fill_(new, 0)
            reference.copy_(torch.where(new, top, reference + OCTAVE * risen))
            risen = risen.clamp_(max=31)
            total.copy_(_shifted_down(total, risen))
        weights.append(_weighed(part - reference[:, None], table).masked_fill_(part == HIDDEN, 0.0))
        total += weights[-1].sum(-1).int()
        octaves.append(risen)
    return torch.cat(weights, -1), torch.stack(octaves, -1)


def _shifted_down(x: torch.Tensor, octaves: torch.Tensor) -> torch.Tensor:
    return torch.where(octaves > 0, ((x >> (octaves - 1).clamp(min=0)) + 1) >> 1, x)


def _shared(acc: torch.Tensor, total: torch.Tensor, tables: Tables) -> torch.Tensor:
    acc, some = acc.long(), total.long().clamp(min=1)
    if tables.roots is None:
        codes = torch.div((acc << (VALUE_BITS + 1)) + some, 2 * some, rounding_mode="floor")
    else:
        leading = plain.leading_one(some)
        mantissa = plain.shift_to(some, ROOT_BITS - 1 - leading).clamp(max=(1 << ROOT_BITS) - 1)
        roots = plain.roots(mantissa, *tables.roots, *tables.requantiser)
        codes = plain.shift_to(acc * roots, VALUE_BITS - ROOT_BITS - leading).clamp(-(1 << 15), (1 << 15) - 1)
    return torch.where(total > 0, codes, 0).to(torch.int16)
