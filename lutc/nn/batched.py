"""What the batching rules of the operators (`torch.vmap`) share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch


def is_batched(dims: Sequence[int | None]) -> bool:
    """Whether an argument, or one tensor of a list, has a batch dimension."""
    return any(map(is_batched, dims)) if isinstance(dims, (list, tuple)) else dims is not None


def _of(index: int, value, dim):
    if isinstance(dim, (list, tuple)):
        return [_of(index, *pair) for pair in zip(value, dim, strict=True)]
    return value if dim is None else value.select(dim, index)


def one_by_one(operator: Callable, info: Any, dims: Sequence[int | None], *arguments) -> tuple:
    """A call for each element of the batch, for batches of what no kernel takes several of: tables and parameters, as
    of ensembles of modules.
    """
    results = [operator(*map(_of, [index] * len(dims), arguments, dims)) for index in range(info.batch_size)]
    if isinstance(results[0], torch.Tensor):
        return torch.stack(results), 0
    return tuple(map(torch.stack, zip(*results, strict=True))), (0,) * len(results[0])
