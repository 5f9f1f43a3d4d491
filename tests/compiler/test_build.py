"""From cuts to tables: the samples of each segment, and the place of a tail outside the codes by trying every place."""

import itertools

import numpy as np
import pytest

from lutc import formats, functions
from lutc.compiler.build import Lattice, build, rounded_tail
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.functions import Line
from lutc.samples.samples import code_samples
from lutc.search.exact import exact
from lutc.table.bodies import Lines
from tests.helpers.oracles import int8_costs, int8_samples, tails_of

Q16 = formats.get("q1.6")


def lattice_of(name: str, power: int, halves: bool = False) -> Lattice:
    fn = functions.get(name)
    return Lattice(int8_samples(name, power).x, fn, *fn.range, halves)


def assign(cuts, lines, x, left, right):
    """Value of each sample as the search sees it: by position."""
    values = []
    for n, v in enumerate(x):
        segment = int(np.searchsorted(cuts, n, side="right")) - 1
        if segment < 0:
            values.append(left.slope * v + left.intercept)
        elif segment >= lines[0].size:
            values.append(right.slope * v + right.intercept)
        else:
            values.append(lines[0][segment] * v + lines[1][segment])
    return np.array(values)


@pytest.mark.parametrize("entries", [2, 3, 8, 16])
@pytest.mark.parametrize("power", [0, 2, 4, 6])
@pytest.mark.parametrize("name", ["gelu", "exp", "reciprocal", "sigmoid", "sin"])
def test_the_table_is_what_the_search_meant(name, power, entries):
    """Every sample has the value of its segment, and the table the cost of the search."""
    fn, s, costs = functions.get(name), int8_samples(name, power), int8_costs(name, power)
    left, right = tails_of(fn, fn.coefficients)
    found = exact(costs, entries)
    lines = costs.line(found.cuts[:-1], found.cuts[1:])
    table = build(found.cuts, lines, lattice_of(name, power), left, right, formats.get(fn.coefficients))
    np.testing.assert_array_equal(table(s.x), assign(found.cuts, lines, s.x, left, right))
    assert np.mean((table(s.x) - s.y) ** 2) == pytest.approx(found.cost, rel=1e-9, abs=1e-18)
    assert table.entries <= entries and (table.left, table.right) == (left, right)
    assert (table.body.breakpoints * 2**power % 1 == 0).all()  # on the grid of the scale, outside the codes too


