"""What replacing blocks does to a whole model: its outputs against the exact ones, and what it saves,
on given batches.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lutc.errors import LutcError
from lutc.models.outputs import first_tensor, pooled
from lutc.taylor import ops
from lutc.taylor.accounting import exact_multiply_adds
from lutc.taylor.blocks import find_blocks, replace, restore
from lutc.taylor.module import TaylorMLP


@dataclass(frozen=True)
class TaylorEvaluation:
    """cosines: of each document's mean output vector (over its unmasked positions) to the exact model's, [documents].
    agreement: share of documents whose largest output is the same (classifiers). fallback: share of rows beyond their
    radius, per block. multiply_adds, exact_multiply_adds: per row, summed over the blocks, fallback included. bytes: of
    the tables, the exact MLPs of a fallback included; exact_bytes: of the exact blocks.
    """

    cosines: Tensor
    agreement: float
    fallback: dict[str, float]
    multiply_adds: float
    exact_multiply_adds: int
    bytes: int
    exact_bytes: int

    @property
    def cosine(self) -> float:
        return float(self.cosines.mean())


def evaluate(
    model: nn.Module, mlps: Mapping[str, TaylorMLP], batches: Iterable, *, mask: str = "attention_mask"
) -> TaylorEvaluation:
    """Run `model` exactly and with `mlps` (block name -> TaylorMLP) on `batches`; the model is exact
    again afterwards.
    """
    counts = {name: [0, 0] for name in mlps}
    exact, replaced = [], []
    blocks = {name: find_blocks(model, name)[0] for name in mlps}
    costs = {name: exact_multiply_adds(block, mlps[name].in_features) for name, block in blocks.items()}
    weights = {
        name: sum(parameter.nbytes for parameter in block.as_module.parameters()) for name, block in blocks.items()
    }
    with torch.inference_mode():
        for batch in _progress(batches):
            exact.append(pooled_output(model, batch, mask))
            replace(model, mlps)
            rows = batch.get(mask) if isinstance(batch, Mapping) else None
            hooks = [
                mlp.register_forward_pre_hook(_counter(counts[name], rows))
                for name, mlp in mlps.items()
                if mlp.radii is not None
            ]
            try:
                replaced.append(pooled_output(model, batch, mask))
            finally:
                for hook in hooks:
                    hook.remove()
                restore(model)
    if not exact:
        raise LutcError("no batches to evaluate on; give at least one")
    wanted, given = torch.cat(exact), torch.cat(replaced)
    fallback = {name: far / max(1, rows) for name, (far, rows) in counts.items()}
    tables = {name: mlp.table() for name, mlp in mlps.items()}
    return TaylorEvaluation(
        cosines=nn.functional.cosine_similarity(given, wanted, dim=1),
        agreement=float((given.argmax(1) == wanted.argmax(1)).float().mean()),
        fallback=fallback,
        multiply_adds=sum(tables[name].multiply_adds(fallback[name], costs[name]) for name in mlps),
        exact_multiply_adds=sum(costs.values()),
        bytes=sum(tables[name].storage_bytes + (weights[name] if mlps[name].radii is not None else 0) for name in mlps),
        exact_bytes=sum(weights.values()),
    )


def _counter(count: list[int], mask: Tensor | None):
    """Counts far rows and all rows; padding is left out."""

    def counted(mlp, arguments):
        x = arguments[0]
        rows = (
            (x[mask.bool()] if mask is not None and mask.shape == x.shape[:-1] else x)
            .reshape(-1, mlp.in_features)
            .float()
        )
        count[0] += int(mlp.far(rows, ops.route(rows, mlp.centres, mlp.half_norms)).sum())
        count[1] += len(rows)

    return counted


def pooled_output(model: nn.Module, batch, mask: str) -> Tensor:
    """The model's first output, averaged over unmasked positions: [documents, width]."""
    output = (
        model(**batch)
        if isinstance(batch, Mapping)
        else model(*batch)
        if isinstance(batch, tuple | list)
        else model(batch)
    )
    keep = batch.get(mask) if isinstance(batch, Mapping) else None
    return pooled(first_tensor(output), None if keep is None else keep.bool())


def _progress(batches: Iterable):
    from tqdm import tqdm

    return tqdm(batches, desc="evaluate", unit=" batches", disable=not sys.stderr.isatty())
