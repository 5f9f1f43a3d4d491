"""The numbers of units as CSV."""

from __future__ import annotations

from collections.abc import Sequence

from lutc.hardware.export.text import csv_text, identifier
from lutc.hardware.export.units import Unit


def parameters(name: str, exported: Sequence[Unit]) -> dict[str, str]:
    """NAME.csv: a row of parameters for each unit."""
    rows = [list(exported[0].parameters()), *(list(unit.parameters().values()) for unit in exported)]
    return {f"{name}.csv": csv_text(rows)}


def render(name: str, exported: Sequence[Unit]) -> dict[str, str]:
    files = parameters(name, exported)
    for unit in exported:
        prefix = f"{name}_{identifier(unit.key)}"
        lines = zip(range(unit.slopes.size), [*unit.cuts, ""], unit.slopes, unit.intercepts)
        columns = [unit.inputs.codes(), unit.acc] + ([unit.codes] if unit.out else [])
        files[f"{prefix}_lines.csv"] = csv_text([["segment", "cut", "slope", "intercept"], *lines])
        files[f"{prefix}_golden.csv"] = csv_text([["q", "acc", "code"][: len(columns)], *zip(*columns)])
    return files
