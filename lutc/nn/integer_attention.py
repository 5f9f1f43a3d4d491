"""Attention in integers: int8 codes of queries, keys and values, a table of bytes for exp, int32 sums."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from lutc.errors import LutcError
from lutc.formats.requantise import requantiser
from lutc.hardware.attention import IntegerAttentionModel
from lutc.hardware.rows import ROOT_BITS
from lutc.nn import integer_attention_ops
from lutc.nn.attention_arguments import one_of, operands, scale_of, switch, whole, window_of
from lutc.nn.integer_lines import TorchIntegerLines
from lutc.nn.refilled import Refilled
from lutc.table.library import TableSource

RESCALE = ("shift", "none")


def _model_of_checkpoint(module: IntegerAttention, _) -> None:
    module.model = dataclasses.replace(module.model, weights=module.weights.cpu().numpy().astype(np.int64))


class IntegerAttention(Refilled):
    """softmax(q k^T scale) v as an integer accelerator computes it, bit for bit `self.model`
    (`lutc.hardware.attention.IntegerAttentionModel`) on a CPU and a GPU; memory grows with the tokens.

    Query and key become int8 codes with a scale for each `block` rows of a head (32, 64 or 128), value with a scale for
    each column of a head. Scores are requantised to codes of 1/32 octave (0.0217); their weights are bytes from a table
    of 256, 127 exp(-0.0217 i), made of `exp`; weights and their products with the values' codes are summed in int32.

    exp, reciprocal: tables by name, path, TableSet or Table; reciprocal None divides, rounding half up. rescale:
    "shift", one pass: where a larger score comes, what was summed is shifted by whole octaves; "none": the largest
    score of each row is found first, in a pass of its own.
    """

    weights: torch.Tensor

    def __init__(
        self,
        exp: TableSource = "exp_fplut",
        reciprocal: TableSource | None = None,
        rescale: str = "shift",
        block: int = 64,
    ):
        super().__init__()
        self.model = IntegerAttentionModel.build(exp, reciprocal, block, one_of(RESCALE, rescale) == "shift")
        lines = self.model.reciprocal
        self.reciprocal = None if lines is None else TorchIntegerLines(lines)
        self._fill(torch.device("cpu"))
        self.register_load_state_dict_post_hook(_model_of_checkpoint)

    def _fill(self, device: torch.device) -> None:
        weights = torch.from_numpy(self.model.weights).to(device, torch.int8)
        self.register_buffer("weights", weights)

    def forward(
        self,
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
    ) -> torch.Tensor:
        """(..., heads, queries, value size), of query's dtype; arguments as of `lutc.nn.attention.attention`, without
        softcap, and without a gradient.

        Added masks, sinks and ALiBi's distances are rounded to codes of scores. NaN or an infinity makes NaN of what
        shares a scale with it: in a query of its block's rows, in a key or value of all of the head's; NaN in an added
        mask of its row, where an infinity above 0 saturates.
        """
        given = operands(query, key, value, mask, sinks, alibi, lengths, dropout)
        if softcap is not None:
            raise LutcError(f"attention in integers caps no scores; given softcap={softcap}: use LUTAttention")
        self.model.check(query.shape[-1], key.shape[-2])
        lines = self.reciprocal
        out = integer_attention_ops.integer_attention(
            given.q,
            given.k,
            given.v,
            given.mask,
            given.sinks,
            given.alibi,
            given.lengths,
            self.weights,
            [] if lines is None else [lines.cuts, lines.slopes, lines.intercepts],
            [0, 0] if lines is None else [*requantiser(lines.unit * 2.0**ROOT_BITS)],
            scale_of(scale, query.shape[-1]),
            switch("causal", causal),
            key.shape[-2] - query.shape[-2] if offset is None else whole("offset", offset),
            window_of(window),
            "shift" if self.model.one_pass else "none",
            self.model.block,
        )
        return out.reshape(*query.shape[:-1], value.shape[-1]) if query.dim() != 4 else out

    def extra_repr(self) -> str:
        return f"rescale={'shift' if self.model.one_pass else 'none'!r}, block={self.model.block}"