@pytest.mark.parametrize(("name", "power"), [("gelu", 1), ("gelu", 3), ("exp", 2), ("tanh", 1), ("hardswish", 2)])
def test_a_breakpoint_lies_between_its_codes_where_floats_err_least(name, power):
    """Every choice of places on codes and halves is tried: none has less error; codes have the same values for all."""
    fn, s, costs = functions.get(name), int8_samples(name, power), int8_costs(name, power)
    tails = tails_of(fn, fn.coefficients)
    found = exact(costs, 8)
    parts = found.cuts, costs.line(found.cuts[:-1], found.cuts[1:])
    plain, table = (
        build(*parts, lattice_of(name, power, halves), *tails, formats.get(fn.coefficients)) for halves in (False, True)
    )
    np.testing.assert_array_equal(table(s.x), plain(s.x))
    moved = (table.body.breakpoints - plain.body.breakpoints) * 2**power
    assert np.isin(moved, [0, 0.5]).all() and (moved[1:-1] == 0.5).any()
    assert (tails[0] is None or moved[0] == 0) and (tails[1] is None or moved[-1] == 0)
    inner = slice(int(tails[0] is not None), moved.size - (tails[1] is not None))
    grid = s.x[0] + (s.x[-1] - s.x[0]) * (np.arange(1 << 15) + 0.5) / (1 << 15)
    errors = []
    for choice in itertools.product((0.0, 0.5 / 2**power), repeat=moved[inner].size):
        points = plain.body.breakpoints.copy()
        points[inner] += choice
        errors.append(np.mean((Lines(points, plain.body.slopes, plain.body.intercepts)(grid) - fn(grid)) ** 2))
    assert np.mean((table(grid) - fn(grid)) ** 2) <= min(errors) * (1 + 1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_any_cuts_build_a_table(seed):
    """Repeated cuts, cuts at both ends, tails over everything: samples keep their values."""
    rng = np.random.default_rng(seed)
    s = int8_samples("gelu", 2)
    for _ in range(30):
        m = int(rng.integers(1, 7))
        left = Line(0.0, 0.25) if rng.random() < 0.5 else None
        right = Line(1.0, 0.0) if rng.random() < 0.5 else None
        cuts = np.sort(rng.choice([0, 1, 5, 16, 31, 32, len(s)], m + 1))
        cuts[0], cuts[-1] = (cuts[0] if left else 0), (cuts[-1] if right else len(s))
        lines = rng.integers(-64, 65, (2, m)) / 64
        table = build(cuts, lines, lattice_of("gelu", 2), left, right, Q16)
        np.testing.assert_array_equal(table(s.x), assign(cuts, lines, s.x, left, right))


def test_cuts_without_segments():
    s = int8_samples("gelu", 2)
    left, right = Line(0.0, 0.0), Line(1.0, 0.0)
    nothing = (np.zeros(0), np.zeros(0))
    for at in (0, 1, 16, len(s)):
        table = build(np.array([at]), nothing, lattice_of("gelu", 2), left, right, Q16)
        assert table.entries == 2
        np.testing.assert_array_equal(table(s.x), assign(np.array([at]), nothing, s.x, left, right))
    assert build(np.array([len(s)]), nothing, lattice_of("gelu", 2), left, None, Q16).entries == 1


@pytest.mark.parametrize(
    ("name", "tail"), [("gelu", Line(0.0, 0.0)), ("sigmoid", Line(0.0, 0.0)), ("elu", Line(0.0, -1.0))]
)
def test_a_left_tail_outside_the_codes_is_where_floats_err_least(name, tail):
    """At 2^-6 the codes end at -2: the place by trying each one of the grid down to the end of the range."""
    fn, lattice = functions.get(name), lattice_of(name, 6)
    end = Line(0.25, 0.5)
    found = lattice.outside(0, tail, end)
    grid = np.linspace(fn.range[0], lattice.x[0], 20_001)
    y = fn(grid)

    def error(place):
        inside = np.where(grid <= place, tail.slope * grid + tail.intercept, end.slope * grid + end.intercept)
        return np.mean((inside - y) ** 2)

    places = np.arange(round(fn.range[0] * 64), round(lattice.x[0] * 64)) / 64
    assert found in places
    assert error(found) <= min(map(error, places)) + 1e-6


def test_a_right_tail_outside_the_codes():
    fn, lattice = functions.get("gelu"), lattice_of("gelu", 6)
    tail, end = Line(1.0, 0.0), Line(1.046875, -0.09375)
    n = lattice.x.size
    found = lattice.outside(n, tail, end)
    grid = np.linspace(lattice.x[-1], 4.0, 20_001)
    places = np.arange(127, 257) / 64
    errors = [np.mean((np.where(grid > p, grid, end.slope * grid + end.intercept) - fn(grid)) ** 2) for p in places]
    assert found in places and errors[list(places).index(found)] <= min(errors) + 1e-6
    assert lattice.outside(7, tail, end) == lattice.x[6]  # inside the codes a cut is a cut


def test_very_fine_scales_have_places_enough():
    """A scale of 2^-40 has a billion grid points to the end of the range."""
    fn = functions.get("gelu")
    s = code_samples(fn, Inputs(8, 2.0**-40), *fn.range)
    lattice = Lattice(s.x, fn, *fn.range)
    place = lattice.outside(0, Line(0.0, 0.0), Line(0.5, 0.0))
    assert -4.0 <= place < s.x[0] and place * 2**40 % 1 == 0
    # x / 2 leaves gelu for 0 where x / 2 - gelu = gelu, at about -0.67
    assert place == pytest.approx(-0.6745, abs=0.01)


def test_one_sample():
    lattice = Lattice(np.array([0.5]), functions.get("gelu"), 0.0, 1.0)
    assert lattice.breakpoint(0) == -0.5 and lattice.breakpoint(1) == 0.5
    assert lattice.outside(1, Line(1.0, 0.0), Line(0.0, 0.0)) == 0.5


def test_tails_are_rounded_to_the_format():
    selu = functions.get("selu")
    assert rounded_tail(selu.left, Q16, "selu") == Line(0.0, -1.765625)
    assert rounded_tail(None, Q16, "f") is None
    with pytest.raises(LutcError, match=r"q1.6 cannot hold the tail slope 2 of f"):
        rounded_tail(Line(2.0, 0.0), Q16, "f")
    with pytest.raises(
        LutcError, match=r"q1.6 cannot hold the tail intercept 5 of f: its values reach from -2 to 1.98438"
    ):
        rounded_tail(Line(0.0, 5.0), Q16, "f")


def test_equal_neighbours_become_one_entry():
    """A segment whose line is the tail's own, or its neighbour's, is no entry."""
    s = int8_samples("gelu", 2)
    cuts, lines = np.array([4, 8, 16, 20, 30]), (np.array([0.0, 0.5, 0.5, 1.0]), np.array([-0.0, 0.25, 0.25, 0.0]))
    left, right = Line(0.0, 0.0), Line(1.0, 0.0)
    table = build(cuts, lines, lattice_of("gelu", 2), left, right, Q16)
    assert table.entries == 3
    np.testing.assert_array_equal(table.body.breakpoints, [s.x[7], s.x[19]])
    np.testing.assert_array_equal(table(s.x), assign(cuts, lines, s.x, left, right))
