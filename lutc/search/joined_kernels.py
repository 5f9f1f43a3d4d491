"""The inner loops of `lutc.search.joined`: which lines a segment may hold behind which tables, and which tables may be
forgotten.
"""

from __future__ import annotations

import numpy as np

from lutc.jit import njit

NEAR = 1e-12  # of a value: how far sums that are equal may lie apart in float64, where they meet or bend


@njit
def fits(rise, bend, meet, v1, u1, w2, v2):
    """Whether a line may follow another at a cut: v1, u1 are the left line at the last x before the cut and at the
    first x behind it, w2, v2 the right line at the same two.
    """
    if rise != 0 and rise * (v2 - v1) < 0.0:
        return False
    near = NEAR * (1.0 + abs(v1) + abs(v2))
    if bend != 0 and (bend * (v2 - u1) < -near or bend * (v1 - w2) < -near):
        return False
    return not (meet >= 0.0 and abs(w2 - v1) > meet + near)


@njit
def reach(
    j, offsets, v, u, cost, moments, floor, rest, limit, slopes, intercepts, low, high, zero, edge, joins, budget, out
):
    """Tables one segment [i, j) longer, for every i: rows (v, u, cost, i, slope, intercept, label) written to `out`;
    how many there are, more than fit if it is too small. budget: (1,) lines that may be tried yet, counted down; below
    0 nothing is found.

    offsets: (n + 2,) of the labels (v, u, cost, cheapest first) at each position. moments: (6, n + 1, n + 1) weight,
    mean x, mean y, xx, slope, residual. floor: least cost of a segment; rest: of what follows; limit: of whole tables.
    edge[p], edge[p + 1]: x at both sides of a cut at p.
    """
    rise, bend, meet = joins
    count = 0
    for i in range(j):
        begin, end = offsets[i], offsets[i + 1]
        if begin == end or cost[begin] + floor[i, j] + rest > limit:
            continue
        w, mx, my, xx, best, residual = moments[:, i, j]
        room = limit - rest - cost[begin] - residual
        if room < 0.0:
            continue
        through = zero and edge[i] < 0.0 <= edge[j]
        first = np.searchsorted(slopes, best - np.sqrt(room / xx)) if xx > 0.0 else 0
        for k in slopes[first:]:
            if rise * k < 0.0:
                continue
            penalty = xx * (k - best) ** 2
            if penalty > room:
                if k > best:
                    break
                continue
            want = my - k * mx
            reach_t = np.sqrt((room - penalty) / w) if w > 0.0 else np.inf
            for t in intercepts[np.searchsorted(intercepts, want - reach_t) :]:
                if t > want + reach_t:
                    break
                budget[0] -= 1
                if budget[0] < 0:
                    return 0
                at, last = k * edge[i + 1] + t, k * edge[j] + t
                if (through and t != 0.0) or min(at, last) < low or max(at, last) > high:
                    continue
                own = residual + penalty + w * (want - t) ** 2
                before = k * edge[i] + t
                for label in range(begin, end):
                    if cost[label] + own + rest > limit:
                        break
                    budget[0] -= 1
                    if np.isnan(v[label]) or fits(rise, bend, meet, v[label], u[label], before, at):
                        if count < out.shape[0]:
                            out[count, 0], out[count, 1], out[count, 2] = last, k * edge[j + 1] + t, cost[label] + own
                            out[count, 3], out[count, 4], out[count, 5], out[count, 6] = i, k, t, label
                        count += 1
                        break
    return count


@njit
def useful(rows, joins, budget):
    """Rows (v, u, cost, ...) in ascending cost; which of them no cheaper one replaces whatever follows;
    comparisons are taken off `budget` (1,), below 0 of which nothing is found."""
    rise, bend, meet = joins
    kept = np.empty(len(rows), np.int64)
    count = 0
    for row in range(len(rows)):
        v, u = rows[row, 0], rows[row, 1]
        replaced = False
        budget[0] -= count // 4
        if budget[0] < 0:
            return kept[:0]
        for at in range(count):
            ov, ou = rows[kept[at], 0], rows[kept[at], 1]
            if rise != 0 and rise * (ov - v) > 0.0:
                continue
            if bend != 0 and (bend * (ou - u) > 0.0 or bend * (ov - v) < 0.0):
                continue
            if meet >= 0.0 and ov != v:
                continue
            replaced = True
            break
        if not replaced:
            kept[count] = row
            count += 1
    return kept[:count]
