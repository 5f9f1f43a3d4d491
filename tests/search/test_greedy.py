"""The greedy search: as few entries as an exhaustive search needs, and every bound met."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lutc import formats, functions
from lutc.compiler import pipeline
from lutc.costs.pairs import maximum_objective, pair_costs
from lutc.costs.points import Points
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.functions import Line
from lutc.samples.samples import Samples, code_samples
from lutc.samples.tolerance import ErrorBound
from lutc.search.exact import exact
from lutc.search.greedy import greedy
from tests.helpers.oracles import grid

Q16 = formats.get("q1.6")


def feasible(x, low, high, fmt) -> bool:
    """Whether any pair of coefficients keeps all samples between low and high."""
    values = grid(fmt)
    y = values[:, None, None] * x + values[None, :, None]
    return bool(((y >= low) & (y <= high)).all(axis=2).any())


def fewest(x, y, tolerance, fmt, left, right) -> int | None:
    """Least number of segments between the tails, over all ways to cut: breadth-first over runs that are feasible."""
    n = x.size
    runs = {
        (i, j)
        for i, j in product(range(n + 1), repeat=2)
        if i < j and feasible(x[i:j], (y - tolerance)[i:j], (y + tolerance)[i:j], fmt)
    }

    def tail(line, part):
        return line is not None and (np.abs(line.slope * x[part] + line.intercept - y[part]) <= tolerance[part]).all()

    reached = {0} | {i for i in range(n + 1) if tail(left, slice(0, i))}
    stops = {n} | {i for i in range(n + 1) if tail(right, slice(i, n))}
    for count in range(n + 1):
        if reached & stops:
            return count
        reached = {j for i in reached for j in range(n + 1) if (i, j) in runs}
    return None


@given(
    st.lists(st.integers(-48, 48), min_size=1, max_size=7),
    st.integers(1, 6).map(lambda bits: 2.0**-bits),
    st.sampled_from(("q1.6", "q2.3", "q0.2")),
    st.booleans(),
    st.booleans(),
)
def test_the_fewest_segments(values, size, fmt, with_left, with_right):
    y = np.array(values) / 32
    x = (np.arange(y.size) - 2) / 4
    tolerance = np.full(y.size, size)
    left, right = Line(0.0, 0.0) if with_left else None, Line(1.0, 0.0) if with_right else None
    expected = fewest(x, y, tolerance, fmt, left, right)
    if expected is None:
        with pytest.raises(LutcError, match="no line with"):
            greedy(x, y, tolerance, formats.get(fmt), left, right)
        return
    result = greedy(x, y, tolerance, formats.get(fmt), left, right)
    assert result.cuts.size - 1 == expected
    assert result.record["proven"] and result.cost <= size
    slopes, intercepts = result.lines
    assert formats.get(fmt).holds(slopes).all() and formats.get(fmt).holds(intercepts).all()


@pytest.mark.parametrize("size", [0.008, 0.01, 0.03, 0.1])
@pytest.mark.parametrize("name", ["gelu", "exp", "hardswish"])
def test_as_few_as_the_exact_search_over_largest_errors(name, size):
    """The optimum of the largest error over the same samples: with the greedy number of entries it meets the bound,
    with one less it cannot.
    """
    fn = functions.get(name)
    s = code_samples(fn, Inputs(8, 2.0**-3), *fn.range)
    result = greedy(s.x, s.y, np.full(len(s), size), Q16, fn.left, fn.right)
    points = Points.of(s)
    costs = pair_costs(points, Q16, fn.left, fn.right, maximum_objective(points))
    entries = result.cuts.size - 1 + sum(costs.tails)
    assert exact(costs, entries).cost <= size
    assert entries == sum(costs.tails) or exact(costs, entries - 1).cost > size


OPTIONS = {
    "tails": {},
    "free": {"tails": "free"},
    "out": {"out": Inputs(8, 2.0**-5)},
    "symmetry": {"symmetry": True},
    "relative": {"max_error": "5%", "range": (-1.5, 4.0), "coefficients": "q1.10"},
}


@pytest.mark.parametrize("bound", ["0.01", "1lsb", "0.5lsb"])
@pytest.mark.parametrize("options", OPTIONS)
def test_built_tables_meet_the_bound(bound, options):
    inputs = (Inputs(8, 2.0**-4), Inputs(8, 2.0**-5), Inputs(8, 0.043, 11))
    options = {"max_error": bound, "range": (-4.0, 4.0), **OPTIONS[options]}
    compiled = pipeline.compile("gelu", search="greedy", inputs=inputs, **options)
    fn, (lo, hi) = functions.get("gelu"), options["range"]
    for key, table in compiled.items():
        x = compiled.inputs[key].x()
        x = x[(x >= lo) & (x <= hi)]
        allowed = ErrorBound.parse(options["max_error"]).tolerance(
            fn(x), options.get("out"), formats.get(table.coefficients), inputs
        )
        assert (np.abs(table(x) - fn(x)) <= allowed * (1 + 1e-12)).all()


def test_float_tables_meet_the_bound():
    compiled = pipeline.compile("tanh", search="greedy", max_error="0.002", inputs="bf16", range=(-4.0, 4.0))
    (table,) = compiled.values()
    x = formats.get("bf16").values()
    x = x[np.abs(x) <= 4.0]
    assert np.abs(table(x) - np.tanh(x)).max() <= 0.002 * (1 + 1e-12)
    assert compiled.meta["search"]["proven"]


def test_a_bound_nobody_meets_says_where():
    y = np.array([0.0, 0.5, 1.0, 1.005])
    with pytest.raises(
        LutcError, match=r"no line with q1.6 coefficients is within 0.001 at x = 3; allow more error or a finer format"
    ) as error:
        greedy(np.arange(4.0), y, np.full(4, 0.001), Q16, described="0.001")
    assert "\n" not in str(error.value)


def test_samples_that_tails_cover_need_no_segment():
    x = np.linspace(-2.0, 2.0, 17)
    result = greedy(x, np.maximum(x, 0.0), np.full(17, 1e-9), Q16, Line(0.0, 0.0), Line(1.0, 0.0))
    assert result.cuts.size == 1 and result.cost == 0.0
    constant = Samples(x, np.zeros(17), np.ones(17))
    assert greedy(x, constant.y, np.full(17, 0.1), Q16, Line(0.0, 0.0), None).cuts.tolist() == [17]
