"""A table of exp in even pieces: what attention in 16 bits on a GPU looks its weights up in, one multiply-add and one
shift from a score (`lutc.kernels.attention_parts`).

A weight is that of d <= 0, the distance of a score from the largest, in units of x, or of the period where the table
has one. u = TOP + d / reach, kept within [0, 1], lies in piece floor(u PIECES), which holds a line of u; piece 0 is 0.

A table whose cuts lie on the grid of pieces keeps its lines. Behind a period, of which a piece is a 64th, the pieces
hold chords: lines through the table's values at their ends; what lies further than 31.9 periods below is 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lutc.lower.segments import reduced_segments
from lutc.table.table import Table

BITS = 11
PIECES = 1 << BITS
TOP = 1 - 1 / PIECES  # u of d = 0
PERIODS = 32  # that the pieces reach over


@dataclass(frozen=True, eq=False)
class EvenPlan:
    """lines: slopes and intercepts of u, (PIECES, 2) float32; reach: in units of x or of the period, a power of two."""

    reach: int
    lines: np.ndarray

    @property
    def meta(self) -> tuple[int]:
        return (self.reach,)

    def words(self) -> np.ndarray:
        return self.lines.reshape(-1).view(np.int32)

    def __call__(self, d: ArrayLike) -> np.ndarray:
        """Weights (float64) of distances d <= 0, the arithmetic exact; 0 for NaN."""
        u = np.clip(np.nan_to_num(TOP + np.asarray(d, np.float64) / self.reach, nan=0.0, neginf=0.0), 0, TOP)
        line = self.lines.astype(np.float64)[np.floor(u * PIECES).astype(np.int64)]
        return line[..., 0] * u + line[..., 1]


def even_plan(table: Table, period: float = 0.0) -> EvenPlan | None:
    """The plan of a table of exp; period: of the table whose body `table` is. None where it does not serve: a table
    without a period whose cuts lie on no grid of PIECES or that is not 0 on its left, and values below 0.
    """
    if period:
        pieces = PIECES // PERIODS
        ends = np.asarray(table(np.append(np.arange(pieces) * (period / pieces), np.nextafter(period, 0))), np.float64)
        powers = np.exp2(np.arange(1 - PERIODS, 1))[:, None] / 2
        left, right = ((powers * values).reshape(-1) for values in (ends[:-1], ends[1:]))
        # the last period ends at d = 0, where piece PIECES - 1, of d >= 0, goes on
        left, right = np.append(left, ends[0])[1:], np.append(right, ends[1])[1:]
        return _of(left, right, PERIODS)
    lines = reduced_segments(table, "fp32")
    if not lines.thresholds.size or lines.thresholds[0] >= 0 or lines.slopes[0] or lines.intercepts[0]:
        return None
    cuts = np.nextafter(lines.thresholds.astype(np.float32), np.float32(-np.inf)).astype(np.float64)
    reach = max(1, 1 << math.ceil(math.log2(-cuts[0])))
    reach *= 2 if -cuts[0] > reach * (1 - 2 / PIECES) else 1
    grid = cuts[cuts < 0] * (PIECES / reach)
    if (grid != np.rint(grid)).any():
        return None
    starts = np.arange(1 - PIECES, 1) * (reach / PIECES)
    middles = np.minimum(starts + reach / PIECES / 2, -reach / PIECES / 2)  # d = 0 goes on as what lies before it
    segment = lines.index(middles)
    slopes, intercepts = lines.slopes[segment], lines.intercepts[segment]
    return _of(slopes * starts + intercepts, slopes * (starts + reach / PIECES) + intercepts, reach)


def _of(left: np.ndarray, right: np.ndarray, reach: int) -> EvenPlan | None:
    """Of the values at the pieces' ends."""
    if not ((left >= 0).all() and (right >= 0).all()):
        return None
    slopes = ((right - left) * PIECES).astype(np.float32)
    middles = (np.arange(PIECES) + 0.5) / PIECES
    intercepts = ((left + right) / 2 - slopes * middles).astype(np.float32)
    slopes[0] = intercepts[0] = 0
    return EvenPlan(reach, np.stack([slopes, intercepts], -1))
