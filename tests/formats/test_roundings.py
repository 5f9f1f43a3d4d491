"""Halves between output codes, held to Python's integers and fractions for every rounding, in numpy, torch, C and
SystemVerilog.
"""

import contextlib
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from lutc.compiler import pipeline
from lutc.errors import LutcError
from lutc.formats import ROUNDINGS, Inputs, Outputs
from lutc.formats.codes import output_record, round_to_codes
from lutc.formats.requantise import requantise, requantiser
from lutc.nn import QuantLUT
from lutc.nn import integer_lines as tensors
from lutc.table.bodies import Lines
from lutc.table.integer import evaluate, integer_lines
from lutc.table.library import load
from lutc.table.table import Table
from lutc.table.table_set import loads

OUTS = [(2.0**-4, 0), (2.0**-2, 5), (0.5, -7), (0.05, 3), (2.0**-9, 0), (3.0, 127)]


def rounded(value: Fraction, rounding: str) -> int:
    lower = math.floor(value)
    if value - lower != Fraction(1, 2):
        return lower + (value - lower > Fraction(1, 2))
    return {
        "half_up": lower + 1,
        "half_away": lower + (value > 0),
        "half_even": lower + lower % 2,
    }[rounding]


def limited(code: int, bits: int = 8) -> int:
    return max(-(1 << (bits - 1)), min((1 << (bits - 1)) - 1, code))


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_requantising_rounds_as_fractions_do(rounding):
    generator = np.random.default_rng(0)
    acc = np.concatenate([np.arange(-600, 600), generator.integers(-(2**31) + 1, 2**31, 500)])
    pairs = [(1, s) for s in (-3, 0, 1, 2, 7, 31, 62, 70)]
    pairs += [(3, 1), (2**30, 30), (2**31 - 1, 33), (5 << 28, 62), (5 << 28, 70)]
    for multiplier, shift in pairs:
        want = [rounded(Fraction(int(a) * multiplier) / Fraction(2) ** shift, rounding) for a in acc]
        assert requantise(acc, multiplier, shift, rounding).tolist() == want
        assert tensors.requantise(torch.from_numpy(acc), multiplier, shift, rounding).tolist() == want
        if shift > 0:
            shifts = torch.full((len(acc),), min(shift, 62))
            if shift <= 62:
                assert tensors.requantise(torch.from_numpy(acc), multiplier, shifts, rounding).tolist() == want


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("scale, zero_point", [(2.0**-4, 0), (2.0**-2, -3), (0.043, 17)])
def test_every_code_of_a_table(rounding, scale, zero_point):
    tables, inputs = load("gelu_8"), Inputs(8, scale, zero_point)
    table, q = tables[tables.key_for_scale(scale)], inputs.codes()
    lines = integer_lines(table, inputs)
    acc = lines.accumulate(q)
    for out_scale, out_zero in OUTS:
        multiplier, shift = requantiser(lines.unit / out_scale)
        exact = [Fraction(int(a) * multiplier) / Fraction(2) ** shift for a in acc]
        want = [limited(out_zero + rounded(value, rounding)) for value in exact]
        out = Outputs(8, out_scale, out_zero, rounding)
        assert evaluate(table, q, inputs, out).tolist() == want
        with pytest.warns() if scale == 0.043 else contextlib.nullcontext():
            module = QuantLUT(tables, scale, zero_point, out_scale, out_zero, rounding=rounding)
        codes = torch.arange(-128, 128, dtype=torch.int8)
        assert module(codes).tolist() == want
        free = QuantLUT(tables, None, zero_point, out_scale, out_zero, rounding=rounding)
        assert free(codes, scale).tolist() == want


def test_the_roundings_differ_where_they_should():
    table, inputs = Table(Lines([0.0], [1.0, 1.0], [0.0, 0.0]), coefficients="q1.6"), Inputs(8, 2.0**-4)
    found = {r: evaluate(table, inputs.codes(), inputs, Outputs(8, 2.0**-3, 0, r)).tolist() for r in ROUNDINGS}
    assert len({tuple(codes) for codes in found.values()}) == 3


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_real_values_round_as_fractions_do(rounding):
    y = np.concatenate([np.arange(-300, 300) / 4, [0.5 - 2.0**-54, np.nextafter(2.5, 0), -0.0]])
    want = [limited(3 + rounded(Fraction(float(v)), rounding)) for v in y]
    assert round_to_codes(Outputs(8, 1.0, 3, rounding), y).tolist() == want
    ends = round_to_codes(Outputs(8, 1.0, 3, rounding), [np.nan, np.inf, -np.inf, 1e300, -1e300])
    assert ends.tolist() == [3, 127, -128, 127, -128]


def test_files_state_it_and_absence_means_half_up():
    assert output_record(Inputs(8, 0.5)) == {"bits": 8, "scale": 0.5, "zero_point": 0} == output_record(Outputs(8, 0.5))
    made = pipeline.compile(
        "relu",
        3,
        search="exact",
        objective="codes",
        inputs=(Inputs(8, 2.0**-4),),
        out=Outputs(8, 2.0**-3, 0, "half_even"),
    )
    again = loads(made.dumps())
    assert again.meta["output"]["rounding"] == again.rounding == "half_even"
    assert again.meta["certificate"]["4"]["output"]["wrong"] == 0  # x halved: ties are everywhere
    assert QuantLUT(again, 2.0**-4, out_scale=2.0**-3).out.rounding == "half_even"
    assert QuantLUT(again, 2.0**-4, out_scale=2.0**-3, rounding="half_up").out.rounding == "half_up"
    assert load("gelu_8").rounding == "half_up"
    with pytest.raises(LutcError, match="rounding.*half_up, half_away, half_even.*floor"):
        loads(made.dumps().replace('"half_even"', '"floor"'))


def test_a_wrong_rounding_is_one_error():
    for call in (
        lambda: Outputs(8, 1.0, 0, "up"),
        lambda: QuantLUT("gelu_8", 2.0**-4, out_scale=2.0**-4, rounding="up"),
        lambda: QuantLUT("gelu_8", 2.0**-4, rounding="half_up"),
    ):
        with pytest.raises(LutcError, match="rounding"):
            call()
