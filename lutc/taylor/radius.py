"""How far from its centre an input may lie before it is given to the exact MLP."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lutc.errors import LutcError
from lutc.taylor.blocks import replace, restore
from lutc.taylor.cluster import nearest
from lutc.taylor.table import TaylorTable

if TYPE_CHECKING:
    from lutc.taylor.fitting import BlockPairs
    from lutc.taylor.module import TaylorMLP

# Fewer held-out samples than this do not fix a quantile.
_LEAST = 100


def find_radii(table: TaylorTable, samples: BlockPairs, share: float) -> Tensor:
    """Radii [k] beyond which a share `share` of the held-out documents' inputs lies.

    Each centre's radius is its root mean square distance on training samples times one common factor, the quantile of
    that ratio on held-out documents. Quantiles of the training distances themselves fire 1.4 to 2 times too often on
    new text, and a centre has too few held-out samples for a quantile of its own. Raises LutcError with fewer than 100
    held-out samples.
    """
    squares = torch.zeros(table.k, dtype=torch.float64)
    counts = torch.zeros(table.k)
    for x in samples.inputs_only(False):
        owner, square = _distances(x, table.centres)
        squares.index_add_(0, owner, square)
        counts += torch.bincount(owner, minlength=table.k)
    whole = (squares.sum() / counts.sum()).clamp_min(1e-30)
    # A centre of one sample has distance 0; it is given the common scale.
    typical = torch.where(counts > 1, squares / counts.clamp_min(1), whole).clamp_min(1e-6 * float(whole)).sqrt()
    ratios = []
    for x in samples.inputs_only(True):
        owner, square = _distances(x, table.centres)
        ratios.append(square.sqrt() / typical[owner])
    ratio = torch.cat(ratios) if ratios else torch.empty(0)
    if len(ratio) < _LEAST:
        raise LutcError(
            f"{len(ratio)} held-out samples cannot calibrate a fallback; collect more (a tenth of the documents is "
            "held out)"
        )
    factor = ratio.kthvalue(max(1, round(len(ratio) * (1 - share)))).values
    return (factor * typical).float()


def recalibrate(
    model: nn.Module,
    mlps: Mapping[str, TaylorMLP],
    batches: Iterable[Mapping[str, Tensor]],
    share: float,
    *,
    mask: str = "attention_mask",
) -> None:
    """Scale the radii of `mlps` (block name -> TaylorMLP, in the model's order), so that `share` of the inputs runs
    exactly in the replaced model.

    What earlier replaced blocks get wrong moves the inputs of later ones away from their centres, so radii found on the
    exact model's inputs fire too often. Block after block, with those before already scaled; `batches` must be
    documents that no fit has seen. In place. Raises LutcError for a module without radii.
    """
    batches = list(batches)
    for name, mlp in mlps.items():
        if mlp.radii is None:
            raise LutcError(f"{name} has no fallback, so no radii to scale; fit it with fallback > 0")
        ratios: list[Tensor] = []
        hook = mlp.register_forward_pre_hook(
            lambda module, arguments, ratios=ratios: ratios.append(_ratio(module, arguments[0]))
        )
        keep: list[Tensor] = []
        try:
            replace(model, mlps)
            with torch.inference_mode():
                for batch in batches:
                    model(**batch)
                    keep.append(
                        batch[mask].bool().flatten() if mask in batch else torch.ones(len(ratios[-1]), dtype=torch.bool)
                    )
        finally:
            restore(model)
            hook.remove()
        ratio = torch.cat(ratios)[torch.cat(keep)]
        mlp.radii *= ratio.kthvalue(max(1, round(len(ratio) * (1 - share)))).values


def _ratio(mlp, x: Tensor) -> Tensor:
    """Distance of each row to its centre over that centre's radius."""
    rows = x.reshape(-1, mlp.in_features).float()
    owner = nearest(rows, mlp.centres)
    return (rows - mlp.centres[owner]).norm(dim=1) / mlp.radii[owner]


def _distances(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    owner = nearest(x, centres)
    return owner, (x - centres[owner]).square().sum(1, dtype=torch.float64)
