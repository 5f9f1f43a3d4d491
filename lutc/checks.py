"""Checks that frozen tables make of themselves."""

from __future__ import annotations

import math

import numpy as np

from lutc.errors import LutcError


def vector(name: str, values: object) -> np.ndarray:
    """A read-only flat float64 array of finite numbers, else LutcError."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise LutcError(f"{name} must be a list of numbers; given {str(values):.80}") from error
    if array.ndim != 1:
        raise LutcError(f"{name} must be a flat list of numbers; given shape {array.shape}")
    if not np.isfinite(array).all():
        raise LutcError(f"{name} must be finite; given {array[~np.isfinite(array)][0]}")
    array.setflags(write=False)
    return array


def freeze(instance: object, **values: object) -> None:
    """Set fields of a frozen dataclass while it is made."""
    for name, value in values.items():
        object.__setattr__(instance, name, value)


def is_int(value: object) -> bool:
    """Whether it is an integer, bool not counted."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_finite(value: object) -> bool:
    """Whether it is a number that float64 holds."""
    try:
        return not isinstance(value, bool) and isinstance(value, (int, float, np.number)) and math.isfinite(value)
    except OverflowError:
        return False
