"""Fitting layer after layer, each on inputs from the model with the earlier layers already replaced."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from torch import nn

from lutc.errors import LutcError
from lutc.taylor.blocks import find_blocks, replace, restore
from lutc.taylor.collector import collect
from lutc.taylor.fitting import TaylorSettings, fit
from lutc.taylor.inputs import BlockInputs
from lutc.taylor.module import TaylorMLP
from lutc.taylor.reading import load
from lutc.taylor.table import TaylorTable


def fit_sequential(
    model: nn.Module,
    modules: str | Iterable[str] | None,
    batches: Iterable,
    folder: str | os.PathLike,
    settings: TaylorSettings | None = None,
    *,
    mask: str = "attention_mask",
    dtype: str = "fp32",
    limit: int | None = None,
) -> dict[str, TaylorTable]:
    """A table per block, in the model's order; the model is exact again afterwards.

    `batches` is run once per block, so it must give the same batches each time (a list or a DataLoader without
    shuffling). Collected inputs go to `folder`. Finished layers are saved there as `table-<number>` and are not fitted
    again, so an interrupted run resumes. With `settings.post_norm` each layer also corrects, as far as its inputs tell,
    what earlier layers got wrong.
    """
    if iter(batches) is batches:
        raise LutcError("batches can be run only once; give a list or a DataLoader that starts anew each time")

    settings = settings or TaylorSettings()
    folder = Path(folder)
    blocks = find_blocks(model, modules)

    def collected(names: str | Iterable[str] | None, into: str) -> BlockInputs:
        return collect(model, names, batches, folder / into, mask=mask, dtype=dtype, limit=limit)

    exact = collected(modules, "exact") if settings.post_norm else None
    tables: dict[str, TaylorTable] = {}
    try:
        for number, block in enumerate(blocks):
            path = folder / f"table-{number}"
            if path.with_suffix(".json").exists():
                table = load(path)
                if table.info.get("settings") != _plain(settings):
                    raise LutcError(
                        f"{path}.json was fitted with other settings; give the same ones to resume, or an empty folder"
                    )
            else:
                inputs = exact if number == 0 and exact else collected(block.name, f"inputs-{number}")
                table = fit(block, inputs, settings, exact=exact if number else None)
                table.save(path)
            tables[block.name] = table
            replace(model, {block.name: TaylorMLP(table, block.as_module if table.radii is not None else None)})
    finally:
        restore(model)
    return tables


def _plain(settings: TaylorSettings) -> dict:
    from dataclasses import asdict

    return asdict(settings)
