"""The lower bounds: the best line of a run against a linear program, and that no table goes below them."""

import numpy as np
import pytest
from scipy.optimize import linprog

from lutc.costs.intervals import IntervalCosts
from lutc.costs.targets import Targets
from lutc.errors import LutcError
from lutc.functions import Line
from lutc.search.absolute_kernels import line_cost, run_cost
from lutc.search.cutpoints_bound import bound_of_edges, lower_bound


def least(x, y, w):
    """The least sum of w * |y - line|, by a linear program."""
    n = x.size
    rows = np.column_stack([x, np.ones(n)])
    program = np.block([[rows, -np.diag(1 / w)], [-rows, -np.diag(1 / w)]])
    bounds = [(None, None)] * 2 + [(0, None)] * n
    return linprog(np.r_[0, 0, np.ones(n)], A_ub=program, b_ub=np.r_[y, -y], bounds=bounds).fun


def targets(f, n, seed=0, region=None):
    rng = np.random.default_rng(seed)
    x = np.sort(rng.uniform(-2, 2, n))
    return Targets(x, f(x), rng.uniform(0.5, 2, n), np.zeros(n, int) if region is None else region(x))


@pytest.mark.parametrize("start, end", [(0, 40), (3, 10), (0, 200), (150, 153), (7, 12)])
@pytest.mark.parametrize(
    "f", [np.exp, lambda v: -np.exp(v), lambda v: 1e3 * np.sqrt(v + 3)], ids=["convex", "concave", "large"]
)
def test_a_line_costs_no_less(f, start, end):
    t = targets(f, 200)
    sums, best = IntervalCosts(t, t.x, f).sums, least(*(v[start:end] for v in (t.x, t.y, t.weight)))
    bound = line_cost(t.x, sums, start, end)
    noise = 1e-9 * np.abs(t.y).max()
    assert bound <= best * (1 + 1e-6) + noise
    if end - start >= 40:
        assert bound > 0.999 * best
    whole = run_cost(t.x, t.y, t.weight, t.region, sums, start, end)
    assert bound - noise <= whole <= best * (1 + 1e-6) + noise
    if end - start <= 10:
        assert whole == pytest.approx(best, rel=1e-6, abs=noise)


def free_optimum(t, pieces, left, right):
    """The least cost of so many lines that need not join, tails outside: every partition, each line by the program."""
    n = len(t)
    cost = np.zeros((n + 1, n + 1))
    for i in range(n):
        for j in range(i + 3, n + 1):
            cost[i, j] = least(t.x[i:j], t.y[i:j], t.weight[i:j])
    value = left.copy()
    for _ in range(pieces):
        value = np.array([min(value[i] + cost[i, j] for i in range(j + 1)) for j in range(n + 1)])
    return float((value + right).min())


@pytest.mark.parametrize("tails", [{}, {"left": Line(0.0, -1.0), "right": Line(0.0, 1.0)}], ids=["none", "tails"])
def test_it_is_the_optimum_of_lines_that_need_not_join(tails):
    t = targets(np.tanh, 26, region=lambda x: (x > 0).astype(int))
    costs = IntervalCosts(t, t.x, np.tanh, **tails)
    best = free_optimum(t, 3, *costs.outside)
    bound = lower_bound(costs, 3, 1.5 * best)
    assert 0.5 * best < bound <= best * (1 + 1e-6)


def test_no_table_goes_below_it_and_it_is_not_far():
    x = np.linspace(-2, 2, 1500)
    costs = IntervalCosts(Targets(x, np.tanh(x), np.ones(x.size), (x > 0).astype(int)), x, np.tanh)
    edges = np.linspace(-2, 2, 17)
    cost = float(np.abs(np.interp(x, edges, np.tanh(edges)) - np.tanh(x)).sum())
    bound = lower_bound(costs, 16, cost)
    assert 0.3 * cost < bound < cost
    assert lower_bound(costs, 8, 4 * cost) > 2 * bound
    own = bound_of_edges(costs, edges)
    assert bound < own < cost
    better = np.interp(x, edges, np.tanh(edges) + 2e-3 * np.sign(edges))
    assert own < float(np.abs(better - np.tanh(x)).sum())
    assert lower_bound(costs, 16, 0.0) == 0.0


@pytest.mark.parametrize("norm, region", [("l1", None), ("l2", np.zeros(9, int))])
def test_it_needs_regions_and_absolute_errors(norm, region):
    costs = IntervalCosts(Targets(np.arange(9.0), np.arange(9.0), np.ones(9), region), np.arange(9.0), np.sin, norm)
    with pytest.raises(LutcError, match="convex"):
        lower_bound(costs, 2, 1.0)
