"""What a stored table is worth: measured after rounding, on documents that the fit has not seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lutc.taylor.accounting import exact_multiply_adds
from lutc.taylor.blocks import Block
from lutc.taylor.cluster import nearest
from lutc.taylor.table import TaylorTable

if TYPE_CHECKING:
    from lutc.taylor.fitting import BlockPairs


def certify(table: TaylorTable, block: Block, samples: BlockPairs) -> dict:
    """`data` and `certificate` of the artefact: held-out errors of the rounded table over all inputs and per centre.

    Errors are relative: sum |error|^2 / sum |target - its mean|^2 per centre and over all. With radii, inputs beyond
    them count with error 0 (they run the exact block) in `relative_error`, and `without_fallback` gives the error
    without it.
    """
    k = table.k
    errors, spread, beyond = (
        torch.zeros(k, dtype=torch.float64),
        torch.zeros(k, dtype=torch.float64),
        torch.zeros(k, dtype=torch.float64),
    )
    kept = torch.zeros(k, dtype=torch.float64)
    counts = torch.zeros(k, dtype=torch.int64)
    worst, total = 0.0, 0
    mean = torch.zeros(table.out_features, dtype=torch.float64)
    for _, y in samples.pairs(True):
        mean, total = mean + y.double().sum(0), total + len(y)
    if not total:
        return {"data": _data(table, 0), "certificate": None}
    mean = mean / total
    for x, y in samples.pairs(True):
        owner = nearest(x, table.centres.float())
        error = (table(x) - y).double().square().sum(1)
        far = table.beyond(x)
        errors.index_add_(0, owner, error)
        kept.index_add_(0, owner, error * ~far)
        spread.index_add_(0, owner, (y.double() - mean).square().sum(1))
        beyond.index_add_(0, owner, far.double())
        counts += torch.bincount(owner, minlength=k)
        worst = max(worst, float(error.max().sqrt()))
    exact = exact_multiply_adds(block, table.in_features)
    share = float(beyond.sum() / total)
    least = 1e-30 * float(spread.sum()) + 1e-300
    certificate = {
        "relative_error": _digits(float(kept.sum() / spread.sum().clamp_min(least))),
        "without_fallback": _digits(float(errors.sum() / spread.sum().clamp_min(least))),
        "worst_distance": _digits(worst),
        "fallback": _digits(share),
        "storage_bytes": table.storage_bytes,
        "multiply_adds": round(table.multiply_adds(share, exact)),
        "exact_multiply_adds": exact,
        "exact_bytes": sum(parameter.nbytes for parameter in block.as_module.parameters()),
        "centres": {
            "held_out": counts.tolist(),
            "relative_error": [_digits(value) for value in (errors / spread.clamp_min(least)).tolist()],
            "fallback": [_digits(value) for value in (beyond / counts.clamp_min(1)).tolist()],
        },
    }
    return {"data": _data(table, total), "certificate": certificate}


def _data(table: TaylorTable, held_out: int) -> dict:
    return {
        "samples": int(table.counts.sum()),
        "held_out": held_out,
        "least_per_centre": int(table.counts.min()),
        "most_per_centre": int(table.counts.max()),
    }


def _digits(value: float) -> float:
    return float(f"{value:.6g}")
