"""Cells by Yosys: of a known circuit, and of exported units."""

import json

import pytest
from click.testing import CliRunner

from lutc.cli import main
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.hardware import handover, tools
from lutc.hardware.handover import Options
from lutc.hardware.synth import CellCounts, synthesise
from lutc.table.library import load

yosys = pytest.mark.skipif(not tools.installed("yosys"), reason="needs apt-get install yosys")
nextpnr = pytest.mark.skipif(not tools.installed("nextpnr-ice40"), reason="needs apt-get install nextpnr-ice40")
OUT = Inputs(8, 2.0**-4)


def unit(folder, **options):
    handover.write(folder, "sv", "t", load("gelu_8"), Options(("4",), OUT, **options))
    return folder


@yosys
def test_counts_what_is_there(tmp_path):
    folder = unit(tmp_path / "rtl", latency=0)
    # eight inverters in place of the unit: gates of which the number is known
    ports = (folder / "t_4.sv").read_text().split(");")[0]
    wires = "assign in_ready = out_ready; assign out_valid = in_valid;"
    (folder / "t_4.sv").write_text(f"{ports});\n{wires} assign out_data = ~in_data;\nendmodule\n")
    gates, ice40 = synthesise(folder, ("gates", "ice40"))
    assert (gates.gates, gates.depth, gates.flip_flops) == (8, 1, 0)
    assert (ice40.luts, ice40.carries, ice40.dsps) == (8, 0, 0)


@pytest.mark.slow
@yosys
def test_the_command(tmp_path):
    lines, direct = (unit(tmp_path / kind, unit=kind) for kind in ("lines", "direct"))
    arguments = ["--target", "xc7", "--json"]
    found = [json.loads(CliRunner().invoke(main, ["synth", str(f), *arguments]).output)[0] for f in (lines, direct)]
    assert found[0]["dsps"] == 1 and found[1]["dsps"] == 0 and found[0]["luts"] > found[1]["luts"] > 0
    assert found[0]["flip_flops"] >= 9  # eight of the output, one of valid
    assert "xc7" in CliRunner().invoke(main, ["synth", str(lines), "--target", "xc7"]).output


@yosys
@nextpnr
def test_frequency_of_a_chain_of_registers_and_of_a_unit(tmp_path):
    folder = unit(tmp_path / "rtl", latency=1)
    (lines,) = synthesise(folder, ("ice40",))
    # a register in place of the unit: as fast as the device allows, which a multiplication is not
    ports = (folder / "t_4.sv").read_text().split(");")[0]
    body = "always_ff @(posedge clk) begin out_data <= in_data; out_valid <= in_valid & ~rst; end"
    (folder / "t_4.sv").write_text(f"{ports});\n{body}\nassign in_ready = out_ready;\nendmodule\n")
    (register,) = synthesise(folder, ("ice40",))
    assert 20 < lines.mhz < 150 < register.mhz < 1000


@pytest.mark.slow
@yosys
@nextpnr
def test_no_frequency_of_what_does_not_fit(tmp_path):
    folder = unit(tmp_path / "rtl", latency=1)
    ports = (folder / "t_4.sv").read_text().split(");")[0]
    chain = "logic [8000:0] chain; always_ff @(posedge clk) chain <= {chain[7999:0], ^in_data & in_valid};"
    ends = "assign out_data = {8{chain[8000]}}; assign {in_ready, out_valid} = {out_ready, rst};"
    (folder / "t_4.sv").write_text(f"{ports});\n{chain}\n{ends}\nendmodule\n")
    (large,) = synthesise(folder, ("ice40",))
    assert large.mhz is None and large.flip_flops > 8000


def test_without_nextpnr_a_word_says_so(tmp_path, monkeypatch):
    found = [CellCounts("t", target, 1, 0, 0, 0, 0, 0, 1) for target in ("ice40", "gates")]
    monkeypatch.setattr("lutc.commands.synth.synthesise", lambda folder, targets: [found[targets == ("gates",)]])
    monkeypatch.setattr("lutc.commands.synth.installed", lambda program: False)
    said = CliRunner().invoke(main, ["synth", str(tmp_path), "--target", "ice40"])
    assert "apt-get install nextpnr-ice40" in said.stderr and said.stdout.splitlines()[-1].endswith(" -")
    assert CliRunner().invoke(main, ["synth", str(tmp_path), "--target", "gates"]).stderr == ""


def test_bad_input(tmp_path, monkeypatch):
    with pytest.raises(LutcError, match="cannot read"):
        synthesise(tmp_path)
    folder = unit(tmp_path / "rtl")
    with pytest.raises(LutcError, match="unknown target"):
        synthesise(folder, ("asic",))
    monkeypatch.setattr(tools.shutil, "which", lambda program: None)
    with pytest.raises(LutcError, match="apt-get install yosys"):
        synthesise(folder)
