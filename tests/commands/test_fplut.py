"""`lutc compile --search cutpoints` as it is typed, and its one-line refusals."""

import json

import pytest
from click.testing import CliRunner

from lutc.cli import main
from lutc.table import table_set

CUTS = "-20.359375,-17.109375,-8.3671875,-1.9755859375,-0.255615234375,-0.007244110107421875,"
CUTS += "0.0072174072265625,0.228515625,1.58203125,10.46875,65504"


def run(*arguments):
    return CliRunner().invoke(main, ["compile", *map(str, arguments)])


def test_fixed_cut_points(tmp_path):
    path = tmp_path / "silu.json"
    result = run("silu", "--search", "cutpoints", "--cut-points", CUTS, "-o", path)
    assert result.exit_code == 0, result.output
    tables = table_set.read(path)
    assert list(tables) == ["fp16", "fp32"] and tables.name == "silu"
    assert ",".join(f"{cut:.18g}" for cut in tables["fp32"].body.cut_points) == CUTS
    assert "259 values" in result.output and "fp16_trunc" in result.output
    again = tmp_path / "again.json"
    file = tmp_path / "cuts.txt"
    file.write_text(CUTS.replace(",", "\n"))
    assert run("silu", "--search", "cutpoints", "--cut-points", file, "-o", again).exit_code == 0
    assert again.read_bytes() == path.read_bytes()


def test_every_option_reaches_the_table(tmp_path):
    path = tmp_path / "t.json"
    typed = (
        "tanh --search cutpoints --n-cut-points 5 --pieces 1,8,4,1 --values sampled --formats bf16 --objective "
        "squared --inputs bf16"
    )
    assert (
        run(
            *typed.split(), "--range", -4, 4, "--tails", "free", "--quality", "quick", "--name", "mine", "-o", path
        ).exit_code
        == 0
    )
    tables = table_set.read(path)
    body = tables["bf16"].body
    assert tables.name == "mine" and body.pieces == (1, 8, 4, 1) and tables["bf16"].left is None
    assert tables.meta["objective"] == "squared" and tables.meta["search"]["bf16"]["input"] == "bf16"
    assert body.cut_points[0] >= -4 and body.cut_points[-1] <= 4


def test_the_range_is_told_apart_from_all_inputs(tmp_path):
    path = tmp_path / "t.json"
    output = run(
        "log", "--search", "cutpoints", "--prologue", "none", "--range", "0.5", "4", "--formats", "fp32", "-o", path
    ).output
    (inside, everywhere) = (
        next(line for line in output.splitlines() if f"fp16 inputs, exact{where}" in line)
        for where in (", in [0.5, 4] ", "  ")
    )
    assert float(inside.split()[-5]) < 1e-3 < float(everywhere.split()[-5])


def test_pieces_auto_and_exponent_addressing(tmp_path):
    path = tmp_path / "t.json"
    assert (
        run(
            "tanh", "--search", "cutpoints", "--pieces", "auto", "--n-cut-points", 6, "--formats", "fp32", "-o", path
        ).exit_code
        == 0
    )
    assert sum(table_set.read(path)["fp32"].body.pieces) <= 98
    result = run(
        "tanh",
        "--search",
        "cutpoints",
        "--addressing",
        "exponent",
        "--budget",
        64,
        "--formats",
        "fp32",
        "--json",
        "-o",
        path,
    )
    assert result.exit_code == 0
    assert json.loads(result.output)["certificate"]["fp32"]["fp16"]["domain"]["mean_relative"] < 1e-3
    table = table_set.read(path)["fp32"]
    assert table.body.addressing == "exponent" and table.entries <= 64


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["silu", "--search", "cutpoints", "--bits", "4"], "--bits does not apply"),
        (["silu", "--pieces", "4"], "--pieces belongs to --search cutpoints"),
        (["silu", "--search", "cutpoints", "--cut-points", "1,2"], "at least 3 cut points"),
        (["silu", "--search", "cutpoints", "--cut-points", "1,x,3"], "cut points are numbers"),
        (["silu", "--search", "cutpoints", "--cut-points", "1,0,3"], "increase strictly"),
        (["silu", "--search", "cutpoints", "--cut-points", "0,0.1,3"], "no finite value of fp16"),
        (["silu", "--search", "cutpoints", "--pieces", "x"], "power of two"),
        (["silu", "--search", "cutpoints", "--pieces", "12"], "powers of two"),
        (["silu", "--search", "cutpoints", "--formats", "fp8"], "fp16, bf16, fp32"),
        (["silu", "--search", "cutpoints", "--objective", "codes"], "choose one of"),
        (["silu", "--search", "cutpoints", "--budget", "64"], "--budget belongs to --addressing exponent"),
        (
            ["silu", "--search", "cutpoints", "--addressing", "exponent", "--pieces", "4"],
            "--pieces belongs to --addressing cells",
        ),
        (["silu", "--search", "cutpoints", "--n-cut-points", "5000"], "at most 128 cut points; given 5000"),
    ],
)
def test_refusals_write_nothing(tmp_path, arguments, message):
    path = tmp_path / "t.json"
    result = run(*arguments, "-o", path)
    assert result.exit_code == 2 and not path.exists()
    line = result.stderr.strip()
    assert message in line and "\n" not in line
