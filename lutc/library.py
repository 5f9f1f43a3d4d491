"""Shipped tables by name."""

from __future__ import annotations

import difflib
import os
from importlib import resources
from pathlib import Path

from lutc.errors import LutcError
from lutc.tablefile import TableSet, read


def names() -> list[str]:
    """Names of the shipped tables, sorted: "gelu_8", "silu_fplut", ..."""
    return sorted(path.name[: -len(".json")] for path in resources.files("lutc.pretrained").iterdir() if path.name.endswith(".json"))


def load(name: str | os.PathLike) -> TableSet:
    """A shipped table by name ("gelu_8") or a file by path ("my/table.json").

    Text with a folder separator or the suffix .json is a path. Raises LutcError for an unknown name (the nearest is suggested) or a bad file.
    """
    text = os.fspath(name)
    if text.endswith(".json") or os.sep in text or Path(text).is_file():
        return read(text)
    shipped = names()
    if text not in shipped:
        near = difflib.get_close_matches(text, shipped, 1)
        hint = f"; did you mean '{near[0]}'?" if near else ";"
        raise LutcError(f"no shipped table '{text}'{hint} there are {', '.join(shipped) or 'none'}; a file is given by its path, ending in .json")
    with resources.as_file(resources.files("lutc.pretrained") / f"{text}.json") as path:
        return read(path)
