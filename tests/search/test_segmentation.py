"""The prover of real lines against dynamic programming over all cuts, and against figures that others found."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lutc import formats, functions
from lutc.costs.points import Points
from lutc.costs.segments import real_costs, squared_costs, squared_tails
from lutc.functions import Line
from lutc.samples.samples import Samples, format_samples
from lutc.search.exact import exact
from lutc.search.sample_cells import SampleCells
from lutc.search.segmentation import segmentation
from lutc.search.segmentation_kernels import layered, penalised, stored_line

SHAPES = {
    "smooth": lambda x, rng: np.tanh(3 * x),
    "corner": lambda x, rng: np.maximum(x, 0.0),
    "jump": lambda x, rng: np.sign(x - 0.3),
    "noise": lambda x, rng: rng.normal(size=x.size),
    "plateaus": lambda x, rng: np.round(np.cumsum(rng.normal(size=x.size))),
    "bump": lambda x, rng: np.exp(-x * x),
    "line": lambda x, rng: 2.0 * x - 1.0,
}
SPACINGS = {
    "even": lambda size, rng: np.arange(size) * 0.1,
    "random": lambda size, rng: np.unique(rng.normal(size=size)),
    "octaves": lambda size, rng: np.unique(rng.exponential(size=size) ** 4),
}


def case(shape: str, spacing: str, size: int, seed: int) -> SimpleNamespace:
    rng = np.random.default_rng(seed)
    x = SPACINGS[spacing](size, rng)
    y = SHAPES[shape](x, rng)
    weight = [np.ones(x.size), rng.exponential(size=x.size), (rng.random(x.size) < 0.5) + (x == x[0]) * 1.0][seed % 3]
    left = Line(0.0, float(y[0])) if seed % 2 else None
    right = Line(1.0, float(y[-1] - x[-1])) if seed % 4 > 1 else None
    costs = real_costs(Points.of(Samples(x, y, weight)), left, right)
    return SimpleNamespace(points=Points.of(Samples(x, y, weight)), costs=costs, tails=sum(costs.tails), size=x.size)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_it_is_the_optimum_over_all_cuts_for_every_number_of_segments(shape, spacing):
    for seed in range(6):
        c = case(shape, spacing, 10 + 12 * seed, seed)
        for segments in range(1, min(c.size, 24)):
            best = exact(c.costs, segments + c.tails).cost
            found = segmentation(c.points, c.costs.left, c.costs.right, segments)
            assert found.cuts.size == segments + 1 and (np.diff(found.cuts) >= 0).all()
            assert found.proven and found.cost == pytest.approx(best, rel=1e-8, abs=1e-15)
            own = c.costs.total(found.cuts)
            assert found.cost == pytest.approx(own, rel=1e-7, abs=1e-13)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-100, 100).map(lambda v: round(v, 3)), min_size=3, max_size=30, unique=True),
    st.lists(st.floats(-10, 10).map(lambda v: round(v, 3)), min_size=30, max_size=30),
    st.lists(st.integers(0, 5), min_size=30, max_size=30),
    st.integers(1, 8),
)
def test_the_bound_is_never_above_the_optimum(x, y, weight, segments):
    x = np.sort(np.array(x))
    samples = Samples(x, np.array(y[: x.size]), np.array(weight[: x.size], float) + (x == x[0]))
    costs = real_costs(Points.of(samples), None, None)
    found, best = segmentation(Points.of(samples), costs.left, costs.right, segments), exact(costs, segments).cost
    assert found.bound <= best * (1 + 1e-8) + 1e-12
    assert found.cost >= best * (1 - 1e-8) - 1e-12


def test_both_sweeps_are_bellmans_equation():
    """Costs so far, with a penalty and by layers, against the plain recursion."""
    c = case("noise", "random", 60, 5)
    cells, matrix = SampleCells.of(c.points, c.costs.left, c.costs.right), c.costs.matrix
    for penalty in (1e-3, 0.03, 1.0):
        want = c.costs.left.copy()
        for j in range(1, want.size):
            want[j] = min(want[j], (want[:j] + matrix[:j, j] + penalty).min())
        got = penalised(cells.moments, cells.left, np.zeros(0), penalty, 0.0, 8)[0]
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-13)
    want = c.costs.left.copy()
    for _ in range(4):
        want = (want[:, None] + matrix).min(axis=0)
    everywhere = np.tile([0, c.size], (5, 1))
    got, _ = layered(cells.moments, cells.left, np.zeros(0), np.zeros(8, np.int64), 8, everywhere)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(
    "entries, optimum",
    [(8, 7.2289e-6), (16, 5.3614e-7), (32, 3.1644e-8), (64, 1.9824e-9), (128, 1.2021e-10), (256, 7.4224e-12)],
)
def test_gelu_over_all_halves_has_the_optima_that_an_independent_prover_found(entries, optimum):
    fn = functions.load("gelu", (-4.0, 4.0))
    points = Points.of(format_samples(fn, "fp16", *fn.range))
    found = segmentation(points, *squared_tails(points, fn.left, fn.right), entries - 2)
    assert found.proven and found.cost == pytest.approx(optimum, rel=2e-5)


@pytest.mark.parametrize("name", ["q1.6", "q2.5", "fp8_e4m3", "fp8_e5m2"])
def test_stored_lines_are_within_a_thousandth_of_the_optimum_over_all_of_an_eight_bit_format(name):
    fmt = formats.get(name)
    for seed, shape in enumerate(("smooth", "noise", "bump", "plateaus")):
        c = case(shape, "random", 48, seed)
        costs = squared_costs(c.points, fmt, None, None)
        assert costs.exact
        for segments in (1, 2, 3, 5, 8, 13):
            best = exact(costs, segments).cost
            found = segmentation(c.points, costs.left, costs.right, segments, fmt)
            assert found.bound <= best * (1 + 1e-9) and best * (1 - 1e-9) <= found.cost <= best * (1 + 1.001e-3)
            slopes, intercepts = found.lines
            assert fmt.holds(slopes).all() and fmt.holds(intercepts).all()
            x, y, weight = c.points.x, c.points.y, c.points.weight
            s = np.searchsorted(found.cuts, np.arange(x.size), side="right") - 1
            assert weight @ (slopes[s] * x + intercepts[s] - y) ** 2 == pytest.approx(found.cost, rel=1e-9)


@settings(deadline=None, max_examples=80)
@given(
    st.sampled_from(["q1.6", "q0.7", "fp8_e4m3", "fp8_e5m2"]),
    st.tuples(*[st.floats(-3, 3)] * 3),
    st.floats(1e-9, 10).map(abs),
    st.floats(1e-6, 1),
)
def test_the_best_stored_line_is_that_of_all_pairs(name, line, xx, w):
    fmt = formats.get(name)
    numbers = np.array([10_000 if fmt.is_fixed else fmt.mantissa_bits, fmt.smallest_subnormal, fmt.min, fmt.max])
    slope, x, y = line
    k, t = (v[None] if at else v[:, None] for at, v in enumerate([fmt.values()] * 2))
    best = (xx * (k - slope) ** 2 + w * (y - k * x - t) ** 2).min()
    excess, k, t = stored_line(numbers, w, x, y, xx, slope, np.inf)
    assert excess == pytest.approx(best, rel=1e-12, abs=1e-300)
    assert xx * (k - slope) ** 2 + w * (y - k * x - t) ** 2 == pytest.approx(best, rel=1e-12, abs=1e-300)
    limited = stored_line(numbers, w, x, y, xx, slope, best / 3)[0]
    assert best / 3 <= limited <= best * (1 + 1e-12)


def test_halves_store_what_real_lines_suggest():
    """fp16 coefficients over all fp16 values: the bound of real lines below, their cuts with rounded lines above."""
    fn = functions.load("tanh", None)
    points = Points.of(format_samples(fn, "fp16", *fn.range))
    tails = squared_tails(points, fn.left, fn.right)
    real = segmentation(points, *tails, 14)
    found = segmentation(points, *tails, 14, formats.get("fp16"), real)
    rounded = SampleCells.of(points, *tails, formats.get("fp16")).cost(real.cuts)
    assert real.cost < found.bound <= found.cost <= 1.001 * found.bound and found.cost < rounded
    assert segmentation(points, *tails, 14, formats.get("fp32"), real).cost == pytest.approx(real.cost, rel=1e-5)
