"""Shrinking windows against the search over all positions, and the lower bound below every optimum."""

import numpy as np
import pytest

from lutc import formats, functions
from lutc.costs.pairs import maximum_objective, pair_costs
from lutc.costs.points import Points
from lutc.costs.segments import squared_costs
from lutc.formats.codes import Inputs
from lutc.functions import Line
from lutc.samples.samples import Samples, code_samples, format_samples
from lutc.search import refine
from lutc.search.exact import exact
from lutc.search.genetic import genetic
from tests.helpers.oracles import random_samples, tails_of

Q16 = formats.get("q1.6")


@pytest.mark.parametrize("seed", range(8))
def test_the_lower_bound_is_below_the_optimum_over_all_positions(seed):
    """Random samples, candidates and tails: additive costs and largest errors."""
    rng = np.random.default_rng(seed)
    samples = random_samples(rng, 24)
    positions = np.unique(np.concatenate([[0, 24], rng.choice(np.arange(1, 24), rng.integers(2, 12), replace=False)]))
    left = Line(0.0, 0.25) if seed % 2 else None
    right = Line(-0.5, 0.0) if seed % 3 else None
    fine, coarse = Points.of(samples), Points.of(samples, positions)
    pairs = [(squared_costs(fine, Q16, left, right), squared_costs(coarse, Q16, left, right))]
    pairs.append(tuple(pair_costs(p, Q16, left, right, maximum_objective(p)) for p in (fine, coarse)))
    for every, some in pairs:
        for entries in range(2, 9):
            bound, best = refine.lower_bound(some, entries), exact(every, entries).cost
            assert bound <= best * (1 + 1e-12)
            assert best <= exact(some, entries).cost * (1 + 1e-12)


def test_the_lower_bound_is_worth_something():
    """Over all positions it lacks only the cells that hold cuts; it rises with the number of candidates."""
    fn = functions.get("gelu")
    s = code_samples(fn, Inputs(12, 2.0**-7), *fn.range)
    tails = tails_of(fn, "q1.6")
    every = squared_costs(Points.of(s), Q16, *tails)
    best = exact(every, 8).cost
    assert 0.9 * best < refine.lower_bound(every, 8) <= best
    few = squared_costs(Points.of(s, np.unique(np.linspace(0, len(s), 200).round().astype(int))), Q16, *tails)
    assert 0.5 * best < refine.lower_bound(few, 8) < refine.lower_bound(every, 8)


@pytest.mark.parametrize("name", ["gelu", "reciprocal"])
def test_refined_reaches_the_search_over_all_positions(name):
    """About 2,000 samples, for which both are possible: within a percent, and no cut gains by moving to its
    neighbouring sample.
    """
    fn = functions.get(name)
    s = code_samples(fn, Inputs(12, 2.0**-8 if name == "gelu" else 2.0**-9), *fn.range)
    fmt = formats.get(fn.coefficients)
    tails = tails_of(fn, fmt)
    dense = squared_costs(Points.of(s), fmt, *tails)
    for entries in (2, 5, 16):
        found = refine.refined(
            s, lambda at: squared_costs(Points.of(s, at), fmt, *tails), lambda costs, start, n=entries: exact(costs, n)
        )
        result, positions, costs = found
        best = exact(dense, entries).cost
        assert best * (1 - 1e-9) <= result.cost <= best * 1.01 + 1e-15
        assert costs.total(result.cuts) == pytest.approx(result.cost, rel=1e-12)
        cuts = positions[result.cuts]
        assert dense.total(cuts) == pytest.approx(result.cost, rel=1e-9)
        for at in range(cuts.size):
            for step in (-1, 1):
                moved = cuts.copy()
                moved[at] += step
                if (np.diff(moved) >= 0).all() and 0 <= moved[0] and moved[-1] <= len(s):
                    assert dense.total(moved) >= result.cost * (1 - 1e-9)


def test_refined_with_the_genetic_search():
    """It begins with the cuts found so far, so windows never lose."""
    fn = functions.get("silu")
    s = format_samples(fn, "bf16", *fn.range)
    tails, costs_seen = tails_of(fn, "bf16"), []

    def search(costs, start):
        result = genetic(costs, 8, start=start)
        costs_seen.append(result.cost)
        return result

    result, positions, *_ = refine.refined(
        s, lambda at: squared_costs(Points.of(s, at), formats.get("bf16"), *tails), search
    )
    assert (np.diff(costs_seen) <= 1e-9 * costs_seen[0]).all() and result.cost == pytest.approx(
        min(costs_seen), rel=1e-9
    )
    assert len(costs_seen) < 25


def test_candidates_are_positions():
    x = np.concatenate([np.linspace(0, 1e-3, 3000), np.linspace(0.01, 1, 1500)])
    s = Samples(x, x, np.ones(x.size))
    at = refine.candidates(s)
    assert at[0] == 0 and at[-1] == x.size and (np.diff(at) > 0).all() and at.size <= refine.CANDIDATES + 2
    assert (np.diff(x[np.minimum(at, x.size - 1)]) <= 0.02).all()  # no wide gap in x either


def test_many_entries_stay_within_the_limit_of_positions():
    """256 entries over fp16: the windows around 255 cuts together are still few enough for costs."""
    n = 34_817
    cuts = np.linspace(0, n, 256).round().astype(int)
    for reach in (512, 64, 4, 1):
        at, _ = refine._windows(cuts, reach, n)
        assert at.size <= 4096 and set(cuts) <= set(at) and (at[0], at[-1]) == (0, n)
