"""Samples sorted into the cells that cuts may fall between."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lutc.samples.samples import Samples

TIE_WEIGHT = 1e-9  # of all points between two codes together, against a code


@dataclass(frozen=True, eq=False)
class Points:
    """Samples sorted into cells: x, y, weight (sum 1), cell (int, 0..size-1), each of shape (n,). own: how many of
    them, the first, are samples; the rest lie between and only decide ties.
    """

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    cell: np.ndarray
    size: int
    own: int | None = None

    @classmethod
    def of(cls, samples: Samples, positions: np.ndarray | None = None, between: Samples | None = None) -> Points:
        """One cell per sample, or cells between `positions` (ascending sample indices from 0 to n).

        between: more points, each in the cell of the sample at or after it; their weights count relative to the
        samples' sum.
        """
        n = len(samples)
        cell = np.arange(n) if positions is None else np.searchsorted(positions, np.arange(n), side="right") - 1
        size = n if positions is None else len(positions) - 1
        total = samples.weight.sum()
        if between is None:
            return cls(samples.x, samples.y, samples.weight / total, cell, size)
        cells = np.concatenate([cell, cell[np.searchsorted(samples.x, between.x)]])
        x, y, weight = (
            np.concatenate([getattr(samples, name), getattr(between, name)]) for name in ("x", "y", "weight")
        )
        return cls(x, y, weight / total, cells, size, n)

    @classmethod
    def shared(cls, samples: list[Samples], positions: list[np.ndarray]) -> Points:
        """Several scales behind one set of cuts: positions[s][p] is the sample index in scale s at which cut p falls.
        Each scale weighs the same.
        """
        cells = [np.searchsorted(at, np.arange(len(s)), side="right") - 1 for s, at in zip(samples, positions)]
        weights = [s.weight / s.weight.sum() / len(samples) for s in samples]
        x, y = np.concatenate([s.x for s in samples]), np.concatenate([s.y for s in samples])
        return cls(x, y, np.concatenate(weights), np.concatenate(cells), len(positions[0]) - 1)
