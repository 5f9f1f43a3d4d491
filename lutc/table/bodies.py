"""What a table holds behind its prologue: lines between breakpoints, cells between cut points, exponents, or one value
per code.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lutc import formats
from lutc.checks import freeze, is_int, vector
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.table.prologues import line


def _increasing(name: str, array: np.ndarray) -> None:
    rising = array[1:] > array[:-1]
    if not rising.all():
        at = int(np.argmin(rising))
        raise LutcError(f"{name} must increase strictly; given {array[at]:g} before {array[at + 1]:g}")


@dataclass(frozen=True, eq=False)
class Lines:
    """Addressing `compare`, payload `lines`: n slopes and intercepts, n - 1 strictly increasing breakpoints in real x.

    Segment of x = number of breakpoints < x, so x equal to a breakpoint belongs to the left (`torch.bucketize(x,
    breakpoints)`).
    """

    breakpoints: np.ndarray
    slopes: np.ndarray
    intercepts: np.ndarray

    addressing = "compare"
    payload = "lines"

    def __post_init__(self):
        freeze(self, **{name: vector(name, getattr(self, name)) for name in ("breakpoints", "slopes", "intercepts")})
        n = self.slopes.size
        if n < 1 or self.intercepts.size != n or self.breakpoints.size != n - 1:
            raise LutcError(
                f"n entries have n slopes, n intercepts and n - 1 breakpoints; given {n}, {self.intercepts.size} and "
                f"{self.breakpoints.size}"
            )
        _increasing("breakpoints", self.breakpoints)

    @property
    def entries(self) -> int:
        return self.slopes.size

    def segment(self, x: ArrayLike) -> np.ndarray:
        """Index of the segment of each x (int64); NaN falls into the last."""
        return np.searchsorted(self.breakpoints, np.asarray(x, np.float64), side="left")

    def __call__(self, x) -> np.ndarray:
        x = np.asarray(x, np.float64)
        index = self.segment(x)
        return line(self.slopes[index], self.intercepts[index], x)


def without_empty_segments(breakpoints: ArrayLike, slopes: ArrayLike, intercepts: ArrayLike) -> Lines:
    """Lines of ascending breakpoints that may repeat: between equal breakpoints no x lies, so that
    segment is dropped.
    """
    points = np.asarray(breakpoints, np.float64)
    keep = np.append(np.ones(min(points.size, 1), bool), points[1:] != points[:-1])
    segments = np.append(True, np.append(keep[1:], np.ones(min(points.size, 1), bool)))
    return Lines(points[keep], np.asarray(slopes, np.float64)[segments], np.asarray(intercepts, np.float64)[segments])


class _Knots:
    """Values at ascending `edges`, interpolated linearly; the end pieces go on outside."""

    payload = "values"

    @property
    def entries(self) -> int:
        return self.values.size

    def segment(self, x: ArrayLike) -> np.ndarray:
        """Index of the piece of each x (int64), clamped to the end pieces; NaN falls into the last."""
        return np.clip(np.searchsorted(self.edges, np.asarray(x, np.float64), side="right") - 1, 0, self.edges.size - 2)

    def __call__(self, x) -> np.ndarray:
        x = np.asarray(x, np.float64)
        i = self.segment(x)
        slope = (self.values[i + 1] - self.values[i]) / (self.edges[i + 1] - self.edges[i])
        finite = np.where(np.isfinite(x), x, 0.0)
        inside = self.values[i] + slope * (finite - self.edges[i])
        return np.where(np.isfinite(x), inside, line(slope, self.values[i], x))


@dataclass(frozen=True, eq=False)
class Cells(_Knots):
    """Addressing `cells`, payload `values`: FPLUT (arXiv:2602.02988). m + 1 strictly increasing cut points bound m
    intervals, closed on the left.

    Interval i is cut into pieces[i] equal pieces (a power of two); `values` (sum(pieces) + 1) stand at all piece edges,
    which are the float64 values cut + i * width / pieces rounded to float32, and are interpolated linearly. Outside the
    cut points the end pieces go on.
    """

    cut_points: np.ndarray
    pieces: tuple[int, ...]
    values: np.ndarray

    addressing = "cells"

    def __post_init__(self):
        freeze(self, cut_points=vector("cut_points", self.cut_points), values=vector("values", self.values))
        pieces = tuple(self.pieces)
        if not all(is_int(p) and p > 0 and p & (p - 1) == 0 for p in pieces):
            raise LutcError(
                f"pieces must be powers of two (1, 2, 4, ...), one per interval; given {list(pieces)!r:.80}"
            )
        freeze(self, pieces=tuple(int(p) for p in pieces))
        if self.cut_points.size < 2 or len(self.pieces) != self.cut_points.size - 1:
            raise LutcError(
                f"m intervals have m + 1 cut points, m at least 1; given {len(self.pieces)} pieces and "
                f"{self.cut_points.size} cut points"
            )
        if self.values.size != sum(self.pieces) + 1:
            raise LutcError(f"{sum(self.pieces)} pieces have {sum(self.pieces) + 1} values; given {self.values.size}")
        _increasing("cut_points", self.cut_points)
        _increasing("piece edges in float32", vector("piece edges in float32", self.edges))

    @functools.cached_property
    def edges(self) -> np.ndarray:
        """All piece edges (sum(pieces) + 1), float64 holding float32 values."""
        cuts = self.cut_points
        parts = [cuts[i] + np.arange(p) * (cuts[i + 1] - cuts[i]) / p for i, p in enumerate(self.pieces)]
        with np.errstate(over="ignore"):  # an edge beyond float32 is infinite, and refused
            edges = np.append(np.concatenate(parts), cuts[-1]).astype(np.float32).astype(np.float64)
        edges.setflags(write=False)
        return edges


@dataclass(frozen=True, eq=False)
class Exponents(_Knots):
    """Addressing `exponent`, payload `values`: sign, exponent and top mantissa bits of a 16-bit input choose the piece,
    without arithmetic.

    mantissa_bits: one per sign and exponent field of the format `input` in ascending order of x, negative numbers from
    the largest field down to 0, then positive ones from 0 up (fp16: 2 x 31, bf16: 2 x 255; the field of infinities is
    left out). b >= 0 cuts the binade into 2^b equal pieces. JOINED: it goes on with its neighbour nearer to zero,
    itself joined or one piece. OUTSIDE: it holds no piece. values stand at all edges, ascending in x, and are
    interpolated linearly. Field 0 starts at zero. By its bits an edge below zero belongs to the piece nearer to zero,
    here to the one on its right as everywhere; the value at an edge is the stored one either way.
    """

    input: str
    mantissa_bits: tuple[int, ...]
    values: np.ndarray

    addressing = "exponent"
    JOINED, OUTSIDE = -1, -2

    def __post_init__(self):
        fmt = self._format
        fields = (1 << fmt.exponent_bits) - 1
        bits = tuple(int(b) if is_int(b) else None for b in self.mantissa_bits)
        freeze(self, mantissa_bits=bits, values=vector("values", self.values))
        if len(bits) != 2 * fields or any(b is None or not self.OUTSIDE <= b <= fmt.mantissa_bits for b in bits):
            wanted = f"mantissa bits (-2 to {fmt.mantissa_bits}) for 2 x {fields} binades"
            raise LutcError(f"an exponent-addressed table of {fmt.name} has {wanted}; given {len(bits)}")
        inside = [i for i, b in enumerate(bits) if b != self.OUTSIDE]
        if not inside or len(inside) != inside[-1] - inside[0] + 1:
            raise LutcError(
                "the binades of an exponent-addressed table follow each other without a gap; at least one holds a piece"
            )
        for side in (bits[:fields][::-1], bits[fields:]):  # outward from zero
            if any(b == self.JOINED and (i == 0 or side[i - 1] not in (0, self.JOINED)) for i, b in enumerate(side)):
                raise LutcError("a binade is joined (-1) to one nearer to zero that is joined or has one piece (0)")
        if self.values.size != self.edges.size:
            raise LutcError(f"{self.edges.size - 1} pieces have {self.edges.size} values; given {self.values.size}")

    @property
    def _format(self):
        if self.input not in ("fp16", "bf16"):
            raise LutcError(f"the bits of fp16 or bf16 address a table; given {self.input!r}")
        return formats.get(self.input)

    @property
    def cut_points(self) -> np.ndarray:
        """First and last edge, where tails begin."""
        return self.edges[[0, -1]]

    @functools.cached_property
    def edges(self) -> np.ndarray:
        """All piece edges, float64; all are dyadic."""
        bounds, fields = binades(self.input), len(self.mantissa_bits) // 2
        bounds, edges = bounds[fields:], []
        for sign, side in ((-1.0, self.mantissa_bits[:fields][::-1]), (1.0, self.mantissa_bits[fields:])):
            inside = [i for i, bits in enumerate(side) if bits != self.OUTSIDE]
            for i in inside:
                pieces = 1 << max(side[i], 0)
                if side[i] != self.JOINED:
                    edges.append(sign * (bounds[i] + np.arange(pieces) * (bounds[i + 1] - bounds[i]) / pieces))
            if inside:
                edges.append([sign * bounds[inside[-1] + 1]])
        edges = np.unique(np.concatenate(edges)) + 0.0
        edges.setflags(write=False)
        return edges


def binades(input: str) -> np.ndarray:
    """Bounds of the binades of a 16-bit format in ascending order, float64: 2 x fields + 1, with 0 in the middle."""
    fmt = formats.get(input)
    fields = np.arange(1, 1 << fmt.exponent_bits)
    positive = np.exp2((fields - fmt.exponent_bias).astype(np.float64))
    return np.concatenate([-positive[::-1], [0.0], positive])


@dataclass(frozen=True, eq=False)
class Direct:
    """Addressing `direct`, payload `values`: one value per input code, values[q - q_min], q of `bits` bits, x = scale *
    (q - zero_point).

    Other x are quantised first: rounded half to even and clamped, as the codes saturate.
    """

    values: np.ndarray
    bits: int
    scale: float
    zero_point: int = 0

    addressing = "direct"
    payload = "values"

    def __post_init__(self):
        freeze(self, values=vector("values", self.values))
        Inputs(self.bits, self.scale, self.zero_point)  # checks them
        if self.values.size != 1 << self.bits:
            raise LutcError(
                f"a direct table over {self.bits} bits has {1 << self.bits} values; given {self.values.size}"
            )

    @property
    def entries(self) -> int:
        return self.values.size

    def segment(self, x: ArrayLike) -> np.ndarray:
        inputs = Inputs(self.bits, self.scale, self.zero_point)
        return inputs.quantise(x) - inputs.minimum

    def __call__(self, x) -> np.ndarray:
        x = np.asarray(x, np.float64)
        return np.where(np.isnan(x), np.nan, self.values[self.segment(x)])
