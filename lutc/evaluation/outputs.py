"""What a model's output says: the likelihood of the next tokens, the embedding of documents, the class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass
class Outputs:
    """Of one batch. loss: summed negative log-likelihood of `tokens` tokens, None for other kinds. largest: index of the largest output, of every
    such token, or of every document of a classifier. vectors: mean output of every document (documents, width), float32, None for causal models.
    """

    tokens: int
    finite: bool
    loss: float | None = None
    largest: Tensor | None = None
    vectors: Tensor | None = None


def outputs_of(output, batch, kind: str, mask: Tensor | None) -> Outputs:
    """From a model's output on a batch. mask: bool (batch, length), tokens that count."""
    y = first_tensor(output)
    if kind == "causal":
        return _next_tokens(y, batch["input_ids"] if isinstance(batch, Mapping) else batch[0] if isinstance(batch, tuple | list) else batch, mask)
    vectors = pooled(y, mask)
    tokens = int(mask.sum()) if mask is not None else int(y.shape[0] * (y.shape[1] if y.ndim > 2 else 1))
    return Outputs(tokens, bool(vectors.isfinite().all()), largest=vectors.argmax(-1) if kind == "classifier" else None, vectors=vectors)


def first_tensor(output) -> Tensor:
    """A model's main output: logits, hidden states, or the tensor itself."""
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    return logits if logits is not None else output[0]


def pooled(y: Tensor, mask: Tensor | None) -> Tensor:
    """Outputs (documents, length, width) averaged over the tokens that count; others flattened: (documents, width), float32."""
    if y.ndim < 3:
        return y.reshape(len(y), -1).float()
    if mask is None or mask.shape != y.shape[:2]:
        return y.float().mean(1)
    keep = mask.to(y.device)[..., None]
    return torch.where(keep, y.float(), 0.0).sum(1) / keep.sum(1)


def _next_tokens(logits: Tensor, ids: Tensor, mask: Tensor | None) -> Outputs:
    loss, largest, count, ids = 0.0, [], 0, ids.to(logits.device)
    for row in range(len(ids)):  # a row at a time: in float32 the logits of a window are large
        keep = None if mask is None else mask[row].to(logits.device)
        wide, wanted = logits[row, :-1].float(), ids[row, 1:]
        if keep is not None:
            wide, wanted = wide[keep[1:] & keep[:-1]], wanted[keep[1:] & keep[:-1]]
        loss += float(F.cross_entropy(wide, wanted, reduction="sum"))
        largest.append(wide.argmax(-1))
        count += len(wanted)
    return Outputs(count, math.isfinite(loss), loss, torch.cat(largest))


@dataclass
class Compared:
    """Sums over batches of outputs beside the exact ones."""

    tokens: int = 0
    loss: float = 0.0
    same: int = 0
    compared: int = 0
    cosines: list[float] = field(default_factory=list)

    def add(self, found: Outputs, exact: Outputs) -> None:
        self.tokens += found.tokens
        self.loss += found.loss or 0.0
        if found.largest is not None:
            self.same += int((found.largest == exact.largest).sum())
            self.compared += found.largest.numel()
        if found.vectors is not None:
            self.cosines += F.cosine_similarity(found.vectors.double(), exact.vectors.double(), dim=-1).tolist()

    def figures(self, kind: str) -> dict:
        """perplexity, same, cosine, worst_cosine, as a `Result` has them."""
        return {
            "perplexity": math.exp(self.loss / self.tokens) if kind == "causal" and self.tokens else None,
            "same": self.same / self.compared if self.compared else None,
            "cosine": sum(self.cosines) / len(self.cosines) if self.cosines else None,
            "worst_cosine": min(self.cosines) if self.cosines else None,
        }
