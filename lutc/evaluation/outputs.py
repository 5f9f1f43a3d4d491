"""What a model's output says: the likelihood of the next tokens and how far their distribution is from the exact one,
the embedding of documents, the class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lutc.evaluation.estimates import per_token, perplexity
from lutc.evaluation.logits import Logits
from lutc.models.outputs import first_tensor, pooled

_ROWS = 16  # tokens whose distributions are held in float64 at a time


@dataclass
class Predicted:
    """The next tokens of one window. tokens: how many were predicted; loss: mean negative log-likelihood; kl: mean
    Kullback-Leibler divergence of the distributions from the exact model's, both in nats per token, NaN or infinite
    where those are.
    """

    tokens: int
    loss: float
    kl: float


@dataclass
class ModelOutputs:
    """Of one batch. tokens: that were predicted, or lie in documents. windows: of causal models, without those that
    predict nothing. largest: index of the largest output, of every predicted token, or of every document of a
    classifier. vectors: mean output of every document (documents, width), float32, None for causal models. logits: as
    the model gave them, to hold others against.
    """

    tokens: int
    finite: bool
    windows: list[Predicted] = field(default_factory=list)
    largest: Tensor | None = None
    vectors: Tensor | None = None
    logits: Logits | None = None

    def same(self, output: object, mask: Tensor | None) -> bool:
        """Whether the model has given this again, to the bit."""
        y = first_tensor(output)
        if self.logits is not None:
            return torch.equal(self.logits.values, y)
        return self.vectors is not None and torch.equal(self.vectors, pooled(y, mask))


def outputs_of(
    output: object,
    batch: Mapping,
    kind: str,
    mask: Tensor | None,
    exact: ModelOutputs | None = None,
    head: nn.Module | None = None,
) -> ModelOutputs:
    """From a model's output on a batch. mask: bool (batch, length), tokens that count. exact: of the exact model on the
    same batch; None if this is it. head: the output is what enters this layer, which gives the logits.
    """
    y = first_tensor(output)
    if kind == "causal":
        ids = (
            batch["input_ids"] if isinstance(batch, Mapping) else batch[0] if isinstance(batch, tuple | list) else batch
        )
        return _next_tokens(Logits(y, head), ids, mask, None if exact is None else exact.logits)
    vectors = pooled(y, mask)
    tokens = int(mask.sum()) if mask is not None else int(y.shape[0] * (y.shape[1] if y.ndim > 2 else 1))
    return ModelOutputs(
        tokens,
        bool(vectors.isfinite().all()),
        largest=vectors.argmax(-1) if kind == "classifier" else None,
        vectors=vectors,
    )


def _next_tokens(logits: Logits, ids: Tensor, mask: Tensor | None, exact: Logits | None) -> ModelOutputs:
    windows, largest, device = [], [], logits.values.device
    ids = ids.to(device)
    for row in range(len(ids)):
        counts = torch.ones_like(ids[row], dtype=torch.bool) if mask is None else mask[row].to(device)
        places = (counts[1:] & counts[:-1]).nonzero()[:, 0]
        loss, kl = 0.0, 0.0
        for part in places.split(_ROWS):  # few at a time: in float64 the logits of a window are large
            y = logits.at(row, part).log_softmax(-1)
            loss += float(F.nll_loss(y, ids[row, part + 1], reduction="sum"))
            kl += 0.0 if exact is None else float(_divergence(exact.at(row, part).log_softmax(-1), y))
            largest.append(y.argmax(-1))
        if len(places):
            windows.append(Predicted(len(places), loss / len(places), kl / len(places)))
    finite = all(math.isfinite(window.loss) and math.isfinite(window.kl) for window in windows)
    tokens = torch.cat(largest) if largest else ids.new_empty(0)
    return ModelOutputs(sum(window.tokens for window in windows), finite, windows, tokens, logits=logits)


def _divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) summed over rows of log-probabilities (tokens, vocabulary). Tokens that p rules out (-inf) add
    nothing, those that q alone does infinity; NaN of q is passed on.
    """
    terms = p.exp().mul_(p - q)
    total = terms.sum()
    return torch.where(torch.isneginf(p) & ~q.isnan(), 0.0, terms).sum() if total.isnan() else total


@dataclass
class Compared:
    """What came of all batches so far, beside the exact outputs. windows: of causal models."""

    tokens: int = 0
    windows: list[Predicted] = field(default_factory=list)
    same: int = 0
    compared: int = 0
    cosines: list[float] = field(default_factory=list)

    def add(self, found: ModelOutputs, exact: ModelOutputs) -> None:
        self.tokens += found.tokens
        self.windows += found.windows
        if found.largest is not None and exact.largest is not None:
            self.same += int((found.largest == exact.largest).sum())
            self.compared += found.largest.numel()
        if found.vectors is not None and exact.vectors is not None:
            ours, theirs = found.vectors.double().flatten(1), exact.vectors.double().flatten(1)  # maps of features too
            self.cosines += F.cosine_similarity(ours, theirs, dim=-1).tolist()

    def join(self, other: Compared) -> None:
        """What came of later batches too."""
        self.tokens += other.tokens
        self.windows += other.windows
        self.same += other.same
        self.compared += other.compared
        self.cosines += other.cosines

    def figures(self) -> dict:
        """perplexity, losses, kl, kl_se, divergences, same, cosine, worst_cosine, as a `Result` has them."""
        tokens, losses, divergences = (
            [getattr(window, key) for window in self.windows] for key in ("tokens", "loss", "kl")
        )
        kl, kl_se = per_token(divergences, tokens) if tokens else (None, None)
        return {
            "perplexity": perplexity(losses, tokens) if tokens else None,
            "losses": losses,
            "kl": kl,
            "kl_se": kl_se,
            "divergences": divergences,
            "same": self.same / self.compared if self.compared else None,
            "cosine": sum(self.cosines) / len(self.cosines) if self.cosines else None,
            "worst_cosine": min(self.cosines) if self.cosines else None,
        }
