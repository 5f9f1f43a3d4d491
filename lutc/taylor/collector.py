"""Streaming the inputs that a model's blocks really see to disk, in fixed memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor, nn

from lutc.errors import LutcError
from lutc.models import modes
from lutc.taylor.blocks import Block, evaluation_mode, find_blocks
from lutc.taylor.inputs import DOCUMENTS, BlockInputs, Writer

# A shard is written when its samples take this much, so that memory stays fixed whatever the stream.
SHARD_BYTES = 64 << 20
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def collect(
    model: nn.Module,
    modules: str | Iterable[str] | None,
    batches: Iterable[Tensor | Mapping[str, Tensor] | tuple],
    folder: str | os.PathLike,
    *,
    mask: str = "attention_mask",
    dtype: str = "fp32",
    limit: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    part: tuple[int, int] = (0, 1),
) -> BlockInputs:
    """Run `model` on `batches` and store what the blocks matching `modules` are given; returns the collected inputs.

    A batch is a tensor, a tuple of positional arguments, or a mapping of keyword arguments. Where a mapping holds
    `mask` ([batch, length], 0 = padding), padded positions are left out. Each row of a batch is one document. `limit`
    stops after so many samples per block. An interrupted run resumes: give the same batches in the same order. Memory:
    `shard_bytes` plus one batch.

    `part` (i, n): this is the i-th of n processes, which runs every n-th batch into `folder`/part-i, up to its share
    of `limit`, and returns that; `BlockInputs(folder)` reads all n when they are done, the samples and the held-out
    documents of one process. Raises LutcError for NaN or infinite inputs, for a block that is called twice or not at
    all, and for a folder of other settings.
    """
    if dtype not in DTYPES:
        raise LutcError(f"inputs cannot be stored as {dtype!r}; use one of {', '.join(DTYPES)}")
    index, parts = part
    if not 0 <= index < parts:
        raise LutcError(f"part {index} of {parts} does not exist; give (i, n) with 0 <= i < n")
    folder = Path(folder) / f"part-{index}" if parts > 1 else Path(folder)
    limit = limit if limit is None else -(-limit // parts)
    blocks = find_blocks(model, modules)
    caught = _Catcher(blocks)
    writer: Writer | None = None
    pending: list[dict[str, Tensor]] = []
    size = 0
    number = -1
    document = following = 0
    with ExitStack() as stack, torch.inference_mode():
        for block in blocks:
            stack.enter_context(evaluation_mode(block))
        stack.enter_context(modes.evaluation_mode(model))
        for block in blocks:
            stack.callback(block.modules[0].register_forward_pre_hook(caught.hook(block), with_kwargs=True).remove)
        bar = stack.enter_context(_progress(limit))
        for number, batch in enumerate(batches):
            document, following = following, following + _documents(batch)
            if number % parts != index or writer is not None and number < writer.batches:
                continue
            if (
                limit is not None
                and writer is not None
                and writer.rows + sum(len(found[DOCUMENTS]) for found in pending) >= limit
            ):
                number -= 1
                break
            found = caught.run(model, batch, mask, number, document)
            if writer is None:
                header: dict[str, object] = {
                    "blocks": {block.name: found[block.name].shape[1] for block in blocks},
                    "dtype": dtype,
                    "mask": mask,
                }
                header |= {"part": list(part)} if parts > 1 else {}
                writer = Writer(folder, header)
                bar.update(writer.rows)
                if writer.batches:
                    continue
            bar.update(len(found[DOCUMENTS]))
            pending.append({name: x if name == DOCUMENTS else x.to(DTYPES[dtype]) for name, x in found.items()})
            size += sum(x.nbytes for x in pending[-1].values())
            if size >= shard_bytes:
                _flush(writer, pending, number + 1)
                pending, size = [], 0
        if number < 0:
            raise LutcError("no batches to run; give at least one batch")
        if pending and writer is not None:
            _flush(writer, pending, number + 1)
    return BlockInputs(folder)


def _flush(writer: Writer, pending: list[dict[str, Tensor]], batches: int) -> None:
    tensors = {name: torch.cat([found[name] for found in pending]) for name in pending[0]}
    documents = tensors.pop(DOCUMENTS)
    if len(documents):
        writer.write(tensors, documents, batches)


def _documents(batch: Tensor | Mapping[str, Tensor] | tuple) -> int:
    """How many rows a batch has."""
    values = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else (batch,)
    return next((len(value) for value in values if isinstance(value, Tensor) and value.ndim), 0)


class _Catcher:
    """Keeps what each block was given during one batch."""

    def __init__(self, blocks: list[Block]):
        self.blocks = blocks
        self.seen: dict[str, Tensor] = {}

    def hook(self, block: Block) -> Callable[..., None]:
        def caught(module, args, kwargs):
            tensors = [*args, *kwargs.values()]
            if len(tensors) != 1 or not isinstance(tensors[0], Tensor) or not tensors[0].is_floating_point():
                raise LutcError(
                    f"{block.name} is called with {len(tensors)} arguments; only functions of one floating-point "
                    "tensor can be compiled"
                )
            if block.name in self.seen:
                raise LutcError(
                    f"{block.name} is called more than once in one batch; a block must be called once per forward pass"
                )
            self.seen[block.name] = tensors[0].detach()

        return caught

    def run(
        self, model: nn.Module, batch: Tensor | Mapping[str, Tensor] | tuple, mask: str, number: int, document: int
    ) -> dict[str, Tensor]:
        """Inputs [n, d] of every block for this batch without its padding, and the documents' numbers [n]."""
        self.seen.clear()
        keep = None
        if isinstance(batch, Mapping):
            keep = batch.get(mask)
            model(**batch)
        elif isinstance(batch, tuple | list):
            model(*batch)
        else:
            model(batch)
        result = {}
        for block in self.blocks:
            if block.name not in self.seen:
                raise LutcError(f"{block.name} was not called by the model; leave it out or check the pattern")
            x = self.seen[block.name]
            rows = torch.arange(len(x), device=x.device).view(-1, *[1] * (x.ndim - 2)).expand(x.shape[:-1])
            if keep is not None and keep.shape == x.shape[:-1]:
                x, rows = x[keep.bool()], rows[keep.bool()]
            x, rows = x.reshape(-1, x.shape[-1]), rows.reshape(-1)
            if not torch.isfinite(x).all():
                bad = int((~torch.isfinite(x)).any(1).sum())
                raise LutcError(
                    f"{bad} of {len(x)} inputs of {block.name} in batch {number} are NaN or infinite; check the model "
                    "and its data"
                )
            result[block.name] = x.cpu()
            if result.setdefault(DOCUMENTS, rows.cpu() + document).shape[0] != len(x):
                other = len(result[DOCUMENTS])
                raise LutcError(
                    f"{block.name} sees {len(x)} samples where another block sees {other}; collect them into folders "
                    "of their own"
                )
        return result


def _progress(total: int | None):
    from tqdm import tqdm

    return tqdm(total=total, unit=" samples", desc="collect", disable=not sys.stderr.isatty())
