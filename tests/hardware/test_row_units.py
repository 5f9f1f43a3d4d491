"""Row units against the integer models of `lutc.hardware.rows`: every word that a simulator gives, and the end of every
row.
"""

import numpy as np
import pytest
from click.testing import CliRunner

from lutc.cli import main
from lutc.errors import LutcError
from lutc.formats.codes import Inputs, Outputs
from lutc.hardware import handover, row_units, tools
from lutc.hardware.handover import Options
from lutc.hardware.row_units import RowOptions
from lutc.hardware.rows import IntegerNormModel, IntegerSoftmaxModel, OutputCodes
from lutc.hardware.rtl import bench, rows
from lutc.hardware.simulate import simulate
from lutc.hardware.streams import Stream
from lutc.table.library import load

icarus = pytest.mark.skipif(not tools.installed("iverilog"), reason="needs apt-get install iverilog")
verilator = pytest.mark.skipif(not tools.installed("verilator"), reason="needs apt-get install verilator")
SIGNED_OUT = Inputs(8, 2.0**-5)
SIGNED, ODD = OutputCodes(2.0**-5, 3, -128, 127), OutputCodes(0.033, -3, -128, 127)
AFFINE = np.random.default_rng(1).normal(size=(2, 24))


def softmax(scale, out, longest):
    model = IntegerSoftmaxModel.build("exp_8", "reci_8", scale, out)
    return model, lambda name: rows.softmax(name, model, longest), RowOptions(longest, scale, tried=24), "softmax"


def norm(n, centred, zero_point, weight, bias, out, eps=1e-5):
    model = IntegerNormModel.build("sqrt_reci_8", n, 0.05, zero_point, eps, weight, bias, centred, out)
    return model, lambda name: rows.norm(name, model), RowOptions(n, 0.05, tried=24), "layernorm"


CASES = {
    "softmax": softmax(2.0**-4, OutputCodes(2.0**-8, 0, 0, 255), 20),
    "softmax_any_scale": softmax(0.05, OutputCodes(0.0043, 3, -128, 127), 33),
    "softmax_of_one": softmax(2.0**-3, SIGNED, 1),
    "rms": norm(16, False, 0, None, None, SIGNED),
    "rms_weight": norm(24, False, -128, AFFINE[0], None, ODD),
    "rms_one_weight": norm(5, False, 9, np.full(5, 0.5), np.zeros(5), SIGNED),
    "layer": norm(24, True, -7, AFFINE[0], AFFINE[1], SIGNED),
    "layer_bias": norm(24, True, 3, None, AFFINE[1], ODD),
    "layer_no_eps": norm(7, True, 127, None, None, SIGNED, eps=0.0),
    "layer_of_one": norm(1, True, 0, None, None, SIGNED),
}


def written(tmp_path) -> list[Stream]:
    streams = []
    for name, (model, texts, options, operator) in CASES.items():
        fed = row_units.stimuli(operator, options)
        last = np.concatenate([np.append(np.zeros(row.size - 1, np.int64), 1) for row in fed])
        expected = np.concatenate([model(row) for row in fed])
        streams.append(Stream(name, rows.PORTS, np.concatenate(fed), expected, last=last))
        for file, text in {**texts(name), **bench.files(streams[-1])}.items():
            (tmp_path / file).write_text(text)
    (tmp_path / "t_tb.sv").write_text(bench.top("t", streams))
    return streams


@icarus
def test_every_row_under_icarus(tmp_path):
    streams = written(tmp_path)
    sources = sorted(path.name for path in tmp_path.glob("*.sv"))
    tools.run(["iverilog", "-g2012", "-s", "t_tb", "-o", "simulation", *sources], tmp_path)
    said = tools.run(["vvp", "-n", "simulation"], tmp_path)
    assert f"PASS {sum(stream.words.size for stream in streams)} words twice" in said, said
    for stream in streams:
        got = [int(line, 16) for line in (tmp_path / f"{stream.module}_out.txt").read_text().split()]
        np.testing.assert_array_equal(got, stream.expected & 0xFF)


@icarus
def test_the_end_of_a_row_is_checked(tmp_path):
    options = Options(out=Inputs(8, 2.0**-7), unit="softmax", row=RowOptions(6, 2.0**-4, tried=12))
    handover.write(tmp_path / "rtl", "sv", "t", load("exp_8"), options)
    assert simulate(tmp_path / "rtl", "iverilog")["passed"]
    source = tmp_path / "rtl" / "t_softmax.sv"
    source.write_text(source.read_text().replace("out_last <= last_g", "out_last <= 1'b0"))
    assert not simulate(tmp_path / "rtl", "iverilog")["passed"]


@verilator
def test_lint(tmp_path):
    written(tmp_path)
    sources = [f"{name}.sv" for name in CASES]
    said = tools.run(
        ["verilator", "--lint-only", "-Wall", "-Wno-DECLFILENAME", "-Wno-MULTITOP", *sources],
        tmp_path,
    )
    assert "%" not in said


