"""The fewest entries that meet an error bound: every segment as long as it can be.

If some representable line keeps all samples of a run within their bounds, it does so for every part of the run; so the
longest extension from the left needs the fewest segments (feasibility passes to sub-runs).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lutc.costs.lines import Ordinals
from lutc.errors import LutcError
from lutc.formats.format import Format
from lutc.functions import Line
from lutc.search.problem import SearchProblem
from lutc.search.result import SearchResult
from lutc.search.search import Search
from lutc.search.strips import longest, tails_within

_SLOPES = (
    1 << 12
)  # carried along all at once; formats with more are searched around the slopes that real lines may have


@dataclass(frozen=True)
class GreedySettings:
    """It has none: the bound decides."""


def greedy(
    x: np.ndarray,
    y: np.ndarray,
    tolerance: np.ndarray,
    fmt: Format,
    left: Line | None = None,
    right: Line | None = None,
    described: str = "the bound",
) -> SearchResult:
    """Fewest segments with |slope * x + intercept - y| <= tolerance at every sample; x, y, tolerance: (n,), x
    ascending.

    Cuts are sample indices. `record["proven"]` says whether all slopes of the format were tried. LutcError where a
    single sample cannot be met; `described` names the bound in it.
    """
    low, high = y - tolerance, y + tolerance
    start, stop = tails_within(x, low, high, left, right)
    ordinals = Ordinals(fmt)
    cuts, lines, proven = [start], [], True
    if ordinals.high - ordinals.low < _SLOPES:
        slopes = ordinals.value(np.arange(ordinals.low, ordinals.high + 1))
        end = start
        while end < stop:
            end, line = _longest(x, low, high, slopes, fmt, cuts[-1], stop)
            if line is None:
                break
            cuts.append(end)
            lines.append(line)
        chosen = (np.array([k for k, _ in lines]), np.array([t for _, t in lines]))
    else:
        found = longest(x, low, high, fmt, left, right)
        cuts, chosen, proven = found.cuts.tolist(), found.lines, found.sure
    if cuts[-1] < stop:
        raise LutcError(
            f"no line with {fmt.name} coefficients is within {described} at x = {x[cuts[-1]]:g}; allow more error or a "
            "finer format"
        )
    worst = float(np.max(np.abs(_values(x, cuts, chosen, left, right) - y), initial=0.0))
    return SearchResult(np.array(cuts), worst, {"name": "greedy", "bound": described, "proven": proven}, chosen)


def _values(x, cuts, lines, left, right) -> np.ndarray:
    slopes = np.concatenate([[left.slope if left else 0.0], lines[0], [right.slope if right else 0.0]])
    intercepts = np.concatenate([[left.intercept if left else 0.0], lines[1], [right.intercept if right else 0.0]])
    index = np.searchsorted(cuts, np.arange(x.size), side="right")
    return slopes[index] * x + intercepts[index]


def _intercept(fmt: Format, lowest, highest) -> tuple[np.ndarray, np.ndarray]:
    """The value nearest to the middle of [lowest, highest], and whether it lies inside; if it does not, no value of the
    format does.
    """
    t = fmt.round((lowest + highest) / 2)
    return t, (t >= lowest) & (t <= highest)


def _longest(x, low, high, slopes, fmt: Format, start: int, stop: int):
    """(end, line) of the longest feasible run from `start`; line is None if not even one sample is feasible."""
    lowest, highest = np.full(slopes.size, -np.inf), np.full(slopes.size, np.inf)
    best = None
    for at in range(start, stop):
        lowest, highest = np.maximum(lowest, low[at] - slopes * x[at]), np.minimum(highest, high[at] - slopes * x[at])
        t, inside = _intercept(fmt, lowest, highest)
        if not inside.any():
            return at, best
        if not inside.all():
            slopes, lowest, highest, t = slopes[inside], lowest[inside], highest[inside], t[inside]
        middle = slopes.size // 2
        best = (float(slopes[middle]), float(t[middle]))
    return stop, best


def solve(problem: SearchProblem, settings: GreedySettings) -> SearchResult:
    """`greedy` over the problem's samples and tolerance."""
    s = problem.samples
    return greedy(s.x, s.y, problem.tolerance, problem.format, problem.left, problem.right, problem.described)


SEARCH = Search(
    "greedy",
    "the fewest entries within an error bound",
    GreedySettings,
    solve,
    takes="samples",
    objectives=("squared", "relative", "absolute", "maximum", "codes"),
    weights=False,
    reduction=False,
    bounded=True,
)
