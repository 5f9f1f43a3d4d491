"""GGUF files: transformers takes a minute to unpack one, so its weights are kept as safetensors in the user's cache
folder (`lutc.files.cache_folder`).
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from lutc.errors import LutcError
from lutc.files import cache_folder
from lutc.models.hugging_face import auto_class, load_tokenizer, quiet

_HEAD = 1 << 20  # bytes at the start of a file that go into its key; they hold its metadata


def find(source: Path) -> Path | None:
    """The GGUF file that `source` is or holds; None for other folders."""
    if source.is_file():
        if source.suffix != ".gguf":
            raise LutcError(f"{source} is neither a GGUF file (.gguf), a Python file (.py) nor a Hugging Face folder")
        return source
    files = [] if (source / "config.json").exists() else sorted(source.glob("*.gguf"))
    if len(files) > 1:
        raise LutcError(
            f"{source} holds {len(files)} GGUF files; give the path of one: "
            f"{', '.join(file.name for file in files[:4])}"
        )
    return files[0] if files else None


def key(file: Path, dtype: torch.dtype | None) -> str:
    """Of the file's start, size, time and the dtype of the copy."""
    status = file.stat()
    digest = hashlib.sha256(f"{file.name} {status.st_size} {status.st_mtime_ns} {dtype}".encode())
    with open(file, "rb") as content:
        digest.update(content.read(_HEAD))
    return f"{file.stem}-{digest.hexdigest()[:16]}"


def unpacked(file: Path, dtype: torch.dtype | None) -> Path:
    """A Hugging Face folder with the weights and the tokenizer of the file, made on the first call; it appears whole or
    not at all.
    """
    target = cache_folder() / key(file, dtype)
    if (target / "config.json").exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise LutcError(
            f"cannot write {target.parent}: {error.strerror}; set LUTC_CACHE to a writable folder"
        ) from error
    try:
        _unpack(file, dtype, temporary)
        try:
            temporary.rename(target)
        except OSError:  # another process was quicker
            if not (target / "config.json").exists():
                raise
    except OSError as error:
        raise LutcError(f"cannot unpack {file} into {target.parent}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _unpack(file: Path, dtype, target: Path) -> None:
    import transformers

    if sys.stderr.isatty():
        print(f"unpacking {file.name}, once; this takes a minute", file=sys.stderr)
    folder, options = str(file.parent), {"gguf_file": file.name, "local_files_only": True}
    try:
        with quiet():
            config = transformers.AutoConfig.from_pretrained(folder, **options)
            model = getattr(transformers, auto_class(config, file.name)).from_pretrained(folder, dtype=dtype, **options)
            # A fresh model: one read from GGUF would remember its quantisation.
            with torch.device("meta"):
                fresh = type(model)(model.config)
            fresh.load_state_dict(model.state_dict(), assign=True)
            fresh.tie_weights()
            fresh.save_pretrained(target)
    except (ValueError, KeyError, ImportError, RuntimeError) as error:
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise LutcError(f"{file} cannot be read as GGUF: {line}") from error
    load_tokenizer(file.parent, gguf_file=file.name).save_pretrained(target)
