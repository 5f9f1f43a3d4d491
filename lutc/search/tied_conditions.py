"""Which lines may follow a table up to a cut, and which numbers they are stored in (numba).

A label is a table up to a cut: the value of its last line at the breakpoint, in float64 and as float32 rounds it, the
value at the first input behind it, the line, its cost and the label before.
"""

from __future__ import annotations

import numpy as np

from lutc.formats.neighbours import beyond, nearest, spacing_of
from lutc.jit import njit

V, SINGLE, U, K, T, COST, FROM, LABEL, WIDTH = 0, 1, 2, 3, 4, 5, 6, 7, 8


@njit
def near(numbers, values, x):
    """The number nearest to x, of `values` (ascending) where there are any, else of the format."""
    if values.size == 0:
        return nearest(numbers, x)
    at = min(max(np.searchsorted(values, x), 1), values.size - 1) if values.size > 1 else 0
    return values[at - 1] if at > 0 and x - values[at - 1] < values[at] - x else values[at]


@njit
def following(numbers, values, x, sign):
    """The number after x, a number, towards `sign`; infinite where there is none."""
    if values.size == 0:
        return beyond(numbers, x, sign)
    at = np.searchsorted(values, x) + int(sign)
    return values[at] if 0 <= at < values.size else sign * np.inf


@njit
def within(numbers, values, t, least, greatest):
    """The number nearest to t between two bounds; NaN where there is none."""
    t = min(max(t, least), greatest)
    found = near(numbers, values, t)
    if found < least:
        found = following(numbers, values, found, 1.0)
    if found > greatest:
        found = following(numbers, values, found, -1.0)
    return found if least <= found <= greatest else np.nan


@njit
def outside(t, least, greatest):
    """How far t lies outside of an interval."""
    return max(least - t, t - greatest, 0.0)


@njit
def slopes_near(centre, spacing, count, rise, numbers, values, out):
    """Up to 2 count + 1 different slopes about `centre`, even or as near to each other as the numbers are; how many."""
    found, middle = 0, near(numbers, values, centre)
    out[0] = middle
    found = 1
    for side in range(2):
        sign, last = 1.0 - 2.0 * side, middle
        for step in range(1, count + 1):
            given = near(numbers, values, centre + sign * step * spacing)
            if sign * (given - last) <= 0.0:
                given = following(numbers, values, last, sign)
            if not np.isfinite(given):
                break
            out[found], last = given, given
            found += 1
    kept = 0
    for c in range(found):
        if rise * out[c] >= 0.0:
            out[kept] = out[c]
            kept += 1
    if kept < found:
        out[kept] = 0.0
        kept += 1
    return kept


@njit
def slopes_beside(given, numbers, values, rise, out, found):
    """`out` with the numbers about one slope behind its `found` ones; how many there are."""
    middle = near(numbers, values, given)
    for c in range(3):
        k = middle if c == 0 else following(numbers, values, middle, 1.0 if c == 1 else -1.0)
        if np.isfinite(k) and rise * k >= 0.0 and found < out.size:
            out[found] = k
            found += 1
    return found


@njit
def single(k, x, t):
    """k x + t, product and sum rounded to float32."""
    return np.float64(np.float32(np.float32(k) * np.float32(x)) + np.float32(t))


@njit
def gap_allowed(meet, floats, numbers, v, t, other):
    """How far apart lines may be at a breakpoint: `meet`, or half a step of a float format at their largest term."""
    if not floats:
        return meet
    return spacing_of(numbers, max(abs(v), abs(t), abs(other))) / 2.0


@njit
def room_behind(label, k, place, joins, numbers, floats):
    """(least, greatest) intercept of a line of slope k behind a label at a cut: place holds the breakpoint, the first
    input behind it and where a rise is judged.
    """
    rise, bend, meet = joins
    at, behind, judged = place
    least, greatest = -np.inf, np.inf
    if np.isnan(label[V]):
        return least, greatest
    if rise > 0:
        least = label[V] - k * judged
    elif rise < 0:
        greatest = label[V] - k * judged
    if bend > 0:
        least, greatest = max(least, label[U] - k * behind), min(greatest, label[V] - k * at)
    elif bend < 0:
        least, greatest = max(least, label[V] - k * at), min(greatest, label[U] - k * behind)
    if meet >= 0.0:
        want = label[V] - k * at
        apart = gap_allowed(meet, floats, numbers, label[V], label[T], want)
        least, greatest = max(least, want - apart), min(greatest, want + apart)
    return least, greatest


@njit
def room_before(tail, k, place, joins, numbers, floats):
    """(least, greatest) intercept of a line of slope k that the right tail follows at a cut."""
    rise, bend, meet = joins
    at, behind, judged = place
    least, greatest = -np.inf, np.inf
    value, then = tail[0] * at + tail[1], tail[0] * behind + tail[1]
    if rise > 0:
        greatest = tail[0] * judged + tail[1] - k * at
    elif rise < 0:
        least = tail[0] * judged + tail[1] - k * at
    if bend > 0:
        greatest, least = min(greatest, then - k * behind), max(least, value - k * at)
    elif bend < 0:
        least, greatest = max(least, then - k * behind), min(greatest, value - k * at)
    if meet >= 0.0:
        apart = gap_allowed(meet, floats, numbers, value, tail[1], value - k * at)
        least, greatest = max(least, value - k * at - apart), min(greatest, value - k * at + apart)
    return least, greatest


@njit
def follows(label, k, t, place, joins, numbers, floats):
    """Whether the line may follow the label, by its values themselves."""
    rise, bend, meet = joins
    at, behind, judged = place
    if np.isnan(label[V]):
        return True
    if rise != 0 and rise * (k * judged + t - label[V]) < 0.0:
        return False
    if rise != 0 and floats and rise * (single(k, judged, t) - label[SINGLE]) < 0.0:
        return False
    before = k * at + t
    if bend != 0 and (bend * (k * behind + t - label[U]) < 0.0 or bend * (label[V] - before) < 0.0):
        return False
    if meet < 0.0:
        return True
    return abs(before - label[V]) <= gap_allowed(meet, floats, numbers, label[V], label[T], t)
