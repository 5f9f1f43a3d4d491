"""The inner loops of `lutc.search.tied`: dynamic programming over a few cuts and a few lines for each segment of a
known table, where lines must join. Labels are those of `lutc.search.tied_conditions`.
"""

from __future__ import annotations

import numpy as np

from lutc.jit import njit
from lutc.search.tied_conditions import (
    COST,
    FROM,
    LABEL,
    SINGLE,
    WIDTH,
    K,
    T,
    U,
    V,
    follows,
    gap_allowed,
    outside,
    room_before,
    room_behind,
    single,
    slopes_beside,
    slopes_near,
    within,
)
from lutc.search.tied_errors import fitted, price, sums_of

EXTRA = 18  # slopes tried beside the even ones
_ROWS = 400_000  # labels at a cut before they are thinned out


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
def first_labels(places, tails, costs, beyond, positions, labels, counts):
    """Labels at the first cut: the left tail up to each position, or nothing at all."""
    for p in range(positions.size):
        i = positions[p]
        if i < 0 or not np.isfinite(costs[i]):
            continue
        label = labels[p, 0]
        label[:] = np.nan
        label[COST] = costs[i]
        if not np.isnan(tails[0, 0]) and (i > 0 or beyond[0]):
            k, t = tails[0]
            label[V], label[SINGLE], label[U] = k * places[0, i] + t, single(k, places[0, i], t), k * places[1, i] + t
            label[K], label[T] = k, t
        counts[p] = 1


@njit
def slopes_for(label, i, j, at, tail, closing, through, tied, joins, numbers, values, slopes, even):
    """`slopes` with those behind its `even` ones that a label calls for: through the right tail at the next cut,
    through zero, and the label's own; how many there are. at: breakpoints of the cuts.
    """
    found, rise = even, joins[0]
    if np.isnan(label[V]):
        return found
    if tied and closing:
        value = tail[0] * at[j] + tail[1]
        apart = gap_allowed(joins[2], True, numbers, value, tail[1], value) / 2.0 if joins[2] >= 0.0 else 0.0
        for side in range(-1, 2):
            wanted = (value + side * apart - label[V]) / (at[j] - at[i])
            found = slopes_beside(wanted, numbers, values, rise, slopes, found)
        if through and at[j] != 0.0:
            found = slopes_beside(value / at[j], numbers, values, rise, slopes, found)
    if tied and through and at[i] != 0.0:
        found = slopes_beside(label[V] / at[i], numbers, values, rise, slopes, found)
    if joins[1] != 0:
        found = slopes_beside(label[K], numbers, values, rise, slopes, found)
    return found


@njit
def room_for(label, k, i, j, places, tail, closing, through, joins, rules, numbers, floats):
    """(least, greatest) intercept of a line of slope k from cut i to cut j behind a label, and a little more: sums may
    be off by what float64 rounds.
    """
    begin, end = places[3, i], places[0, j]
    least, greatest = room_behind(label, k, (places[0, i], places[1, i], places[2, i]), joins, numbers, floats)
    if closing:
        lower, upper = room_before(tail, k, (places[0, j], places[1, j], places[2, j]), joins, numbers, floats)
        least, greatest = max(least, lower), min(greatest, upper)
    least = max(least, rules[1] - min(k * begin, k * end))
    greatest = min(greatest, rules[2] - max(k * begin, k * end))
    slack = 4e-16 * (abs(k * end) + abs(k * begin) + 1.0)
    if through:
        return (0.0, 0.0) if least - slack <= 0.0 <= greatest + slack else (1.0, -1.0)
    return least - slack, greatest + slack


@njit
def joined_on(row, label, k, t, i, j, places, tail, closing, through, joins, rules, numbers, floats):
    """Whether a line keeps rules and joins by its values themselves; `row` is then its label but for the cost."""
    end, start = k * places[0, j] + t, k * places[3, i] + t
    if min(end, start) < rules[1] or max(end, start) > rules[2] or through and t != 0.0:
        return False
    if not follows(label, k, t, (places[0, i], places[1, i], places[2, i]), joins, numbers, floats):
        return False
    row[V], row[SINGLE], row[U], row[K], row[T] = end, single(k, places[0, j], t), k * places[1, j] + t, k, t
    place = (places[0, j], places[1, j], places[2, j])
    return not closing or follows(row, tail[0], tail[1], place, joins, numbers, floats)


