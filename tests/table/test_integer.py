"""Integer arithmetic against loops over Python's integers and fractions, for every function and scale; unfolded
symmetries code by code.
"""

from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lutc import functions
from lutc.compiler import pipeline
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.formats.requantise import requantise, requantiser, scaled_intercepts
from lutc.table.bodies import Cells, Lines
from lutc.table.integer import cut_codes, evaluate, integer_lines, unfold
from lutc.table.prologues import AbsPrologue, ExponentPrologue
from lutc.table.table import Table

ODD_INPUTS = (Inputs(8, 0.0371, -7), Inputs(8, 0.1, 100), Inputs(6, 0.25, 3), Inputs(4, 1.0, 0), Inputs(10, 0.013, 511))


def half_up(value: Fraction) -> int:
    return floor(value + Fraction(1, 2))


def plain_accumulator(table: Table, q: int, inputs: Inputs, fraction_bits: int) -> int:
    """k (q - z) + t' with the segment found in real x by the rule at a cut: no arrays, no floats but
    the stored ones.
    """
    x = inputs.scale * (q - inputs.zero_point)
    segment = sum(1 for point in table.body.breakpoints if point < x)
    k = Fraction(float(table.body.slopes[segment])) * 2**fraction_bits
    t = Fraction(float(table.body.intercepts[segment])) * 2**fraction_bits
    assert k.denominator == t.denominator == 1
    return int(k) * (q - inputs.zero_point) + half_up(t / Fraction(inputs.scale))


def fraction_bits_of(table: Table) -> int:
    return int(table.coefficients.split(".")[1])


def compiled(name: str, **options):
    return pipeline.compile(name, 8, search="exact", **options)


@pytest.mark.parametrize("name", functions.FUNCTIONS)
def test_every_code_of_every_function_and_scale(name):
    tables = compiled(name)
    for key, table in tables.items():
        inputs, bits = tables.inputs[key], fraction_bits_of(table)
        codes = inputs.codes()
        expected = [plain_accumulator(table, int(q), inputs, bits) for q in codes]
        np.testing.assert_array_equal(integer_lines(table, inputs).accumulate(codes), expected)
        # scales 2^-b: the integers are the table's real values, exactly
        np.testing.assert_array_equal(evaluate(table, codes, inputs), table(inputs.x()))
        out, shift = Inputs(8, 2.0**-5, 3), bits + int(key) - 5
        rounded = [(a + (1 << (shift - 1))) >> shift if shift > 0 else a << -shift for a in expected]
        np.testing.assert_array_equal(evaluate(table, codes, inputs, out), np.clip(np.array(rounded) + 3, -128, 127))


@pytest.mark.parametrize("inputs", ODD_INPUTS, ids=str)
@pytest.mark.parametrize("name", ["gelu", "exp", "sigmoid", "sin"])
def test_arbitrary_scales_and_zero_points(name, inputs):
    (table,) = compiled(name, inputs=(inputs,)).values()
    bits, codes, out = fraction_bits_of(table), inputs.codes(), Inputs(8, 0.0233, 5)
    expected = [plain_accumulator(table, int(q), inputs, bits) for q in codes]
    np.testing.assert_array_equal(integer_lines(table, inputs).accumulate(codes), expected)
    multiplier, shift = requantiser(inputs.scale * 2.0**-bits / out.scale)
    assert multiplier == 1 or 2**30 <= multiplier < 2**31
    final = [min(max(half_up(Fraction(a * multiplier, 1) / Fraction(2) ** shift) + 5, -128), 127) for a in expected]
    np.testing.assert_array_equal(evaluate(table, codes, inputs, out), final)
    # and in real terms: half an output step, half an accumulator unit, and the multiplier's 2^-31
    real = np.clip(table(inputs.x()), out.x()[0], out.x()[-1])
    assert np.abs(out.scale * (np.array(final) - 5) - real).max() <= out.scale * 0.501 + inputs.scale * 2.0**-bits


@given(st.floats(2.0**-40, 2.0**20), st.integers(-(2**31), 2**31 - 1))
def test_requantising_rounds_half_up(ratio, acc):
    multiplier, shift = requantiser(ratio)
    assert multiplier == 1 or 2**30 <= multiplier < 2**31
    assert abs(Fraction(multiplier) / Fraction(2) ** shift / Fraction(ratio) - 1) <= Fraction(1, 2**31)
    assert int(requantise(acc, multiplier, shift)) == half_up(Fraction(acc * multiplier) / Fraction(2) ** shift)


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("inf"), float("nan"), 2.0**40, 1e300])
def test_ratios_without_an_answer(ratio):
    with pytest.raises(LutcError, match="ratio of scales"):
        requantiser(ratio)


