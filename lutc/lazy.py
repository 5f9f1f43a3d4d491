"""Public names of a package that are imported on first use, so that importing the package brings only what is used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(package: str, exports: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` (PEP 562) of the package of this name. exports: name -> the module
    that defines it.
    """
    own = vars(sys.modules[package])

    def __getattr__(name: str) -> Any:
        if name not in exports:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        own[name] = getattr(import_module(exports[name]), name)
        return own[name]

    def __dir__() -> list[str]:
        return sorted({*own.get("__all__", ()), *exports})

    return __getattr__, __dir__
