"""The search against exhaustive enumeration on problems small enough for it."""

import itertools

import numpy as np
import pytest

from lutc.costs.intervals import IntervalCosts
from lutc.costs.targets import Targets
from lutc.errors import LutcError
from lutc.functions import Line
from lutc.search import cutpoints


def small(f, low, high, n, norm="l1", **tails):
    x = np.sort(np.random.default_rng(n).uniform(low, high, n))
    return IntervalCosts(Targets(x, f(x), np.ones(n)), x, f, norm, **tails)


def exhaustive(costs, pieces):
    """Least cost over all ascending cuts, from a table of all intervals."""
    cuts = np.array(list(itertools.combinations(range(costs.size), len(pieces) + 1)))
    start, end = np.indices((costs.size, costs.size))
    parts = [costs.outside_left(cuts[:, 0]), costs.outside_right(cuts[:, -1])]
    for i, count in enumerate(pieces):
        table = np.where(start < end, costs.interval(start, np.maximum(end, start), count), np.inf)
        parts.append(table[cuts[:, i], cuts[:, i + 1]])
    return costs.combine.reduce(parts).min()


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
@pytest.mark.parametrize("pieces", [(1, 4), (1, 2, 1), (1, 4, 2, 1)])
@pytest.mark.parametrize("f, low, high", [(np.tanh, -3.0, 3.0), (np.exp, -4.0, 2.0), (np.abs, -1.0, 2.0)])
def test_equals_exhaustive_enumeration(f, low, high, pieces, norm):
    costs = small(f, low, high, 26, norm)
    found = cutpoints.search(costs, pieces)
    assert found.cost == pytest.approx(exhaustive(costs, pieces), rel=1e-12, abs=1e-15)
    assert cutpoints.total(costs, found.cuts, pieces) == pytest.approx(found.cost, rel=1e-12, abs=1e-15)


def test_tails_free_the_outer_cuts():
    costs = small(np.tanh, -6.0, 6.0, 24, left=Line(0.0, -1.0), right=Line(0.0, 1.0))
    found = cutpoints.search(costs, (2, 2))
    assert found.cost == pytest.approx(exhaustive(costs, (2, 2)), rel=1e-12)
    assert found.cuts[0] > 0 and found.cuts[-1] < costs.size - 1


def test_refinement_reaches_single_positions():
    """From a coarse grid of 256 over 4,000 positions the kink of |x - 0.3| is met exactly only by single steps."""
    x = np.linspace(-1.0, 1.0, 4000)
    x[2600] = 0.3

    def f(v):
        return np.abs(v - 0.3)

    costs = IntervalCosts(Targets(x, f(x), np.ones(x.size)), x, f)
    found = cutpoints.search(costs, (1, 1))
    assert found.cuts[1] == 2600 and found.cost < 1e-4  # edges are rounded to float32


def test_too_few_places():
    costs = small(np.tanh, -1.0, 1.0, 4)
    with pytest.raises(LutcError, match="5 different cut points; only 4"):
        cutpoints.search(costs, (1, 1, 1, 1))


def test_pieces_are_chosen_as_well_as_by_trying_them_all():
    costs = small(lambda v: np.exp(v) + np.abs(v - 1), -3.0, 2.0, 16)
    budget = 9
    best = min(exhaustive(costs, p) for p in itertools.product((1, 2, 4), repeat=3) if sum(p) <= budget)
    found = cutpoints.search_pieces(costs, 3, budget)
    assert sum(found.pieces) <= budget and found.cost == pytest.approx(best, rel=1e-12)
    assert cutpoints.total(costs, found.cuts, found.pieces) == pytest.approx(found.cost, rel=1e-12)


def test_pieces_need_a_budget():
    with pytest.raises(LutcError, match="at least 3 pieces"):
        cutpoints.search_pieces(small(np.tanh, -1.0, 1.0, 12), 3, 2)