def test_tiny_ratios_give_zero():
    multiplier, shift = requantiser(1e-30)
    np.testing.assert_array_equal(requantise([2**31 - 1, -(2**31)], multiplier, shift), [0, 0])


@given(st.integers(-200, 200), st.sampled_from((0.1, 0.0371, 1 / 3, 2.0**-4, 0.7)), st.sampled_from((-1, 0, 1)))
def test_cut_codes_keep_the_boundary_rule(code, scale, side):
    """At a breakpoint on the grid and its neighbours: c is the last code on the left, in float64 terms."""
    point = scale * code
    point = point if side == 0 else np.nextafter(point, side * np.inf)
    (cut,) = cut_codes([point], scale)
    codes = np.arange(-300, 301)
    assert cut == codes[scale * codes <= point].max()


def test_cuts_far_outside_the_codes():
    np.testing.assert_array_equal(np.sign(cut_codes([-1e300, 1e300, 0.0], 0.1)), [-1, 1, 0])


@pytest.mark.parametrize("scale", [2.0**-6, 2.0**-1, 0.1, 0.3])
def test_scaled_intercepts(scale):
    t = np.arange(-300, 301)
    expected = [half_up(Fraction(int(v)) / Fraction(scale)) for v in t]
    np.testing.assert_array_equal(scaled_intercepts(t, Inputs(8, scale)), expected)


SYMMETRIC = [name for name, fn in functions.FUNCTIONS.items() if fn.symmetry is not None and fn.range[0] < 0]


@pytest.mark.parametrize("name", SYMMETRIC)
def test_unfolded_symmetries(name):
    """All codes exactly; floats to rounding, at the cuts and beside them too. At 2^0 a cut may stand at 0 itself."""
    tables = pipeline.compile(name, 8, symmetry=True, search="exact")
    for key, table in tables.items():
        inputs, flat = tables.inputs[key], Table(unfold(table))
        np.testing.assert_array_equal(flat(inputs.x()), table(inputs.x()))
        points = np.concatenate([table.body.breakpoints, [0.0]])
        x = np.concatenate([points, np.nextafter(points, 9), np.nextafter(points, -9), np.linspace(-9, 9, 1001)])
        x = np.concatenate([x, -x])
        np.testing.assert_allclose(flat(x), table(x), rtol=0, atol=1e-14)
        # the unfolded lines stay inside the segment count of two halves, and integers follow
        assert flat.entries <= 2 * table.entries
        np.testing.assert_array_equal(evaluate(table, inputs.codes(), inputs), table(inputs.x()))


def test_unfolding_a_cut_at_zero():
    """|x| <= 0 is x = 0 alone, on the positive side."""
    table = Table(Lines([0.0, 1.0], [0.0, 0.5, 1.0], [0.25, 0.0, -0.5]), AbsPrologue((1.0, 1.0, 0.0), (1.0, 0.0, 0.0)))
    flat = Table(unfold(table))
    x = np.array([-2.0, -1.0, -0.5, -(2.0**-1000), -0.0, 0.0, 2.0**-1000, 0.5, 1.0, 2.0])
    np.testing.assert_array_equal(flat(x), table(x))


def test_tables_without_symmetry_stay():
    body = Lines([0.0], [0.0, 1.0], [0.0, 0.0])
    assert unfold(Table(body)) is body


@pytest.mark.parametrize(
    ("table", "inputs", "message"),
    [
        (Table(Lines([0.0], [0.0, 1.0], [0.0, 0.0]), coefficients="fp16"), Inputs(), "fixed-point coefficients"),
        (Table(Cells([0.0, 1.0], (1,), [0.0, 1.0]), coefficients="q1.6"), Inputs(), "cells x values in q1.6"),
        (Table(Lines([], [0.01], [0.0]), coefficients="q1.6"), Inputs(), "not multiples of 2\\*\\*-6"),
        (Table(Lines([], [1.0], [0.0]), ExponentPrologue(1, -1), coefficients="q1.6"), Inputs(), "prologue exponent"),
        (Table(Lines([], [1.0], [0.0]), coefficients="q1.30"), Inputs(), "beyond int32"),
        (Table(Lines([], [1.0], [1.0]), coefficients="q1.16"), Inputs(8, 2.0**-20), "beyond int32"),
    ],
)
def test_what_integers_cannot_hold(table, inputs, message):
    with pytest.raises(LutcError, match=message) as error:
        integer_lines(table, inputs)
    assert "\n" not in str(error.value)
