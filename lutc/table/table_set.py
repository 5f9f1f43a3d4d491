"""Table sets and their files: GQA-LUT's layout plus a "lutc" object, validated on loading, written atomically.

{"gelu": {"0": {"breakpoints": [...], "slopes": [...], "intercepts": [...]}, ...}, "lutc": {"schema": 1, ...}}
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lutc import functions
from lutc.errors import LutcError, ScaleWarning
from lutc.files import atomic_write
from lutc.formats.codes import HALF_UP, Inputs
from lutc.table.reading import parse
from lutc.table.table import Table
from lutc.table.writing import dump, to_json

LARGEST_FILE = 64 << 20  # bytes; a 65,536-entry table in three formats stays below


@dataclass(frozen=True, eq=False)
class TableSet(Mapping):
    """Tables of one function by key: "0".."6" for int8 codes at scale 2**-key (GQA-LUT), "fp16"/"bf16"/"fp32" for float
    tables, or a label.

    name: top key of the file, as typed. function: the registry's name, a user's 'module:attribute', or None for a
    foreign file whose name is not known. inputs: key -> Inputs for tables over codes. meta: everything else under
    "lutc" (search, certificate, objective, ...).
    """

    name: str
    tables: Mapping[str, Table]
    inputs: Mapping[str, Inputs] = field(default_factory=dict)
    function: str | None = None
    meta: Mapping = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name == "lutc":
            raise LutcError(
                "a table set is called anything but 'lutc', the key of its record in the file; choose another name "
                "(`name`)"
            )
        if not self.tables:
            raise LutcError(f"a table file holds at least one table; '{self.name}' has none")
        unknown = set(self.inputs) - set(self.tables)
        if unknown:
            raise LutcError(
                f"inputs name tables that are not there: {', '.join(sorted(unknown))}; there are "
                f"{', '.join(self.tables)}"
            )

        bounded = [key for key in self.inputs if self.tables[key].domain is not None]
        if bounded:
            raise LutcError(
                f"table '{bounded[0]}' has a domain, outside which lies NaN, but codes as inputs, which have none"
            )

    def __repr__(self) -> str:
        return f"<TableSet {self.name}: {', '.join(f'{key!r}: {table!r}' for key, table in self.tables.items())}>"

    def __getitem__(self, key: str) -> Table:
        try:
            return self.tables[str(key)]
        except KeyError:
            raise LutcError(f"no table '{key}' in '{self.name}'; there are {', '.join(self.tables)}") from None

    def __contains__(self, key: object) -> bool:
        return str(key) in self.tables

    def __iter__(self) -> Iterator[str]:
        return iter(self.tables)

    def __len__(self) -> int:
        return len(self.tables)

    @property
    def range(self) -> tuple[float, float] | None:
        """The range it was compiled for, else the function's default, else None."""
        if "range" in self.meta:
            return tuple(self.meta["range"])
        known = functions.find(self.function)
        return known.range if known else None

    def key_for_scale(self, scale: float) -> str:
        """Key whose input scale is nearest to `scale` on a log axis: a scale outside the keys clips to the nearest, as
        GQA-LUT does.
        """
        if not (math.isfinite(scale) and scale > 0):
            raise LutcError(f"an input scale is a positive finite number; given {scale}")
        if not self.inputs:
            raise LutcError(
                f"'{self.name}' holds float tables ({', '.join(self.tables)}), which have no input scale: leave the "
                "scale out"
            )
        return min(self.inputs, key=lambda key: abs(math.log2(self.inputs[key].scale / scale)))

    def chosen_key(self, scale: float, strict: bool = False) -> str:
        """`key_for_scale`, said aloud where the set has no table of that scale: a ScaleWarning that names the table
        taken and what it is worth, LutcError where `strict`.
        """
        key = self.key_for_scale(scale)
        if math.isclose(self.inputs[key].scale, scale, rel_tol=1e-6):
            return key
        there = ", ".join(f"{inputs.written} ('{name}')" for name, inputs in self.inputs.items())
        lack = f"'{self.name}' has no table for the scale {scale:g}"
        if strict:
            raise LutcError(f"{lack}; there are {there}: compile one, or leave strict out to take the nearest")
        found = self.meta.get("certificate", {}).get(key, {}).get("float", {})
        worth = f", whose worst error on floats is {found['worst_absolute']['error']:.3g}" if found else ""
        warnings.warn(f"{lack}; '{key}', of {self.inputs[key].written}, is taken{worth}", ScaleWarning, stacklevel=4)
        return key

    @property
    def rounding(self) -> str:
        """Of halves between output codes: what the file's output says, else half_up."""
        return self.meta.get("output", {}).get("rounding", HALF_UP)

    @property
    def default_key(self) -> str:
        """fp32 where there is one; among tables over codes the finest scale whose codes cover the range; else the first
        key.
        """
        if "fp32" in self.tables:
            return "fp32"
        lo, hi = self.range or (0.0, 0.0)
        covering = [
            key for key, inputs in self.inputs.items() if inputs.x()[0] <= lo and inputs.x()[-1] + inputs.scale >= hi
        ]
        if covering:
            return min(covering, key=lambda key: self.inputs[key].scale)
        return max(self.inputs, key=lambda key: self.inputs[key].scale) if self.inputs else next(iter(self.tables))

    def dumps(self) -> str:
        """The file's text; the same set gives the same bytes."""
        return dump(to_json(self))

    def save(self, path: str | os.PathLike) -> None:
        """Write the file atomically."""
        atomic_write(path, self.dumps())


def read(path: str | os.PathLike) -> TableSet:
    """Load and validate a file; LutcError names the file and what is wrong with it."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise LutcError(f"{path} is larger than {LARGEST_FILE >> 20} MiB, so it is no table file")
        text = content.decode("utf-8-sig")  # editors on Windows begin a file with a mark
    except OSError as error:
        raise LutcError(f"cannot read {path}: {error.strerror or error}; give the path of a table file") from error
    except UnicodeDecodeError as error:
        raise LutcError(f"{path} is no text file, so no table file") from error
    try:
        return loads(text)
    except LutcError as error:
        raise LutcError(f"{path}: {error}") from error


def loads(text: str) -> TableSet:
    """A TableSet from a file's text."""
    return TableSet(**parse(text))
