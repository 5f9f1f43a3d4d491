"""The functions that lutc knows, by name; those with parameters by spellings such as `elu(alpha=0.5)`."""

from __future__ import annotations

import difflib
import functools
import math

import numpy as np

from lutc.errors import LutcError
from lutc.functions.entries import ENTRIES
from lutc.functions.families import Family
from lutc.functions.kinds import Function
from lutc.functions.spelling import base, parts, spelled

FUNCTIONS: dict[str, Function] = {
    entry.name: entry.member() if isinstance(entry, Family) else entry for entry in ENTRIES
}
FAMILIES: dict[str, Family] = {entry.name: entry for entry in ENTRIES if isinstance(entry, Family)}
_BY_NAME = {name: entry for entry in FUNCTIONS.values() for name in (entry.name, *entry.aliases)}


def _plain(name) -> str:
    return name.strip().lower() if isinstance(name, str) else repr(name)


def find(name: str | None) -> Function | None:
    """`get(name)`, None where it has no answer."""
    if not isinstance(name, str):
        return None
    try:
        return _found(_plain(name))
    except LutcError:
        return None


def known(name: str) -> bool:
    """Whether `get(name)` has an answer."""
    return find(name) is not None


@functools.lru_cache(maxsize=4096)
def alike(one: str, other: str) -> bool:
    """Whether two names stand for one function, as elu and celu at alpha = 1."""
    if one == other:
        return True
    first, second = find(one), find(other)
    if (
        first is None
        or second is None
        or (first.left, first.right, first.domain)
        != (
            second.left,
            second.right,
            second.domain,
        )
    ):
        return False
    x = np.linspace(*first.range, 257)
    return bool(np.allclose(first(x), second(x), rtol=1e-12, atol=1e-15, equal_nan=True))


def get(name: str) -> Function:
    """The function called `name`, or that has it as an alias, in any case; with parameters as in `elu(alpha=0.5)`,
    those left out at their defaults.
    """
    wanted = _plain(name)
    found = _found(wanted)
    if found is not None:
        return found
    close = difflib.get_close_matches(base(wanted), _BY_NAME, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise LutcError(
        f"unknown function {name!r}; {hint}known: {', '.join(FUNCTIONS)}, or your own as package.module:name"
    )


@functools.lru_cache(maxsize=1024)
def _found(wanted: str) -> Function | None:
    """LutcError for a known function with parameters that it has not."""
    if wanted in _BY_NAME:
        return _BY_NAME[wanted]
    if "(" not in wanted or base(wanted) not in _BY_NAME:
        return None
    name, given = parts(wanted)
    fn = _BY_NAME[name]
    if fn.name in FAMILIES:
        found = FAMILIES[fn.name].member(given)
        return FUNCTIONS.get(found.name, found)
    if not given:
        return fn
    raise LutcError(
        f"{fn.name} has no parameters, given {spelled(name, given)!r}; functions that have: {', '.join(FAMILIES)}"
    )


def checked_range(fn: Function, lo: float, hi: float) -> tuple[float, float]:
    """(lo, hi) as floats, once they are finite, in order, and `fn` is finite at both and has no pole between."""
    try:
        lo, hi = float(lo), float(hi)
    except (TypeError, ValueError):
        raise LutcError(f"a range is two numbers, not {lo!r} and {hi!r}") from None
    if not (math.isfinite(lo) and math.isfinite(hi)):
        raise LutcError(f"range [{lo:g}, {hi:g}] is not finite; give two finite numbers")
    if lo >= hi:
        raise LutcError(f"range [{lo:g}, {hi:g}] is empty; its first number must be below its second")
    low, high = fn.domain
    if lo < low or hi > high or (fn.lo_open and lo == low) or (fn.hi_open and hi == high):
        allowed = (
            f"{'(' if fn.lo_open or low == -np.inf else '['}{low:g}, "
            f"{high:g}{')' if fn.hi_open or high == np.inf else ']'}"
        )
        raise LutcError(f"range [{lo:g}, {hi:g}] leaves the domain {allowed} of {fn.name}; give a range inside it")
    for pole in fn.poles:
        if lo <= pole <= hi:
            raise LutcError(
                f"range [{lo:g}, {hi:g}] holds {pole:g}, where {fn.name} is infinite; give a range on one side of it"
            )
    for end in (lo, hi):
        if not np.isfinite(fn(end)):
            raise LutcError(
                f"{fn.name} is {float(fn(end)):g} at {end:g}, an end of the range [{lo:g}, {hi:g}]; give a range where "
                "it is finite"
            )
    return lo, hi
