"""What a folder of tables holds, and its files: `manifest.json`, `calibration.json` with its arrays, and `tables/`.

Importing this imports no torch. Reading checks every file against the digest that the manifest gives, the manifest
against its own, and every table against the place that it was made for: a folder that was altered or cut off is an
error, never another table.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import lutc
from lutc.errors import LutcError
from lutc.files import atomic_write
from lutc.folder import checking
from lutc.formats.codes import Inputs
from lutc.table.table_set import TableSet
from lutc.table.table_set import read as read_tables

SCHEMA = 1
MANIFEST, CALIBRATION, TABLES = "manifest.json", "calibration.json", "tables"
FUNCTIONS = {"activation": None, "softmax": "exp", "layer_norm": "rsqrt", "rms_norm": "rsqrt"}  # by operator
_FILE = re.compile(r"(?:tables/)?[A-Za-z0-9_][A-Za-z0-9_.\-]*")


@dataclass(frozen=True)
class Entry:
    """One place of a model and its table.

    path: as `lutc.patch` reports it. operator: "activation", "softmax", "layer_norm" or "rms_norm". function: of the
    registry. kind: "int8", "fplut" or "exponent". table: the file, within the folder; key: of its table. bits, scale,
    zero_point: of quantised inputs, None where inputs are floats. mean_squared: error that the model sees on the
    calibration's inputs, rounding of inputs included; exact_on_codes: that of the exact function on the same codes,
    None for floats. share: part of the model's relative error power, all places together 1. outside: share of inputs
    beyond the codes. values: inputs counted. bytes: of the table.
    """

    path: str
    operator: str
    function: str
    kind: str
    table: str
    key: str
    bits: int | None
    scale: float | None
    zero_point: int | None
    entries: int
    bytes: int
    mean_squared: float | None
    exact_on_codes: float | None
    share: float
    outside: float
    values: int

    @property
    def inputs(self) -> Inputs | None:
        """The codes of quantised inputs."""
        return None if self.scale is None else Inputs(self.bits or 8, self.scale, self.zero_point or 0)


@dataclass(frozen=True, eq=False)
class Folder:
    """model: {"name", "class", "digest", "config"} (the digest of its config, None without one), {"shapes": how many
    parameters of which shape}. data: what it was calibrated on. choice: how tables were made. tables: by file. cost:
    what the tables cost the model, as `lutc evaluate` measures it, {} where that was left out. left: places found and
    not served, and why.
    """

    path: Path
    model: Mapping
    data: Mapping
    choice: Mapping
    entries: tuple[Entry, ...]
    tables: Mapping[str, TableSet]
    cost: Mapping
    left: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Of all tables, each file once."""
        return sum({entry.table: entry.bytes for entry in self.entries}.values())


def write(
    folder: Path,
    model: Mapping,
    data: Mapping,
    choice: Mapping,
    entries: list[Entry],
    cost: Mapping,
    left: Iterable[str],
) -> None:
    """`manifest.json` of a folder whose other files are there, with their digests; written last, in one step."""
    files = [CALIBRATION, Path(CALIBRATION).with_suffix(".npz").name, *sorted({entry.table for entry in entries})]
    content = {
        "schema": SCHEMA,
        "kind": "model",
        "model": dict(model),
        "data": dict(data),
        "choice": dict(choice),
        "entries": [asdict(entry) for entry in entries],
        "cost": dict(cost),
        "left": list(left),
        "files": {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files},
        "version": lutc.__version__,
    }
    content["sha256"] = _digest(content)
    atomic_write(folder / MANIFEST, json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def _digest(content: Mapping) -> str:
    """Of everything in the manifest but the digest itself."""
    plain = json.dumps({key: value for key, value in content.items() if key != "sha256"}, sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()


def read(path: str | os.PathLike) -> Folder:
    """Load and validate a folder; LutcError names the file and what is wrong with it."""
    path = Path(path)
    file = path / MANIFEST
    try:
        content = checking.parsed(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise LutcError(
            f"{path} is no folder of a model's tables: cannot read {MANIFEST} ({error.strerror or error}); "
            "`lutc model compile MODEL --text FILE -o DIR` writes one"
        ) from error
    except (ValueError, RecursionError) as error:
        raise LutcError(f"{file} is not valid JSON: it is broken or cut off; compile the folder again") from error
    if not isinstance(content, dict) or content.get("kind") != "model":
        raise LutcError(f"{file} is no manifest of a model's tables; `lutc model compile` writes one")
    if content.get("schema") != SCHEMA:
        raise LutcError(f"{file}: schema {content.get('schema')!r} is not known here; this version reads {SCHEMA}")
    try:
        if content["sha256"] != _digest(content):
            raise LutcError(f"{file} was altered after it was written: its digest does not hold; compile again")
        checking.check_content(content)
        for name, digest in content["files"].items():
            _check(path, name, digest)
        for entry in content["entries"]:
            checking.fields(entry, {field.name: str(field.type) for field in dataclasses.fields(Entry)}, "a place")
        entries = tuple(Entry(**entry) for entry in content["entries"])
        if twice := [path for path, count in Counter(entry.path for entry in entries).items() if count > 1]:
            raise LutcError(f"{file} has two tables for {twice[0]}; compile the folder again")
        if unsigned := [entry.table for entry in entries if entry.table not in content["files"]]:
            raise LutcError(f"{file}: {unsigned[0]} has no digest; compile the folder again")
        tables = {name: read_tables(path / name) for name in dict.fromkeys(entry.table for entry in entries)}
        for entry in entries:
            _check_place(entry, tables[entry.table])
        return Folder(
            path, content["model"], content["data"], content["choice"], entries, tables, content["cost"],
            tuple(content["left"]),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, LutcError):
            raise
        raise LutcError(f"{file} is no whole manifest ({type(error).__name__}: {error}); compile again") from error


def _check(folder: Path, name: str, digest: str) -> None:
    """The file lies in the folder and has the digest that the manifest gives."""
    whole = Path(os.path.realpath(folder / name))
    if not _FILE.fullmatch(name) or not whole.is_relative_to(os.path.realpath(folder)):
        raise LutcError(f"{folder / MANIFEST} names {name!r}, which lies outside the folder; nothing there is read")
    try:
        found = hashlib.sha256(whole.read_bytes()).hexdigest()
    except OSError as error:
        raise LutcError(
            f"{folder} lacks {name} ({error.strerror or error}): the folder is not whole; compile or copy it again"
        ) from error
    if found != digest:
        raise LutcError(
            f"{folder / name} was altered or cut off after it was written; compile or copy the folder again"
        )


def _check_place(entry: Entry, tables: TableSet) -> None:
    """The table is one of the entry's function and, where it was made for one layer, of this one."""
    if entry.operator not in FUNCTIONS or FUNCTIONS[entry.operator] not in (None, entry.function):
        raise LutcError(f"{entry.path} is to have a table of {entry.function} as {entry.operator!r}; compile again")
    if tables.function != entry.function or entry.key not in tables:
        raise LutcError(f"{entry.table} holds no table '{entry.key}' of {entry.function}, which {entry.path} needs")
    if tables.inputs.get(entry.key) != entry.inputs:
        raise LutcError(f"{entry.table} was made for other codes than those of {entry.path}; compile again")
    weights = tables.meta.get("weights")
    made_for = weights.get("layer") if isinstance(weights, Mapping) else None
    if made_for is not None and made_for != entry.path:
        raise LutcError(f"{entry.table} was made for {made_for}, not for {entry.path}; compile the folder again")
