"""Proofs repeated: the optimum that a file names, found again from the request that the file describes."""

from __future__ import annotations

from typing import Any

from lutc.compiler.pipeline import compile as lutc_compile
from lutc.formats.codes import Outputs
from lutc.formats.format import get as format_of
from lutc.functions import Function
from lutc.table.bodies import Lines
from lutc.table.prologues import AbsPrologue
from lutc.table.table_set import TableSet

_AGREE = 1e-5


def quickly_proven(tables: TableSet) -> bool:
    """Whether a proof takes a fraction of a second: own tables of lines over codes of at most 8 bits, with coefficients
    of at most 8 bits where errors are absolute or of output codes.
    """
    if not tables.inputs or any(inputs.bits > 8 for inputs in tables.inputs.values()):
        return False
    paired = tables.meta.get("objective") in ("absolute", "codes")
    narrow = all(
        table.coefficients.startswith("q") and format_of(table.coefficients).bits <= 8 for table in tables.values()
    )
    return (narrow or not paired) and _repeatable(tables)


def reproved(tables: TableSet, fn: Function) -> list[str]:
    """Where the least cost that the exact search finds differs from the optimum that the file names, by key. Empty
    where all hold, and for a file whose search cannot be repeated from what it says (shared tables, weights, floats).
    """
    if not _repeatable(tables):
        return []
    named, entries = tables.meta["search"]["optimum"], max(table.entries for table in tables.values())
    found = lutc_compile(fn, entries, search="exact", force=True, **_request(tables)).meta["search"]["cost"]
    return [
        f"search.optimum.{key} is {named[key]:g}, but the exact search reaches {found[key]:g}"
        for key in named
        if abs(found[key] - named[key]) > _AGREE * max(found[key], 1e-12)
    ]


def _repeatable(tables: TableSet) -> bool:
    meta = tables.meta
    return (
        "weights" not in meta
        and meta.get("share", "none") == "none"
        and str(meta.get("objective")) in ("squared", "absolute", "maximum", "codes")
        and all(isinstance(table.body, Lines) for table in tables.values())
        and all(table.coefficients.startswith("q") for table in tables.values())
        and isinstance(meta.get("search", {}).get("optimum"), dict)
        and "pot" not in str(meta.get("intercepts"))  # the grid of their powers is not in the file
    )


def _request(tables: TableSet) -> dict[str, Any]:
    table, meta = next(iter(tables.values())), tables.meta
    request: dict[str, Any] = {
        "range": tables.range,
        "inputs": tuple(tables.inputs.values()),
        "coefficients": table.coefficients,
        "objective": meta["objective"],
        "symmetry": isinstance(table.prologue, AbsPrologue),
        "tails": "exact" if table.left or table.right else "free",
        "promises": tuple(meta.get("promises", ())),
    }
    if "cut_step" in meta:
        request["cut_step"] = meta["cut_step"]
    if "slopes" in meta:
        request |= {"slopes": meta["slopes"], "intercepts": meta["intercepts"]}
    if meta["objective"] == "codes":
        request["out"] = Outputs(**meta["output"])
    return request
