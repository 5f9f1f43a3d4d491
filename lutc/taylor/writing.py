"""Writing a compiled MLP: NAME.json beside NAME.safetensors."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from lutc.files import atomic_write

if TYPE_CHECKING:
    from lutc.taylor.table import TaylorTable

SCHEMA = 1
TENSORS = (
    "centres",
    "values",
    "slopes",
    "counts",
    "scales",
    "columns",
    "radii",
    "weights",
    "offsets",
    "chosen",
    "projections",
)
SHAPES = ("k", "order", "format", "in_features", "out_features")


def save(table: TaylorTable, name: str | os.PathLike) -> None:
    """Write `name.json` and `name.safetensors`. The JSON holds the digest of the tensors, so that the two belong
    together.
    """
    from safetensors.torch import save as to_bytes

    tensors = {key: getattr(table, key).contiguous() for key in TENSORS if getattr(table, key) is not None}
    payload = to_bytes(tensors)
    header = {
        "schema": SCHEMA,
        "kind": "taylor",
        **{key: getattr(table, key) for key in SHAPES},
        "sha256": hashlib.sha256(payload).hexdigest(),
        **({} if table.activation is None else {"activation": table.activation}),
        **table.info,
    }
    path = base_of(name)
    text = json.dumps(header, indent=1, allow_nan=False)
    # The JSON comes last: while it is missing or old, the digest tells that the pair is not complete.
    atomic_write(path.with_name(path.name + ".safetensors"), payload)
    atomic_write(path.with_name(path.name + ".json"), text + "\n")


def base_of(name: str | os.PathLike) -> Path:
    path = Path(name)
    return path.with_suffix("") if path.suffix in (".json", ".safetensors") else path
