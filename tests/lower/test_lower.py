import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lutc.errors import LutcError
from lutc.lower import plans
from lutc.lower.lowering import MAX_CELLS, default_kinds, lower
from lutc.lower.segments import segments, slope
from lutc.table.bodies import Lines
from lutc.table.prologues import AbsPrologue
from lutc.table.table import Table
from tests.helpers import plan_tables
from tests.helpers.plan_tables import PIECEWISE, TABLES, same

LINEAR = ("chain", "uniform", "cells", "search")
WHICH = {
    "grid": {"chain", "uniform", "cells", "search"},
    "floats": {"chain", "cells", "search"},
    "many floats": {"search"},
    "close": {"chain", "search"},
    "abs": {"chain", "cells", "search"},
    "cells with tails": {"cells", "search"},
}


def fitting(name, dtype="fp32"):
    for kind in LINEAR:
        try:
            yield kind, lower(TABLES[name], dtype, (kind,))
        except LutcError:
            continue


@pytest.mark.parametrize("name", WHICH)
def test_which_plans_fit(name):
    assert {kind for kind, _ in fitting(name)} == WHICH[name]


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_16_bits_are_the_float64_value_rounded_once(name, dtype):
    x = plans.all_codes(dtype)
    want = plans.round_to(TABLES[name](plans.widened(x)), dtype)
    assert same(lower(TABLES[name], dtype)(x), want).all()
    assert same(lower(TABLES[name], dtype, ("reference",))(x), want).all()
    for kind, plan in fitting(name, dtype) if name in PIECEWISE else ():
        assert same(plan(x), want).all(), kind
        assert same(plan.unfused(x), want).all(), kind


@pytest.mark.parametrize("name", PIECEWISE)
def test_fp32_segment_and_error(name):
    """The same segment as the table's at every cut and its neighbours; within 1 ulp of the larger term, 1.5 where
    slopes are rounded.
    """
    table = TABLES[name]
    x = plan_tables.inputs(table)
    wide = plans.widened(x)
    lines = segments(table)
    with np.errstate(all="ignore"):
        index = lines.index(wide)
        scale = np.maximum(np.abs(lines.slopes[index] * wide), np.abs(lines.intercepts[index]))
        ulp = np.spacing(np.minimum(np.nan_to_num(scale, posinf=1e38), 3e38).astype(np.float32)).astype(float)
    exact = (
        same(lines.slopes, lines.slopes.astype(np.float32)).all()
        and same(lines.intercepts, lines.intercepts.astype(np.float32)).all()
    )
    for kind, plan in fitting(name):
        _, i = plan._at(x)
        finite = np.isfinite(wide)
        assert same(plan.slopes[i][finite], lines.slopes[index][finite].astype(np.float32)).all(), kind
        got, want = plans.widened(plan(x)), table(wide)
        want = np.where(np.abs(want) > plans.LARGEST, np.copysign(np.inf, want), want)  # float32 overflows
        finite = np.isfinite(want)
        assert (np.abs(got[finite] - want[finite]) <= (1.0 if exact else 1.5) * ulp[finite]).all(), kind
        assert same(got[~finite], want[~finite]).all(), kind


@pytest.mark.parametrize("name", PIECEWISE)
def test_segments_are_the_table(name):
    """Unfolded and flattened, in float64: the value of the table everywhere, its own segment at every cut."""
    table = TABLES[name]
    lines = segments(table, "fp64")
    x = plan_tables.inputs(table, "fp64")
    x = x[np.isfinite(x) & (np.abs(x) < 1e6)]
    i = lines.index(x)
    np.testing.assert_allclose(lines.slopes[i] * x + lines.intercepts[i], table(x), rtol=1e-9, atol=1e-9)
    assert (np.diff(lines.thresholds) > 0).all()
    assert lines.slopes.size == lines.intercepts.size == lines.thresholds.size + 1


