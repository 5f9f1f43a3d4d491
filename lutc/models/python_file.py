"""Functions of a Python file that a user gives: model(), batches(), tokenizer()."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from lutc.errors import LutcError

_REQUIRED = object()


def call(path: Path, name: str, missing: Any = _REQUIRED) -> Any:
    """What `name()` of the file gives; `missing` where the file does not define it, LutcError without such a value or
    where it fails.
    """
    if path.suffix != ".py" or not path.exists():
        raise LutcError(f"{path} is neither a Hugging Face folder nor a Python file")
    spec = importlib.util.spec_from_file_location(f"_lutc_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # of a .py file there is one
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        function = getattr(module, name, None)
        if function is None and missing is not _REQUIRED:
            return missing
        if not callable(function):
            raise LutcError(f"{path} defines no function {name}(); it must define model() and batches()")
        return function()
    except LutcError:
        raise
    except Exception as error:
        raise LutcError(f"{path} fails: {type(error).__name__}: {error}") from error
