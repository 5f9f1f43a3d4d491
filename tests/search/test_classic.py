"""GQA-LUT as published: what its result consists of, and that it searches."""

import random

import numpy as np
import pytest

from lutc import formats, functions
from lutc.functions import Line
from lutc.samples.samples import Samples
from lutc.search.classic import ClassicSettings, solve
from lutc.search.problem import SearchProblem

X = np.arange(-4.0, 4.0, 0.01)
ZERO, IDENTITY = Line(0.0, 0.0), Line(1.0, 0.0)
SHORT = ClassicSettings(generations=30)


def run(seed=42, entries=8, settings=SHORT, left=ZERO, right=IDENTITY, fmt="q1.6"):
    f = functions.get("gelu")
    samples = Samples(X, f(X), np.ones(X.size))
    problem = SearchProblem(entries, None, samples, formats.get(fmt), left, right, seed=seed, f=f)
    return solve(problem, settings)


def test_cost_is_that_of_the_rounded_chords():
    """The figure by a plain loop: chords between breakpoints, rounded, a breakpoint belonging to the right."""
    found, fn = run(), functions.get("gelu")
    assert (np.diff(found.cuts) >= 0).all() and found.cuts.size == 7
    total = 0.0
    for x in X:
        segment = sum(point <= x for point in found.cuts)
        total += (found.lines[0][segment] * x + found.lines[1][segment] - fn(x)) ** 2
    assert found.cost == pytest.approx(total / X.size, rel=1e-9)
    for s in range(1, 7):
        a, b = found.cuts[s - 1 : s + 1]
        if b - a > 0.01:
            chord = (fn(b) - fn(a)) / (b - a)
            assert abs(found.lines[0][s] - chord) <= 2**-7 + 1e-12
            assert abs(found.lines[1][s] - (fn(a) - chord * a)) <= 2**-7 + 1e-12
    assert (found.lines[0][0], found.lines[1][0], found.lines[0][-1], found.lines[1][-1]) == (0.0, 0.0, 1.0, 0.0)
    assert formats.get("q1.6").holds(np.concatenate([found.lines[0], found.lines[1]])).all()


def test_free_ends_are_chords_to_the_ends_of_the_range():
    found, fn = run(left=None, right=None, fmt="fp32"), functions.get("gelu")
    first = found.cuts[0]
    assert found.lines[0][0] == pytest.approx((fn(first) - fn(-4.0)) / (first + 4.0), rel=1e-5, abs=1e-7)


def test_generations_pay():
    assert (
        run(settings=ClassicSettings(generations=150)).cost < run(settings=ClassicSettings(generations=1)).cost < 1e-2
    )


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    random.seed(3)
    state = random.getstate()
    first, second, other = run(1), run(1), run(2)
    assert random.getstate() == state
    np.testing.assert_array_equal(first.cuts, second.cuts)
    assert (first.cuts != other.cuts).any()
    assert first.record["name"] == "classic" and first.record["seed"] == 1 and first.record["generations"] == 30


def test_rounding_mutation_puts_breakpoints_on_the_grids():
    """After some generations many breakpoints lie on the coarse grids, where hardly any random real number does."""
    found = run(settings=ClassicSettings(generations=60, mutation=0.9))
    assert (found.cuts * 64 % 1 == 0).sum() >= 2


@pytest.mark.parametrize("entries", [2, 3])
def test_few_entries(entries):
    assert run(entries=entries).cuts.size == entries - 1
