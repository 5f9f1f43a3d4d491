"""Lines of any width under the absolute error and the error of output codes, against all pairs of coefficients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lutc import formats
from lutc.costs.pairs import absolute_objective, codes_objective, cost_of, pair_costs
from lutc.costs.points import Points
from lutc.costs.runs import absolute_runs, code_runs, thresholds
from lutc.formats.codes import Inputs, Outputs
from lutc.formats.requantise import requantise, requantiser
from lutc.samples.samples import Samples


def _points(seed, n=9, scale=2.0**-3, weighted=True):
    rng = np.random.default_rng(seed)
    x = (rng.choice(np.arange(-40, 40), n, replace=False).astype(float)) * scale
    x.sort()
    y = np.tanh(x) + (0.3 * (x > 0.5) if seed % 3 == 0 else 0.0) + rng.normal(0, 0.1 * (seed % 2), n)
    return Points.of(Samples(x, y, rng.uniform(0.2, 1.0, n) if weighted else np.ones(n)))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["q1.6", "q2.4", "q0.7"])
def test_absolute_costs_are_those_of_all_pairs(seed, name):
    points, fmt = _points(seed), formats.get(name)
    objective = absolute_objective(points)
    found, wanted = absolute_runs(points, fmt, None, None, objective), pair_costs(points, fmt, None, None, objective)
    assert found.exact
    np.testing.assert_allclose(found.matrix, wanted.matrix, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("out", [Outputs(8, 2.0**-5), Outputs(8, 0.011, -100), Outputs(4, 2.0**-2, 0, "half_even")])
@pytest.mark.parametrize("inputs", [Inputs(8, 2.0**-3), Inputs(8, 0.13, 5)])
def test_costs_of_codes_are_those_of_all_pairs(seed, out, inputs):
    points, fmt = _points(seed, scale=inputs.scale), formats.get("q1.6")
    objective = codes_objective(points, inputs, out, fmt)
    found = code_runs(points, inputs, out, fmt, None, None, objective)
    wanted = pair_costs(points, fmt, None, None, objective)
    assert found.exact
    # real errors, which decide ties alone, weigh 2^-24 of a code's
    np.testing.assert_allclose(found.matrix, wanted.matrix, rtol=1e-9, atol=1e-4)
    for i, j in ((0, 9), (2, 5), (4, 5)):
        lines = found.line(np.array([i]), np.array([j]))
        alone = sum(objective.error(*lines, n)[0] for n in range(i, j))
        assert abs(alone - found.matrix[i, j]) < 1e-12


@pytest.mark.parametrize("objective", ["absolute", "codes"])
def test_ten_bits_against_all_pairs_of_them(objective):
    """2^20 pairs of q1.8, one run after another."""
    points, fmt, inputs, out = _points(1, 5), formats.get("q1.8"), Inputs(8, 2.0**-3), Outputs(8, 2.0**-7)
    slopes, intercepts = (part.ravel() for part in np.meshgrid(fmt.values(), fmt.values()))
    judged = absolute_objective(points) if objective == "absolute" else codes_objective(points, inputs, out, fmt)
    if objective == "absolute":
        found = absolute_runs(points, fmt, None, None, judged)
    else:
        found = code_runs(points, inputs, out, fmt, None, None, judged)
    errors = np.array([judged.error(slopes, intercepts, n) for n in range(5)])
    for i in range(5):
        for j in range(i + 1, 6 - 1):
            assert abs(found.matrix[i, j] - errors[i:j].sum(axis=0).min()) < 2.0**-20


@pytest.mark.parametrize("name", ["fp8_e4m3", "fp8_e5m2"])
def test_absolute_costs_of_floating_point_coefficients(name):
    points, fmt = _points(5), formats.get(name)
    objective = absolute_objective(points)
    found, wanted = absolute_runs(points, fmt, None, None, objective), pair_costs(points, fmt, None, None, objective)
    np.testing.assert_allclose(found.matrix, wanted.matrix, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_fine_coefficients_reach_the_best_real_lines(seed):
    """Of absolute errors a best line goes through two samples."""
    points = _points(seed, 25)
    found = absolute_runs(points, formats.get("fp32"), None, None, absolute_objective(points))
    x, y, w = points.x, points.y, points.weight
    for i, j in ((0, 25), (3, 9), (10, 25), (20, 22)):
        a, b = np.triu_indices(j - i, 1)
        slopes = (y[i + b] - y[i + a]) / (x[i + b] - x[i + a])
        lines = slopes[:, None] * x[i:j] + (y[i + a] - slopes * x[i + a])[:, None]
        best = (w[i:j] * np.abs(lines - y[i:j])).sum(axis=1).min()
        assert best - 1e-12 <= found.matrix[i, j] <= best * 1.0001 + 1e-7


def test_a_bound_stands_in_for_costly_runs():
    points, fmt = _points(3), formats.get("q1.10")
    objective = absolute_objective(points)
    plain = absolute_runs(points, fmt, None, None, objective)
    bound = float(np.median(plain.matrix[np.triu_indices(9, 1)]))
    held = absolute_runs(points, fmt, None, None, objective, bound)
    cheap = plain.matrix <= bound
    assert (held.matrix[cheap] == plain.matrix[cheap]).all()
    assert (held.matrix[np.triu(~cheap, 1)] > bound).all()
    cuts, lines = [0, 4, 9], plain.line(np.array([0, 4]), np.array([4, 9]))
    assert abs(cost_of(points, objective, cuts, lines, None, None) - plain.total(np.array(cuts))) < 1e-12


@settings(max_examples=60, deadline=None)
@given(
    st.floats(1e-3, 1.0),
    st.integers(2, 9),
    st.integers(-8, 8),
    st.sampled_from(["half_up", "half_away", "half_even"]),
    st.floats(1e-3, 1.0),
)
def test_thresholds_are_where_codes_change(scale, bits, zero, rounding, step):
    inputs = Inputs(8, scale)
    zero = min(max(zero, -(1 << bits - 1)), (1 << bits - 1) - 1)
    out, fmt = Outputs(bits, step, zero, rounding), formats.get("q1.10")
    found = thresholds(inputs, out, fmt)
    multiplier, shift = requantiser(inputs.scale * fmt.step / out.scale)
    at = np.clip(np.concatenate([found - 1, found, found + 1]), -(1 << 31), 1 << 31)
    codes = np.clip(requantise(at, multiplier, shift, rounding) + zero, out.minimum, out.maximum)
    assert (np.searchsorted(found, at, side="right") + out.minimum == codes).all()