def test_cut_rule_left_and_mirrored():
    """x equal to a breakpoint belongs to the left; behind an abs prologue, to the side of 0."""
    plain = segments(Table(Lines([1.0], [0.0, 0.0], [5.0, 7.0])))
    assert plain.thresholds.tolist() == [float(np.nextafter(np.float32(1), np.float32(2)))]
    both = segments(Table(Lines([1.0], [0.0, 0.0], [5.0, 7.0]), AbsPrologue((1, 0, 0), (-1, 0, 0))))
    x = np.float32(
        [
            -np.nextafter(np.float32(1), np.float32(2)),
            -1.0,
            -1e-45,
            -0.0,
            0.0,
            1.0,
            np.nextafter(np.float32(1), np.float32(2)),
        ]
    )
    assert both.intercepts[both.index(x.astype(float))].tolist() == [-7, -5, -5, 5, 5, 5, 7]


@pytest.mark.parametrize("name", TABLES)
def test_slope_is_the_difference_quotient(name):
    table = TABLES[name]
    x = np.random.default_rng(4).uniform(
        0.01, 8 if table.domain is None or table.domain.high is None else table.domain.high - 1e-6, 500
    )
    h = 1e-7
    found, apart = slope(table, x), np.abs(slope(table, x - h) - slope(table, x + h))
    quotient = (table(x + h) - table(x - h)) / (2 * h)
    inside = apart <= 1e-9 * np.abs(found)
    jumps = np.abs(quotient) > 1e3
    assert inside.sum() > 400
    np.testing.assert_allclose(found[inside & ~jumps], quotient[inside & ~jumps], rtol=1e-4, atol=1e-5)
    assert np.isnan(slope(table, np.array([np.nan]))).all()


@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), max_size=40, unique=True).map(sorted),
    st.lists(st.floats(-1024, 1024, width=32), min_size=100, max_size=100),
)
def test_any_table_finds_its_segment(breakpoints, numbers):
    """Breakpoints anywhere, subnormal or huge: every plan that fits takes the segment of the table."""
    breakpoints = np.unique(np.asarray(breakpoints) + 0.0)
    n = breakpoints.size + 1
    table = Table(Lines(breakpoints, np.arange(1, n + 1), numbers[:n]))
    x = plan_tables.inputs(table)
    x = x[~np.isnan(x)]
    for kind in LINEAR:
        try:
            plan = lower(table, "fp32", (kind,))
        except LutcError:
            continue
        _, i = plan._at(x)
        np.testing.assert_array_equal(plan.slopes[i], table.body.segment(x) + 1.0, err_msg=kind)


@pytest.mark.parametrize("dtype", ["fp32", "fp64", "fp16", "bf16"])
@pytest.mark.parametrize("name", ["bounded", "from a pole"])
def test_a_domain_holds_in_every_plan(name, dtype):
    """NaN outside, the infinity at a pole and nowhere else, -0 being 0; the slope is NaN outside too."""
    table = TABLES[name]
    bounds = [b for b in (table.domain.low, table.domain.high) if b is not None]
    number = plans.DTYPES[dtype].type
    x = np.array(
        [v for b in bounds for v in (b, -b if b == 0 else b)] + [-np.inf, np.inf, np.nan, -9.0, 9.0, 0.5], number
    )
    if dtype != "bf16":
        x = np.concatenate(
            [
                x,
                np.nextafter(np.array(bounds, number), number(np.inf)),
                np.nextafter(np.array(bounds, number), number(-np.inf)),
            ]
        )
    wide = plans.widened(x)
    low, high = (
        np.inf * (1 if high else -1) if b is None else b for high, b in enumerate((table.domain.low, table.domain.high))
    )
    outside = np.isnan(wide) | (wide < low) | (wide > high)
    want = np.where(outside, np.nan, table(wide))
    assert same(table(wide), want).all() and outside.any() and not outside.all()
    pole = (wide == low) & (table.domain.low_pole != 0) | (wide == high) & (table.domain.high_pole != 0)
    assert (np.isinf(want) == pole).all() and pole.any()
    for kind in (*LINEAR, "direct", "reference"):
        try:
            plan = lower(table, dtype, (kind,))
        except LutcError:
            continue
        got = plan(x)
        assert same(np.isnan(got.astype(np.float64)), outside).all() and same(got[pole], want[pole]).all(), kind
        assert (np.isnan(plans.widened(plan.slope(x))) == outside).all(), kind


