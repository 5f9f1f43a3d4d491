"""The command line: what a user types, what comes back, and that bad input is one line and exit code 2."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from lutc.cli import COMMANDS, main
from lutc.table.library import load

ROOT = Path(__file__).resolve().parents[2]
COMPILER_COMMANDS = [name for name in COMMANDS if name not in ("bench", "taylor")]


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output + result.stderr
    return result


def refused(*arguments):
    """The one line that bad input gets."""
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 2, result.output
    line = result.stderr.strip()
    assert line.startswith("lutc: ") and "\n" not in line and "Traceback" not in line
    return line


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_stands_in_the_readme(name):
    result = run(name, "--help")
    assert result.output.startswith("Usage:") and len(result.output.splitlines()) > 5
    assert f"lutc {name}" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_short_help_is_in_the_group(name):
    assert COMMANDS[name][1] in re.sub(r"\s+", " ", run("--help").output)


def test_every_option_has_help_or_says_what_it_takes():
    for name in COMPILER_COMMANDS:
        command = main.get_command(click.Context(main), name)
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help or isinstance(parameter.type, click.Choice), f"{name} {parameter.name}"


def test_compile_writes_a_table_and_says_how_good_it_is(tmp_path):
    path = tmp_path / "g.json"
    output = run("compile", "gelu", "--entries", 8, "--through-zero", "-o", path).output
    assert "0.0 %" in output and "1.773e-05" in output and f"wrote {path}" in output
    assert path.read_bytes() == (ROOT / "pretrained/gelu_8.json").read_bytes()
    assert output.replace(str(path), "pretrained/gelu_8.json") in (ROOT / "README.md").read_text()
    assert "certificate holds" in run("certify", path).output


def test_compile_prints_json_for_programs(tmp_path):
    data = json.loads(
        run("compile", "exp", "--entries", 4, "--scale", "2^-4", "--json", "-o", tmp_path / "e.json").output
    )
    assert data["file"] == str(tmp_path / "e.json") and data["search"]["gap"] == {"4": 0.0}
    assert data["certificate"]["4"]["range"]["inputs"] == 129


@pytest.mark.parametrize(
    "options",
    [
        ["--share", "all"],
        ["--share", "coefficients", "--generations", 5],
        ["--tails", "free"],
        ["--symmetry"],
        ["--search", "exact"],
        ["--search", "classic", "--generations", 5],
        ["--max-error", "1lsb"],
        ["--objective", "codes", "--scale", "2^-4", "--out-scale", "2**-4"],
        ["--objective", "relative", "--scale", "0.05", "--zero-point", 3],
        ["--bits", 6, "--scale", 0.25],
        ["--coefficients", "fp8_e4m3"],
        ["--weights", "gauss:2"],
        ["--range", -2, 2],
    ],
    ids=lambda o: " ".join(map(str, o)),
)
def test_what_compile_writes_is_what_certify_finds(tmp_path, options):
    entries = [] if "--max-error" in options else ["--entries", 6]
    run("compile", "gelu", *entries, *options, "-o", tmp_path / "t.json")
    assert "certificate holds" in run("certify", tmp_path / "t.json").output


def test_a_gap_is_said_to_be_what_it_is(tmp_path):
    """To the proven optimum; to that of rounded lines; or, where only a bound is known, at most so much."""
    wide = run(
        "compile", "gelu", "--bits", 16, "--scale", "2^-10", "--through-zero", "--generations", 2, "-o",
        tmp_path / "t.json",
    ).output  # fmt: skip
    assert " at most " in wide and "lines rounded" not in wide
    fine = run("compile", "gelu", "--coefficients", "q1.10", "--scale", "2^-4", "-o", tmp_path / "t.json").output
    assert " at most " not in fine and "the optimum is that of such lines" in fine
    shared = run(
        "compile", "gelu", "--coefficients", "q1.10", "--share", "all", "--scale", "2^-4", "-o", tmp_path / "t.json"
    ).output
    assert "the optimum is that of such lines" in shared


def test_a_bound_chooses_the_entries_and_the_name_of_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "wrote silu_5.json" in run("compile", "silu", "--max-error", "1lsb", "--out-scale", "2^-4").output
    assert max(table.entries for table in load("silu_5.json").values()) == 5


def test_a_function_of_the_user(tmp_path, monkeypatch):
    (tmp_path / "activations.py").write_text("import numpy as np\ndef snake(x):\n    return x + np.sin(x) ** 2\n")
    monkeypatch.chdir(tmp_path)
    run("compile", "activations:snake", "--range", -4, 4)
    assert load("snake_8.json").function == "activations:snake"
    (tmp_path / "activations.py").unlink()
    sys.modules.pop("activations", None)
    result = run("certify", "snake_8.json")  # a file does not make its reader import code: it carries a sample
    assert "judged by the sample" in result.stderr and "certificate holds" in result.output
    assert run("compare", "snake_8.json").exit_code == run("plot", "snake_8.json", "-o", "s.png").exit_code == 0
    (tmp_path / "activations.py").write_text("import numpy as np\ndef snake(x):\n    return x + np.sin(x) ** 2\n")
    assert "certificate holds" in run("certify", "snake_8.json", "--function", "activations:snake").output


def test_certify_exits_with_1_where_a_claim_does_not_hold(tmp_path):
    path = tmp_path / "g.json"
    run("compile", "gelu", "--scale", "2^-4", "-o", path)
    path.write_text(path.read_text().replace("0.890625", "0.875"))
    result = CliRunner().invoke(main, ["certify", str(path)])
    assert result.exit_code == 1 and "does not hold: 4.range.mean_squared" in result.stderr


def test_certify_tells_floats_in_a_few_lines():
    output = run("certify", "log_fplut").output
    assert len(output.splitlines()) < 25 and "fp32, bf16" in output and "all, fp16_trunc" in output
    certificate = load("log_fplut").meta["certificate"]["fp32"]["fp16"]["domain"]
    assert f"{certificate['mean_relative']:.3g}" in output and f"{certificate['worst_relative']['x']:g}" in output
    assert "off by more than 1 %: fp16 values, fp16 inputs: inputs 16, from 0.985352, to 0.999512" in output


def test_show_prints_segments_and_json_that_loads(tmp_path):
    output = run("show", "gelu_8", "--key", 4).output
    assert "(-2.4375, -0.71875]" in output and "-0.109375" in output
    (tmp_path / "copy.json").write_text(run("show", "gelu_8", "--json").output)
    assert load(tmp_path / "copy.json").dumps() == load("gelu_8").dumps()


def test_compare_puts_tables_side_by_side_and_appends_rows(tmp_path):
    rows = tmp_path / "rows.csv"
    for _ in range(2):
        output = run("compare", "gelu_8", "gelu_16", "--csv", rows).output
    assert "1.773e-05" in output and "3.345e-06" in output
    lines = rows.read_text().splitlines()
    assert lines[0] == "table,version,function,key,entries,measure,value" and len(lines) == 1 + 2 * 14


def test_functions_lists_every_function():
    from lutc.functions import FUNCTIONS

    listed = json.loads(run("functions", "--json").output)
    assert [row["name"] for row in listed] == list(FUNCTIONS)
    assert all(name in run("functions").output for name in FUNCTIONS)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["gelv"], "did you mean 'gelu'"),
        (["log", "--range", -1, 2], "domain"),
        (["gelu", "--range", 4, -4], "range"),
        (["gelu", "--entries", 1], "at least 2"),
        (["gelu", "--entries", 300], "256 samples"),
        (["gelu", "--coefficients", "q9.99"], "q9.99"),
        (["gelu", "--coefficients", "q0.7"], "cannot hold"),
        (["square", "--range", -100, 100, "--coefficients", "q1.6"], "cannot hold"),
        (["gelu", "--max-error", "1e-9"], "no line"),
        (["gelu", "--max-error", "-1lsb"], "positive"),
        (["gelu", "--search", "greedy"], "--max-error"),
        (["gelu", "--max-error", "0.01", "--entries", 4], "leave --entries out"),
        (["gelu", "--max-error", "0.01", "--population", 10], "genetic search"),
        (["gelu", "--search", "exact", "--generations", 10], "genetic and the classic search"),
        (["gelu", "--out-bits", 9], "add --out-scale"),
        (["gelu", "--objective", "ulp"], "--search cutpoints"),
        (["gelu", "--name", "lutc"], "anything but 'lutc'"),
        (["gelu", "--objective", "codes"], "--out-scale"),
        (["gelu", "--scale", 1e9], "more than the 1 sample"),
        (["log", "--scale", 8], "lies in"),
        (["gelu", "--scale", -1], "positive"),
        (["gelu", "--scale", "nan"], "positive"),
        (["gelu", "--bits", 33], "2 to 16"),
        (["gelu", "--zero-point", 300], "zero point"),
        (["exp", "--symmetry"], "no symmetry"),
        (["gelu", "--weights", "poisson"], "gauss"),
        (["gelu", "-o", "no/such/folder/t.json"], "no folder"),
        (["nothing.here:f", "--range", 0, 1], "nothing.here"),
        (["math:sin"], "range"),
    ],
    ids=lambda v: " ".join(map(str, v)) if isinstance(v, list) else "",
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert said in refused("compile", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_user_function_that_fails_is_named(tmp_path, monkeypatch):
    (tmp_path / "broken_activations.py").write_text(
        "def raises(x):\n    raise RuntimeError('boom')\ndef nan(x):\n    return x * float('nan')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert "boom" in refused("compile", "broken_activations:raises", "--range", 0, 1)
    assert "finite" in refused("compile", "broken_activations:nan", "--range", 0, 1)


def test_bad_files_are_one_line(tmp_path):
    whole = (ROOT / "pretrained/gelu_8.json").read_text()
    for name, text in {
        "empty": "",
        "cut": whole[:500],
        "list": "[]",
        "nan": whole.replace("-0.109375", "NaN", 1),
        "deep": "[" * 100_000,
    }.items():
        path = tmp_path / f"{name}.json"
        path.write_text(text)
        for command in ("show", "certify", "compare"):
            assert name in refused(command, path)
    assert "did you mean 'gelu_8'" in refused("show", "gelu_9")
    assert "cannot read" in refused("show", tmp_path / "missing.json")


def test_an_unwritable_path_leaves_the_old_file(tmp_path):
    folder = tmp_path / "table.json"
    folder.mkdir()
    result = CliRunner().invoke(main, ["compile", "gelu", "-o", str(folder)])
    assert result.exit_code == 2 and list(folder.iterdir()) == []


def test_interrupting_a_compile_leaves_nothing_half_written(tmp_path):
    path = tmp_path / "table.json"
    path.write_text("old")
    command = [
        sys.executable,
        "-m",
        "lutc",
        "compile",
        "gelu",
        "--search",
        "classic",
        "--generations",
        "100000",
        "-o",
        str(path),
    ]
    listening = partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # tests that run in the background ignore the signal, and so would this
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listening
    ) as process:
        time.sleep(8)
        process.send_signal(signal.SIGINT)
        try:
            _, stderr = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 1 and "Traceback" not in stderr
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["table.json"]


def test_nothing_is_overwritten_unless_it_is_the_same_request(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = run("compile", "gelu", "--scale", "2^-4")
    assert "wrote gelu_8.json" in first.output
    before = (tmp_path / "gelu_8.json").read_bytes()
    assert "wrote gelu_8.json" in run("compile", "gelu", "--scale", "1/16").output  # the same, written otherwise
    assert "--force" in refused("compile", "gelu", "--scale", "2^-3")
    assert (tmp_path / "gelu_8.json").read_bytes() == before
    run("compile", "gelu", "--scale", "2^-3", "--force")
    assert list(load("gelu_8.json")) == ["3"]
    printed = run("compile", "gelu", "--scale", "2^-4", "-o", "-").output
    assert printed.encode() == before


def test_float_inputs_have_no_codes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "--bits" in refused("compile", "gelu", "--inputs", "fp16", "--bits", "8")
    assert "--out-scale" in refused("compile", "gelu", "--inputs", "fp16", "--out-scale", "2^-4")


def test_help_groups_the_options_as_a_request_has_them():
    output = run("compile", "--help").output
    headings = ("What is approximated:", "Over which inputs:", "In which numbers:", "Judged how:", "Found how:")
    places = [output.index(heading) for heading in headings]
    assert places == sorted(places) and output.index("--seed") > places[-1] > output.index("--objective") > places[-2]
