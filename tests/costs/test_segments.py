"""Segment costs against every pair of coefficients there is, and against sums in rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest

from lutc import formats, functions
from lutc.costs.lines import Moments, Ordinals, best_lines
from lutc.costs.points import Points
from lutc.costs.segments import DENSE_LIMIT, squared_costs
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.functions import Line
from lutc.samples.samples import Samples, code_samples, format_samples, grid_samples
from tests.helpers.oracles import best_squared, int8_costs, int8_samples, random_samples

Q16 = formats.get("q1.6")


def runs(rng, n: int, count: int, longest: int = 24):
    for _ in range(count):
        i = int(rng.integers(0, n))
        yield i, int(min(n, i + rng.integers(1, longest)))


@pytest.mark.parametrize("fmt", ["q1.6", "q2.5", "q3.4", "fp8_e4m3", "fp8_e5m2"])
@pytest.mark.parametrize("seed", range(3))
def test_random_samples_by_brute_force(fmt, seed):
    rng = np.random.default_rng(seed)
    samples = random_samples(rng, 20)
    costs = squared_costs(Points.of(samples), formats.get(fmt), None, None)
    assert costs.exact
    weight = samples.weight / samples.weight.sum()
    for i, j in runs(rng, 20, 12, 12):
        assert costs.matrix[i, j] == pytest.approx(
            best_squared(samples.x[i:j], samples.y[i:j], weight[i:j], fmt), rel=1e-9, abs=1e-18
        )


@pytest.mark.parametrize("power", [2, 4, 6])
@pytest.mark.parametrize("name", ["gelu", "exp", "sigmoid", "reciprocal", "sin"])
def test_functions_by_brute_force(name, power):
    """Narrow segments at 2^-6 are the hard ones: many slopes fit nearly as well, and only the rounding of the intercept
    tells them apart.
    """
    rng = np.random.default_rng(power)
    samples, costs, fmt = int8_samples(name, power), int8_costs(name, power), functions.get(name).coefficients
    n = len(samples)
    for i, j in [*runs(rng, n, 6, 5), *runs(rng, n, 6)]:
        best = best_squared(samples.x[i:j], samples.y[i:j], np.full(j - i, 1 / n), fmt)
        assert costs.matrix[i, j] == pytest.approx(best, rel=1e-9, abs=1e-18)


@pytest.mark.parametrize(("name", "power"), [("gelu", 4), ("silu", 6), ("reciprocal", 5)])
def test_every_run_by_brute_force(name, power):
    """All runs of all codes, every slope with its best intercept: the error is a parabola in the intercept, so that is
    the rounded mean.
    """
    samples, costs, fmt = (
        int8_samples(name, power),
        int8_costs(name, power),
        formats.get(functions.get(name).coefficients),
    )
    n, slopes = len(samples), fmt.values()[:, None]
    for i in range(n):
        rest, count = samples.y[i:] - slopes * samples.x[i:], np.arange(1, n - i + 1)
        sums, squares = np.cumsum(rest, axis=1), np.cumsum(rest**2, axis=1)
        t = np.clip(np.rint(sums / count / fmt.step) * fmt.step, fmt.min, fmt.max)
        best = (squares - 2 * t * sums + count * t**2).min(axis=0) / n
        np.testing.assert_allclose(costs.matrix[i, i + 1 :], best, rtol=1e-9, atol=1e-15)


def test_relative_error_is_a_matter_of_weights():
    """Weights 1 / y^2 make the squared cost a relative one: checked against the relative error of every line."""
    fn = functions.get("exp")
    s = code_samples(fn, Inputs(8, 2.0**-4), -4.0, 0.0)
    costs = squared_costs(Points.of(Samples(s.x, s.y, 1 / s.y**2)), Q16, None, None)
    values = Q16.values()
    for i, j in ((0, 9), (20, 31), (50, 65)):
        relative = (values[:, None, None] * s.x[i:j] + values[None, :, None] - s.y[i:j]) / s.y[i:j]
        assert costs.matrix[i, j] == pytest.approx((relative**2).sum(axis=2).min() / (1 / s.y**2).sum(), rel=1e-9)


@pytest.mark.parametrize("fmt", ["q1.6", "fp8_e4m3", "fp16", "fp32"])
def test_line_is_representable_and_has_the_cost(fmt):
    rng = np.random.default_rng(5)
    samples = int8_samples("gelu", 5)
    costs = squared_costs(Points.of(samples), formats.get(fmt), None, None)
    i, j = np.array(list(runs(rng, len(samples), 40))).T
    slopes, intercepts = costs.line(i, j)
    assert formats.get(fmt).holds(slopes).all() and formats.get(fmt).holds(intercepts).all()
    for a, b, k, t in zip(i, j, slopes, intercepts):
        error = np.sum((k * samples.x[a:b] + t - samples.y[a:b]) ** 2) / len(samples)
        assert error == pytest.approx(costs.matrix[a, b], rel=1e-6, abs=1e-20)


def direct_sum(x, y, k, t) -> float:
    """Squared error of a line in rational arithmetic: no rounding at all."""
    k, t = Fraction(float(k)), Fraction(float(t))
    return float(sum((k * Fraction(float(a)) + t - Fraction(float(b))) ** 2 for a, b in zip(x, y)))


def least_squares(x, y) -> float:
    """Residual of the best line with real coefficients, in rational arithmetic."""
    x, y = [Fraction(float(v)) for v in x], [Fraction(float(v)) for v in y]
    n, mx, my = len(x), sum(x) / len(x), sum(y) / len(y)
    xx, xy, yy = (
        sum((a - mx) ** 2 for a in x),
        sum((a - mx) * (b - my) for a, b in zip(x, y)),
        sum((b - my) ** 2 for b in y),
    )
    return float(yy - xy * xy / xx) if n > 1 and xx else 0.0


def test_no_cancellation_over_fp16_values():
    """silu over the fp16 values in [0.001, 0.002]: sums of raw powers over all of fp16 are off by a factor of millions
    here.
    """
    s = format_samples(functions.get("silu"), "fp16", 0.001, 0.002)
    costs = squared_costs(Points.of(s), formats.get("fp32"), None, None)
    n = len(s)
    for i, j in ((0, n), (0, 64), (n - 200, n), (300, 700)):
        (k,), (t,) = costs.line(np.array([i]), np.array([j]))
        direct = direct_sum(s.x[i:j], s.y[i:j], k, t)
        assert costs.matrix[i, j] * n == pytest.approx(direct, rel=1e-5)
        assert least_squares(s.x[i:j], s.y[i:j]) <= direct * (1 + 1e-12)


def test_no_cancellation_in_cells_of_all_fp16_values():
    """Cells between candidate positions over [-4, 4]: millions of times apart in width, summed
    pairwise without loss.
    """
    s = format_samples(functions.get("silu"), "fp16", -4.0, 4.0)
    positions = np.unique(np.linspace(0, len(s), 65).round().astype(int))
    costs = squared_costs(Points.of(s, positions), formats.get("fp32"), None, None)
    for i, j in ((0, 1), (20, 22), (31, 32), (32, 34), (40, 41)):
        (k,), (t,) = costs.line(np.array([i]), np.array([j]))
        part = slice(positions[i], positions[j])
        assert costs.matrix[i, j] * len(s) == pytest.approx(direct_sum(s.x[part], s.y[part], k, t), rel=1e-5)


@pytest.mark.parametrize("fmt", ["fp16", "bf16", "q3.8"])
def test_wide_formats_are_never_below_the_optimum_and_close(fmt):
    """The optimum by 4,096 slopes around the least-squares one, each with its best intercept."""
    samples = int8_samples("gelu", 4)
    costs = squared_costs(Points.of(samples), formats.get(fmt), None, None)
    ordinals, rng = Ordinals(formats.get(fmt)), np.random.default_rng(1)
    assert not costs.exact
    worst = 1.0
    for i, j in runs(rng, len(samples) - 1, 40):
        j += 1  # two samples at least: they have a least-squares slope
        x, y = samples.x[i:j], samples.y[i:j]
        near = int(ordinals.nearest(np.polyfit(x, y, 1)[0]))
        k = ordinals.value(np.unique(np.clip(near + np.arange(-2048, 2049), ordinals.low, ordinals.high)))
        t = formats.get(fmt).round(np.mean(y) - k * np.mean(x))
        best = ((k[:, None] * x + t[:, None] - y) ** 2).sum(axis=1).min() / len(samples)
        assert costs.matrix[i, j] >= best * (1 - 1e-9) - 1e-20
        if best > 1e-12:
            worst = max(worst, costs.matrix[i, j] / best)
    assert worst < 1.0001, worst


def test_cells_hold_their_samples():
    """Costs between positions are the costs of the same runs of single samples."""
    samples = int8_samples("tanh", 5)
    positions = np.array([0, 3, 4, 40, 41, 100, len(samples)])
    fine, coarse = (
        squared_costs(points, Q16, None, None) for points in (Points.of(samples), Points.of(samples, positions))
    )
    np.testing.assert_allclose(coarse.matrix, fine.matrix[np.ix_(positions, positions)], rtol=1e-9, atol=1e-18)


def test_shared_points_weigh_every_scale_the_same():
    scales = [int8_samples("gelu", power) for power in (1, 4)]
    whole = [np.array([0, len(s)]) for s in scales]
    cost = squared_costs(Points.shared(scales, whole), Q16, None, None).matrix[0, 1]
    values = Q16.values()
    errors = [((values[:, None, None] * s.x + values[None, :, None] - s.y) ** 2).mean(axis=2) for s in scales]
    assert cost == pytest.approx(np.mean(errors, axis=0).min(), rel=1e-9)


def test_tails_and_total():
    samples = int8_samples("gelu", 3)
    costs = int8_costs("gelu", 3)
    n = len(samples)
    for at in (0, 5, n // 2, n):
        assert costs.left[at] == pytest.approx(np.sum(samples.y[:at] ** 2) / n, rel=1e-9, abs=1e-18)
        assert costs.right[at] == pytest.approx(np.sum((samples.x[at:] - samples.y[at:]) ** 2) / n, rel=1e-9, abs=1e-18)
    cuts = np.array([[4, 20, 20, 50], [0, 1, 2, 65]])
    expected = [costs.left[c[0]] + sum(costs.matrix[i, j] for i, j in zip(c, c[1:])) + costs.right[c[-1]] for c in cuts]
    np.testing.assert_allclose(costs.total(cuts), expected, rtol=1e-12)
    free = int8_costs("gelu", 3, tails=False)
    assert free.left[0] == free.right[n] == 0 and np.isinf(free.left[1:]).all() and np.isinf(free.right[:-1]).all()
    assert free.segments(8) == 8 and costs.segments(8) == 6 and costs.segments(2) == 0
    with pytest.raises(LutcError, match="1 entries cannot hold 2 tails"):
        costs.segments(1)


def test_samples_without_weight_cost_nothing():
    rng = np.random.default_rng(3)
    s = random_samples(rng, 16)
    silent = np.array([0, 1, 7, 8, 9, 15])
    weight = s.weight.copy()
    weight[silent] = 0.0
    costs = squared_costs(Points.of(Samples(s.x, s.y, weight)), Q16, Line(0.0, 0.0), None)
    for i, j in ((0, 2), (0, 5), (6, 11), (7, 10), (10, 16), (0, 16)):
        assert costs.matrix[i, j] == pytest.approx(
            best_squared(s.x[i:j], s.y[i:j], weight[i:j] / weight.sum(), "q1.6"), rel=1e-9, abs=1e-18
        )


def test_a_single_sample_takes_the_slope_of_its_neighbourhood():
    """Any slope fits one sample; the table has to stay sensible between the samples."""
    costs = int8_costs("gelu", 2, tails=False)
    slopes, _ = costs.line(np.arange(4, 28), np.arange(5, 29))
    x = int8_samples("gelu", 2).x
    fn = functions.get("gelu")
    secant = (fn(x[4:28]) - fn(x[3:27])) / (x[4:28] - x[3:27])
    assert np.abs(slopes - secant).max() < 0.1


def test_too_many_positions_are_refused():
    with pytest.raises(LutcError, match=f"at most {DENSE_LIMIT}"):
        squared_costs(Points.of(grid_samples(functions.get("gelu"), -4.0, 4.0, DENSE_LIMIT + 1)), Q16, None, None)


@pytest.mark.parametrize("name", [*formats.FLOAT_FORMATS, "q1.6", "q0.7", "q4.11", "q7.24"])
def test_ordinals_number_the_values_in_order(name):
    fmt = formats.get(name)
    ordinals = Ordinals(fmt)
    if fmt.bits <= 16:
        numbers = np.arange(ordinals.low, ordinals.high + 1)
        values = ordinals.value(numbers)
        np.testing.assert_array_equal(values, fmt.values())
    else:
        numbers = np.unique(np.linspace(ordinals.low, ordinals.high, 100_001).round().astype(np.int64))
        numbers = np.unique(np.concatenate([numbers, np.arange(-50, 51), [ordinals.low, ordinals.high]]))
        values = ordinals.value(numbers)
        assert (np.diff(values) > 0).all() and fmt.holds(values).all()
    np.testing.assert_array_equal(ordinals.nearest(values), numbers)
    assert ordinals.value(ordinals.high) == fmt.max and ordinals.value(ordinals.low) == fmt.min
    assert ordinals.nearest(np.float64(1e300)) == ordinals.high and ordinals.nearest(np.float64(-1e300)) == ordinals.low
    between = np.random.default_rng(0).uniform(-2.0, 2.0, 1000)
    np.testing.assert_array_equal(ordinals.round(between), fmt.round(between))


def test_moments_add_up_without_cancellation():
    """Far from the origin, narrow: raw sums of x^2 would lose every digit."""
    x = 1e6 + np.arange(32) / 1024
    y = 3.0 * x + np.sin(np.arange(32))
    samples = Samples(x, y, np.ones(32))
    cells = Moments.of(Points.of(samples, np.array([0, 5, 6, 20, 32])))
    run = cells[0:1]
    for c in range(1, 4):
        run = run + cells[c : c + 1]
    centred = x - x.mean()
    assert run.xx[0] * 32 == pytest.approx(np.sum(centred**2), rel=1e-12)
    assert run.xy[0] * 32 == pytest.approx(np.sum(centred * (y - y.mean())), rel=1e-9)


def test_slopes_beyond_the_format_end_at_its_end():
    """A slope of 5 in q1.6: the best line has the largest slope there is."""
    x = np.arange(8) / 8
    costs = squared_costs(Points.of(Samples(x, 5 * x, np.ones(8))), Q16, None, None)
    assert costs.matrix[0, 8] == pytest.approx(best_squared(x, 5 * x, np.full(8, 1 / 8), "q1.6"), rel=1e-9)
    assert costs.line([0], [8])[0][0] == Q16.max


def test_best_lines_say_whether_they_are_proven():
    moments = Moments.of(Points.of(int8_samples("gelu", 6)))
    wide = moments[0:1]
    for c in range(1, 60):
        wide = wide + moments[c : c + 1]
    assert best_lines(wide, Ordinals(Q16))[3]
    assert not best_lines(moments[:4] + moments[1:5], Ordinals(formats.get("q1.14")))[3]
