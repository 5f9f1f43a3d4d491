"""Costs without a closed form against all 65,536 pairs, the integer arithmetic written out a second time."""

from fractions import Fraction
from math import floor

import numpy as np
import pytest

from lutc import formats, functions
from lutc.costs.pairs import absolute_objective, codes_objective, cost_of, maximum_objective, pair_costs
from lutc.costs.points import Points
from lutc.costs.segments import squared_costs
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.functions import Line
from lutc.samples.samples import Samples, code_samples
from lutc.search.exact import exact
from tests.helpers.oracles import best_table, grid, line_errors, random_samples, tails_of

Q16 = formats.get("q1.6")
RUNS = ((0, 1), (2, 4), (0, 6), (5, 12), (3, 14), (13, 14), (0, 14))


def integer_code(k: int, t: int, q: int, inputs: Inputs, out: Inputs, fraction_bits: int) -> int:
    """The output code of one input code in rational arithmetic, as the rule of integer arithmetic has it."""
    scale, out_scale = Fraction(inputs.scale), Fraction(out.scale)
    acc = k * (q - inputs.zero_point) + floor(t / scale + Fraction(1, 2))
    ratio = scale / 2**fraction_bits / out_scale
    if ratio.numerator & (ratio.numerator - 1) or ratio.denominator & (ratio.denominator - 1):
        shift = 0
        while ratio * 2**shift < 2**30:
            shift += 1
        multiplier = round(ratio * 2**shift)
        ratio = Fraction(multiplier, 2**shift)
    return min(max(floor(acc * ratio + Fraction(1, 2)) + out.zero_point, out.minimum), out.maximum)


def code_tables(samples: Samples, inputs: Inputs, out: Inputs) -> np.ndarray:
    """Squared code errors (slopes, intercepts, n) of all pairs of q1.6, by numpy integers and the power-of-two rule."""
    q = np.rint(samples.x / inputs.scale).astype(np.int64)
    coefficient = np.arange(-128, 128)
    b, shift = int(-np.log2(inputs.scale)), int(6 - np.log2(inputs.scale) + np.log2(out.scale))
    acc = coefficient[:, None, None] * q + (coefficient[None, :, None] << b)
    codes = (acc + (1 << (shift - 1))) >> shift if shift > 0 else acc << -shift
    target = np.clip(np.rint(samples.y / out.scale), -128, 127)
    return (np.clip(codes, -128, 127) - target) ** 2


@pytest.mark.parametrize("seed", range(2))
def test_absolute_and_maximum_by_brute_force(seed):
    s = random_samples(np.random.default_rng(seed), 14)
    points = Points.of(s)
    errors = np.abs(line_errors(s.x, s.y, grid("q1.6"), grid("q1.6")))
    absolute = pair_costs(points, Q16, None, None, absolute_objective(points))
    largest = pair_costs(points, Q16, None, None, maximum_objective(points))
    for i, j in RUNS:
        assert absolute.matrix[i, j] == pytest.approx((errors[..., i:j] @ points.weight[i:j]).min(), rel=1e-12)
        weighted = errors[..., i:j] * (s.weight[i:j] / s.weight.max())
        assert largest.matrix[i, j] == pytest.approx(weighted.max(axis=2).min(), rel=1e-12)
    for costs, combine in ((absolute, np.add), (largest, np.maximum)):
        assert costs.exact and costs.combine is combine


