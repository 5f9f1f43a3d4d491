"""`apply`: the tables of a folder put into the model that they were made for."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from lutc import functions
from lutc.errors import LutcError
from lutc.evaluation.placing import place
from lutc.folder.identity import find
from lutc.folder.manifest import FUNCTIONS, Entry, Folder, read
from lutc.nn.coded_rows import CodeLayerNorm, CodeRMSNorm, CodeSoftmax, CodeTable
from lutc.nn.lut import LUT
from lutc.nn.norm import LUTLayerNorm, LUTRMSNorm
from lutc.nn.patching.apply import keep, refuse_patched
from lutc.nn.patching.choose import Selection, Wanted
from lutc.nn.patching.patcher import Patcher
from lutc.nn.patching.report import Report
from lutc.nn.quant import QuantLUT
from lutc.nn.softmax import LUTSoftmax

_NORMS = {
    ("layer_norm", False): lambda tables: LUTLayerNorm(1, elementwise_affine=False, rsqrt=tables),
    ("rms_norm", False): lambda tables: LUTRMSNorm(1, elementwise_affine=False, rsqrt=tables),
    ("layer_norm", True): CodeLayerNorm,
    ("rms_norm", True): CodeRMSNorm,
}


def module_of(entry: Entry, folder: Folder) -> nn.Module:
    """The module that stands at an entry's place."""
    tables, inputs = folder.tables[entry.table], entry.inputs
    if entry.operator in ("layer_norm", "rms_norm"):
        return _NORMS[entry.operator, inputs is not None](tables)
    if entry.operator == "softmax":
        return LUTSoftmax(tables) if inputs is None else CodeSoftmax(tables)
    if inputs is None:
        return LUT(tables, key=entry.key)
    return QuantLUT(tables, inputs.scale, inputs.zero_point, bits=inputs.bits, strict=True)


def exact_on_codes(entry: Entry, folder: Folder) -> nn.Module:
    """What a table over codes is held against: the exact function on the same codes; a table of floats as it is."""
    inputs, fn = entry.inputs, functions.get(entry.function)
    if inputs is None:
        return module_of(entry, folder)
    with np.errstate(all="ignore"):
        exact = torch.from_numpy(np.asarray(fn(inputs.x()), np.float64)).to(torch.float32)
    module = CodeTable(folder.tables[entry.table]) if entry.operator == "activation" else module_of(entry, folder)
    for table in module.modules():
        if isinstance(table, CodeTable):
            table.values = exact
    return module


@dataclass
class Places:
    """Entries by path, and which of them the walk through the model has met."""

    folder: Folder
    make: Callable[[Entry, Folder], nn.Module] = module_of
    met: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.entries = {entry.path: entry for entry in self.folder.entries}


@dataclass(frozen=True)
class ByPath:
    """An operator for the patcher that puts each place's own table there. kind: a function, or of Entry.operator."""

    places: Places
    kind: str
    name: str = "its own table"

    def fresh(self, path: str, exact: object = None) -> nn.Module:
        """The module at `path`; two functions called in one place have the function's name behind the path."""
        places = self.places
        function = FUNCTIONS.get(self.kind) or self.kind
        for at in (path, f"{path} {function}"):
            entry = places.entries.get(at)
            if entry is not None and at not in places.met and self.kind in (entry.operator, entry.function):
                places.met.add(at)
                return places.make(entry, places.folder)
        raise LutcError(
            f"the folder has no table of {function} for {path}, which computes it in this model: it was made for "
            "another version of the model, or of lutc; compile it again"
        )


def apply(
    model: nn.Module, folder: str | os.PathLike | Folder, *, only: str | list[str] | None = None,
    skip: str | list[str] | None = None,
) -> Report:  # fmt: skip
    """Put the tables of a folder that `lutc model compile` wrote into the model that it was made for, in place.

    model: the same one, in any dtype and on any device; also inside a SentenceTransformer, a pipeline or PEFT's
    wrapper. folder: its path, or what `lutc.folder.read` gave. only, skip: patterns of modules, as `lutc.patch` takes
    them. `lutc.unpatch(model)` takes the tables out again. Returns the report of what was replaced and left.

    LutcError, with the model untouched, for another model, a folder that was altered or cut off, a place without a
    table, a table without a place, and a model that has tables already.
    """
    folder = folder if isinstance(folder, Folder) else read(folder)
    inner = find(model, dict(folder.model))
    return put(inner, folder, only, skip)


def put(
    model: nn.Module,
    folder: Folder,
    only: str | Sequence[str] | None = None,
    skip: str | Sequence[str] | None = None,
    make: Callable[[Entry, Folder], nn.Module] = module_of,
) -> Report:
    """`apply` on a model that is known to be the folder's. make: what stands at each place."""
    refuse_patched(model, "put a folder's tables into")
    places = Places(folder, make)
    operators = {entry.operator for entry in folder.entries}
    functions = {entry.function for entry in folder.entries if entry.operator == "activation"}
    at: Callable[[str], Any] = functools.partial(ByPath, places)
    wanted = Wanted(
        {function: at(function) for function in sorted(functions)},
        at("softmax") if "softmax" in operators else None,
        {kind: at(kind) for kind in ("layer_norm", "rms_norm")} if operators & {"layer_norm", "rms_norm"}
        else {},
    )  # fmt: skip
    patcher = Patcher(model, wanted, Selection(only, skip))
    try:
        patcher.run()
        missed = sorted(set(places.entries) - places.met)
        if missed and only is None and skip is None:
            raise LutcError(
                f"{len(missed)} tables found no place in this model, such as that of {missed[0]}: it was made for "
                "another version of the model, or of lutc; compile it again"
            )
        if not patcher.report.replaced:
            raise LutcError("nothing was replaced: the folder has no table for what `only` and `skip` leave")
    except BaseException:
        patcher.undo()
        raise
    keep(patcher)
    place(model)
    return patcher.report


@dataclass(frozen=True)
class FolderVariant:
    """A folder as a way to run its model, for `lutc.evaluation.evaluate`. make: what stands at each place."""

    name: str
    folder: Folder
    make: Callable[[Entry, Folder], nn.Module] = module_of
    codes: None = None
    activations: dict = field(default_factory=dict)

    def patch(
        self, model: nn.Module, only: str | Sequence[str] | None = None, skip: str | Sequence[str] | None = None
    ) -> Report:
        """As `lutc.evaluation.Variant.patch`."""
        return put(model, self.folder, only, skip, self.make)
