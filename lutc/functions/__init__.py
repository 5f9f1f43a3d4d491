"""Scalar functions: float64 definitions, derivatives, and what a compiler needs to know of them.

FUNCTIONS: name -> Function, in the order of the documentation, those of FAMILIES at their default parameters.
get(name): one of them, aliases and parameters (`elu(alpha=0.5)`) included; find(name): that or None; known(name):
whether there is one; alike(name, name): whether two are one. load(spec, range): one of them or a user's own.
checked_range(fn, lo, hi): an interval on which fn can be compiled.
"""

import dataclasses
from collections.abc import Callable

from lutc.errors import LutcError
from lutc.functions.kinds import Function, Line, Reduction, Symmetry
from lutc.functions.registry import FAMILIES, FUNCTIONS, alike, checked_range, find, get, known
from lutc.functions.user import from_callable, load_user

__all__ = [
    "FAMILIES",
    "FUNCTIONS",
    "Function",
    "Line",
    "Reduction",
    "Symmetry",
    "alike",
    "checked_range",
    "find",
    "get",
    "known",
    "load",
]


def load(spec: str | Function | Callable, range: tuple[float, float] | None = None) -> Function:
    """The function named `spec`, or the user's: 'package.module:name' or any callable, which needs a `range`.

    A range given replaces the default one. LutcError for an unknown name, a range outside the domain, and for a
    callable that cannot be imported, raises, or is not finite over the range; the message names the input where it
    fails.
    """
    if callable(spec) and not isinstance(spec, Function):
        return from_callable(spec, range)
    if isinstance(spec, str) and ":" in spec:
        return load_user(spec, range)
    fn = spec if isinstance(spec, Function) else get(spec)
    if range is None:
        return fn
    try:
        lo, hi = range
    except (TypeError, ValueError):
        raise LutcError(f"a range is two numbers, not {range!r}") from None
    return dataclasses.replace(fn, range=checked_range(fn, lo, hi))
