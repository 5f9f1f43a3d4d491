"""Lines shared by scales with breakpoints of their own: costs against plain sums, the search against enumeration."""

import random
from itertools import combinations_with_replacement, product

import numpy as np
import pytest

from lutc import formats
from lutc.functions import Line
from lutc.samples.samples import Samples
from lutc.search.shared_coefficients import SharedCosts, SharedSettings, shared_coefficients
from tests.helpers.oracles import grid, int8_samples

Q16 = formats.get("q1.6")
ZERO, IDENTITY = Line(0.0, 0.0), Line(1.0, 0.0)


def plain_cost(samples, cuts, lines, left, right) -> float:
    """Mean over the scales of the weighted mean squared error, sample by sample."""
    total = 0.0
    for s, own in zip(samples, cuts):
        for n in range(len(s)):
            segment = int(np.searchsorted(own, n, side="right")) - 1
            if segment < 0:
                k, t = left.slope, left.intercept
            elif segment >= lines[0].size:
                k, t = right.slope, right.intercept
            else:
                k, t = lines[0][segment], lines[1][segment]
            total += s.weight[n] * (k * s.x[n] + t - s.y[n]) ** 2 / s.weight.sum() / len(samples)
    return total


@pytest.mark.parametrize("tails", [(ZERO, IDENTITY), (None, None), (ZERO, None)])
def test_the_cost_is_that_of_the_lines_it_returns(tails):
    samples = [int8_samples("gelu", power) for power in (2, 3, 5)]
    start = np.stack([np.linspace(0, len(s), 7).astype(int) for s in samples])
    result = shared_coefficients(
        SharedCosts(samples, Q16, *tails), start, settings=SharedSettings(population=6, generations=3, elite=1)
    )
    assert result.cuts.shape == (3, 7) and (np.diff(result.cuts, axis=1) >= 0).all()
    assert Q16.holds(np.concatenate(result.lines)).all()
    assert result.cost == pytest.approx(plain_cost(samples, result.cuts, result.lines, *tails), rel=1e-8)


def test_total_takes_the_best_shared_line():
    """One entry over two scales by all pairs of coefficients."""
    rng = np.random.default_rng(0)
    samples = [Samples(np.arange(n) / n, rng.normal(0, 0.5, n), rng.uniform(0.5, 2, n)) for n in (4, 7)]
    values = grid("q1.6")
    errors = sum(
        ((values[:, None, None] * s.x + values[None, :, None] - s.y) ** 2) @ (s.weight / s.weight.sum()) / 2
        for s in samples
    )
    whole = np.array([[[0, 4], [0, 7]]])
    assert SharedCosts(samples, Q16, None, None).total(whole)[0] == pytest.approx(errors.min(), rel=1e-9)


def test_against_enumeration():
    """Two scales with five and seven samples, three segments: every pair of cuts there is."""
    rng = np.random.default_rng(2)
    samples = [
        Samples(np.linspace(-1, 1, n), np.abs(np.linspace(-1, 1, n)) + rng.normal(0, 0.1, n), np.ones(n))
        for n in (5, 7)
    ]
    costs = SharedCosts(samples, Q16, None, None)
    choices = [[(0, *inner, n) for inner in combinations_with_replacement(range(n + 1), 2)] for n in (5, 7)]
    best = costs.total(np.array(list(product(*choices)))).min()
    start = np.array([[0, 2, 4, 5], [0, 2, 4, 7]])
    assert shared_coefficients(costs, start).cost == pytest.approx(best, rel=1e-9)


def test_descent_never_costs_more():
    samples = [int8_samples("silu", power) for power in (3, 4)]
    costs = SharedCosts(samples, Q16, ZERO, IDENTITY)
    rng = np.random.default_rng(1)
    cuts = np.stack([np.sort(rng.integers(0, len(s) + 1, (10, 7)), axis=1) for s in samples], axis=1)
    before = costs.total(cuts)
    costs.descend(cuts, 6)
    assert (costs.total(cuts) <= before * (1 + 1e-9)).all() and (np.diff(cuts, axis=2) >= 0).all()
    assert (costs.total(cuts) < before).any()


def test_the_start_is_never_lost_and_the_seed_decides():
    samples = [int8_samples("gelu", power) for power in (1, 3, 4)]
    costs = SharedCosts(samples, Q16, ZERO, IDENTITY)
    start = np.stack([np.searchsorted(s.x, [-2.5, -1.5, -0.75, 0.0, 0.5, 1.5, 2.5]) for s in samples])
    few = SharedSettings(population=6, generations=2)
    random.seed(5)
    state = random.getstate()
    first, second = (shared_coefficients(costs, start, 3, few) for _ in range(2))
    assert random.getstate() == state
    assert (first.cuts == second.cuts).all() and first.record["seed"] == 3
    assert first.cost <= costs.total(start[None])[0]
