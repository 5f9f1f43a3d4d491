"""Attention in one pass with a table's exponential: no matrix of scores in memory."""

from __future__ import annotations

import os

import numpy as np
import torch

from lutc.certify.coverage import EXP, Interval, serving_key
from lutc.errors import LutcError
from lutc.measures import EXP_FLOOR
from lutc.nn import attention_ops
from lutc.nn.attention_arguments import INTEGERS, number, one_of, operands, positive, scale_of, switch, whole, window_of
from lutc.nn.row_tables import RowOperator
from lutc.nn.scripting import Unscripted
from lutc.nn.softmax import LUTSoftmax
from lutc.table.library import TableSource
from lutc.table.prologues import PeriodPrologue
from lutc.table.table import Table
from lutc.table.table_set import TableSet

TANH = Interval("tanh", -16.0, 16.0, closed=True, relative=False)
RESCALE = ("exact", "table", "none")


class Cap(RowOperator):
    """Holds the tanh table of a soft cap: scores become softcap * T(scores / softcap)."""

    def __init__(self, tanh: TableSource | None):
        super().__init__()
        self.hold("tanh", tanh, TANH)


class LUTAttention(Unscripted):
    """softmax(q k^T scale) v with a table's exponential, in blocks: memory grows with the tokens, not their square.

    exp, reciprocal: as LUTSoftmax takes them; tanh: a table for `softcap`, None for the exact function. rescale: what
    the sums so far are multiplied by when a larger score comes: "exact" exp, the "table", or "none": the largest score
    of each row is then found in a pass of its own and the result is LUTSoftmax's within rounding. For the first two
    see `deviation`.
    """

    def __init__(
        self,
        exp: TableSource = "exp_fplut",
        reciprocal: TableSource | None = None,
        tanh: TableSource | None = None,
        rescale: str = "exact",
    ):
        super().__init__()
        self.softmax = LUTSoftmax(exp, reciprocal)
        self.cap = None if tanh is None else Cap(tanh)
        self.rescale = one_of(RESCALE, rescale)

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None = None, **options
    ) -> torch.Tensor:
        """As `attention`; options: causal, offset, window, scale, softcap, alibi, sinks, lengths, dropout."""
        options = {"cap": self.cap, "rescale": self.rescale, **options}
        return attention(self.softmax, query, key, value, mask, **options)

    def extra_repr(self) -> str:
        return f"rescale={self.rescale!r}"


def attention(
    softmax: LUTSoftmax,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    causal: bool = False,
    offset: int | None = None,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    lengths: torch.Tensor | None = None,
    dropout: float = 0.0,
    rescale: str = "exact",
    cap: Cap | None = None,
) -> torch.Tensor:
    """Attention with the tables of `softmax`; (..., heads, queries, value size), of query's dtype.

    query (..., heads, queries, size); key (..., key heads, keys, size) and value, whose size may differ: heads are a
    multiple of key heads, and heads next to each other share one. float16, bfloat16, float32 (sums in float32) or
    float64.

    mask: broadcast to (..., heads, queries, keys); bool, True where a key is seen, or added to the scores (-inf hides;
    it may be trained). causal: query i sees keys up to i + offset; offset: by default keys - queries: the queries are
    the last positions, as with a cache of keys (torch's is_causal is offset=0). window: the number of keys that a query
    sees up to its own position, which counts, and as many after it where not causal. softcap: scores become softcap *
    tanh(scores / softcap), before mask and bias. alibi: slopes (heads,) or (batch, heads); slope * |i + offset - j| is
    taken off the scores. sinks: (heads,) scores that weigh in the sum and have no value (GPT-OSS). lengths: (batch,)
    integers, keys beyond which there are none. A query that sees no key gives 0, as in torch.

    The gradient (of query, key, value, mask, sinks) is the exact softmax's derivative at the table's weights.
    """
    given = operands(query, key, value, mask, sinks, alibi, lengths, dropout)
    tables = [softmax] if cap is None or not softcap else [softmax, cap]
    out, _, _ = attention_ops.attention(
        given.q,
        given.k,
        given.v,
        given.mask,
        given.sinks,
        given.alibi,
        given.lengths,
        [words for table in tables for words in table.words],
        [number for table in tables for number in table.meta],
        softmax.tables["exp"][1],
        "reciprocal" in softmax.tables,
        scale_of(scale, query.shape[-1]),
        switch("causal", causal),
        key.shape[-2] - query.shape[-2] if offset is None else whole("offset", offset),
        window_of(window),
        0.0 if softcap is None else positive("softcap", number("softcap", softcap)),
        one_of(RESCALE, rescale),
    )
    return out.reshape(*query.shape[:-1], value.shape[-1]) if query.dim() != 4 else out


