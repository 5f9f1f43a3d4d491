"""Whether a stored table keeps what its file promises, on every input that it is meant for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from lutc.certify.arithmetic import in_arithmetic
from lutc.formats.format import Format, get
from lutc.functions import Function
from lutc.functions.promises import Promised, promised
from lutc.table.bodies import Cells, Lines
from lutc.table.table import Table

_SUMS = 2.0**-50  # of the largest value: how far float64 sums that are equal may lie apart


def promises_kept(table: Table, fn: Function, names: Iterable[str], x: np.ndarray, floats: bool = False) -> dict:
    """By promise, over inputs x (n,) ascending, those in fn.range and those beyond on a side with a tail: how many
    there are, how many break it, and the first that does.

    continuous counts breakpoints between inputs in the place of inputs. Values are those of float64 arithmetic; with
    `floats`, inputs that lines meet as they are, monotone is kept in float32 arithmetic too.
    """
    lo, hi = fn.range
    tails = table.left is not None or table.right is not None
    what = promised(fn, names, lo, hi, tails)
    x = x[((x >= lo) | (table.left is not None)) & ((x <= hi) | (table.right is not None))]
    y = table(x)
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    kept = {name: _count(*_broken(name, table, what, x, y)) for name in names}
    if floats and "monotone" in kept and not kept["monotone"]["broken"] and isinstance(table.body, Lines):
        kept["monotone"] = _count(*_broken("monotone", table, what, x, in_arithmetic(table, "fp32")(x)))
    return kept


def broken(certificate: Mapping, path: str = "") -> list[str]:
    """A line for every promise that a certificate finds broken."""
    lines = []
    for key, value in certificate.items():
        where = f"{path}.{key}" if path else str(key)
        if key == "promises" and isinstance(value, Mapping):
            lines += [
                f"{where}.{name}: broken at {count['broken']} of {count['inputs']}, first at x = {count['x']:g}"
                for name, count in value.items()
                if count["broken"]
            ]
        elif isinstance(value, Mapping):
            lines += broken(value, where)
    return lines


def _count(x: np.ndarray, bad: np.ndarray) -> dict:
    found = {"inputs": int(x.size), "broken": int(bad.sum())}
    return found | {"x": float(x[bad][0])} if bad.any() else found


def _broken(name: str, table: Table, what: Promised, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(x, whether it breaks the promise), one each."""
    if name == "monotone":
        return x[1:], what.rise * np.diff(y) < 0.0
    if name == "bounded":
        return x, (y < what.low) | (y > what.high)
    if name == "through-zero":
        return np.zeros(1), np.asarray(table(np.zeros(1))) != 0.0
    if name == "convex":
        step = np.diff(x)
        noise = _SUMS * np.abs(y).max(initial=0.0) * (1.0 / step[1:] + 1.0 / step[:-1])
        return x[1:-1], what.bend * np.diff(np.diff(y) / step) < -noise
    return _jumps(table, x)


def _jumps(table: Table, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Breakpoints between the inputs, and whether the lines on both sides of each are too far apart."""
    fmt, body = get(table.coefficients), table.body
    if isinstance(body, Lines):
        at = body.breakpoints
        left = body.slopes[:-1] * at + body.intercepts[:-1]
        right = body.slopes[1:] * at + body.intercepts[1:]
    elif isinstance(body, Cells):  # pieces share the values between them: only a tail can jump
        at = body.cut_points[[0, -1]]
        right = body.values[[0, -1]]
        left = np.array([v if tail is None else tail.slope * p + tail.intercept
                         for p, v, tail in zip(at, right, (table.left, table.right))])  # fmt: skip
    else:
        return np.empty(0), np.empty(0, bool)
    inside = (at >= x.min(initial=np.inf)) & (at < x.max(initial=-np.inf))
    size = np.maximum(np.abs(left), np.abs(right))
    if isinstance(body, Lines):
        size = np.maximum(size, np.maximum(np.abs(body.intercepts[:-1]), np.abs(body.intercepts[1:])))
    at, left, right, size = at[inside], left[inside], right[inside], size[inside]
    return at, np.abs(left - right) > jump(fmt, size) + 2.0**-40 * (1.0 + size)


def jump(fmt: Format, value: np.ndarray | float) -> np.ndarray:
    """How far apart lines may be at a breakpoint, and count as continuous: half a step of the format at the greatest of
    their values there and their intercepts, which rounding an intercept leaves.
    """
    return np.asarray(fmt.ulp(value)) / 2
