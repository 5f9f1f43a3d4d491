"""The inner loops of `lutc.search.tied`: dynamic programming over a few cuts and a few lines for each segment of a
known table, where lines must join.

A label is a table up to a cut: the value of its last line at the breakpoint, in float64 and as float32 rounds it, the
value at the first input behind it, the line, its cost and the label before.
"""

from __future__ import annotations

import numpy as np

from lutc.formats.neighbours import beyond, nearest, spacing_of
from lutc.jit import njit

EXTRA = 12  # slopes tried beside the even ones
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
def follows(label, k, t, place, joins, numbers, floats):
    """Whether the line may follow the label, by its values themselves."""
    rise, bend, meet = joins
    at, behind, judged = place
    if np.isnan(label[V]):
        return True
    if rise != 0 and rise * (k * judged + t - label[V]) < 0.0:
        return False
    if rise != 0 and floats and rise * (single(k, at, t) - label[SINGLE]) < 0.0:
        return False
    before = k * at + t
    if bend != 0 and (bend * (k * behind + t - label[U]) < 0.0 or bend * (label[V] - before) < 0.0):
        return False
    if meet < 0.0:
        return True
    return abs(before - label[V]) <= gap_allowed(meet, floats, numbers, label[V], label[T], t)


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
def sums_of(x, y, w, low, high, line, sums):
    """Prefix sums (6, high - low + 1) over samples low..high - 1 of weight, and with d = x - x[low], r = y - line, of
    d, d^2, r, r d, r^2 by weight.
    """
    sums[:, 0] = 0.0
    for n in range(low, high):
        d, r = x[n] - x[low], y[n] - (line[0] * x[n] + line[1])
        c = n - low
        sums[0, c + 1] = sums[0, c] + w[n]
        sums[1, c + 1] = sums[1, c] + w[n] * d
        sums[2, c + 1] = sums[2, c] + w[n] * d * d
        sums[3, c + 1] = sums[3, c] + w[n] * r
        sums[4, c + 1] = sums[4, c] + w[n] * r * d
        sums[5, c + 1] = sums[5, c] + w[n] * r * r


@njit
def fitted(sums, i, j):
    """(weight, mean d, spread of d, slope, mean r, residual) of the run [i, j) of prefix sums."""
    s = sums[:, j] - sums[:, i]
    if s[0] <= 0.0:
        return 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    mean, middle = s[1] / s[0], s[3] / s[0]
    spread, tilt = s[2] - mean * s[1], s[4] - mean * s[3]
    if j - i < 2 or spread <= 0.0:
        return s[0], mean, 0.0, 0.0, middle, max(s[5] - middle * s[3], 0.0)
    slope = tilt / spread
    return s[0], mean, spread, slope, middle, max(s[5] - middle * s[3] - slope * tilt, 0.0)


@njit
def price(objective, x, y, w, i, j, k, t):
    """Of a line over samples i..j - 1: 1, the sum of absolute errors by weight; 2, the largest."""
    total = 0.0
    for n in range(i, j):
        error = w[n] * abs(k * x[n] + t - y[n])
        total = total + error if objective == 1 else max(total, error)
    return total


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
def worth_keeping(rows, count, joins, near_value, near_slope, kept, out):
    """The cheapest of `count` labels, up to `kept`, that none replaces: one cheaper that allows as much, or nearly."""
    rise, bend, meet = joins
    order = np.argsort(rows[:count, COST])
    found = 0
    for row in order:
        label, replaced = rows[row], False
        for at in range(found):
            other = out[at]
            if rise != 0 and rise * (other[V] - label[V]) > 0.0 and (bend == 0 and meet < 0.0):
                continue
            if bend != 0 and (abs(other[V] - label[V]) > near_value or bend * (other[K] - label[K]) > near_slope):
                continue
            if meet >= 0.0 and abs(other[V] - label[V]) > near_value:
                continue
            replaced = True
            break
        if not replaced:
            out[found] = label
            found += 1
            if found == kept:
                break
    return found


