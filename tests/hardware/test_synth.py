"""Cells by Yosys: of a known circuit, and of exported units."""

import json

import pytest
from click.testing import CliRunner

from lutc.cli import main
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.hardware import handover, tools
from lutc.hardware.handover import Options
from lutc.hardware.synth import synthesise
from lutc.table.library import load

yosys = pytest.mark.skipif(not tools.installed("yosys"), reason="needs apt-get install yosys")
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


def test_bad_input(tmp_path, monkeypatch):
    with pytest.raises(LutcError, match="cannot read"):
        synthesise(tmp_path)
    folder = unit(tmp_path / "rtl")
    with pytest.raises(LutcError, match="unknown target"):
        synthesise(folder, ("asic",))
    monkeypatch.setattr(tools.shutil, "which", lambda program: None)
    with pytest.raises(LutcError, match="apt-get install yosys"):
        synthesise(folder)
