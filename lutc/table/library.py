"""Shipped tables by name."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import TypeAlias

from lutc import functions
from lutc.errors import LutcError
from lutc.table.table import Table
from lutc.table.table_set import TableSet, read

# What a public function takes where it wants a table: a shipped name, a file, or the table itself.
TableSource: TypeAlias = "str | os.PathLike | TableSet | Table"


def names() -> list[str]:
    """Names of the shipped tables, sorted: "gelu_8", "silu_fplut", ..."""
    return sorted(
        path.name[: -len(".json")]
        for path in resources.files("lutc.pretrained").iterdir()
        if path.name.endswith(".json")
    )


def load(name: str | os.PathLike) -> TableSet:
    """A shipped table by name ("gelu_8") or a file by path ("my/table.json").

    Text with a folder separator or the suffix .json is a path. A name may begin with any alias of the function
    ("rsqrt_8" is "sqrt_reci_8"). Raises LutcError for an unknown name (the nearest is suggested) or a bad file.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise LutcError(f"a table is given by name or path, not by {type(name).__name__}")
    text = os.fspath(name)
    if text.endswith(".json") or os.sep in text or Path(text).is_file():
        return read(text)
    shipped = names()
    found = next((spelling for spelling in _spellings(text) if spelling in shipped), None)
    if found is None:
        near = difflib.get_close_matches(text, shipped, 1)
        hint = f"; did you mean '{near[0]}'?" if near else ";"
        raise LutcError(
            f"no shipped table '{text}'{hint} there are {_listed(shipped)}; a file is given by its path, ending in "
            ".json"
        )
    with resources.as_file(resources.files("lutc.pretrained") / f"{found}.json") as path:
        return read(path)


def _spellings(text: str) -> Iterator[str]:
    """The name, and the same table's under the other names of its function, in any case."""
    yield text
    text = text.strip().lower()
    yield text
    for fn in functions.FUNCTIONS.values():
        for own in (fn.name, *fn.aliases):
            if text.startswith(f"{own.lower()}_"):
                yield from (other + text[len(own) :] for other in (fn.name, *fn.aliases))


def _listed(shipped: list[str]) -> str:
    """All names, those of a function together: gelu_8/16/32/fplut."""
    kinds: dict[str, list[str]] = {}
    for name in shipped:
        if parts := re.fullmatch(r"(.+?)_((?:nnlut_)?[^_]+)", name):
            kinds.setdefault(parts[1], []).append(parts[2])
    return ", ".join(f"{function}_{'/'.join(sorted(kind, key=_natural))}" for function, kind in kinds.items()) or "none"


def _natural(kind: str) -> tuple:
    return (0, int(kind), "") if kind.isdigit() else (1, 0, kind)


def as_table_set(source: TableSource) -> TableSet:
    """A name, a path, a table set or one table as a table set."""
    if isinstance(source, TableSet):
        return source
    if isinstance(source, Table):
        return TableSet("table", {source.coefficients if source.coefficients in ("fp16", "bf16") else "fp32": source})
    if isinstance(source, (str, os.PathLike)):
        return load(source)
    raise LutcError(f"a table is given by name, path, TableSet or Table, not by {type(source).__name__}")