@njit
def sweep(
    x, y, w, places, tails, tail_costs, windows, cuts, lines, limits, spacing, numbers, slope_set, intercept_set, joins,
    rules, floats, beyond, objective, tried, kept,
):  # fmt: skip
    """(cost, cuts, lines) of the best table whose cuts lie in `windows` (segments + 1, positions; -1 for none) and
    whose lines lie near those of the table of cuts (segments + 1,) and lines (segments, 2); infinite where none joins.

    places: (4, n + 1), at every cut the breakpoint, the first input behind it, where a rise is judged, and the first x
    at which values keep their bounds. tails: (2, 2), NaN for none; tail_costs: (2, n + 1). limits: (segments,) of what
    labels behind a segment cost. spacing: (segments, 2) of the slopes and intercepts tried. objective: 0 for squared
    errors. tried: slopes and intercepts to each side. kept: labels at a cut.
    """
    segments, across = windows.shape[0] - 1, windows.shape[1]
    rise, bend, meet = joins
    zero, low, high = rules
    labels = np.empty((segments + 1, across, kept, WIDTH))
    counts = np.zeros((segments + 1, across), np.int64)
    room = across * kept * (2 * tried[0] + 1 + EXTRA) * (2 * tried[1] + 2)
    rows = np.empty((min(room, 400_000), WIDTH))
    slopes = np.empty(2 * tried[0] + 2 + EXTRA)
    for p in range(across):
        i = windows[0, p]
        if i < 0 or not np.isfinite(tail_costs[0, i]):
            continue
        label = labels[0, p, 0]
        label[:] = np.nan
        label[COST] = tail_costs[0, i]
        if not np.isnan(tails[0, 0]) and (i > 0 or beyond[0]):
            k, t = tails[0]
            label[V], label[SINGLE], label[U] = k * places[0, i] + t, single(k, places[0, i], t), k * places[1, i] + t
            label[K], label[T] = k, t
        counts[0, p] = 1
    for s in range(segments):
        first, last = x.size, 0
        for p in range(across):
            if windows[s, p] >= 0 and counts[s, p] > 0:
                first = min(first, windows[s, p])
            last = max(last, windows[s + 1, p])
        first, last = min(first, cuts[s]), max(last, cuts[s + 1])
        sums = np.empty((6, last - first + 1))
        sums_of(x, y, w, first, last, lines[s], sums)
        weight, mean, spread, own_slope, middle, _ = fitted(sums, cuts[s] - first, cuts[s + 1] - first)
        own_shift = -middle  # how far the known line lies above the best one of its slope
        for q in range(across):
            j, count = windows[s + 1, q], 0
            if j < 0:
                continue
            place_j = (places[0, j], places[1, j], places[2, j])
            closing = s == segments - 1 and not np.isnan(tails[1, 0]) and (j < x.size or beyond[1])
            for p in range(across):
                i = windows[s, p]
                if i < 0 or i >= j or counts[s, p] == 0:
                    continue
                place_i = (places[0, i], places[1, i], places[2, i])
                weight, mean, spread, slope, middle, residual = fitted(sums, i - first, j - first)
                best = lines[s, 0] + slope
                begin, end = places[3, i], places[0, j]
                through = zero and places[0, i] < 0.0 <= end
                even = slopes_near(best - own_slope, spacing[s, 0], tried[0], rise, numbers, slope_set, slopes)
                for at in range(counts[s, p]):
                    label = labels[s, p, at]
                    found, started = even, not np.isnan(label[V])
                    if closing and started and (meet >= 0.0 or bend != 0):
                        value = tails[1, 0] * end + tails[1, 1]
                        wanted = (value - label[V]) / (end - place_i[0])
                        found = slopes_beside(wanted, numbers, slope_set, rise, slopes, found)
                        if through:
                            found = slopes_beside(
                                value / end if end != 0.0 else 0.0, numbers, slope_set, rise, slopes, found
                            )
                    if through and started and (meet >= 0.0 or bend != 0) and place_i[0] != 0.0:
                        found = slopes_beside(label[V] / place_i[0], numbers, slope_set, rise, slopes, found)
                    if bend != 0 and started:
                        found = slopes_beside(label[K], numbers, slope_set, rise, slopes, found)
                    for c in range(found):
                        k = slopes[c]
                        least, greatest = room_behind(label, k, place_i, joins, numbers, floats)
                        if closing:
                            lower, upper = room_before(tails[1], k, place_j, joins, numbers, floats)
                            least, greatest = max(least, lower), min(greatest, upper)
                        least = max(least, low - min(k * begin, k * end))
                        greatest = min(greatest, high - max(k * begin, k * end))
                        if through:
                            least, greatest = max(least, 0.0), min(greatest, 0.0)
                        # rounded sums may be off their bounds by as much as float64 is
                        slack = 4e-16 * (abs(k * end) + abs(k * begin) + 1.0)
                        if not least <= greatest + slack:
                            continue
                        off = k - lines[s, 0]
                        wanted = lines[s, 1] + middle - off * (mean + x[first])
                        base = residual + spread * (k - best) ** 2
                        if label[COST] + base + weight * outside(wanted, least, greatest) ** 2 > limits[s]:
                            continue
                        before, reach = np.nan, own_shift + tried[1] * spacing[s, 1]
                        alone = wanted - reach >= greatest or wanted + reach <= least or greatest - least <= slack
                        for shift in range(tried[1] + 1 if alone else -tried[1], tried[1] + 2):
                            aim = wanted if shift > tried[1] else wanted + own_shift + shift * spacing[s, 1]
                            t = within(numbers, intercept_set, aim, least - slack, greatest + slack)
                            if np.isnan(t) or t == before:
                                continue
                            before = t
                            value, start = k * end + t, k * begin + t
                            if min(value, start) < low or max(value, start) > high or through and t != 0.0:
                                continue
                            if not follows(label, k, t, place_i, joins, numbers, floats):
                                continue
                            row = rows[min(count, rows.shape[0] - 1)]
                            row[V], row[SINGLE], row[U] = value, single(k, end, t), k * place_j[1] + t
                            row[K], row[T], row[FROM], row[LABEL] = k, t, p, at
                            if closing and not follows(row, tails[1, 0], tails[1, 1], place_j, joins, numbers, floats):
                                continue
                            if objective == 0:
                                row[COST] = label[COST] + base + weight * (t - wanted) ** 2
                            else:
                                own = price(objective, x, y, w, i, j, k, t)
                                row[COST] = label[COST] + own if objective == 1 else max(label[COST], own)
                            count = min(count + 1, rows.shape[0] - 1)
            if count:
                apart = 0.5 * spacing[s, 1]
                counts[s + 1, q] = worth_keeping(rows, count, joins, apart, 0.5 * spacing[s, 0], kept, labels[s + 1, q])
    cost, p, at = np.inf, -1, -1
    for q in range(across):
        for c in range(counts[segments, q]):
            closed = tail_costs[1, windows[segments, q]]
            whole = (
                max(labels[segments, q, c, COST], closed) if objective == 2 else labels[segments, q, c, COST] + closed
            )
            if whole < cost:
                cost, p, at = whole, q, c
    found_cuts, found_lines = np.empty(segments + 1, np.int64), np.empty((segments, 2))
    if p < 0:
        return cost, found_cuts, found_lines
    for s in range(segments, -1, -1):
        found_cuts[s] = windows[s, p]
        if s > 0:
            label = labels[s, p, at]
            found_lines[s - 1, 0], found_lines[s - 1, 1] = label[K], label[T]
            p, at = int(label[FROM]), int(label[LABEL])
    return cost, found_cuts, found_lines
