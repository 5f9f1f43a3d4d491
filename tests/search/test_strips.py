"""Least largest errors and longest runs against all pairs of coefficients and all cuts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from lutc import formats, functions
from lutc.compiler import pipeline
from lutc.costs.pairs import maximum_objective, pair_costs
from lutc.costs.points import Points
from lutc.formats.codes import Inputs, Outputs
from lutc.formats.numbers import numbers_of
from lutc.functions import Line
from lutc.samples.samples import Samples
from lutc.search.exact import exact
from lutc.search.strip_kernels import strip_line
from lutc.search.strips import least_error
from tests.helpers.oracles import grid


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(["q1.6", "q0.7", "q3.2", "fp8_e4m3", "fp8_e5m2"]),
    st.lists(st.integers(-20, 20), min_size=1, max_size=9, unique=True),
    st.lists(st.floats(-2, 2), min_size=9, max_size=9),
    st.floats(1e-4, 1.0),
)
def test_a_line_is_found_where_one_of_all_pairs_fits(name, x, y, size):
    fmt, x = formats.get(name), np.sort(np.array(x)) / 8.0
    low, high = np.array(y[: x.size]) - size, np.array(y[: x.size]) + size
    values = grid(fmt)
    products = values[:, None, None] * x + values[None, :, None]
    some = bool(((products >= low) & (products <= high)).all(axis=2).any())
    room = [np.empty(x.size, np.int64) for _ in range(2)]
    found, k, t, sure = strip_line(x, low, high, numbers_of(fmt), 0, x.size, *room)
    assert sure and found == some
    if found:
        assert fmt.holds([k, t]).all() and (k * x + t >= low - 1e-12).all() and (k * x + t <= high + 1e-12).all()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(-40, 40), min_size=2, max_size=9, unique=True),
    st.lists(st.floats(-2, 2).map(lambda v: round(v, 3)), min_size=9, max_size=9),
)
def test_one_real_line_has_the_least_largest_error_of_linear_programming(x, y):
    x, y = np.sort(np.array(x)) / 4.0, np.array(y[: len(x)])
    ones = np.ones(x.size)
    sides = np.concatenate([np.stack([x, ones, -ones], 1), np.stack([-x, -ones, -ones], 1)])
    best = linprog([0, 0, 1], sides, np.concatenate([y, -y]), bounds=[(None, None)] * 2 + [(0, None)]).fun
    table, error, bound = least_error(x, y, ones, 1, None, None, None)
    assert error == pytest.approx(best, rel=2e-7, abs=1e-9) and bound <= best * (1 + 1e-6) + 1e-9
    assert np.abs(table.lines[0] * x + table.lines[1] - y).max() == pytest.approx(error, abs=1e-12)


@pytest.mark.parametrize("name", ["q1.6", "fp8_e4m3"])
def test_the_optimum_over_all_cuts_and_pairs(name):
    fmt = formats.get(name)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        x = np.unique(rng.normal(size=24))
        y = np.tanh(2 * x) if seed % 2 else np.cumsum(rng.normal(size=x.size)) / 4
        weight = np.where(rng.random(x.size) < 0.2, 0.0, rng.uniform(0.2, 1.0, x.size))
        weight[0] = 1.0
        left, right = (Line(0.0, -1.0) if seed > 1 else None), (Line(0.0, 1.0) if seed % 2 else None)
        points = Points.of(Samples(x, y, weight))
        costs = pair_costs(points, fmt, left, right, maximum_objective(points))
        for segments in (1, 2, 3, 6):
            best = exact(costs, segments + sum(costs.tails)).cost
            _, error, bound = least_error(x, y, weight, segments, fmt, left, right)
            assert best <= error * (1 + 1e-9) <= best * (1 + 1e-6) + 1e-12 and bound <= best * (1 + 1e-9)


@pytest.mark.parametrize("coefficients", ["fp32", "fp16", "q1.14"])
def test_the_largest_error_over_all_halves_is_proven(coefficients):
    tables = pipeline.compile("gelu", 24, inputs="fp16", coefficients=coefficients, objective="maximum")
    search, certificate = tables.meta["search"], tables.meta["certificate"][coefficients]
    assert search["gap"][coefficients] == 0.0 and search["optimum"][coefficients] < 0.002
    worst = certificate["fp16"]["range"]["worst_absolute"]["error"]
    assert worst == pytest.approx(search["cost"][coefficients], rel=1e-5)
    assert tables[coefficients].entries <= 24


def test_fewest_entries_for_a_step_of_sixteen_bits():
    """Sigmoid over int16 codes in q1.14, within one step of the output: 123 entries, and no fewer."""
    inputs, out = (Inputs(16, 2.0**-12),), Outputs(16, 2.0**-15)
    options = {"inputs": inputs, "coefficients": "q1.14"}
    tables = pipeline.compile("sigmoid", search="greedy", max_error="1lsb", out=out, **options)
    assert tables["12"].entries == 123 and tables.meta["search"]["proven"]
    fn = functions.load("sigmoid", None)
    one_less = pipeline.compile("sigmoid", 122, search="exact", objective="maximum", **options)
    assert one_less.meta["search"]["optimum"]["12"] > 2.0**-15
    x = inputs[0].x()
    x = x[(x >= fn.range[0]) & (x <= fn.range[1])]
    assert np.abs(tables["12"](x) - fn(x)).max() <= 2.0**-15
