"""Generated SystemVerilog, run by a simulator on every code, gives the model's words; a broken unit fails."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from lutc.cli import main
from lutc.errors import LutcError
from lutc.hardware import handover, tools
from lutc.hardware.handover import Options
from lutc.hardware.simulate import simulate
from lutc.table.integer import evaluate
from lutc.table.library import load
from tests.helpers.hand_overs import CASES, OUT

icarus = pytest.mark.skipif(not tools.installed("iverilog"), reason="needs apt-get install iverilog")
verilator = pytest.mark.skipif(not tools.installed("verilator"), reason="needs apt-get install verilator")


@icarus
@pytest.mark.parametrize("case", CASES)
def test_every_code_under_icarus(case, tmp_path):
    make, options = CASES[case]
    tables = make()
    handover.write(tmp_path / "rtl", "sv", "t", tables, options)
    verdict = simulate(tmp_path / "rtl", "iverilog")
    assert verdict["passed"] and verdict["wrong"] == 0
    keys = options.keys or tuple(tables)
    assert verdict["words"] == sum(1 << tables.inputs[key].bits for key in keys)
    # the expected words, which the bench and the verdict go by, are those of the integer model
    streams = handover.design("sv", "t", tables, options).streams
    expected = [evaluate(tables[key], tables.inputs[key].codes(), tables.inputs[key], options.out) for key in keys]
    if options.out is not None:
        np.testing.assert_array_equal(np.concatenate([s.expected for s in streams]), np.concatenate(expected))


@verilator
@pytest.mark.parametrize("case", ["scales of one unit, by multipliers"])
def test_every_code_under_verilator_without_a_warning(case, tmp_path):
    make, options = CASES[case]
    handover.write(tmp_path / "rtl", "sv", "t", make(), options)
    assert simulate(tmp_path / "rtl", "verilator")["passed"]


@verilator
@pytest.mark.parametrize("case", CASES)
def test_lint(case, tmp_path):
    make, options = CASES[case]
    made = handover.write(tmp_path / "rtl", "sv", "t", make(), options)
    sources = [name for name in made.sources if name.endswith(".sv")]
    for stream in made.streams:
        said = tools.run(
            ["verilator", "--lint-only", "-Wall", "-Wno-DECLFILENAME", "--top", stream.module, *sources],
            tmp_path / "rtl",
        )
        assert "%" not in said


@pytest.mark.skipif(not tools.installed("yosys"), reason="needs apt-get install yosys")
@pytest.mark.parametrize("case", ["any scale, any zero point", "direct, 11 bits in, from a file"])
def test_yosys_reads_it(case, tmp_path):
    make, options = CASES[case]
    made = handover.write(tmp_path / "rtl", "sv", "t", make(), options)
    sources = " ".join(name for name in made.sources if name.endswith(".sv"))
    tools.run(
        ["yosys", "-q", "-e", ".*", "-p", f"read_verilog -sv {sources}; hierarchy -check; proc; check -assert"],
        tmp_path / "rtl",
    )


@icarus
def test_a_loadable_unit_answers_as_what_is_written_into_it(tmp_path):
    """gelu's unit with silu's coefficients is silu's."""
    options, folder = Options(("4",), OUT, loadable=True), tmp_path / "rtl"
    handover.write(folder, "sv", "t", load("gelu_8"), options)
    other = handover.design("sv", "t", load("silu_8"), options)
    source = (folder / "t_4.sv").read_text().splitlines()[2:]
    assert source == other.sources["t_4.sv"].splitlines()[2:]
    assert (folder / "t_4_load.memh").read_text() != other.bench["t_4_load.memh"]
    (folder / "t_4_load.memh").write_text(other.bench["t_4_load.memh"])
    (folder / "t_4_expected.memh").write_text(other.bench["t_4_expected.memh"])
    assert "PASS" in simulate(folder, "iverilog")["bench"]


