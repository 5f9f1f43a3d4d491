"""Tables at every breakpoint and beside it, at infinity and NaN, behind their prologues; and what they refuse to be."""

import math

import numpy as np
import pytest

from lutc import formats, functions
from lutc.errors import LutcError
from lutc.functions import Line
from lutc.table.bodies import Cells, Direct, Exponents, Lines, binades, without_empty_segments
from lutc.table.prologues import AbsPrologue, ExponentPrologue, PeriodPrologue, line
from lutc.table.table import Table

LINES = Lines([-2.0, -0.5, 0.0, 0.75, 3.0], [0.0, -0.25, 0.5, 1.5, -1.0, 1.0], [0.5, 0.0, 0.375, 0.375, 2.25, 0.0])


def around(points) -> np.ndarray:
    """Every point with its two neighbours in float64."""
    points = np.asarray(points, np.float64)
    return np.concatenate([np.nextafter(points, -np.inf), points, np.nextafter(points, np.inf)])


def plain_lines(body: Lines, x: float) -> float:
    """The boundary rule in words: the segment is the number of breakpoints below x."""
    segment = sum(1 for point in body.breakpoints if point < x)
    return float(body.slopes[segment]) * x + float(body.intercepts[segment])


def test_lines_at_every_breakpoint_and_its_neighbours():
    x = np.concatenate([around(LINES.breakpoints), np.linspace(-5, 5, 101)])
    np.testing.assert_array_equal(LINES(x), [plain_lines(LINES, v) for v in x])
    assert LINES.segment(-2.0) == 0 and LINES.segment(np.nextafter(-2.0, 0)) == 1 and LINES.segment(3.0) == 4
    assert LINES.entries == 6 and Table(LINES).entries == 6


def test_lines_agree_with_numpys_count():
    x = np.random.default_rng(0).normal(0, 3, (7, 5, 2))
    np.testing.assert_array_equal(LINES.segment(x), (LINES.breakpoints < x[..., None]).sum(axis=-1))
    assert LINES(x).shape == x.shape and Table(LINES)(0.25).shape == ()


def test_infinity_and_nan():
    table = Table(LINES)
    assert table(np.inf) == np.inf and table(-np.inf) == 0.5  # slope 0: the intercept alone
    assert np.isnan(table(np.nan)) and np.isnan(table([1.0, np.nan])[1])
    falling = Table(Lines([], [-2.0], [1.0]))
    assert falling(np.inf) == -np.inf and falling(-np.inf) == np.inf
    constant = Table(Lines([0.0], [0.0, 0.0], [3.0, 4.0]))
    np.testing.assert_array_equal(constant([-np.inf, np.inf]), [3.0, 4.0])


