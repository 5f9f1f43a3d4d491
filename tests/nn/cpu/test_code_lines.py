"""Lines over 16-bit codes in vectors against the integer rule in numpy, at every code."""

import numpy as np
import pytest
import torch

import lutc
from lutc.formats.codes import ROUNDINGS, Inputs, Outputs
from lutc.nn import QuantLUT
from lutc.nn.cpu import code_lines
from lutc.table.bodies import Lines
from lutc.table.integer import integer_lines
from lutc.table.table import Table

EVERY = np.arange(-(2**15), 2**15).astype(np.int16)
pytestmark = pytest.mark.skipif(not code_lines.permutes_halves(), reason="needs AVX-512 for 16-bit lanes")


def compare(table, inputs, out, wanted=True):
    lines = integer_lines(table, inputs)
    words = code_lines.lines_of(lines, out)
    assert (words is not None) == wanted
    if words is None:
        return
    got = np.full(EVERY.size + 2, -99, np.float32 if out is None else np.int16)
    code_lines.through_lines(EVERY.ctypes.data, got[1:].ctypes.data, EVERY.size, words.ctypes.data, threads=2)
    assert got[0] == got[-1] == -99
    q = EVERY.astype(int).clip(inputs.minimum, inputs.maximum)  # codes beyond the width saturate
    want = (lines.accumulate(q) * lines.unit).astype(np.float32) if out is None else lines(q, out)
    np.testing.assert_array_equal(got[1:-1], want)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", ["gelu_8", "silu_16"])
@pytest.mark.parametrize(
    "scale, out_scale", [(2.0**-12, 2.0**-12), (2.0**-12, 2.0**-11), (0.00031, 0.0002), (1e-4, 3e-3)]
)
def test_every_code_of_every_rounding(name, scale, out_scale, rounding):
    table = lutc.load(name)["4"]
    for zero_point, out_zero_point in ((0, 0), (100, -7), (-32768, 32767)):
        inputs = Inputs(16, scale, zero_point)
        compare(table, inputs, Outputs(16, out_scale, out_zero_point, rounding))
    compare(table, Inputs(9, 16 * scale, 3), Outputs(9, 16 * out_scale, 3, rounding))


def test_halves_are_there_to_be_rounded():
    """The comparison above would not see a rounding that never has a half to round."""
    lines = integer_lines(lutc.load("gelu_8")["4"], Inputs(16, 2.0**-12))
    answers = {rounding: lines(EVERY, Outputs(16, 2.0**-11, 0, rounding)) for rounding in ROUNDINGS}
    assert all((answers[a] != answers[b]).any() for a in ROUNDINGS for b in ROUNDINGS if a != b)


@pytest.mark.parametrize("entries, wanted", [(1, True), (2, True), (8, True), (9, True), (32, True), (33, False)])
def test_numbers_of_segments(entries, wanted):
    """Any lines: cuts at the ends of the codes, repeated codes, slopes and intercepts of both signs."""
    rng = np.random.default_rng(entries)
    breakpoints = np.sort(rng.uniform(-4, 4, entries - 1))
    slopes, intercepts = rng.integers(-128, 128, (2, entries)) / 64
    table = Table(Lines(breakpoints, slopes, intercepts), coefficients="q1.6")
    compare(table, Inputs(16, 2.0**-13, 5), Outputs(16, 2.0**-12, 3), wanted)
    compare(table, Inputs(16, 2.0**-13, 5), None, wanted)
    compare(table, Inputs(16, 2.0**-15, 30000), Outputs(16, 2.0**-14, 3))  # cuts beyond the codes


def test_floats_of_powers_of_two_alone():
    compare(lutc.load("gelu_8")["4"], Inputs(16, 2.0**-12, 9), None)
    compare(lutc.load("gelu_8")["4"], Inputs(16, 0.0003, 9), None, wanted=False)


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 1000, 2 * code_lines.SLICE + 37])
def test_the_module_takes_them(n, monkeypatch):
    module = QuantLUT("gelu_8", scale=2.0**-6, bits=16, out_scale=0.011)
    assert module.all_lines is not None
    q = torch.randint(-(2**15), 2**15, (n + 9,)).to(torch.int16)
    views = q[3 : n + 3], q[3 : n + 3].flip(0), q[:n].expand(2, n).t()
    got = [module(view) for view in views]
    monkeypatch.setattr(code_lines, "permutes_halves", lambda: False)
    assert all(torch.equal(have, module(view)) for have, view in zip(got, views, strict=True))


def test_what_does_not_fit_goes_through_the_table():
    table = lutc.load("gelu_8")["4"]
    assert code_lines.lines_of(integer_lines(table, Inputs(16, 2.0**-12)), Outputs(16, 2.0**-31)) is None
