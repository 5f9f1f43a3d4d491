"""The format that is chosen where none is given: the function's own while it will do."""

import numpy as np
import pytest

import lutc
from lutc import functions
from lutc.compiler.fit import misfit
from lutc.formats.codes import Inputs, Outputs
from lutc.functions import FUNCTIONS

FINE = (Inputs(8, 2.0**-4),)


@pytest.mark.parametrize("name", ["gelu", "silu", "exp", "log", "sin", "reciprocal", "sqrt"])
def test_over_its_own_range_a_function_keeps_its_own_format(name):
    tables = lutc.compile(name, 8, search="exact")
    assert {table.coefficients for table in tables.values()} == {FUNCTIONS[name].coefficients}


@pytest.mark.parametrize(
    "function, interval, chosen",
    [
        ("exp", (-4.0, 4.0), "q8.7"),
        ("square", (-4.0, 4.0), "q4.11"),
        ("reciprocal", (0.001, 32.0), "q8.7"),
        ("log", (0.125, 4.0), "q3.12"),
        ("gelu", (-8.0, 8.0), "q1.6"),
    ],
)
def test_over_another_range_one_that_holds_slopes_and_values(function, interval, chosen):
    tables = lutc.compile(function, 8, range=interval, inputs=FINE, search="exact")
    assert tables["4"].coefficients == chosen and misfit(tables, functions.load(function, interval), 8) is None


def test_sixteen_bits_of_output_take_sixteen_bits_of_coefficients():
    inputs, out = (Inputs(9, 2.0**-5),), Outputs(16, 2.0**-15)
    tables, coarse = (
        lutc.compile("sigmoid", 64, inputs=inputs, out=out, search="exact", coefficients=given)
        for given in (None, "q1.6")
    )
    assert tables["5"].coefficients == "q1.14"
    wrong = [t.meta["certificate"]["5"]["output"]["wrong"] for t in (tables, coarse)]
    assert wrong[0] < 0.95 * wrong[1]


def test_a_tiny_function_takes_floats_and_a_format_that_is_given_stays():
    tiny = functions.user.from_callable(lambda x: 1e-6 * np.tanh(x), (-4.0, 4.0))
    assert lutc.compile(tiny, 8, inputs=FINE)["4"].coefficients == "fp32"
    assert (
        lutc.compile("exp", 8, range=(-4.0, 4.0), inputs=FINE, coefficients="q3.4", force=True)["4"].coefficients
        == "q3.4"
    )
    coded = lutc.compile("exp", 8, range=(-4.0, 4.0), inputs=FINE, objective="absolute", search="exact")
    assert coded["4"].coefficients == "q8.7"


def test_float_inputs_are_judged_too():
    fn = functions.load("square", (-8.0, 8.0))
    for coefficients, holds in (("fp32", True), ("q1.6", False)):
        tables = lutc.compile(
            "square", 16, range=fn.range, inputs="grid", coefficients=coefficients, search="exact", force=True
        )
        why = misfit(tables, fn, 16)
        assert (why is None) == holds and (holds or "q1.6 cannot hold square over [-8, 8]" in why)
