"""`NAME.json` beside `NAME.safetensors`: a table on disk. Never pickle."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from lutc.errors import LutcError
from lutc.taylor.table import TaylorTable
from lutc.taylor.writing import SCHEMA, SHAPES, TENSORS, base_of


def load(name: str | os.PathLike) -> TaylorTable:
    """Read the table `name` (with or without `.json` or `.safetensors`). LutcError where a file is missing, altered, or
    of another pair.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    path = base_of(name)
    json_path, tensor_path = path.with_name(path.name + ".json"), path.with_name(path.name + ".safetensors")
    header = read_header(json_path)
    try:
        payload = tensor_path.read_bytes()
    except OSError as error:
        raise LutcError(
            f"{tensor_path} cannot be read: {error.strerror}; both files of an artefact must lie side by side"
        ) from error
    if hashlib.sha256(payload).hexdigest() != header["sha256"]:
        raise LutcError(
            f"{tensor_path} is truncated, altered, or belongs to another table than {json_path}; copy both files again "
            "or fit again"
        )
    try:
        tensors = from_bytes(payload)
    except SafetensorError as error:
        raise LutcError(f"{tensor_path} is not a safetensors file: {error}") from error
    if not {"centres", "values", "slopes", "counts"} <= tensors.keys() <= set(TENSORS):
        raise LutcError(
            f"{tensor_path} holds {', '.join(sorted(tensors))}; a table has centres, values, slopes and counts"
        )
    info = {
        key: value for key, value in header.items() if key not in ("schema", "kind", "sha256", "activation", *SHAPES)
    }
    table = TaylorTable(**tensors, format=header["format"], activation=header.get("activation"), info=info)
    for key in SHAPES:
        if header[key] != getattr(table, key):
            raise LutcError(
                f"{json_path} says {key} = {header[key]}, {tensor_path} has {getattr(table, key)}; fit again"
            )
    return table


def read_header(path: Path) -> dict:
    """The JSON of an artefact, checked for its schema."""
    try:
        header = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise LutcError(f"no table {path}; `lutc taylor fit` writes NAME.json and NAME.safetensors") from error
    except (OSError, ValueError) as error:
        raise LutcError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(header, dict) or header.get("kind") != "taylor":
        raise LutcError(f"{path} is not a Taylor table (no kind: taylor); scalar tables are loaded by lutc.load")
    if header.get("schema") != SCHEMA:
        raise LutcError(f"{path} has schema {header.get('schema')!r}; this version reads schema {SCHEMA}: fit again")
    missing = [key for key in ("sha256", *SHAPES) if key not in header]
    if missing:
        raise LutcError(f"{path} lacks {', '.join(missing)}; fit again")
    return header
