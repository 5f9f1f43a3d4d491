"""How tensors with a table for every channel are gone through on the CPU. Elements lie in the order (outer, channels,
inner).

Runs of at least LONG elements of one channel are taken one after another. Where they are shorter, (channels, inner) is
a row of columns, each with numbers of its own that lie beside the elements, so that loops are vector instructions.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

LONG = 64  # elements of a run that is worth its own calls
SLICE = 1 << 15  # elements of a unit of work
_ROW = 512  # columns of a row at least
_CACHED = 1 << 18  # bytes of tables that stay near


class Pieces(NamedTuple):
    """`height` rows of `width` elements, in units of `deep` rows by `piece` columns; units of one row come first."""

    height: int
    width: int
    piece: int
    deep: int

    @property
    def units(self) -> int:
        return -(-self.height // self.deep) * -(-self.width // self.piece)


def without_rows(n: int) -> Pieces:
    """n elements as they come."""
    return Pieces(1, n, SLICE, 1)


def in_rows(height: int, width: int, piece: int, more: int = 1) -> Pieces:
    """Units of some `more` times SLICE elements."""
    return Pieces(height, width, max(1, min(piece, width)), max(1, more * SLICE // max(1, min(piece, width))))


def in_columns(sides: tuple[int, int, int], table_bytes: int = 0, tables: int = 1) -> list[tuple[int, int, Pieces]]:
    """(first element, the copies of a row's columns that its numbers need, units), of all rows but the last few, and of
    these. Short rows go several as one, of a multiple of 8 columns; a unit has columns whose tables, of `table_bytes`
    each, stay near.
    """
    outer, channels, inner = sides
    columns = channels * inner
    if not outer * columns:
        return []
    several = -(-_ROW // columns)
    whole = 8 // math.gcd(8, columns)
    several = -(-several // whole) * whole
    height, rest = divmod(outer, several)
    few = max(LONG, _CACHED // max(1, table_bytes) // LONG * LONG)
    near = tables * table_bytes <= 2 * _CACHED
    parts = []
    for first, rows, copies in ((0, height, several), (height * several * columns, 1, rest)):
        if rows and copies:
            width = copies * columns
            parts.append((first, copies, in_rows(rows, width, width if near else few, 1 if near else 4)))
    return parts


def repeated(of_channels: np.ndarray, inner: int, copies: int) -> np.ndarray:
    """One number for each column of `copies` rows."""
    each = np.repeat(of_channels, inner) if inner > 1 else of_channels
    return np.ascontiguousarray(np.tile(each, copies) if copies > 1 else each)
