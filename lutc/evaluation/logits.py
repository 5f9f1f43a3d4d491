"""Logits of a language model, whole or a few tokens at a time: those of a long text need more memory than the model."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lutc.models.modes import other_forward
from lutc.models.outputs import first_tensor

LIMIT = 1 << 28  # bytes of logits up to which they are taken whole
_TOKENS = 4  # on which a head is tried


@dataclass(frozen=True)
class Logits:
    """values: logits (rows, length, vocabulary), or, with a head, what enters it (rows, length, width)."""

    values: Tensor
    head: nn.Module | None = None

    def at(self, row: int, places: Tensor) -> Tensor:
        """float64 logits (len(places), vocabulary) of some tokens of a row."""
        values = self.values[row, places]
        return (values if self.head is None else self.head(values)).double()


class Head:
    """A causal model's last linear layer, left out of its forward where a batch's logits would exceed `LIMIT`.

    Only where that changes nothing: a model that scales or caps its logits behind the head keeps them whole.
    """

    def __init__(self, model: nn.Module, kind: str):
        give = getattr(model, "get_output_embeddings", None) if kind == "causal" else None
        head = give() if give is not None else None
        self.model: nn.Module = model
        self.module: Any = head if isinstance(head, nn.Linear) else None
        self._ends: bool | None = None

    def wanted(self, batch: object) -> bool:
        """Whether this batch's logits are taken in parts."""
        ids = batch.get("input_ids") if isinstance(batch, Mapping) else None
        if self.module is None or not isinstance(ids, Tensor) or ids.ndim != 2:
            return False
        if ids.numel() * self.module.out_features * self.module.weight.element_size() <= LIMIT:
            return False
        if self._ends is None:
            self._ends = self._last(ids[:1, :_TOKENS])
        return self._ends

    def _last(self, ids: Tensor) -> bool:
        whole = first_tensor(self.model(input_ids=ids))
        with self.left_out():
            hidden = first_tensor(self.model(input_ids=ids))
        return hidden.shape[-1] == self.module.in_features and torch.allclose(
            self.module(hidden).to(whole.dtype), whole, rtol=1e-3, atol=1e-3
        )

    def left_out(self) -> contextlib.AbstractContextManager[None]:
        """The model gives what enters the head in the place of logits."""
        return other_forward(self.module, lambda x: x)
