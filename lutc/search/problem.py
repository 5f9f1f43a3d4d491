"""What every search is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lutc.costs.rules import Rules
from lutc.formats.format import Format
from lutc.functions import Line
from lutc.samples.samples import Samples


@dataclass(frozen=True, eq=False)
class SearchProblem:
    """Costs or samples to search over, for a table of at most `entries` entries.

    costs: of segments (`lutc.costs.segments.SegmentCosts`), of whole tables
    (`lutc.search.quadratic.QuadraticCosts`) or of intervals (`lutc.costs.intervals.IntervalCosts`), as `Search.takes`
    says; None for a search over samples. format: of slopes and intercepts. left, right: tails, stored already. start:
    cuts to begin with, found over coarser positions. tolerance: (n,), the largest error allowed at each sample, and
    described: the bound as the user gave it. f, powers: the function, and the least and greatest b of the grids 2^-b
    that breakpoints are rounded to, for the search that draws chords itself. rules: which lines a
    search over samples may choose. progress(steps) is called as the search
    goes on.
    """

    entries: int
    costs: Any = None
    samples: Samples | None = None
    format: Format | None = None
    left: Line | None = None
    right: Line | None = None
    objective: str = "squared"
    seed: int = 42
    start: np.ndarray | None = None
    tolerance: np.ndarray | None = None
    described: str = "the bound"
    f: Callable[[np.ndarray], np.ndarray] | None = None
    powers: tuple[int, int] = (0, 6)
    rules: Rules | None = None
    progress: Callable[[int], object] | None = None
