"""Compiling with numba, cached on disk where there is a folder for it: beside the package or in the user's cache; a
container may have none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def cached(compile: Callable[[bool], Any]) -> Any:
    """compile(True), or compile(False) where numba finds no folder to cache in."""
    try:
        return compile(True)
    except RuntimeError:  # "cannot cache function: no locator available"
        return compile(False)


def njit(function: Callable) -> Any:
    """numba.njit, cached on disk if that is possible."""
    return cached(lambda cache: numba.njit(function, cache=cache))
