"""VHDL under GHDL and C++ under g++ give the integer model's words on every code; a broken unit fails."""

import numpy as np
import pytest
from click.testing import CliRunner

from lutc.cli import main
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.hardware import handover, tools
from lutc.hardware.options import Options
from lutc.hardware.row_units import RowOptions
from lutc.hardware.simulate import simulate
from lutc.table.bodies import Lines
from lutc.table.integer import evaluate
from lutc.table.library import load
from lutc.table.table import Table
from lutc.table.table_set import TableSet
from tests.helpers.hand_overs import CASES, OUT

ghdl = pytest.mark.skipif(not tools.installed("ghdl"), reason="needs apt-get install ghdl")
compiler = pytest.mark.skipif(not tools.installed("g++"), reason="needs apt-get install g++")
AFFINE = np.random.default_rng(1).normal(size=(2, 24))
ROWS = {
    "softmax": ("exp_8", Options(out=Inputs(8, 2.0**-7, -3), unit="softmax", row=RowOptions(33, 0.05, tried=500))),
    "layernorm": (
        "sqrt_reci_8",
        Options(out=Inputs(8, 2.0**-5), unit="layernorm", row=RowOptions(24, 0.05, -7, 0.0, tried=500)),
    ),
    "rmsnorm": (
        "sqrt_reci_8",
        Options(
            out=Inputs(8, 0.033, 9),
            unit="rmsnorm",
            row=RowOptions(24, 2.0**-4, 3, weight=tuple(AFFINE[0]), bias=tuple(AFFINE[1]), tried=500),
        ),
    ),
}


def tried(language, case, tmp_path):
    """The verdict, after the expected words were held against the integer model."""
    make, options = CASES[case]
    tables = make()
    made = handover.write(tmp_path / "unit", language, "t", tables, options)
    keys = options.keys or tuple(tables)
    if options.out is not None:
        wanted = [evaluate(tables[key], tables.inputs[key].codes(), tables.inputs[key], options.out) for key in keys]
        np.testing.assert_array_equal(np.concatenate([s.expected for s in made.streams]), np.concatenate(wanted))
    return simulate(tmp_path / "unit")


@ghdl
@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("direct")])
def test_every_code_under_ghdl(case, tmp_path):
    verdict = tried("vhdl", case, tmp_path)
    assert verdict["passed"] and verdict["wrong"] == 0 and "GHDL" in verdict["simulator"]


@compiler
@pytest.mark.parametrize("case", CASES)
def test_every_code_by_a_compiler(case, tmp_path):
    verdict = tried("hls", case, tmp_path)
    assert verdict["passed"] and verdict["wrong"] == 0 and "g++" in verdict["simulator"]


@compiler
@pytest.mark.parametrize("operator", ROWS)
def test_rows_by_a_compiler(operator, tmp_path):
    table, options = ROWS[operator]
    handover.write(tmp_path / "unit", "hls", "t", load(table), options)
    verdict = simulate(tmp_path / "unit")
    assert verdict["passed"] and verdict["words"] > 5000


@ghdl
def test_a_wrong_coefficient_fails_in_vhdl(tmp_path):
    handover.write(tmp_path / "unit", "vhdl", "t", load("gelu_8"), Options(("4",), OUT))
    source = tmp_path / "unit" / "t_4.vhd"
    text = source.read_text()
    assert "to_signed(36, 8)" in text
    source.write_text(text.replace("to_signed(36, 8)", "to_signed(44, 8)"))
    verdict = simulate(tmp_path / "unit")
    assert not verdict["passed"] and verdict["wrong"] > 0 and verdict["bench"].startswith("FAIL")
    source.write_text(text.replace("out_valid <= valid(0)", "out_valid <= '0'"))
    verdict = simulate(tmp_path / "unit")
    assert not verdict["passed"] and verdict["wrong"] == 256 and "no answer" in verdict["bench"]


@compiler
def test_a_wrong_coefficient_and_a_warning_fail_in_cpp(tmp_path):
    handover.write(tmp_path / "unit", "hls", "t", load("gelu_8"), Options(("4",), OUT))
    source = tmp_path / "unit" / "t_4.hpp"
    text = source.read_text()
    source.write_text(text.replace("{-39, -12,", "{-39, -30,", 1))
    verdict = simulate(tmp_path / "unit")
    assert not verdict["passed"] and verdict["wrong"] > 0
    source.write_text(text.replace("return lutc::saturated", "int unused; return lutc::saturated"))
    with pytest.raises(LutcError, match="g\\+\\+ failed: .*unused"):
        simulate(tmp_path / "unit")
    assert handover.read(tmp_path / "unit")["verdict"] is None


def test_names_that_vhdl_has_not():
    body = Table(Lines([], [1.0], [0.0]), coefficients="q1.6")
    tables = TableSet("t", {"a__b_": body}, {"a__b_": Inputs(8, 0.5)})
    made = handover.design("vhdl", "t", tables, Options())
    assert list(made.sources) == ["t_a_b.vhd"]
    with pytest.raises(LutcError, match="one in VHDL"):
        two = TableSet("t", {"A": body, "a": body}, {"A": Inputs(8, 0.5), "a": Inputs(8, 0.5)})
        handover.design("vhdl", "t", two, Options())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gelu_8", "--format", "vhdl", "--unit", "direct", "--out-scale", "1"], "take SystemVerilog"),
        (["silu_fplut", "--format", "vhdl"], "take SystemVerilog"),
        (["gelu_8", "--format", "hls", "--latency", "2"], "--latency is not for hls"),
        (["gelu_8", "--format", "hls", "--unit", "direct"], "give --out-scale"),
        (["gelu_8", "--format", "vhdl", "--arithmetic", "fp16_rne"], "over input codes"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_bad_input_writes_nothing(tmp_path, arguments, said):
    result = CliRunner().invoke(main, ["export", *arguments, "-o", str(tmp_path / "unit")])
    assert result.exit_code == 2 and said in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "unit").exists()
