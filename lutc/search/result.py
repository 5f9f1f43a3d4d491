"""What every search returns."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class SearchResult:
    """cuts: (m + 1,) ascending positions; segment s is [cuts[s], cuts[s + 1]), the tails lie outside. Repeated cuts are
    empty segments.

    cost: of the table, in the costs' unit. lines: (slopes, intercepts) where the search chose them itself, else None:
    the costs' best ones. pieces: of each interval between cuts, where these hold equal pieces.
    record: the search's name and settings, for the table's file.
    """

    cuts: np.ndarray
    cost: float
    record: dict
    lines: tuple[np.ndarray, np.ndarray] | None = field(default=None, repr=False)
    pieces: tuple[int, ...] | None = None
