"""A table behind a period as runs of even pieces: the line of a reduced input by arithmetic on its bits, for vectors
whose lanes permute (`lutc.nn.cpu.pieces`).

Run j of the thresholds, 2^BITS pieces of equal width at most, lies in the binade [2^(BITS + j), 2^(BITS + j + 1)) of
u = scale_j r + offset_j, so that the exponent and the top BITS of u's mantissa are the place of the line. Which run r
lies in, one of 16 even cells of [0, period) tells, and a comparison with the threshold at which a run begins, of which
a cell holds one at most.

float32 cannot hold every threshold at its place in u: there u is up to NEAR of its steps below the place, and so it is
for what lies next to a threshold. Such r, one in 2^15, are told by u's low bits, and are looked up in another way.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lutc.lower.lowering import single
from lutc.lower.segments import Segments

BITS = 5
PIECES = 1 << BITS
SHIFT = 23 - BITS
NEAR = 8  # steps of u
CELLS = 16
FIRST = 127 + BITS << BITS  # place of the first line
_EVEN = 2.0**-10  # of a width, by which widths of a run may differ
_RUNS = 2 * CELLS  # at most
_REACH = 8  # ulps that a scale and an offset are moved by

_f32 = np.float32


@dataclass(frozen=True, eq=False)
class PiecePlan:
    """cell: factor from r to cells, to nearest; cuts (CELLS): the start of the run that begins in a cell, or infinity;
    scales, offsets (2, CELLS): of r below the cut and from it on; lines (runs x PIECES, 2): slopes and intercepts; all
    float32.
    """

    cell: np.floating
    cuts: np.ndarray
    scales: np.ndarray
    offsets: np.ndarray
    lines: np.ndarray

    @property
    def meta(self) -> tuple[int]:
        """The number of lines."""
        return (len(self.lines),)

    def words(self) -> np.ndarray:
        """cell and 15 times nothing, cuts, scales, offsets, lines."""
        parts = [np.full(CELLS, self.cell, _f32), self.cuts, self.scales, self.offsets, self.lines]
        return np.concatenate([part.astype(_f32).reshape(-1) for part in parts]).view(np.int32)

    def places(self, r: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Of float32 r in [0, period): the line in `lines`, and whether r is too near to a threshold to tell."""
        r = np.asarray(r, _f32)
        cell = np.rint(r.astype(np.float64) * float(self.cell)).astype(np.int64)
        side = (r >= self.cuts[cell]).astype(np.int64)
        bits = _position(r, self.scales[side, cell], self.offsets[side, cell]).view(np.int32)
        low = (1 << SHIFT) - 1
        return (bits >> SHIFT) - FIRST, (bits & low) >= low + 1 - NEAR


def _position(r, scale, offset) -> np.ndarray:
    """u, in float64 and rounded: a fused multiply-add but for ties, which are far from the ends of pieces."""
    return (np.float64(r) * np.float64(scale) + np.float64(offset)).astype(_f32)


def _moved(value: float) -> list:
    """float32 around a value, the nearest first."""
    bits = _f32(value).view(np.int32)
    return [np.int32(bits + step).view(_f32) for step in sorted(range(-_REACH, _REACH + 1), key=abs)]


def _line(starts: np.ndarray, end, run: int):
    """(scale, offset) of a run of pieces from its thresholds and the first number behind it; None where no float32 will
    do.
    """
    base = 2.0 ** (BITS + run)
    if len(starts) == 1:
        return _f32(0.0), _f32(base * (1 + 0.5 / PIECES))
    wanted = base * (1 + np.arange(len(starts)) / PIECES)
    step = base * 2.0**-23
    # a step below 2^(BITS + run) is half as long
    least = wanted - np.where(np.arange(len(starts)) == 0, NEAR / 2, NEAR) * step
    full, last = len(starts) == PIECES, np.nextafter(_f32(end), _f32(-np.inf))
    width = np.float64(starts[-1] - starts[0]) / (len(starts) - 1)
    for scale in _moved(base / PIECES / width):
        offset = np.median(wanted - np.float64(starts) * np.float64(scale)) - NEAR / 4 * step
        for moved in _moved(offset):
            u = _position(starts, scale, moved).astype(np.float64)
            inside = not full or _position(last, scale, moved) < 2 * base
            if (u >= least).all() and (u <= wanted - step).all() and inside:
                return scale, moved
    return None


def _runs(thresholds: np.ndarray, end) -> list[np.ndarray]:
    """Thresholds, the first of which is 0, in runs of equal distance; the first piece is a run of its own, for r = 0 is
    in every row.
    """
    widths = np.diff(np.append(thresholds, end).astype(np.float64))
    runs = [[thresholds[0]]]
    for i in range(1, len(thresholds)):
        even = len(runs) > 1 and abs(widths[i] - widths[i - 1]) <= _EVEN * widths[i]
        if even and len(runs[-1]) < PIECES:
            runs[-1].append(thresholds[i])
        else:
            runs.append([thresholds[i]])
    return [np.array(run, _f32) for run in runs]


def piece_plan(lines: Segments, period: float) -> PiecePlan | None:
    """The plan of a table on [0, period); None where its thresholds lie in no such runs, and where it has values below
    0, which a softmax would have to cut off.
    """
    end = _f32(period)
    end = end if end >= period else np.nextafter(end, _f32(np.inf))
    thresholds = np.append(0.0, lines.thresholds[(lines.thresholds > 0) & (lines.thresholds < end)]).astype(_f32)
    runs = _runs(thresholds, end)
    if len(thresholds) < 2 or len(runs) > _RUNS:
        return None
    starts = np.array([run[0] for run in runs] + [end])
    cells = _cells(starts)
    segment = lines.index(thresholds.astype(np.float64))
    slopes, intercepts = (numbers[segment] for numbers in single(lines))
    ends = np.append(thresholds[1:], end).astype(np.float64)
    values = np.concatenate([slopes * thresholds.astype(np.float64), slopes * ends]) + np.tile(intercepts, 2)
    if cells is None or not (np.isfinite(values).all() and (values >= 0).all()):
        return None
    found = [_line(run, after, j) for j, (run, after) in enumerate(zip(runs, starts[1:]))]
    if any(line is None for line in found):
        return None
    cell, cuts, run_of = cells
    scales, offsets = (np.array([line[part] for line in found], _f32)[run_of] for part in (0, 1))
    ahead = np.cumsum([0, *map(len, runs)])
    rows = [first + np.minimum(np.arange(PIECES), len(run) - 1) for first, run in zip(ahead, runs)]
    each = np.array(list(itertools.chain(*rows)))
    return PiecePlan(cell, cuts, scales, offsets, np.stack([slopes[each], intercepts[each]], -1))


def _cells(starts: np.ndarray):
    """(factor from r to cells, cuts, runs below and from the cut on) for runs that start at `starts`, the last being
    the end; None where two begin in every cell that can be had.
    """
    for reach in np.linspace(CELLS - 0.6, CELLS / 2, 64):
        cell = _f32(reach / starts[-1])
        at = np.rint(starts[1:-1].astype(np.float64) * float(cell)).astype(np.int64)
        if len(np.unique(at)) == len(at):
            cuts = np.full(CELLS, np.inf, _f32)
            cuts[at] = starts[1:-1]
            upper = np.searchsorted(at, np.arange(CELLS), side="right")
            return cell, cuts, np.stack([upper - np.isfinite(cuts), upper])
    return None