def test_uniform_cells_are_limited():
    assert (
        lower(Table(Lines([-0.25, (MAX_CELLS - 3) * 0.25], [1, 2, 3], [0, 0, 0])), "fp32", ("uniform",)).slopes.size
        == MAX_CELLS
    )
    with pytest.raises(LutcError, match="none of the plans uniform fits"):
        lower(Table(Lines([-0.25, (MAX_CELLS - 2) * 0.25], [1, 2, 3], [0, 0, 0])), "fp32", ("uniform",))


def test_a_segment_of_infinity_alone_is_left_to_the_reference():
    table = Table(Lines([float(np.finfo(np.float32).max)], [1.0, 0.0], [0.0, 5.0]))
    plan = lower(table)
    assert plan.kind == "reference"
    assert plan(np.float32([np.inf, 1.0])).tolist() == [5.0, 1.0]


def test_double_rounding_is_refused_at_16_bits():
    """2 + x (1 + 2^-20) lies just above a tie of fp16 where 2 + x is one; float32 in between drops what decides."""
    table = Table(Lines([], [1 + 2.0**-20], [2.0]))
    x = plans.all_codes("fp16")
    want = plans.round_to(table(plans.widened(x)), "fp16")
    two_steps = table(plans.widened(x)).astype(np.float32).astype(np.float16)
    assert not same(want, two_steps).all()
    with pytest.raises(LutcError, match="none of the plans"):
        lower(table, "fp16", ("search",))
    assert same(lower(table, "fp16", ("search", "direct"))(x), want).all()


def test_rounded_to_bf16_rounds_once():
    rng = np.random.default_rng(5)
    x = rng.normal(size=2000) * 2.0 ** rng.integers(-140, 127, 2000)
    values = plans.widened(plans.all_codes("bf16"))
    values = np.unique(values[np.isfinite(values)])
    ties = (values[:-1] + values[1:]) / 2
    x = np.concatenate(
        [x, ties, np.nextafter(ties, np.inf), np.nextafter(ties, -np.inf), [1e39, -1e39, np.inf, np.nan, 0.0, 1e-60]]
    )
    got = plans.widened(plans.round_to(x, "bf16"))
    finite = np.isfinite(x) & (np.abs(x) < values[-1])
    right = np.clip(np.searchsorted(values, x[finite]), 1, values.size - 1)
    low, high = values[right - 1], values[right]
    nearest = np.where(x[finite] - low < high - x[finite], low, high)
    tie = x[finite] - low == high - x[finite]
    even = low.astype(ml_dtypes.bfloat16).view(np.uint16) % 2 == 0
    assert (got[finite] == np.where(tie, np.where(even, low, high), nearest)).all()
    assert got[-6:-3].tolist() == [np.inf, -np.inf, np.inf] and np.isnan(got[-3])


@pytest.mark.parametrize("dtype", ["fp32", "fp64"])
@pytest.mark.parametrize("name", TABLES)
def test_default_plan_holds_the_table(name, dtype):
    table = TABLES[name]
    x = plan_tables.inputs(table, dtype)
    plan = lower(table, dtype)
    assert plan.kind in default_kinds(dtype)
    got, want = plans.widened(plan(x)), table(plans.widened(x))
    ordinary = np.isfinite(want) & (np.abs(want) < 1e30)
    np.testing.assert_allclose(got[ordinary], want[ordinary], rtol=1e-5, atol=1e-6)
    assert (np.isnan(got) == np.isnan(want)).all()
    assert plan.words().dtype == np.int32 and all(isinstance(number, int) for number in plan.meta)


def test_errors():
    with pytest.raises(LutcError, match="unknown dtype 'fp8'; known: fp16, bf16, fp32, fp64"):
        lower(TABLES["grid"], "fp8")
    with pytest.raises(LutcError, match="unknown plan 'hash'; known: chain, uniform"):
        lower(TABLES["grid"], "fp32", ("hash",))
    with pytest.raises(LutcError, match="prologue 'exponent' is not piecewise linear"):
        segments(TABLES["reciprocal"])
    with pytest.raises(LutcError, match="none of the plans direct fits this table in fp32"):
        lower(TABLES["grid"], "fp32", ("direct",))
