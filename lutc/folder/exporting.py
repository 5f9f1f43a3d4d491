"""The tables of a folder as files for hardware flows and other runtimes, and one index that says which place takes
which.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lutc.errors import LutcError
from lutc.files import atomic_write
from lutc.folder.manifest import Folder
from lutc.formats.codes import Inputs, Outputs
from lutc.hardware import handover
from lutc.hardware.export import FORMATS, TABLE_FORMATS, render, unit_name, units
from lutc.hardware.export.text import identifier
from lutc.table.table_set import TableSet

INDEX = "index.json"
KINDS = (*handover.LANGUAGES, *FORMATS, *TABLE_FORMATS, "onnx")


def export(folder: Folder, kinds: Sequence[str], output: Path, out: Inputs | None = None) -> dict:
    """Write every table once in each of `kinds`, in a folder of that name, and index.json; gives what the index says.

    out: the output codes. A table that a format cannot hold (most take codes, not floats) is named in the index with
    the reason; LutcError where none can be written, or for an unknown format.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise LutcError(f"a `format` to export is one of {', '.join(KINDS)}; given {', '.join(unknown) or 'none'}")
    files: dict[str, dict[str, list[str]]] = {}
    left: dict[str, dict[str, str]] = {}
    for file, tables in folder.tables.items():
        for kind in dict.fromkeys(kinds):
            try:
                made = _written(output / kind, kind, Path(file).stem, tables, out)
                files.setdefault(file, {})[kind] = [f"{kind}/{name}" for name in made]
            except LutcError as error:
                left.setdefault(file, {})[kind] = str(error)
    if not files:
        raise LutcError(
            f"no table of {folder.path} can be exported so: {next(iter(next(iter(left.values())).values()))}"
        )
    places = [
        {
            "path": entry.path,
            "function": entry.function,
            "table": entry.table,
            "inputs": None if entry.inputs is None else vars(entry.inputs),
            "entries": entry.entries,
            "files": files.get(entry.table, {}),
            "left": left.get(entry.table, {}),
        }
        for entry in folder.entries
    ]
    index = {"model": dict(folder.model), "manifest": "lutc model", "places": places}
    atomic_write(output / INDEX, json.dumps(index, indent=1, allow_nan=False) + "\n")
    return index


def _written(output: Path, kind: str, name: str, tables: TableSet, out: Inputs | None) -> list[str]:
    """Names of the files of one table, below `output`."""
    name = unit_name(name)
    if kind in handover.LANGUAGES:
        made = handover.write(output / name, kind, name, tables, handover.Options(out=out))
        return [f"{name}/{file}" for file in (*made.files, handover.MANIFEST)]
    if kind == "onnx":
        return _onnx(output, name, tables, out)
    if kind in TABLE_FORMATS:
        texts = TABLE_FORMATS[kind][1](name, tables, list(tables))
    else:
        texts = render(name, units(tables, None, out), kind)
    output.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        atomic_write(output / file, text)
    return list(texts)


def _onnx(output: Path, name: str, tables: TableSet, out: Inputs | None) -> list[str]:
    """NAME_KEY.onnx of each table over codes, or NAME.onnx of float tables, compared with torch in onnxruntime."""
    import torch  # an optional package

    from lutc import onnx  # brings torch
    from lutc.nn import LUT, QuantLUT  # brings torch

    if out is None and "output" in tables.meta:
        out = Outputs(**tables.meta["output"])
    models: dict[str, tuple[torch.nn.Module, torch.Tensor]] = {}
    for key, inputs in tables.inputs.items():
        if out is not None and out.bits != inputs.bits:
            raise LutcError(f"an ONNX model gives codes as wide as it takes; given {inputs.bits} and {out.bits} bits")
        given = {} if out is None else {"out_scale": out.scale, "out_zero_point": out.zero_point}
        rounding = None if out is None else out.rounding
        module = QuantLUT(tables, inputs.scale, inputs.zero_point, bits=inputs.bits, rounding=rounding, **given)
        models[f"{name}_{identifier(key)}.onnx"] = module, torch.from_numpy(inputs.codes()).to(module.dtype)
    if not tables.inputs:
        models[f"{name}.onnx"] = LUT(tables), torch.linspace(-8.0, 8.0, 1001)
    output.mkdir(parents=True, exist_ok=True)
    for file, (module, x) in models.items():
        onnx.export(module, (x,), output / file, dynamic_shapes=({0: torch.export.Dim("n", min=2)},))
    return list(models)
