"""A format that cannot hold a function is said, with one that can; coarse tables of few entries are not its fault."""

import numpy as np
import pytest
from click.testing import CliRunner

import lutc
from lutc import functions
from lutc.cli import main
from lutc.compiler.fit import coarse, misfit
from lutc.errors import LutcError
from lutc.formats.codes import Inputs, Outputs
from lutc.table.library import names

FINE = (Inputs(8, 2.0**-4),)


@pytest.mark.parametrize("function, interval", [("exp", (-4, 4)), ("square", (-4, 4)), ("reciprocal", (0.0625, 4))])
def test_the_format_that_is_named_holds(function, interval):
    tables = lutc.compile(function, 8, range=interval, inputs=FINE, coefficients="q1.6", search="exact", force=True)
    why = misfit(tables, functions.get(function))
    assert why is not None and "q1.6 cannot hold" in why
    wanted = why.partition("take ")[2].split()[0]
    better = lutc.compile(function, 8, range=interval, inputs=FINE, coefficients=wanted, search="exact")
    assert misfit(better, functions.get(function)) is None
    x = FINE[0].x()
    x = x[(x >= interval[0]) & (x <= interval[1])]
    exact = functions.get(function)(x)
    errors = [np.abs(table["4"](x) - exact).max() for table in (tables, better)]
    assert errors[1] < 0.1 * errors[0]


def test_few_entries_are_not_the_formats_fault():
    for entries in (2, 3, 4, 8):
        tables = lutc.compile("tanh", entries, inputs=FINE, search="exact")
        assert misfit(tables, functions.get("tanh")) is None


def test_shipped_tables_fit():
    for name in names():
        tables = lutc.load(name)
        if tables.inputs:
            assert misfit(tables, functions.get(tables.function)) is None, name


def test_python_refuses_in_the_same_words_unless_forced():
    given = {"range": (-4, 4), "inputs": FINE, "coefficients": "q1.6"}
    with pytest.raises(LutcError, match=r"q1\.6 cannot hold exp over \[-4, 4\]: .* go on with `force`"):
        lutc.compile("exp", 8, **given)
    assert lutc.compile("exp", 8, force=True, **given)["4"].coefficients == "q1.6"


def test_every_scale_is_judged():
    """At 2^-6 the codes reach to 1/64, where 1/x is 64; the coarser scales fit."""
    inputs = tuple(Inputs(8, 2.0**-b) for b in (2, 6))
    with pytest.raises(LutcError, match=r"q4\.11 cannot hold reciprocal .* at '6'"):
        lutc.compile("reciprocal", 8, range=(0.001, 32.0), inputs=inputs, coefficients="q4.11", search="exact")
    tables = lutc.compile("reciprocal", 16, range=(0.001, 32.0), inputs=inputs, search="exact")
    for key, table in tables.items():
        x = tables.inputs[key].x()
        x = x[x >= 0.001]
        assert np.abs(table(x) - 1 / x).max() < 1.0, key


def test_an_output_finer_than_the_coefficients_is_said():
    out = Outputs(16, 2.0**-15)
    tables = lutc.compile("sigmoid", 8, inputs=FINE, out=out, coefficients="q1.6", search="exact")
    assert coarse(tables) == "one step of q1.6 is 512 steps of the output; take q1.14 (--coefficients)"
    for given, coefficients in ((out, "q1.14"), (out, "fp32"), (Outputs(8, 2.0**-8), "q1.6")):
        tables = lutc.compile("sigmoid", 8, inputs=FINE, out=given, coefficients=coefficients, search="exact")
        assert coarse(tables) is None


def test_the_command_refuses_and_goes_on_when_forced(tmp_path):
    arguments = ["compile", "exp", "--range", "-4", "4", "--scale", "2^-4", "-o", str(tmp_path / "exp.json")]
    arguments += ["--coefficients", "q1.6"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code != 0 and "q1.6 cannot hold exp over [-4, 4]" in result.output and "--force" in result.output
    assert not list(tmp_path.iterdir()) and "Traceback" not in result.output
    assert CliRunner().invoke(main, [*arguments, "--force"]).exit_code == 0
    assert (tmp_path / "exp.json").exists()


def test_a_function_below_the_formats_step_is_refused():
    tiny = functions.user.from_callable(lambda x: 1e-6 * np.tanh(x), (-4.0, 4.0))
    tables = lutc.compile(tiny, 8, inputs=FINE, search="exact", coefficients="q1.6", force=True)
    why = misfit(tables, tiny, 8)
    assert why is not None and "q1.6 cannot hold" in why and "floating-point" in why


@pytest.mark.parametrize("coefficients", ["fp16", "fp32"])
@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_straight_functions_over_floats_take_one_line(coefficients, slope):
    """Every error is rounding there, which no penalty on entries tells apart."""
    tables = lutc.compile(lambda x: slope * np.asarray(x) + 0.3, 6, range=(-2.0, 2.0), inputs="fp16",
                          coefficients=coefficients)  # fmt: skip
    assert tables[coefficients].entries == 1 and tables.meta["search"]["cost"][coefficients] < 1e-8


def test_a_constant_may_be_off_by_less_than_a_step():
    tables = lutc.compile(lambda x: np.full_like(np.asarray(x, float), 0.3), 4, range=(-2.0, 2.0), inputs=FINE)
    x = FINE[0].x()
    assert np.abs(tables["4"](x[np.abs(x) <= 2.0]) - 0.3).max() < 2.0**-6


def test_slopes_of_their_own_are_named():
    with pytest.raises(LutcError, match=r"^slopes in q0\.1 and intercepts in q1\.6 cannot hold gelu .* wider ones"):
        lutc.compile("gelu", 8, inputs=FINE, slopes="q0.1")


def test_output_codes_are_judged_as_codes():
    tiny = functions.user.from_callable(lambda x: 1e-6 * np.tanh(x), (-4.0, 4.0))
    with pytest.raises(LutcError, match=r"q1\.6 cannot hold"):
        lutc.compile(tiny, 8, inputs=FINE, out=Outputs(8, 2.0**-27), objective="codes", coefficients="q1.6")
    coarse_output = Outputs(3, 0.125)  # from -0.5 to 0.375: the rest saturates, and every code is right
    tables = lutc.compile("tanh", 3, inputs=FINE, out=coarse_output, objective="codes", coefficients="q1.7")
    assert tables.meta["certificate"]["4"]["output"]["wrong"] == 0
