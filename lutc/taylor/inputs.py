"""Collected inputs of blocks: a folder of shards that is read in chunks, never as a whole.

A folder holds `inputs.json` and `shard-00000.safetensors`, ... Each shard holds one tensor [n, d] per block and
`documents` [n] (int64), the running number of the batch row a sample came from, so that samples of one document are
held out together.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from lutc.errors import LutcError
from lutc.files import atomic_write

SCHEMA = 1
DOCUMENTS = "documents"
# Every tenth document is held out; strengths, radii and certificates come from these alone.
HELD_OUT = 10


class BlockInputs:
    """The collected inputs of one or more blocks, in a folder.

    `blocks` maps block names to widths, `rows` is the number of samples (the same for every block). A folder that
    several processes collected into is read part after part. Raises LutcError where the folder is missing, of another
    schema, damaged, or lacks a part.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        folders = _parts(self.folder)
        self.header = _read_header(folders[0])
        self.blocks: dict[str, int] = self.header["blocks"]
        self.shards = [shard for part in folders for shard in sorted(part.glob("shard-*.safetensors"))]
        if not self.shards:
            raise LutcError(f"{self.folder} holds no shards; run `lutc taylor collect` to its end")
        self.shard_rows = [self._shape(shard)[0] for shard in self.shards]
        self.rows = sum(self.shard_rows)

    def chunks(
        self, block: str, held_out: bool | None = None, rows: int = 8192, limit: int | None = None
    ) -> Iterator[Tensor]:
        """The inputs of `block` as float32 tensors [<= rows, d]: all, or only the held-out documents, or only the
        others.

        `limit` stops after so many samples.
        """
        left = self.rows if limit is None else limit
        for shard, count in zip(self.shards, self.shard_rows):
            with _open(shard) as file:
                for start in range(0, count, rows):
                    if left <= 0:
                        return
                    x = file.get_slice(self._known(block))[start : start + rows].float()
                    if held_out is not None:
                        documents = file.get_slice(DOCUMENTS)[start : start + rows]
                        x = x[(documents % HELD_OUT == HELD_OUT - 1) == held_out]
                    x = x[:left]
                    left -= len(x)
                    if len(x):
                        yield x

    def sample(self, block: str, count: int, held_out: bool | None = False, seed: int = 0) -> Tensor:
        """At most `count` samples of `block`, spread evenly over the whole collection, as one float32 tensor [n, d]."""
        keep = min(1.0, 1.2 * count / self.rows)
        generator = torch.Generator().manual_seed(seed)
        parts = [
            x if keep == 1 else x[torch.rand(len(x), generator=generator) < keep] for x in self.chunks(block, held_out)
        ]
        x = torch.cat(parts) if parts else torch.empty(0, self.blocks[self._known(block)])
        return x[torch.randperm(len(x), generator=generator)[:count]]

    def documents(self) -> int:
        """How many documents (batch rows) there are."""
        last = 0
        for shard in self.shards:
            with _open(shard) as file:
                last = max(last, int(file.get_slice(DOCUMENTS)[-1:]) + 1)
        return last

    def _known(self, block: str) -> str:
        if block not in self.blocks:
            raise LutcError(f"{self.folder} holds no inputs of {block!r}; it holds {', '.join(self.blocks)}")
        return block

    def _shape(self, shard: Path) -> list[int]:
        with _open(shard) as file:
            if set(file.keys()) != {*self.blocks, DOCUMENTS}:
                held = ", ".join(sorted(file.keys()))
                raise LutcError(
                    f"{shard} does not belong to {self.folder / 'inputs.json'}: it holds {held}; collect again into an "
                    "empty folder"
                )
            return file.get_slice(next(iter(self.blocks))).get_shape()


def _parts(folder: Path) -> list[Path]:
    """The folders that together hold a collection: itself, or its part-0, part-1, ... with the same settings."""
    if (folder / "inputs.json").exists() or not (folder / "part-0").is_dir():
        return [folder]
    first = _read_header(folder / "part-0")
    count = first.get("part", [0, 1])[1]
    parts = [folder / f"part-{index}" for index in range(count)]
    for index, part in enumerate(parts):
        header, wanted = _read_header(part), {**first, "part": [index, count]}
        if header != wanted:
            how = _difference(header, wanted)
            raise LutcError(f"{part} does not belong to the other parts ({how}); collect all into an empty folder")
        if not list(part.glob("shard-*.safetensors")):
            raise LutcError(f"{part} holds no shards; run part {index} of {count} to its end")
    return parts


class Writer:
    """Appends shards to a folder; each appears whole or not at all. `batches` says how many batches an earlier run has
    finished.
    """

    def __init__(self, folder: str | os.PathLike, header: dict):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.header = {"schema": SCHEMA, **header}
        if (self.folder / "inputs.json").exists():
            found = _read_header(self.folder)
            if found != self.header:
                how = _difference(found, self.header)
                raise LutcError(
                    f"{self.folder} holds inputs collected otherwise ({how}); give the same settings to resume, or an "
                    "empty folder"
                )
        else:
            atomic_write(self.folder / "inputs.json", json.dumps(self.header, indent=1, allow_nan=False))
        shards = sorted(self.folder.glob("shard-*.safetensors"))
        self.count = len(shards)
        self.batches, self.documents, self.rows = 0, 0, 0
        if shards:
            with _open(shards[-1]) as file:
                progress = file.metadata()
                self.batches, self.documents, self.rows = (
                    int(progress[key]) for key in ("batches", "documents", "rows")
                )

    def write(self, tensors: dict[str, Tensor], documents: Tensor, batches: int) -> None:
        """Write one shard, complete up to and including batch number `batches - 1`."""
        from safetensors.torch import save

        self.batches, self.documents, self.rows = batches, int(documents[-1]) + 1, self.rows + len(documents)
        progress = {"batches": str(self.batches), "documents": str(self.documents), "rows": str(self.rows)}
        atomic_write(
            self.folder / f"shard-{self.count:05d}.safetensors", save({**tensors, DOCUMENTS: documents}, progress)
        )
        self.count += 1


def _read_header(folder: Path) -> dict:
    path = folder / "inputs.json"
    try:
        header = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise LutcError(
            f"{folder} holds no collected inputs (no inputs.json); run `lutc taylor collect` first"
        ) from error
    except (OSError, ValueError) as error:
        raise LutcError(f"{path} cannot be read: {error}; collect again into an empty folder") from error
    if (
        not isinstance(header, dict)
        or header.get("schema") != SCHEMA
        or not isinstance(header.get("blocks"), dict)
        or not header["blocks"]
    ):
        raise LutcError(f"{path} is not an inputs file of schema {SCHEMA}; collect again with this version")
    return header


def _open(shard: Path):
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(str(shard), framework="pt")
    except (SafetensorError, OSError) as error:
        raise LutcError(
            f"{shard} is truncated or altered ({error}); delete it and run `lutc taylor collect` again to resume"
        ) from error


def _difference(found: dict, given: dict) -> str:
    keys = [key for key in given if found.get(key) != given[key]] or [key for key in found if key not in given]
    return ", ".join(f"{key}: {found.get(key)!r}, now {given.get(key)!r}" for key in keys)[:300]
