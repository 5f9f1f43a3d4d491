"""The lower bound: the best line of a run against a linear program, and that no table goes below it."""

import numpy as np
import pytest
from scipy.optimize import linprog

from lutc.costs.intervals import IntervalCosts
from lutc.costs.targets import Targets
from lutc.errors import LutcError
from lutc.search.cutpoints_bound import line_cost, lower_bound


@pytest.mark.parametrize("start, end", [(0, 40), (3, 10), (0, 200), (150, 153), (7, 12)])
@pytest.mark.parametrize(
    "f", [np.exp, lambda v: -np.exp(v), lambda v: 1e3 * np.sqrt(v + 3)], ids=["convex", "concave", "large"]
)
def test_a_line_costs_no_less(f, start, end):
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(-2, 2, 200))
    y, w = f(x), rng.uniform(0.5, 2, 200)
    sums = IntervalCosts(Targets(x, y, w), x, f)._sums
    n, (a, b, c) = end - start, (v[start:end] for v in (x, y, w))
    rows = np.column_stack([a, np.ones(n)])
    program = np.block([[rows, -np.diag(1 / c)], [-rows, -np.diag(1 / c)]])
    best = linprog(
        np.r_[0, 0, np.ones(n)], A_ub=program, b_ub=np.r_[b, -b], bounds=[(None, None)] * 2 + [(0, None)] * n
    ).fun
    bound = line_cost(x, sums, start, end)
    assert bound <= best * (1 + 1e-6) + 1e-9 * np.abs(b).max()
    if n >= 40:
        assert bound > 0.999 * best


def test_no_table_goes_below_it_and_it_is_not_far():
    x = np.linspace(-2, 2, 1500)
    targets = Targets(x, np.tanh(x), np.ones(x.size), (x > 0).astype(int))
    edges = np.linspace(-2, 2, 17)
    cost = float(np.abs(np.interp(x, edges, np.tanh(edges)) - np.tanh(x)).sum())
    bound = lower_bound(targets, 16, cost)
    assert 0.1 * cost < bound < cost
    assert lower_bound(targets, 8, 4 * cost) > 2 * bound


def test_it_needs_regions():
    with pytest.raises(LutcError, match="convex"):
        lower_bound(Targets(np.arange(9.0), np.arange(9.0), np.ones(9)), 2, 1.0)