@pytest.mark.parametrize(
    ("power", "out_power", "name"), [(4, 4, "gelu"), (3, 6, "tanh"), (6, 4, "silu"), (0, 7, "sigmoid")]
)
def test_codes_by_brute_force(power, out_power, name):
    fn, inputs, out = functions.get(name), Inputs(8, 2.0**-power), Inputs(8, 2.0**-out_power)
    s = code_samples(fn, inputs, -1.5, 1.5) if power else code_samples(fn, inputs, -7.0, 7.0)
    points = Points.of(s)
    objective = codes_objective(points, inputs, out, Q16)
    costs = pair_costs(points, Q16, None, None, objective)
    wrong = code_tables(s, inputs, out)
    n = len(s)
    for i, j in [(i, min(j, n)) for i, j in RUNS] + [(n // 2, n), (n - 9, n - 2)]:
        least = wrong[..., i:j].sum(axis=2).min()
        assert least <= costs.matrix[i, j] * n * (1 + 1e-12) < least + 0.5  # below a whole code only ties are decided
        (k,), (t,) = costs.line(np.array([i]), np.array([j]))
        found = [integer_code(round(k * 64), round(t * 64), round(x / inputs.scale), inputs, out, 6) for x in s.x[i:j]]
        assert ((np.array(found) - np.clip(np.rint(s.y[i:j] / out.scale), -128, 127)) ** 2).sum() == least


def test_codes_at_an_arbitrary_scale_and_zero_point():
    fn, inputs, out = functions.get("gelu"), Inputs(8, 0.0371, -7), Inputs(8, 0.0233, 5)
    s = code_samples(fn, inputs, -0.4, 0.4)
    points = Points.of(s)
    objective = codes_objective(points, inputs, out, Q16)
    rng = np.random.default_rng(0)
    k, t = rng.integers(-128, 128, 40), rng.integers(-128, 128, 40)
    for n in range(0, len(s), 5):
        q, target = round(s.x[n] / inputs.scale) + inputs.zero_point, min(max(round(s.y[n] / out.scale) + 5, -128), 127)
        expected = [(integer_code(int(a), int(b), q, inputs, out, 6) - target) ** 2 for a, b in zip(k, t)]
        found = objective.error(k / 64, t / 64, n) / points.weight[n]
        np.testing.assert_array_equal(np.floor(found + 1e-9), expected)


@pytest.mark.parametrize("kind", ["absolute", "maximum", "codes"])
def test_a_bound_does_not_change_the_optimum(kind):
    fn, inputs = functions.get("gelu"), Inputs(8, 2.0**-3)
    points = Points.of(code_samples(fn, inputs, -4.0, 4.0))
    tails = tails_of(fn, "q1.6")
    objective = {
        "absolute": lambda: absolute_objective(points),
        "maximum": lambda: maximum_objective(points),
        "codes": lambda: codes_objective(points, inputs, Inputs(8, 2.0**-5), Q16),
    }[kind]()
    squared = squared_costs(points, Q16, *tails)
    known = exact(squared, 6)
    bound = cost_of(points, objective, known.cuts, squared.line(known.cuts[:-1], known.cuts[1:]), *tails)
    free, bounded = (exact(pair_costs(points, Q16, *tails, objective, limit), 6) for limit in (np.inf, bound))
    assert bounded.cost == free.cost <= bound * (1 + 1e-12)


@pytest.mark.parametrize("kind", [absolute_objective, maximum_objective])
def test_a_bound_met_exactly_is_kept(kind):
    """One segment, or a table without any error: the known table is itself the optimum, whatever the
    order of summing.
    """
    rng = np.random.default_rng(4)
    for samples in (
        random_samples(rng, 13),
        Samples(np.arange(9) / 4, np.maximum(np.arange(9) / 4 - 1, 0.0), np.ones(9)),
    ):
        points = Points.of(samples)
        objective = kind(points)
        free = pair_costs(points, Q16, None, None, objective)
        for entries in (1, 2, 3):
            best = exact(free, entries)
            bound = cost_of(points, objective, best.cuts, free.line(best.cuts[:-1], best.cuts[1:]), None, None)
            assert bound == pytest.approx(best.cost, rel=1e-12)
            bounded = pair_costs(points, Q16, None, None, objective, bound)
            found = exact(bounded, entries)
            real = cost_of(points, objective, found.cuts, bounded.line(found.cuts[:-1], found.cuts[1:]), None, None)
            assert (
                found.cost
                == pytest.approx(real, rel=1e-12, abs=1e-15)
                == pytest.approx(best.cost, rel=1e-12, abs=1e-15)
            )


@pytest.mark.parametrize("kind", [absolute_objective, maximum_objective])
def test_exact_search_against_enumeration(kind):
    points = Points.of(random_samples(np.random.default_rng(9), 8))
    costs = pair_costs(points, Q16, Line(0.25, 0.5), None, kind(points))
    assert exact(costs, 3).cost == pytest.approx(best_table(costs, 2), rel=1e-12)


def test_cost_of_counts_tails_and_lines():
    x = np.arange(6.0)
    points = Points.of(Samples(x, np.zeros(6), np.ones(6)))
    cuts, lines = np.array([1, 3, 4]), (np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    left, right = Line(0.0, 2.0), Line(-1.0, 0.0)
    expected = np.array([2.0, 1.0, 1.0, 3.0, 4.0, 5.0])
    assert cost_of(points, absolute_objective(points), cuts, lines, left, right) == pytest.approx(expected.mean())
    assert cost_of(points, maximum_objective(points), cuts, lines, left, right) == 5.0


def test_what_cannot_be_exhausted_is_refused():
    points = Points.of(random_samples(np.random.default_rng(0), 5))
    with pytest.raises(LutcError, match="at most 8 bits"):
        pair_costs(points, formats.get("q1.7"), None, None, absolute_objective(points))
    with pytest.raises(LutcError, match="fixed-point"):
        codes_objective(points, Inputs(8, 2.0**-4), Inputs(8, 2.0**-4), formats.get("fp8_e4m3"))
