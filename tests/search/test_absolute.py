"""Bounds on absolute errors against the best of all lines through two samples, and against full dynamic programming."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lutc.costs.points import Points
from lutc.costs.segments import absolute_tails
from lutc.formats.format import get
from lutc.functions import Line
from lutc.samples.samples import Samples
from lutc.search.absolute_cells import AbsoluteCells
from lutc.search.segmentation import best_cuts

SHAPES = {
    "convex": np.exp,
    "wave": lambda x: np.sin(3 * x),
    "bend": np.tanh,
    "corner": lambda x: np.maximum(x, 0.0),
    "jump": lambda x: np.sign(x - 0.3),
    "plateaus": lambda x: np.round(2 * x) / 2,
    "noise": lambda x: np.random.default_rng(3).normal(size=x.size),
}
SPACINGS = {
    "even": lambda size: np.linspace(-2, 2, size),
    "octaves": lambda size: np.unique(
        np.append(-(2.0 ** np.linspace(1, -9, size // 2)), 2.0 ** np.linspace(1, -9, size // 2))
    ),
}


def least(x, y, w) -> float:
    """The least sum of w |y - line|: some best line goes through two of the samples."""
    if x.size < 3:
        return 0.0
    p, q = np.array(list(itertools.combinations(range(x.size), 2))).T
    slope = (y[q] - y[p]) / (x[q] - x[p])
    return float(min(np.abs(y - y[p, None] - slope[:, None] * (x - x[p, None])) @ w))


def optima(x, y, w, left, right, segments) -> list[float]:
    """By number of segments, at most so many of 1..segments: dynamic programming over all cuts."""
    n = x.size
    price = np.full((n + 1, n + 1), np.inf)
    for i in range(n + 1):
        for j in range(i, n + 1):
            price[i, j] = least(x[i:j], y[i:j], w[i:j])
    best, found = left, []
    for _ in range(segments):
        best = (best[:, None] + price).min(axis=0)
        found.append(float((best + right).min()))
    return found


def cells_of(x, y, w, tails=(None, None)) -> AbsoluteCells:
    points = Points.of(Samples(x, y, w))
    return AbsoluteCells.of(points, *absolute_tails(points, *tails))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_bound_of_a_run_is_its_least_sum_where_it_bends_one_way_and_never_above(shape, spacing):
    x = SPACINGS[spacing](48)
    y, tails = SHAPES[shape](x), (Line(0.0, 0.0), Line(0.0, 0.0))
    for w in (np.ones(x.size), np.random.default_rng(1).exponential(size=x.size)):
        cells = cells_of(x, y, w, tails)
        region = cells.samples[3]
        for i, j in ((0, x.size), (3, 30), (10, 34), (20, 34), (24, x.size), (11, 13)):
            bound = cells.cost(np.array([i, j])) - cells.left[i] - cells.right[j]
            best = least(x[i:j], y[i:j], w[i:j] / w.sum())
            assert bound <= best * (1 + 1e-9) + 1e-14
            if region[i] == region[j - 1]:
                assert bound == pytest.approx(best, rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_full_dynamic_programming_for_every_number_of_segments(shape, spacing):
    x = SPACINGS[spacing](30)
    y = SHAPES[shape](x)
    for seed, tails in enumerate(((None, None), (Line(0.0, y[0]), None), (Line(0.0, y[0]), Line(1.0, y[-1] - x[-1])))):
        w = np.random.default_rng(seed).exponential(size=x.size) if seed else np.ones(x.size)
        cells = cells_of(x, y, w, tails)
        for segments, best in enumerate(optima(x, y, w / w.sum(), cells.left, cells.right, 9), 1):
            cuts, cost, bound = best_cuts(cells, segments)
            assert cuts.size <= segments + 1 and (np.diff(cuts) >= 0).all()
            assert bound <= best * (1 + 1e-6) + cells.nothing
            stored = cells.lines(cuts, get("fp32"))[0]
            assert stored >= best * (1 - 1e-9)
            if shape in ("convex", "corner"):
                assert bound >= best * (1 - 1e-4) - cells.nothing
                assert stored <= best * (1 + 1e-4) + 1e-7  # fp32


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.floats(-100, 100).map(lambda v: round(v, 3)), min_size=3, max_size=24, unique=True),
    st.lists(st.floats(-10, 10).map(lambda v: round(v, 3)), min_size=24, max_size=24),
    st.lists(st.integers(0, 5), min_size=24, max_size=24),
)
def test_the_bound_is_never_above_the_optimum(x, y, weight):
    x = np.sort(np.array(x))
    y, w = np.array(y[: x.size]), np.array(weight[: x.size], float) + (x == x[0])
    cells = cells_of(x, y, w)
    for segments, best in enumerate(optima(x, y, w / w.sum(), cells.left, cells.right, 4), 1):
        assert best_cuts(cells, segments)[2] <= best * (1 + 1e-6) + cells.nothing
