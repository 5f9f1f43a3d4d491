"""Hardware figures against counts by hand and against plain Python integers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lutc import formats, hardware
from lutc.compiler.pipeline import compile
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.table.bodies import Cells, Direct, Lines
from lutc.table.integer import integer_lines
from lutc.table.prologues import PeriodPrologue
from lutc.table.table import Table

Q16 = formats.get("q1.6")


@given(st.integers(-1000, 1000), st.integers(0, 1000))
def test_signed_bits_is_the_least_width_that_holds_both_ends(low, span):
    bits = hardware.signed_bits(low, low + span)
    assert -(2 ** (bits - 1)) <= low and low + span <= 2 ** (bits - 1) - 1
    if bits > 1:
        assert low < -(2 ** (bits - 2)) or low + span > 2 ** (bits - 2) - 1


def test_eight_lines_in_q1_6_over_int8_codes_by_hand():
    cost = hardware.lines_cost(8, Q16, Inputs(8, 2.0**-4))
    assert cost.stored_bits == 8 * (8 + 8) + 7 * 8
    assert (cost.entries, cost.comparators, cost.comparator_bits) == (8, 7, 8)
    assert cost.multiplier == (8, 8) and cost.multiplier_bits == 64


def test_a_half_saves_the_sign_of_its_breakpoints():
    cost = hardware.lines_cost(8, Q16, Inputs(8, 2.0**-4), half=True)
    assert cost.stored_bits == 8 * 16 + 7 * 7 and cost.comparator_bits == 7


def test_a_zero_point_widens_the_multiplier_and_leaves_the_comparators():
    cost = hardware.lines_cost(8, Q16, Inputs(8, 2.0**-4, zero_point=-100))
    assert cost.multiplier == (8, 9) and cost.comparator_bits == 8


def test_a_scale_that_is_no_power_of_two_stores_wider_intercepts():
    # t' = round(t * 2^6 / 0.03) needs log2(1 / 0.03) = 5.06, so 6 bits more
    assert hardware.lines_cost(8, Q16, Inputs(8, 0.03)).stored_bits == 8 * (16 + 6) + 7 * 8


def test_direct_and_uniform_by_hand():
    inputs = Inputs(8, 2.0**-4)
    direct = hardware.direct_cost(inputs, 8)
    assert (direct.stored_bits, direct.comparators, direct.multiplier_bits, direct.adder) == (2048, 0, 0, 0)
    uniform = hardware.uniform_cost(8, Q16, inputs, half=False, tails=2)
    assert (uniform.stored_bits, uniform.comparators) == (128, 2)


def test_together_adds_memory_and_shares_the_unit():
    a, b = hardware.lines_cost(8, Q16, Inputs(8, 1.0)), hardware.lines_cost(5, formats.get("q1.3"), Inputs(12, 2.0**-4))
    both = hardware.together([a, b])
    assert both.stored_bits == a.stored_bits + b.stored_bits
    assert (both.entries, both.comparators, both.comparator_bits) == (8, 7, 12)
    assert both.multiplier == (8, 8) and both.adder == max(a.adder, b.adder)


@pytest.mark.parametrize(
    "function, half", [("gelu", False), ("gelu", True), ("sigmoid", True), ("tanh", True), ("exp", False)]
)
@pytest.mark.parametrize(
    "inputs", [Inputs(8, 2.0**-4), Inputs(10, 2.0**-6), Inputs(8, 0.05), Inputs(8, 2.0**-4, zero_point=-30)]
)
def test_the_adder_holds_every_sum_of_a_compiled_table(function, half, inputs):
    table = next(iter(compile(function, 8, inputs=(inputs,), search="exact", symmetry=half).values()))
    cost, used = hardware.cost(table, inputs), hardware.accumulator_bits(table, inputs)
    assert cost.entries == table.entries
    lines = integer_lines(table, inputs)
    products = []
    for q in inputs.codes().tolist():
        c = q - inputs.zero_point
        s = sum(cut < c for cut in lines.cuts.tolist())
        k, t = int(lines.slopes[s]), int(lines.intercepts[s])
        products += [k * c, t, k * c + t]
    assert max(products) < 2 ** (used - 1) and min(products) >= -(2 ** (used - 1))
    assert max(products) >= 2 ** (used - 2) or min(products) < -(2 ** (used - 2))
    assert used <= cost.adder


@pytest.mark.parametrize(
    "inputs, width",
    [(Inputs(8, 2.0**-4), 16), (Inputs(8, 2.0**-9), 18), (Inputs(12, 1.0), 20), (Inputs(8, 2.0**-4, -127), 17)],
)
def test_the_adder_is_as_wide_as_the_largest_sum_of_any_coefficients(inputs, width):
    sums = [
        k * (q - inputs.zero_point) + (t << inputs.power)
        for k in (-128, 127)
        for q in inputs.codes().tolist()
        for t in (-128, 127)
    ]
    assert hardware.signed_bits(min(sums), max(sums)) == hardware.lines_cost(8, Q16, inputs).adder == width


def test_cost_of_a_direct_table_counts_its_values():
    table = Table(Direct(np.zeros(256), 8, 2.0**-4), coefficients="fp16")
    assert hardware.cost(table, Inputs(8, 2.0**-4)).stored_bits == 256 * 16


def test_narrower_numbers_and_a_step_of_cuts_count():
    inputs = Inputs(8, 2.0**-4)
    tables = compile("gelu", 8, search="exact", inputs=inputs, slopes="q1.4", intercepts="q2.8", cut_step=8)
    (table,) = tables.values()
    assert table.coefficients == "q2.8" and table.entries == 8
    plain, own = hardware.cost(table, inputs), hardware.cost(table, inputs, tables.meta)
    assert plain.stored_bits == 8 * (11 + 11) + 7 * 8 and own.stored_bits == 8 * (6 + 11)
    assert (plain.comparators, own.comparators) == (7, 0) and own.multiplier == (6, 8)
    shifts = compile("gelu", 8, search="exact", inputs=inputs, slopes="pot")
    assert hardware.cost(shifts["4"], inputs, shifts.meta).multiplier == (1, 8)


def test_cost_refuses_what_it_cannot_count():
    lines = Lines([0.0], [0.0, 1.0], [0.0, 0.0])
    for table, what in (
        (Table(Cells([0.0, 1.0], (1,), [0.0, 1.0])), "cells x values"),
        (Table(lines, PeriodPrologue(1.0), coefficients="q1.6"), "prologue period"),
        (Table(lines, coefficients="fp16"), "given fp16"),
    ):
        with pytest.raises(LutcError, match=what):
            hardware.cost(table, Inputs())