@pytest.mark.skipif(not tools.installed("yosys"), reason="needs apt-get install yosys")
def test_yosys_reads_it(tmp_path):
    written(tmp_path)
    for name in ("softmax", "layer"):
        tools.run(
            ["yosys", "-q", "-p", f"read_verilog -sv {name}.sv; hierarchy -check -top {name}; proc; check -assert"],
            tmp_path,
        )


@verilator
@pytest.mark.slow
@pytest.mark.parametrize("operator", row_units.OPERATORS)
def test_ten_thousand_rows(operator, tmp_path):
    table, rtl = "exp_8" if operator == "softmax" else "sqrt_reci_8", str(tmp_path / "rtl")
    arguments = ["--unit", operator, "--row-length", "32", "--in-scale", "2^-4", "--out-scale", "2^-7", "-o", rtl]
    made = CliRunner().invoke(main, ["export", table, "--format", "sv", *arguments])
    assert made.exit_code == 0, made.output
    verdict = simulate(tmp_path / "rtl", "verilator")
    assert verdict["passed"] and handover.read(tmp_path / "rtl")["units"][0]["rows_tried"] == 10_000


@icarus
def test_weight_and_bias_from_files(tmp_path):
    np.save(tmp_path / "w.npy", AFFINE[0].astype(np.float32))
    (tmp_path / "b.txt").write_text("\n".join(map(str, AFFINE[1])))
    arguments = ["export", "sqrt_reci_8", "--format", "sv", "--unit", "layernorm", "--row-length", "24"]
    arguments += ["--in-scale", "2^-4", "--out-scale", "2^-5", "--weight", str(tmp_path / "w.npy")]
    made = CliRunner().invoke(main, [*arguments, "--bias", str(tmp_path / "b.txt"), "-o", str(tmp_path / "rtl")])
    assert made.exit_code == 0, made.output
    row = RowOptions(24, 2.0**-4, weight=tuple(AFFINE[0].astype(np.float32)), bias=tuple(AFFINE[1]))
    want = handover.design("sv", "sqrt_reci_8", load("sqrt_reci_8"), Options(out=SIGNED_OUT, unit="layernorm", row=row))
    (module,) = (name for name in want.sources if name.endswith("_affine.memh"))
    assert (tmp_path / "rtl" / module).read_text() == want.sources[module]
    for text, said in (("1 2 3", "each of the 24"), ("1 x", "cannot read numbers"), ("nan " * 24, "finite")):
        (tmp_path / "b.txt").write_text(text)
        refused = CliRunner().invoke(main, [*arguments, "--bias", str(tmp_path / "b.txt"), "-o", str(tmp_path / "no")])
        assert refused.exit_code == 2 and said in refused.stderr and not (tmp_path / "no").exists()


def test_stimuli():
    fed = row_units.stimuli("softmax", RowOptions(40, 0.1, tried=1000))
    lengths = {row.size for row in fed}
    assert len(fed) == 1000 and min(lengths) == 1 and max(lengths) == 40
    assert all(row.min() >= -128 and row.max() <= 127 for row in fed)
    assert any((row == -128).all() for row in fed) and any((row == 127).all() for row in fed)
    assert {row.size for row in row_units.stimuli("rmsnorm", RowOptions(9, 0.1, tried=50))} == {9}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["exp_8", "--unit", "softmax", "--out-scale", "1", "--row-length", "8"], "needs --row-length and --in-scale"),
        (["exp_8", "--unit", "softmax", "--in-scale", "1", "--row-length", "8"], "give --out-scale"),
        (["exp_8", "--row-length", "8", "--out-scale", "1"], "--row-length is for --unit softmax"),
        (["gelu_8", "--unit", "softmax", "--in-scale", "1", "--row-length", "8", "--out-scale", "1"], "table of exp"),
        (
            ["sqrt_reci_8", "--unit", "rmsnorm", "--in-scale", "1", "--row-length", "0", "--out-scale", "1"],
            "1 to 16384",
        ),
        (
            ["exp_8", "--unit", "softmax", "--in-scale", "1", "--row-length", "8", "--out-scale", "1", "--key", "4"],
            "neither --key",
        ),
        (
            ["exp_8", "--unit", "softmax", "--in-scale", "1", "--row-length", "8", "--out-scale", "2^-8"]
            + ["--out-rounding", "half_even"],
            "rounds halves up",
        ),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_bad_input_writes_nothing(tmp_path, arguments, said):
    result = CliRunner().invoke(main, ["export", *arguments, "--format", "sv", "-o", str(tmp_path / "rtl")])
    assert result.exit_code == 2 and said in result.stderr and len(result.stderr.splitlines()) == 1, result.stderr
    assert not (tmp_path / "rtl").exists()


def test_options():
    with pytest.raises(LutcError, match="these need both"):
        Options(unit="softmax")
    row = RowOptions(3, 0.1, weight=(1.0, 2.0, 3.0))
    options = Options(out=Outputs(8, 0.1), unit="rmsnorm", row=row)
    assert Options.of(options.as_json()) == options