def test_line_is_elementwise():
    np.testing.assert_array_equal(line([0.0, -0.0, 2.0], 1.0, np.array([np.inf, -np.inf, 3.0])), [1.0, 1.0, 7.0])
    assert np.isnan(line(0.0, 1.0, np.nan)) and np.isnan(line(1.0, 1.0, np.nan))
    assert line(1.0, 0.0, 1e308 * 10) == np.inf and line(10.0, 0.0, 1e308) == np.inf


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([0.0, 0.0], ([0.0], [1.0, 3.0])),
        ([-1.0, 0.0], ([-1.0, 0.0], [1.0, 2.0, 3.0])),
        ([-0.0, 0.0], ([0.0], [1.0, 3.0])),
    ],
)
def test_empty_segments_are_dropped(points, expected):
    body = without_empty_segments(points, [1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    np.testing.assert_array_equal(body.breakpoints, expected[0])
    np.testing.assert_array_equal(body.slopes, expected[1])


def test_dropping_empty_segments_changes_no_value():
    rng = np.random.default_rng(1)
    for _ in range(50):
        n = int(rng.integers(1, 9))
        points = np.sort(rng.integers(-3, 4, n - 1)) / 2
        slopes, intercepts = rng.normal(size=(2, n))
        body = without_empty_segments(points, slopes, intercepts)
        x = np.concatenate([around(points), np.linspace(-3, 3, 25)])
        segment = np.searchsorted(points, x, side="left")
        np.testing.assert_array_equal(body(x), slopes[segment] * x + intercepts[segment])
        assert body.entries == np.unique(points).size + 1


# values at knots


CELLS = Cells([-4.0, -1.0, 0.0, 8.0], (1, 4, 8), np.arange(14.0) ** 2)


def test_cells_are_closed_on_the_left():
    knots = np.concatenate([[-4.0], np.linspace(-1, 0, 5), np.linspace(0, 8, 9)[1:]])
    np.testing.assert_array_equal(CELLS.edges, knots)
    np.testing.assert_array_equal(CELLS(knots[:-1]), CELLS.values[:-1])
    assert (CELLS.segment(knots[:-1]) == np.arange(13)).all()
    assert (CELLS.segment(np.nextafter(knots[1:], -np.inf)) == np.arange(13)).all()
    x = np.linspace(-4, 8, 1001)
    np.testing.assert_allclose(CELLS(x), np.interp(x, knots, CELLS.values), rtol=1e-12, atol=1e-12)


def test_cells_go_on_outside_and_at_infinity():
    assert CELLS(-7.0) == pytest.approx(0.0 + (1.0 - 0.0) / 3.0 * -3.0)
    assert CELLS(9.0) == pytest.approx(13.0**2 + (13**2 - 12**2) * 1.0)
    assert CELLS(np.inf) == np.inf and CELLS(-np.inf) == -np.inf and np.isnan(CELLS(np.nan))
    flat = Table(Cells([0.0, 1.0], (2,), [3.0, 3.0, 4.0]), None, None, Line(0.0, 9.0))
    np.testing.assert_array_equal(flat([-np.inf, 1.0, np.inf]), [3.0, 9.0, 9.0])
    assert flat(np.nextafter(1.0, 0)) <= 4.0


def test_edges_are_rounded_to_fp32():
    """What a kernel compares with is an fp32 number."""
    cells = Cells([0.1, 0.7], (4,), np.zeros(5))
    expected = np.array([0.1 + i * (0.7 - 0.1) / 4 for i in range(4)] + [0.7]).astype(np.float32)
    np.testing.assert_array_equal(cells.edges, expected.astype(np.float64))


def test_exponents_by_the_bits_of_the_input():
    """Edges of fp16 binades, [1, 2) in four pieces, [2, 4) in two, zero to 1 joined: a chord through f at each."""
    bits = np.full(62, Exponents.OUTSIDE)
    bits[31], bits[32:46], bits[46], bits[47] = 0, Exponents.JOINED, 2, 1
    edges = np.array([0.0, 1.0, 1.25, 1.5, 1.75, 2.0, 3.0, 4.0])
    body = Exponents("fp16", tuple(bits.tolist()), edges**2)
    np.testing.assert_array_equal(body.edges, edges)
    x = np.linspace(0, 4, 201)
    np.testing.assert_allclose(body(x), np.interp(x, edges, edges**2), rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(body.cut_points, [0.0, 4.0])
    assert binades("fp16").size == 63 and binades("fp16")[31] == 0 and binades("fp16")[-1] == 65536


def test_direct_quantises_as_codes_saturate():
    body = Direct(np.arange(-8.0, 8.0), 4, 0.5, 2)
    q = np.arange(-8, 8)
    np.testing.assert_array_equal(body(0.5 * (q - 2)), q)
    np.testing.assert_array_equal(
        body([0.25, 0.75, -0.25, 100.0, -100.0, np.inf, -np.inf, 1e308]), [2, 4, 2, 7, -8, 7, -8, 7]
    )
    assert np.isnan(body(np.nan)) and body.entries == 16


# prologues


@pytest.mark.parametrize("name", [name for name, fn in functions.FUNCTIONS.items() if fn.symmetry is not None])
def test_abs_is_the_function_where_the_half_is(name):
    """With the exact half in place of a table, every symmetry gives back its function on both sides,
    and at the ends.
    """
    fn = functions.get(name)
    prologue = AbsPrologue(fn.symmetry.positive, fn.symmetry.negative)
    x = np.concatenate([np.linspace(*fn.range, 1001), -np.linspace(*fn.range, 11), [40.0, -40.0]])
    x = x[np.isfinite(fn(x))]
    np.testing.assert_allclose(prologue(fn.symmetry.h, x), fn(x), rtol=1e-13, atol=1e-15)
    if np.isfinite(fn(np.array([np.inf, -np.inf]))).any() and name != "reciprocal":
        np.testing.assert_array_equal(
            prologue(fn.symmetry.h, np.array([np.inf, -np.inf])), fn(np.array([np.inf, -np.inf]))
        )
    assert np.isnan(prologue(fn.symmetry.h, np.float64(np.nan)))


def test_abs_of_a_table():
    prologue = AbsPrologue((1.0, 1.0, 0.0), (1.0, 0.0, 0.0))
    body = Lines([1.0], [-0.25, 0.0], [0.0, -0.25])
    table = Table(body, prologue, None, Line(0.0, -0.25))
    x = np.concatenate([around([-1.0, 0.0, 1.0]), np.linspace(-3, 3, 25)])
    expected = [plain_lines(body, abs(v)) + max(v, 0.0) for v in x]
    np.testing.assert_array_equal(table(x), expected)
    np.testing.assert_array_equal(table([np.inf, -np.inf]), [np.inf, -0.25])
    assert table(x.reshape(2, 17)).shape == (2, 17) and np.isnan(table(np.nan))


@pytest.mark.parametrize("name", [name for name, fn in functions.FUNCTIONS.items() if fn.reduction is not None])
def test_range_reduction_is_the_function(name):
    """The exact function in place of the short table: the reduction serves every float there is."""
    fn, r = functions.get(name), functions.get(name).reduction
    if r.kind == "exponent":
        prologue = ExponentPrologue(r.step, r.growth, r.offset, r.odd)
        positive = np.concatenate(
            [2.0 ** np.arange(-1070, 1020, 7.0), np.logspace(-300, 300, 601), [5e-324, 2.2e-308, 1.7e308]]
        )
        x = np.concatenate([positive, -positive]) if r.odd else positive
        ends = np.array([0.0, np.inf, -np.inf, -0.0] if r.odd else [0.0, np.inf])
        np.testing.assert_array_equal(prologue(fn, ends), fn(ends))
        if not r.odd:
            assert np.isnan(prologue(fn, np.array([-1.0, -np.inf]))).all()
    else:
        prologue = PeriodPrologue(r.period, r.growth)
        x = np.concatenate([np.linspace(-700, 700, 20001), [0.0, -0.0, 1e-300, -1e-300]])
        ends = np.array([np.inf, -np.inf])
        np.testing.assert_array_equal(prologue(fn, ends), fn(ends))
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(
            prologue(fn, x), fn(x), rtol=1e-12 if r.growth else 1e-9, atol=0 if r.growth else 1e-12
        )
    assert np.isnan(prologue(fn, np.float64(np.nan)))


def test_exponent_hands_over_a_mantissa_in_range():
    seen = []
    ExponentPrologue(2, -1)(
        lambda m: seen.append(m) or np.ones_like(m),
        np.array([0.0, 5e-324, 0.3, 1.0, 3.999, 4.0, 1e300, np.inf, np.nan]),
    )
    assert all(((m >= 1) & (m < 4)).all() for m in seen)


# what is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Lines([0.0], [1.0], [1.0]), "n - 1 breakpoints"),
        (lambda: Lines([], [], []), "n - 1 breakpoints"),
        (lambda: Lines([1.0, 1.0], [0.0] * 3, [0.0] * 3), "increase strictly"),
        (lambda: Lines([1.0, -1.0], [0.0] * 3, [0.0] * 3), "given 1 before -1"),
        (lambda: Lines([np.nan], [0.0] * 2, [0.0] * 2), "breakpoints must be finite"),
        (lambda: Lines([0.0], [0.0, np.inf], [0.0] * 2), "slopes must be finite; given inf"),
        (lambda: Lines([[0.0]], [0.0] * 2, [0.0] * 2), "flat list"),
        (lambda: Lines(["x"], [0.0] * 2, [0.0] * 2), "list of numbers"),
        (lambda: Lines([10**400], [0.0] * 2, [0.0] * 2), "list of numbers"),
        (lambda: Cells([0.0], (), [0.0]), "m at least 1"),
        (lambda: Cells([0.0, 1.0], (3,), np.zeros(4)), "powers of two"),
        (lambda: Cells([0.0, 1.0], (2.0,), np.zeros(3)), "powers of two"),
        (lambda: Cells([0.0, 1.0], (True,), np.zeros(2)), "powers of two"),
        (lambda: Cells([0.0, 1.0], (2,), np.zeros(4)), "2 pieces have 3 values"),
        (lambda: Cells([1.0, 0.0], (1,), np.zeros(2)), "increase strictly"),
        (lambda: Cells([1.0, 1.0 + 1e-9], (1,), np.zeros(2)), "float32"),
        (lambda: Cells([0.0, 1e300], (1,), np.zeros(2)), "float32"),
        (lambda: Direct(np.zeros(15), 4, 1.0), "16 values"),
        (lambda: Direct(np.zeros(2), 1, 1.0), "2 to 16 bits"),
        (lambda: Direct(np.zeros(16), 4, 0.0), "positive finite"),
        (lambda: Direct(np.zeros(16), 4, 1.0, 100), "zero point"),
        (lambda: Exponents("fp32", (0,) * 62, np.zeros(63)), "fp16 or bf16"),
        (lambda: AbsPrologue((1.0, 0.0), (1.0, 0.0, 0.0)), "factor, slope, intercept"),
        (lambda: AbsPrologue((1.0, 0.0, 10**400), (1.0, 0.0, 0.0)), "list of numbers"),
        (lambda: ExponentPrologue(3, 1), "step 1 or 2"),
        (lambda: ExponentPrologue(1.0, 1), "step 1 or 2"),
        (lambda: ExponentPrologue(1, 5), "growth -2..2"),
        (lambda: ExponentPrologue(1, 1, math.inf), "finite offset"),
        (lambda: ExponentPrologue(1, 1, 10**400), "finite offset"),
        (lambda: ExponentPrologue(1, 1, 0.0, "no"), "odd"),
        (lambda: PeriodPrologue(0.0), "positive period"),
        (lambda: PeriodPrologue(10**400), "positive period"),
        (lambda: PeriodPrologue("x"), "positive period"),
        (lambda: PeriodPrologue(1.0, 2), "growth 0 or 1"),
        (lambda: Table(LINES, left=Line(1.0, 0.0)), "left tail"),
        (lambda: Table(LINES, right=Line(1.0, 0.5)), "right tail"),
        (lambda: Table(Direct(np.zeros(4), 2, 1.0), left=Line(0.0, 0.0)), "tail"),
        (lambda: Table(CELLS, left=Line(math.nan, 0.0)), "left tail"),
        (lambda: Table(CELLS, right=Line("1", 0.0)), "right tail"),
    ],
)
def test_what_is_no_table_is_refused(make, message):
    with pytest.raises(LutcError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_tables_are_frozen():
    with pytest.raises(AttributeError):
        LINES.slopes = np.zeros(6)
    with pytest.raises(ValueError, match="read-only"):
        LINES.slopes[0] = 1.0
    given = np.array([0.0, 1.0])
    body = Lines([0.0], given, [0.0, 0.0])
    given[0] = 5.0
    assert body.slopes[0] == 0.0


def test_extreme_breakpoints():
    """Neighbours so far apart that their difference overflows."""
    huge = np.finfo(np.float64).max
    assert Lines([-huge, huge], [0.0] * 3, [1.0, 2.0, 3.0])(0.0) == 2.0
    assert without_empty_segments([-huge, huge], [0.0] * 3, [1.0, 2.0, 3.0]).entries == 3


def test_every_fp16_value_at_once():
    x = formats.get("fp16").decode(np.arange(1 << 16))
    value = Table(LINES)(x)
    finite = np.isfinite(x)
    np.testing.assert_array_equal(value[finite], [plain_lines(LINES, v) for v in x[finite]])
    assert np.isnan(value[np.isnan(x)]).all()
