"""Texts as batches of tokens: windows of one long text for causal models, one document a line for encoders and
classifiers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lutc.errors import LutcError
from lutc.models.python_file import call

if TYPE_CHECKING:
    from lutc.models.loading import Loaded

_PIECE = 1 << 16  # characters that are tokenised at a time


def batches(
    loaded: Loaded, text: str | Path | None, *, seqlen: int = 512, max_tokens: int | None = None, batch: int | None = 1
) -> list[dict]:
    """Batches for a `Loaded` model, as keyword arguments of its forward, on the CPU; of `max_tokens` tokens at most.
    batch: windows or documents in each; None for 1 window or 16 documents.

    Causal models get windows of the text: {"input_ids": [<= batch, seqlen]}. Others get its lines as documents, padded,
    cut to `seqlen` tokens, with an attention mask. A Python file without a tokenizer brings its own batches() and takes
    no text. Raises LutcError for a text that is too short.
    """
    if loaded.folder is None and (own := call(Path(loaded.path), "batches", missing=None)) is not None:
        if text is not None:
            raise LutcError("a Python file brings its own batches(); leave `text` out")
        return _own(own, loaded.path)
    if text is None:
        raise LutcError("give `text` FILE: a text for a causal model, one document on each line for others")
    if loaded.kind == "causal":
        ids = windows(loaded.tokenizer, read_text(text), seqlen, max_tokens, str(text))
        return [{"input_ids": part} for part in ids.split(batch or 1)]
    return list(document_batches(loaded.tokenizer, documents(text), batch or 16, seqlen, max_tokens))


def windows(
    tokenizer: Any, text: str, seqlen: int, max_tokens: int | None = None, name: str = "the text"
) -> torch.Tensor:
    """Consecutive windows of a text, int64 [n, seqlen], each begun as the tokenizer begins a text; what is left over at
    the end is dropped.
    """
    if seqlen < 2:
        raise LutcError(f"a window has at least 2 tokens; given `seqlen` {seqlen}")
    if max_tokens is not None and max_tokens < seqlen:
        raise LutcError(f"`max_tokens` {max_tokens} is less than one window of `seqlen` {seqlen}")
    begin = _beginning(tokenizer)
    step = seqlen - len(begin)
    if step < 2:
        raise LutcError(f"a window of `seqlen` {seqlen} has no room for text; give a larger one")
    limit = None if max_tokens is None else max_tokens // seqlen * step
    ids: list[int] = []
    for piece in _pieces(text):
        ids += tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"]
        if limit is not None and len(ids) >= limit:
            break
    count = (len(ids) if limit is None else min(len(ids), limit)) // step
    if count == 0:
        raise LutcError(
            f"{name} has {len(ids) + len(begin)} tokens, less than one window of {seqlen}; give a longer text or a "
            "smaller `seqlen`"
        )
    body = torch.tensor(ids[: count * step], dtype=torch.int64).view(count, step)
    return torch.cat([torch.tensor(begin, dtype=torch.int64).expand(count, len(begin)), body], 1)


def documents(text: str | Path) -> list[str]:
    """The lines of a text file that hold something."""
    found = [line for line in map(str.strip, read_text(text).splitlines()) if line]
    if not found:
        raise LutcError(f"{text} holds no documents; give a text file with one on each line")
    return found


def document_batches(
    tokenizer: Any, lines: Iterable[str], batch: int = 32, seqlen: int = 128, max_tokens: int | None = None
) -> Iterator[dict]:
    """Padded batches of documents, cut to `seqlen` tokens, until `max_tokens` are reached (at least one batch)."""
    lines, total = list(lines), 0
    for start in range(0, len(lines), batch):
        encoded = dict(
            tokenizer(
                lines[start : start + batch], padding=True, truncation=True, max_length=seqlen, return_tensors="pt"
            )
        )
        total += int(encoded["attention_mask"].sum())
        if max_tokens is not None and start and total > max_tokens:
            return
        yield encoded


def several(batches: Any) -> Iterable:
    """Batches as they are; LutcError for a single one, whose rows or names would be taken for batches."""
    if isinstance(batches, (Mapping, torch.Tensor, str)) or not isinstance(batches, Iterable):
        raise LutcError(f"batches are a list of tensors, tuples or dicts; given one {type(batches).__name__}")
    return batches


def to_device(batch: Any, device: torch.device | str) -> Any:
    """A batch (dict, tuple, list or tensor) on `device`."""
    if isinstance(batch, dict):
        return {name: to_device(value, device) for name, value in batch.items()}
    if isinstance(batch, tuple | list):
        return type(batch)(to_device(value, device) for value in batch)
    return batch.to(device) if isinstance(batch, torch.Tensor) else batch


def read_text(path: str | Path) -> str:
    """The text of a file; bytes that are no UTF-8 become replacement characters."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise LutcError(f"{path} cannot be read: {error.strerror}; give a text file") from error


def _beginning(tokenizer) -> list[int]:
    """Tokens that the tokenizer puts before a text (<bos>), if any."""
    whole, plain = (tokenizer("a", add_special_tokens=special, verbose=False)["input_ids"] for special in (True, False))
    at = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
    return whole[:at]


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces that end with a line where they can, so that a long text is tokenised no
    further than needed.
    """
    start = 0
    while start < len(text):
        end = start + _PIECE
        if end < len(text):
            end = max(text.rfind("\n", start + 1, end) + 1, 0) or end
        yield text[start:end]
        start = end


def _own(found, path: str) -> list:
    made = list(found) if isinstance(found, Iterable) and not isinstance(found, dict | torch.Tensor) else [found]
    if not made:
        raise LutcError(f"batches() of {path} gives no batches")
    return made
