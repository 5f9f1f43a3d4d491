"""Interval costs against direct sums in exact or float64 arithmetic."""

import numpy as np
import pytest

from lutc import formats, functions
from lutc.costs.intervals import IntervalCosts, edges_between
from lutc.costs.targets import Targets
from lutc.errors import LutcError
from lutc.functions import Line

FP16 = formats.get("fp16").values()


def make(name, lo, hi, norm="l1", store=np.asarray, weight="relative", **tails):
    fn = functions.get(name)
    x = FP16[(FP16 >= lo) & (FP16 <= hi)]
    y = fn(x)
    w = 1.0 / np.maximum(np.abs(y), 2.0**-14) if weight == "relative" else np.ones_like(x)
    targets = Targets(x, y, w, np.searchsorted(np.asarray(fn.inflections), x))
    return IntervalCosts(targets, x, fn.f, norm, store, **tails)


def direct(costs, start, end, pieces):
    """The definition, sample by sample."""
    t, edges = costs.targets, edges_between(costs.cuts[start], costs.cuts[end], pieces)
    values = costs.store(costs.f(edges))
    inside = (t.x >= edges[0]) & (t.x < edges[-1])
    x, y, w = t.x[inside], t.y[inside], t.weight[inside]
    i = np.searchsorted(edges, x, side="right") - 1
    error = values[i] + (values[i + 1] - values[i]) / (edges[i + 1] - edges[i]) * (x - edges[i]) - y
    cost = w * (error**2 if costs.norm == "l2" else np.abs(error))
    return cost.max(initial=0.0) if costs.norm == "max" else cost.sum()


def half(v):
    return np.asarray(v).astype(np.float16).astype(np.float64)


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
@pytest.mark.parametrize("store", [np.asarray, half], ids=["exact", "fp16"])
@pytest.mark.parametrize(
    "name, lo, hi",
    [
        ("silu", -20.0, 60000.0),
        ("gelu", -5.5, 100.0),
        ("tanh", -4.5, 4.5),
        ("exp", -17.0, 11.0),
        ("hardswish", -3.5, 9.0),
    ],
)
def test_equal_direct_sums(name, lo, hi, store, norm):
    costs = make(name, lo, hi, norm, store)
    rng = np.random.default_rng(0)
    for pieces in (1, 4, 32):
        pairs = np.sort(rng.integers(0, costs.size, (60, 2)), axis=1)
        pairs = pairs[pairs[:, 0] < pairs[:, 1]]
        got = costs.interval(pairs[:, 0], pairs[:, 1], pieces)
        want = np.array([direct(costs, a, b, pieces) for a, b in pairs])
        finite = np.isfinite(got)
        assert finite.sum() > 20
        np.testing.assert_allclose(got[finite], want[finite], rtol=1e-6, atol=1e-12)


def test_tiny_error_of_a_long_run_survives_the_prefix_sums():
    """silu over [0.001, 0.002]: a mean error of 1e-13 beside prefix sums of 1e4."""
    costs = make("silu", -20.0, 60000.0, weight="absolute")
    a, b = np.searchsorted(costs.cuts, [0.001, 0.002])
    want = direct(costs, a, b, 1)
    assert costs.interval(np.array([a]), np.array([b]), 1)[0] == pytest.approx(want, rel=1e-6)


def test_intervals_whose_edges_coincide_in_float32_cost_infinity():
    # between neighbours at 2^-24 there are no 2^30 different float32 values, but 4 there are
    costs = make("tanh", -1.0, 1.0)
    a = int(np.searchsorted(costs.cuts, 0.5))
    assert np.isinf(costs.interval(np.array([a]), np.array([a]), 4)[0])
    assert np.isfinite(costs.interval(np.array([a]), np.array([a + 1]), 4)[0])


def test_outside_is_the_tails_cost_or_infinite():
    costs = make("silu", -20.0, 20.0, weight="absolute", left=Line(0.0, 0.0))
    p = int(np.searchsorted(costs.cuts, -10.0))
    below = costs.targets.x < costs.cuts[p]
    assert costs.outside_left(p) == pytest.approx(np.abs(costs.targets.y[below]).sum(), rel=1e-12)
    assert costs.outside_left(0) == 0.0
    assert costs.outside_right(costs.size - 1) == 0.0
    assert np.isinf(costs.outside_right(costs.size - 2))


def test_what_exceeds_the_cap_costs_more():
    from dataclasses import replace

    costs = make("silu", -20.0, 20.0, left=Line(0.0, 0.0))
    capped = IntervalCosts(replace(costs.targets, cap=0.01), costs.cuts, costs.f, left=costs.left)
    p = int(np.searchsorted(costs.cuts, -10.0))
    assert capped.outside_left(p) > 10 * costs.outside_left(p)
    assert capped.outside_left(1) == costs.outside_left(1)


def test_unknown_norm():
    with pytest.raises(LutcError, match="l1, l2, max"):
        make("silu", -1.0, 1.0, norm="l3")
