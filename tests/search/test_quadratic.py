"""The dense quadratic search against brute force, the definition of its cost, and the exact optimum of a diagonal."""

import itertools

import numpy as np
import pytest

from lutc import formats, functions
from lutc.compiler.build import rounded_tail
from lutc.costs.points import Points
from lutc.costs.segments import squared_costs
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.functions import Line
from lutc.samples.samples import Samples, code_samples
from lutc.search.closest import closest, nearest_plane
from lutc.search.exact import exact
from lutc.search.quadratic import QuadraticCosts, QuadraticSettings, local, quadratic

Q = formats.get("q1.6")
TINY = formats.get("q1.1")  # codes -4..3


def positive(rng, n, rank=None):
    """A random matrix that is positive semi-definite, with strong couplings."""
    u = rng.normal(size=(rank or 2 * n, n)) * rng.uniform(0.2, 2.0, n) + rng.normal(size=(rank or 2 * n, 1))
    return u.T @ u / len(u)


def tiny(seed, n=7, tails=True):
    """A problem small enough for every table to be tried."""
    rng = np.random.default_rng(seed)
    x = (np.arange(n) - n // 2) * 0.5
    samples = Samples(x, np.tanh(x) + rng.normal(size=n) * 0.1, np.ones(n))
    left, right = (Line(0.0, -1.0), Line(0.5, 0.5)) if tails else (None, None)
    return QuadraticCosts(samples, positive(rng, n), TINY, left, right, rng.normal(size=n) * 0.05, 0.3)


def values_of(costs, cuts, slopes, intercepts):
    x = costs.samples.x
    values = np.empty(x.size)
    left, right = costs.tail_lines
    for tail, part in ((left, slice(0, cuts[0])), (right, slice(cuts[-1], None))):
        if tail is not None:
            values[part] = tail.slope * x[part] + tail.intercept
    for start, stop, slope, intercept in zip(cuts, cuts[1:], slopes, intercepts):
        values[start:stop] = slope * x[start:stop] + intercept
    return values


def best_by_trial(costs, cuts):
    """Least cost over all representable lines, empty segments left out."""
    numbers = np.arange(-4, 4) * TINY.step
    segments = [s for s in range(len(cuts) - 1) if cuts[s] < cuts[s + 1]]
    best = np.inf
    for choice in itertools.product(itertools.product(numbers, numbers), repeat=len(segments)):
        slopes, intercepts = np.zeros(len(cuts) - 1), np.zeros(len(cuts) - 1)
        for s, (slope, intercept) in zip(segments, choice):
            slopes[s], intercepts[s] = slope, intercept
        best = min(best, costs.error(values_of(costs, cuts, slopes, intercepts)))
    return best


def gelu(matrix, entries_format=Q, scale=2.0**-4, **options):
    fn = functions.get("gelu")
    samples = code_samples(fn, Inputs(8, scale), -np.inf, np.inf)
    left, right = (rounded_tail(tail, entries_format, "gelu") for tail in (fn.left, fn.right))
    return QuadraticCosts(samples, matrix, entries_format, left, right, **options)


@pytest.mark.parametrize("seed", range(20))
def test_closest_integers_are_those_of_brute_force(seed):
    rng = np.random.default_rng(seed)
    matrix, vector = positive(rng, 4), rng.normal(size=4) * 4
    low, high = -3, 2
    start = nearest_plane(matrix, vector, low, high)
    assert ((start >= low) & (start <= high)).all()
    theta, proven = closest(matrix, vector, start, low, high, 100_000)
    every = np.array(list(itertools.product(range(low, high + 1), repeat=4)), float)
    costs = np.einsum("ni,ij,nj->n", every, matrix, every) - 2 * every @ vector
    assert proven and ((theta >= low) & (theta <= high)).all()
    assert theta @ matrix @ theta - 2 * vector @ theta == pytest.approx(costs.min(), rel=1e-4)


def test_closest_is_no_worse_than_its_start_and_stops():
    rng = np.random.default_rng(0)
    matrix, vector = positive(rng, 20, rank=3), rng.normal(size=20)
    start = np.zeros(20)
    theta, proven = closest(matrix, vector, start, -128, 127, 50)
    assert not proven and theta @ matrix @ theta - 2 * vector @ theta <= 0.0


@pytest.mark.parametrize("tails", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_lines_and_their_cost_are_those_of_brute_force(seed, tails):
    costs = tiny(seed, tails=tails)
    for cuts in ([1, 3, 6], [0, 4, 7], [2, 2, 5]) if tails else ([0, 3, 7], [0, 7, 7]):
        slopes, intercepts, cost = costs.lines(np.array(cuts))
        assert cost == pytest.approx(costs.error(values_of(costs, cuts, slopes, intercepts)), rel=1e-9)
        assert cost == pytest.approx(best_by_trial(costs, cuts), rel=1e-3)


@pytest.mark.parametrize("seed", range(2))
def test_the_search_finds_the_best_table_there_is(seed):
    costs = tiny(seed, n=5)
    result = quadratic(costs, 4)
    best = min(best_by_trial(costs, cuts) for cuts in itertools.combinations_with_replacement(range(6), 3))
    assert result.cost == pytest.approx(best, rel=1e-3)
    assert costs.error(values_of(costs, result.cuts, *result.lines)) == pytest.approx(result.cost, rel=1e-9)


def test_a_diagonal_matrix_gives_the_optimum_of_dynamic_programming():
    rng = np.random.default_rng(1)
    weight = np.exp(-0.5 * (np.arange(256) / 16 - 7.3) ** 2) * rng.uniform(0.5, 1.5, 256)
    costs = gelu(np.diag(weight))
    samples = Samples(costs.samples.x, costs.samples.y, weight)
    optimum = exact(squared_costs(Points.of(samples), Q, *costs.tail_lines), 8).cost * weight.sum()
    assert quadratic(costs, 8).cost == pytest.approx(optimum, rel=1e-3)


def test_the_whole_matrix_beats_its_diagonal_and_seeds_agree():
    rng = np.random.default_rng(0)
    density = np.exp(-0.5 * ((np.arange(256) - 128) / 16 + 0.7) ** 2 / 0.64)
    u = rng.normal(size=(400, 256)) * np.sqrt(density) + 3 * rng.normal(size=(400, 1)) * density
    costs = gelu(u.T @ u / 400)
    diagonal = costs.diagonal(8)
    samples = Samples(costs.samples.x, costs.samples.y, np.diag(costs.matrix).copy())
    lines = squared_costs(Points.of(samples), Q, *costs.tail_lines).line(diagonal.cuts[:-1], diagonal.cuts[1:])
    by_diagonal = costs.error(values_of(costs, diagonal.cuts, *lines))
    found = [quadratic(costs, 8, seed) for seed in (1, 2)]
    assert all(one.cost <= local(costs, 8).cost * (1 + 1e-9) for one in found)
    assert found[0].cost < 0.6 * by_diagonal
    assert found[0].cost == pytest.approx(found[1].cost, rel=0.01)
    assert quadratic(costs, 8, 1).cuts.tolist() == found[0].cuts.tolist()


def test_points_between_the_codes_choose_among_equal_tables():
    """A single code that counts leaves the slope of its segment free; points between the codes choose one nearer to the
    function.
    """
    fn = functions.get("gelu")
    x = code_samples(fn, Inputs(8, 0.25), -np.inf, np.inf).x
    between = Samples(x[1:] - 0.125, fn(x[1:] - 0.125), np.full(255, 1e-9))
    matrix = np.zeros((256, 256))
    matrix[130, 130] = matrix[137, 137] = 1.0
    cuts = np.array([126, 134, 140])
    free, tied = (gelu(matrix, scale=0.25, between=points).lines(cuts) for points in (None, between))
    values = [lines[0][0] * x[126:134] + lines[1][0] for lines in (free, tied)]
    errors = [np.abs(v - fn(x[126:134])).max() for v in values]
    assert tied[2] <= free[2] + 1e-6 and errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: gelu(np.eye(256), formats.get("fp16")), "fixed-point"),
        (lambda: gelu(np.eye(255)), "256 x 256"),
        (lambda: gelu(np.full((256, 256), np.nan)), "finite"),
        (lambda: gelu(np.zeros((256, 256))), "is 0"),
        (lambda: quadratic(gelu(np.eye(256)), 2), "use more entries"),
        (lambda: QuadraticSettings(population=1), "elite"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(LutcError, match=message):
        make()
