"""Compiling with numba, cached on disk where there is a folder for it: beside the package or in the user's cache; a
container may have none.
"""

from __future__ import annotations

from collections.abc import Callable

import numba


def cached(compile: Callable):
    """compile(True), or compile(False) where numba finds no folder to cache in."""
    try:
        return compile(True)
    except RuntimeError:  # "cannot cache function: no locator available"
        return compile(False)


def njit(function):
    """numba.njit, cached on disk if that is possible."""
    return cached(lambda cache: numba.njit(function, cache=cache))