def packed_attention(
    softmax: LUTSoftmax,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_starts: torch.Tensor,
    key_starts: torch.Tensor | None = None,
    **options,
) -> torch.Tensor:
    """Attention within sequences of different lengths that lie one after another: query (tokens, heads, size), key and
    value (tokens, key heads, size); (tokens, heads, value size) comes out.

    query_starts, key_starts: integers (sequences + 1,), where each begins, and the end of the last; one serves both.
    options: as of `attention`, without mask and lengths.
    """
    for name in ("mask", "lengths"):
        if options.get(name) is not None:
            raise LutcError(f"packed attention takes no {name}; leave it out, or call `attention` for each sequence")
    if key_starts is None:
        key_starts = query_starts
    ranges = [_ranges(*pair) for pair in (("query_starts", query_starts, query), ("key_starts", key_starts, key))]
    ranges = [[*zip(ends, ends[1:])] for ends in ranges]
    if len(ranges[0]) != len(ranges[1]):
        raise LutcError(f"query_starts has {len(ranges[0])} sequences and key_starts {len(ranges[1])}; give as many")
    parts = []
    for (first, last), (j, end) in zip(*ranges):
        pieces = (query[first:last], key[j:end], value[j:end])
        one = attention(softmax, *(x.transpose(0, 1)[None] for x in pieces), **options)
        parts.append(one[0].transpose(0, 1))
    return torch.cat(parts) if parts else query.new_empty(0, query.shape[1], value.shape[2])


def _ranges(name: str, starts: torch.Tensor, x: torch.Tensor) -> list[int]:
    starts = torch.as_tensor(starts)
    ends = starts.tolist()
    if (
        starts.dim() != 1
        or starts.dtype not in INTEGERS
        or not ends
        or ends[0] != 0
        or ends[-1] != x.shape[0]
        or sorted(ends) != ends
    ):
        raise LutcError(
            f"{name} are integers that go up from 0 to the number of tokens, {x.shape[0]}; given {ends[:8]}"
        )
    return ends


def deviation(
    exp: str | os.PathLike | TableSet | Table = "exp_fplut",
    rescale: str = "exact",
    rises: int = 0,
    keys: int | None = None,
) -> float:
    """A bound on how far attention in one pass lies from two-pass softmax with the same table, arithmetic aside: the
    sum over the keys of |p' - p|, p and p' being the two's probabilities. The result differs by at most this times
    the largest |value|.

    rises: how often the largest score rose from one block of keys to the next, at most their number less one; it
    counts for rescale="table". keys: how many there are, for tables whose relative error is not bounded.

    With a relative error e on [-87, 0], w = exp(d) (1 + a) in two passes and w' = exp(d) (1 + b_0) ... (1 + b_r) in one
    (r = 0 for "exact"), all |a|, |b| <= e: |w' - w| <= w ((1 + e)^(r + 1) - 1 + e) / (1 - e). Else, with an absolute
    error e, |w' - w| <= e (1 + (r + 1) (1 + e)^r), and the sum of w is 1 - e at least. Either way the sum of |p' - p|
    is at most twice that of |w' - w| over the sum of w. Weights below exp(-87) are 0 and left out of the count.
    """
    if rises < 0 or (keys is not None and keys < 1):
        raise LutcError(f"rises are at least 0 and keys at least 1; given {rises} and {keys}")
    if one_of(RESCALE, rescale) == "none":
        return 0.0
    tables, key = serving_key(exp, EXP)
    relative, absolute = _errors(tables[key])
    steps = rises if rescale == "table" else 0
    bounds = [2.0]
    if relative < 1:
        bounds.append(2 * ((1 + relative) ** (steps + 1) - 1 + relative) / (1 - relative))
    if keys is not None and absolute < 1:
        bounds.append(2 * keys * absolute * (1 + (steps + 1) * (1 + absolute) ** steps) / (1 - absolute))
    return min(bounds)


def _errors(table) -> tuple[float, float]:
    """Largest relative and absolute errors of weights exp(d), at 2^18 points of [-87, 0], or of one period."""
    lowest = -table.prologue.period if isinstance(table.prologue, PeriodPrologue) else EXP_FLOOR
    d = np.linspace(lowest, 0.0, 1 << 18)
    exact, weights = np.exp(d), np.maximum(table(d), 0.0)
    return float(np.max(np.abs(weights / exact - 1))), float(np.max(np.abs(weights - exact)))
