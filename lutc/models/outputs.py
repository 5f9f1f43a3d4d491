"""A model's main output as one tensor, and its mean over the tokens that count."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def first_tensor(output: Any) -> Tensor:
    """A model's main output: logits, hidden states, or the tensor itself."""
    if isinstance(output, Tensor):
        return output
    logits = getattr(output, "logits", None)
    return logits if logits is not None else output[0]


def pooled(y: Tensor, mask: Tensor | None) -> Tensor:
    """Outputs (documents, length, width) averaged over the tokens that count; others flattened: (documents, width),
    float32.
    """
    if y.ndim < 3:
        return y.reshape(len(y), -1).float()
    if mask is None or mask.shape != y.shape[:2]:
        return y.float().mean(1)
    keep = mask.to(y.device)[..., None]
    return torch.where(keep, y.float(), 0.0).sum(1) / keep.sum(1)
