"""Proofs repeated: the optimum or bound that a file names, found again from the request that the file describes."""

from __future__ import annotations

from typing import Any

from lutc.compiler.pipeline import compile as lutc_compile
from lutc.compiler.request import FLOAT_INPUTS
from lutc.formats.codes import Outputs
from lutc.formats.format import get as format_of
from lutc.functions import Function
from lutc.table.bodies import Lines
from lutc.table.prologues import AbsPrologue, ExponentPrologue, PeriodPrologue
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
    return (narrow or not paired) and provable(tables) and "optimum" in tables.meta["search"]


def reproved(tables: TableSet, fn: Function) -> list[str]:
    """Where what the file names as optimum or lower bound is not what the exact search and its prover find, by key.
    Empty where all hold, and for a file whose search cannot be repeated from what it says (`provable`).
    """
    if not provable(tables):
        return []
    search, entries = tables.meta["search"], max(table.entries for table in tables.values())
    found = lutc_compile(fn, entries, search="exact", force=True, **_request(tables)).meta["search"]
    proven = {**found.get("lower_bound", {}), **found.get("optimum", {})}
    wrong = []
    for key, named in search.get("optimum", {}).items():
        least = found["cost"][key] if tables.inputs else proven[key]
        if abs(least - named) > _AGREE * max(least, 1e-12):
            wrong.append(f"search.optimum.{key} is {named:g}, but the exact search reaches {least:g}")
    for key, named in search.get("lower_bound", {}).items():
        if named > proven[key] + _AGREE * max(proven[key], 1e-12):
            wrong.append(f"search.lower_bound.{key} is {named:g}, but what is proven is {proven[key]:g}")
    return wrong


def provable(tables: TableSet) -> bool:
    """Whether a file says enough to repeat its search: own tables of lines, no weights but named ones."""
    meta, search = tables.meta, tables.meta.get("search", {})
    named = isinstance(search.get("optimum"), dict) or isinstance(search.get("lower_bound"), dict)
    return (
        named
        and str(meta.get("weights", "uniform")).split(":")[0] in ("uniform", "gauss")
        and meta.get("share", "none") == "none"
        and str(meta.get("objective")) in ("squared", "relative", "absolute", "maximum", "codes")
        and all(isinstance(table.body, Lines) for table in tables.values())
        and (bool(tables.inputs) or meta.get("float_inputs") in FLOAT_INPUTS)
        and "pot" not in str(meta.get("intercepts"))  # the grid of their powers is not in the file
    )


def _request(tables: TableSet) -> dict[str, Any]:
    table, meta = next(iter(tables.values())), tables.meta
    request: dict[str, Any] = {
        "range": tables.range,
        "inputs": tuple(tables.inputs.values()) or meta["float_inputs"],
        "coefficients": table.coefficients,
        "objective": meta["objective"],
        "symmetry": isinstance(table.prologue, AbsPrologue),
        "tails": "exact" if table.left or table.right else "free",
        "promises": tuple(meta.get("promises", ())),
    }
    if isinstance(table.prologue, (ExponentPrologue, PeriodPrologue)):
        request |= {"prologue": "reduce", "tails": "exact"}
    if "weights" in meta:
        request["weights"] = meta["weights"]
    if "cut_step" in meta:
        request["cut_step"] = meta["cut_step"]
    if "slopes" in meta:
        request |= {"slopes": meta["slopes"], "intercepts": meta["intercepts"]}
    if meta["objective"] == "codes":
        request["out"] = Outputs(**meta["output"])
    return request
