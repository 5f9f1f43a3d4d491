"""The genetic search against the exact one on the same costs."""

import random
from functools import lru_cache

import numpy as np
import pytest

from lutc import functions
from lutc.compiler.solve import relative_gap
from lutc.costs.pairs import maximum_objective, pair_costs
from lutc.costs.points import Points
from lutc.errors import LutcError
from lutc.formats.format import get
from lutc.search.exact import exact
from lutc.search.genetic import GeneticSettings, _relocate, genetic, seeded
from tests.helpers.oracles import int8_costs

costs_of = lru_cache(maxsize=4)(int8_costs)  # tests of one function follow each other


def gap(name: str, power: int, entries: int, seed: int) -> float:
    costs = costs_of(name, power)
    return relative_gap(genetic(costs, entries, seed).cost, exact(costs, entries).cost)


@pytest.mark.parametrize("entries", [8, 16])
@pytest.mark.parametrize("name", functions.FUNCTIONS)
def test_within_a_percent_of_the_optimum(name, entries):
    """Three seeds at one scale; the slow test below takes twenty at all that matter."""
    assert max(gap(name, 4, entries, seed) for seed in range(3)) <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("entries", [8, 16])
@pytest.mark.parametrize("name", functions.FUNCTIONS)
def test_twenty_of_twenty_seeds_are_within_a_percent(name, entries):
    gaps = [gap(name, power, entries, seed) for power in (3, 4, 5, 6) for seed in range(20)]
    assert max(gaps) <= 0.01


def test_reaches_the_largest_error_too():
    """The maximum of segment costs in place of their sum."""
    fn = functions.get("gelu")
    from tests.helpers.oracles import int8_samples, tails_of

    points = Points.of(int8_samples("gelu", 3))
    costs = pair_costs(points, get("q1.6"), *tails_of(fn, "q1.6"), maximum_objective(points))
    for entries in (4, 8):
        assert genetic(costs, entries).cost == exact(costs, entries).cost


def test_a_cut_that_is_of_no_use_moves_to_where_it_is():
    """Two cuts side by side where gelu is flat: relocation must take one away, and never makes a table worse."""
    costs = int8_costs("gelu", 5)
    cuts = np.sort(np.random.default_rng(0).integers(0, costs.size + 1, (200, 8)), axis=1)
    cuts[0] = [40, 41, 42, 90, 110, 140, 170, 200]
    before = costs.total(cuts)
    _relocate(costs, cuts)
    after = costs.total(cuts)
    assert (after <= before * (1 + 1e-12)).all() and after[0] < 0.9 * before[0] and (after < 0.9 * before).mean() > 0.5


def test_the_seed_decides():
    costs = costs_of("mish", 5)
    few = GeneticSettings(population=8, generations=2, restarts=1, sweeps=0)
    runs = [genetic(costs, 16, seed, few) for seed in (1, 1, 2, 3, 4)]
    assert (runs[0].cuts == runs[1].cuts).all() and runs[0].cost == runs[1].cost and runs[0].record == runs[1].record
    assert len({r.cost for r in runs}) > 1
    assert runs[0].record["seed"] == 1 and runs[0].record["population"] == 8


def test_the_global_generators_are_left_alone():
    random.seed(7)
    state, numpy_state = random.getstate(), np.random.get_state()[1].copy()
    genetic(costs_of("gelu", 3), 6)
    assert random.getstate() == state
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)
    with pytest.raises(RuntimeError), seeded(1):
        raise RuntimeError
    assert random.getstate() == state


def test_the_callers_generator_does_not_matter():
    few = GeneticSettings(population=8, generations=3, restarts=1, sweeps=0)
    random.seed(1)
    first = genetic(costs_of("gelu", 5), 16, settings=few)
    random.seed(2)
    assert (genetic(costs_of("gelu", 5), 16, settings=few).cuts == first.cuts).all()


@pytest.mark.parametrize("tails", [True, False])
@pytest.mark.parametrize("entries", [2, 3, 4, 64])
def test_cuts_are_a_table(entries, tails):
    costs = int8_costs("gelu", 2, tails)
    result = genetic(costs, entries)
    assert result.cuts.size == costs.segments(entries) + 1
    assert (np.diff(result.cuts) >= 0).all() and 0 <= result.cuts[0] and result.cuts[-1] <= costs.size
    assert result.cost == costs.total(result.cuts) == pytest.approx(exact(costs, entries).cost, rel=1e-9, abs=1e-18)
    if not tails:
        assert result.cuts[0] == 0 and result.cuts[-1] == costs.size


def test_it_starts_from_given_cuts():
    """A start as good as the optimum is never lost."""
    costs = costs_of("silu", 6)
    best = exact(costs, 16)
    idle = GeneticSettings(population=4, generations=1, restarts=1, sweeps=0, elite=1)
    assert genetic(costs, 16, 1, idle, best.cuts).cost == pytest.approx(best.cost, rel=1e-12)
    assert genetic(costs, 16, 1, idle).cost > best.cost


def test_progress_is_reported():
    seen = []
    genetic(
        costs_of("gelu", 3), 6, settings=GeneticSettings(generations=3, restarts=2, patience=9), progress=seen.append
    )
    assert sum(seen) == 6


@pytest.mark.parametrize(
    ("field", "value"),
    [("population", 0), ("generations", 0), ("restarts", 0), ("patience", -1), ("elite", -1), ("elite", 50)],
)
def test_settings_are_checked(field, value):
    with pytest.raises(LutcError, match=field):
        GeneticSettings(**{field: value})