@njit
def sweep(
    x, y, w, places, tails, tail_costs, windows, cuts, lines, limits, spacing, numbers, slope_set, intercept_set, joins,
    rules, floats, beyond, objective, coded, tried, kept,
):  # fmt: skip
    """(cost, cuts, lines) of the best table whose cuts lie in `windows` (segments + 1, positions; -1 for none) and
    whose lines lie near those of the table of cuts (segments + 1,) and lines (segments, 2); infinite where none joins.

    places: (4, n + 1), at every cut the breakpoint, the first input behind it, where a rise is judged, and the first x
    at which values keep their bounds. tails: (2, 2), NaN for none; tail_costs: (2, n + 1). limits: (segments,) of what
    labels behind a segment cost. spacing: (segments, 2) of the slopes and intercepts tried. objective, coded: as of
    `price`, 0 for squared errors. tried: slopes and intercepts to each side. kept: labels at a cut.
    """
    segments, across = windows.shape[0] - 1, windows.shape[1]
    tied = joins[1] != 0 or joins[2] >= 0.0
    labels, counts = np.empty((segments + 1, across, kept, WIDTH)), np.zeros((segments + 1, across), np.int64)
    room = across * kept * (2 * tried[0] + 1 + EXTRA) * (2 * tried[1] + 2)
    rows, slopes = np.empty((min(room, _ROWS), WIDTH)), np.empty(2 * tried[0] + 2 + EXTRA)
    first_labels(places, tails, tail_costs[0], beyond, windows[0], labels[0], counts[0])
    for s in range(segments):
        first, last = cuts[s], cuts[s + 1]
        for p in range(across):
            first = min(first, windows[s, p]) if counts[s, p] > 0 else first
            last = max(last, windows[s + 1, p])
        sums = np.empty((6, last - first + 1))
        sums_of(x, y, w, first, last, lines[s], sums)
        _, _, _, own_slope, own_shift, _ = fitted(sums, cuts[s] - first, cuts[s + 1] - first)
        for q in range(across):
            j, count = windows[s + 1, q], 0
            if j < 0:
                continue
            closing = s == segments - 1 and not np.isnan(tails[1, 0]) and (j < x.size or beyond[1])
            for p in range(across):
                i = windows[s, p]
                if i < 0 or i >= j or counts[s, p] == 0:
                    continue
                weight, mean, spread, slope, middle, residual = fitted(sums, i - first, j - first)
                best = lines[s, 0] + slope
                through = rules[0] and places[0, i] < 0.0 <= places[0, j]
                even = slopes_near(best - own_slope, spacing[s, 0], tried[0], joins[0], numbers, slope_set, slopes)
                for at in range(counts[s, p]):
                    label = labels[s, p, at]
                    found = slopes_for(
                        label,
                        i,
                        j,
                        places[0],
                        tails[1],
                        closing,
                        through,
                        tied,
                        joins,
                        numbers,
                        slope_set,
                        slopes,
                        even,
                    )
                    for c in range(found):
                        k = slopes[c]
                        least, greatest = room_for(
                            label, k, i, j, places, tails[1], closing, through, joins, rules, numbers, floats
                        )
                        wanted = lines[s, 1] + middle - (k - lines[s, 0]) * (mean + x[first])
                        base = label[COST] + residual + spread * (k - best) ** 2
                        lowest = base + weight * outside(wanted, least, greatest) ** 2
                        if least > greatest or (objective == 0 and lowest > limits[s]):
                            continue
                        before, reach = np.nan, tried[1] * spacing[s, 1]
                        aimed = wanted - own_shift
                        alone = aimed - reach >= greatest or aimed + reach <= least
                        for shift in range(tried[1] + 1 if alone else -tried[1], tried[1] + 2):
                            aim = wanted if shift > tried[1] else aimed + shift * spacing[s, 1]
                            t = within(numbers, intercept_set, aim, least, greatest)
                            row = rows[min(count, rows.shape[0] - 1)]
                            if (
                                np.isnan(t)
                                or t == before
                                or not joined_on(
                                    row,
                                    label,
                                    k,
                                    t,
                                    i,
                                    j,
                                    places,
                                    tails[1],
                                    closing,
                                    through,
                                    joins,
                                    rules,
                                    numbers,
                                    floats,
                                )
                            ):
                                continue
                            before = t
                            row[COST], row[FROM], row[LABEL] = base + weight * (t - wanted) ** 2, p, at
                            if objective > 0:
                                own = price(objective, x, y, w, coded, i, j, k, t)
                                row[COST] = max(label[COST], own) if objective == 2 else label[COST] + own
                            if row[COST] <= limits[s]:
                                count = min(count + 1, rows.shape[0] - 1)
            if count:
                near_slope, near_value = 0.5 * spacing[s, 0], 0.5 * spacing[s, 1]
                counts[s + 1, q] = worth_keeping(rows, count, joins, near_value, near_slope, kept, labels[s + 1, q])
    return traced(windows, labels, counts, tail_costs[1], objective)


@njit
def traced(windows, labels, counts, closing_costs, objective):
    """(cost, cuts, lines) of the cheapest table of all labels at the last cut."""
    segments = windows.shape[0] - 1
    cost, p, at = np.inf, -1, -1
    for q in range(windows.shape[1]):
        for c in range(counts[segments, q]):
            closed, known = closing_costs[windows[segments, q]], labels[segments, q, c, COST]
            whole = max(known, closed) if objective == 2 else known + closed
            if whole < cost:
                cost, p, at = whole, q, c
    cuts, lines = np.empty(segments + 1, np.int64), np.empty((segments, 2))
    if p < 0:
        return cost, cuts, lines
    for s in range(segments, -1, -1):
        cuts[s] = windows[s, p]
        if s > 0:
            label = labels[s, p, at]
            lines[s - 1, 0], lines[s - 1, 1] = label[K], label[T]
            p, at = int(label[FROM]), int(label[LABEL])
    return cost, cuts, lines