@icarus
def test_a_wrong_coefficient_fails_and_the_manifest_says_so(tmp_path):
    folder = tmp_path / "rtl"
    run = CliRunner()
    assert (
        run.invoke(
            main, ["export", "gelu_8", "--format", "sv", "--key", "4", "--out-scale", "2^-4", "-o", str(folder)]
        ).exit_code
        == 0
    )
    assert json.loads((folder / "manifest.json").read_text())["verdict"] is None
    passed = run.invoke(main, ["simulate", str(folder), "--simulator", "iverilog"])
    assert passed.exit_code == 0 and "passed: 256 words, 0 wrong" in passed.output
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["verdict"]["passed"] and "4" in manifest["certificate"]
    source = folder / "gelu_8_4.sv"
    source.write_text(source.read_text().replace("{8'sd36, 10'sd0}", "{8'sd44, 10'sd0}"))
    failed = run.invoke(main, ["simulate", str(folder), "--simulator", "iverilog", "--json"])
    verdict = json.loads(failed.output)
    assert failed.exit_code == 1 and not verdict["passed"] and verdict["wrong"] > 0
    assert json.loads((folder / "manifest.json").read_text())["verdict"] == verdict
    # an expected word that was changed deceives the bench, and not the comparison with the model
    source.write_text(source.read_text().replace("{8'sd44, 10'sd0}", "{8'sd36, 10'sd0}"))
    words = (folder / "gelu_8_4_expected.memh").read_text().splitlines()
    words[-1] = "00"
    (folder / "gelu_8_4_expected.memh").write_text("\n".join(words))
    (folder / "gelu_8_4.sv").write_text(
        source.read_text().replace("assign out_data = code_d", "assign out_data = code_d == 8'sd127 ? 8'sd0 : code_d")
    )
    verdict = simulate(folder, "iverilog")
    assert not verdict["passed"] and verdict["wrong"] == 1


@icarus
def test_a_unit_that_does_not_compile_or_never_answers_leaves_no_verdict(tmp_path):
    folder = tmp_path / "rtl"
    handover.write(folder, "sv", "t", load("gelu_8"), Options(("4",), OUT))
    simulate(folder, "iverilog")
    source = folder / "t_4.sv"
    text = source.read_text()
    source.write_text(text.replace("endmodule", "endmodul"))
    with pytest.raises(LutcError, match="iverilog failed"):
        simulate(folder, "iverilog")
    assert handover.read(folder)["verdict"] is None
    source.write_text(text.replace("assign out_valid = valid", "assign out_valid = 1'b0"))
    verdict = simulate(folder, "iverilog")
    assert not verdict["passed"] and verdict["wrong"] == 256 and "no answer" in verdict["bench"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["silu_fplut", "--format", "sv", "--out-scale", "1"], "is a table of float inputs"),
        (["gelu_8", "--format", "sv", "--unit", "direct"], "give --out-scale"),
        (["gelu_8", "--format", "csv", "--latency", "2"], "--latency is for sv"),
        (["gelu_8", "--format", "sv", "--unit", "direct", "--out-scale", "1", "--latency", "4"], "latency of 0 to 2"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_bad_input_writes_nothing(tmp_path, arguments, said):
    result = CliRunner().invoke(main, ["export", *arguments, "-o", str(tmp_path / "rtl")])
    assert result.exit_code == 2 and said in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "rtl").exists()


def test_folders(tmp_path, monkeypatch):
    with pytest.raises(LutcError, match="cannot read"):
        simulate(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(LutcError, match=r"other files \(notes.txt\)"):
        handover.write(tmp_path, "sv", "t", load("gelu_8"), Options(out=OUT))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    folder = tmp_path / "rtl"
    handover.write(folder, "sv", "t", load("gelu_8"), Options(out=OUT))
    handover.write(folder, "sv", "t", load("gelu_8"), Options(("4",), OUT))  # over an earlier one
    assert not (folder / "t_5.sv").exists()
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(LutcError, match="no manifest"):
        simulate(folder)
    monkeypatch.setattr(shutil, "which", lambda program: None)
    handover.write(tmp_path / "new", "sv", "t", load("gelu_8"), Options(("4",), OUT))
    with pytest.raises(LutcError, match="apt-get install verilator or iverilog"):
        simulate(tmp_path / "new")
    assert handover.read(tmp_path / "new")["verdict"] is None


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("format", ["sv"]),
        ("sources", "t_4.sv"),
        ("sources", ["../t_4.sv"]),
        ("sources", []),
        ("bench", ["/etc/passwd"]),
        ("bench", ["t_4.sv"]),
        ("table", ["t.table.json"]),
        ("table", "../t.table.json"),
        ("name", ".."),
        ("top", "other"),
        ("units", []),
        ("units", {}),
        ("units", [1]),
        ("options", []),
        ("options", {"latency": 2}),
    ],
)
def test_a_manifest_that_says_otherwise_is_one_line_and_nothing_runs(tmp_path, entry, value):
    folder = tmp_path / "rtl"
    handover.write(folder, "sv", "t", load("gelu_8"), Options(("4",), OUT))
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, entry: value}))
    before = sorted(path for path in tmp_path.rglob("*"))
    result = CliRunner().invoke(main, ["simulate", str(folder)])
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1
    assert "write the folder again" in result.stderr
    assert sorted(path for path in tmp_path.rglob("*")) == before
    assert json.loads((folder / "manifest.json").read_text())["verdict"] is None
