"""Whether a manifest has the fields that it must have, of the types that they must have."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

_TYPES: Mapping[str, tuple[type, ...]] = {
    "str": (str,), "int": (int,), "float": (int, float), "None": (type(None),), "dict": (dict,), "list": (list,),
}  # fmt: skip
_NUMBER = "float | None"
MANIFEST = {
    "model": "dict", "data": "dict", "choice": "dict", "entries": "list", "cost": "dict", "left": "list",
    "files": "dict", "sha256": "str",
}  # fmt: skip
MODEL = {"name": "str", "class": "str", "digest": "str", "config": "str | None"}
DATA = {"batches": "int", "examples": "int", "tokens": "int"}
CHOICE = {"own": "dict", "max_kl": _NUMBER}
SPENT = {"kl": "float", "codes": "float", "tokens": "int"}
COST = {key: _NUMBER for key in ("kl", "perplexity", "exact", "change", "cosine")} | {"tokens": "int", "layers": "list"}
LAYER = {"name": "str"} | {key: _NUMBER for key in ("error", "own", "kl", "change")}


def parsed(text: str) -> Any:
    """JSON without NaN and infinities; ValueError."""

    def number(digits: str) -> float:
        if not math.isfinite(value := float(digits)):
            raise ValueError(f"{digits:.20} is no finite number")
        return value

    return json.loads(text, parse_constant=number, parse_float=number)


def check_content(content: Mapping) -> None:
    """All of a manifest but its entries; ValueError names what is wrong."""
    fields(content, MANIFEST, "the manifest")
    fields(content["model"], MODEL, "`model`")
    fields(content["data"], DATA, "`data`")
    fields(content["choice"], CHOICE, "`choice`")
    cost = content["cost"]
    if "spent" in cost:
        fields(cost["spent"], SPENT, "`spent`")
    if cost.keys() - {"spent"}:
        fields(cost, COST, "`cost`")
        for layer in cost["layers"]:
            fields(layer, LAYER, "a layer of `cost`")
    for what, values, wanted in (
        ("`left`", content["left"], "str"),
        ("`files`", content["files"].values(), "str"),
        ("`own`", content["choice"]["own"].values(), "int"),
    ):
        for value in values:
            fields({what: value}, {what: wanted}, "the manifest")


def fields(value: Any, wanted: Mapping[str, str], what: str) -> None:
    """An object with these fields, each of one of the types that are named; ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f"{what} is no object")
    for name, names in wanted.items():
        types = tuple(kind for one in names.split(" | ") for kind in _TYPES[one])
        if name not in value or isinstance(value[name], bool) or not isinstance(value[name], types):
            raise ValueError(f"{name} of {what} must be {names}; given {value.get(name)!r:.40}")
