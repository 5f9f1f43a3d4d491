"""Models and batches named on the command line: a Hugging Face folder with a text file, or a Python file that builds both."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path

from lutc.errors import LutcError


def load_model(path: str, task: str = "AutoModel"):
    """The model at `path`, in eval mode: a Hugging Face folder (loaded by transformers' class `task`) or a Python file with `model()`."""
    source = Path(path)
    if source.is_dir():
        if not (source / "config.json").exists():
            raise LutcError(f"{path} is no Hugging Face model folder (no config.json); give one, or a Python file that defines model()")
        import transformers

        if not hasattr(transformers, task):
            raise LutcError(f"transformers has no class {task!r}; give one such as AutoModel or AutoModelForSequenceClassification")
        try:
            return getattr(transformers, task).from_pretrained(str(source), local_files_only=True).eval()
        except (OSError, ValueError, KeyError) as error:
            raise LutcError(f"{path} cannot be loaded: {str(error).splitlines()[0]}") from error
    return _function(source, "model")().eval()


def load_batches(path: str, text: str | None, batch: int = 32, length: int = 128) -> list:
    """Batches for the model at `path`: lines of the file `text` as documents, tokenised, or what `batches()` of a Python file gives."""
    source = Path(path)
    if not source.is_dir():
        if text is not None:
            raise LutcError("a Python file brings its own batches(); leave --text out")
        found = _function(source, "batches")()
        return list(found) if isinstance(found, Iterable) else [found]
    if text is None:
        raise LutcError("a Hugging Face folder needs --text FILE, with one document on each line")
    from transformers import AutoTokenizer

    try:
        documents = [line.strip() for line in Path(text).read_text(errors="replace").splitlines() if line.strip()]
    except OSError as error:
        raise LutcError(f"{text} cannot be read: {error.strerror}") from error
    if not documents:
        raise LutcError(f"{text} holds no documents; give a text file with one on each line")
    tokenizer = AutoTokenizer.from_pretrained(str(source), local_files_only=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    parts = (documents[start : start + batch] for start in range(0, len(documents), batch))
    return [dict(tokenizer(part, padding=True, truncation=True, max_length=length, return_tensors="pt")) for part in parts]


def _function(path: Path, name: str):
    if path.suffix != ".py" or not path.exists():
        raise LutcError(f"{path} is neither a Hugging Face folder nor a Python file")
    spec = importlib.util.spec_from_file_location(f"_lutc_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise LutcError(f"{path} fails: {type(error).__name__}: {error}") from error
    if not callable(getattr(module, name, None)):
        raise LutcError(f"{path} defines no function {name}(); it must define model() and batches()")
    return getattr(module, name)
