"""Functions with parameters on the command line: one spelling, in what is typed, in the file, and read again."""

import json

import pytest
from click.testing import CliRunner

import lutc
from lutc.cli import main


def run(*arguments):
    return CliRunner().invoke(main, list(arguments))


def test_a_file_of_a_function_with_parameters_is_read_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = run("compile", "ELU(alpha=0.50)", "--entries", "4", "--scale", "2^-4", "--search", "exact")
    assert made.exit_code == 0 and made.output.splitlines()[-1] == "wrote ELU_alpha_0.50_4.json"
    tables = lutc.load(tmp_path / "ELU_alpha_0.50_4.json")
    assert (tables.name, tables.function) == ("ELU(alpha=0.50)", "elu(alpha=0.5)")
    own = ["ELU_alpha_0.50_4.json"]
    assert "certificate holds" in run("certify", *own).output
    assert run("compare", *own, *own).exit_code == 0
    assert run("plot", *own, "-o", "x.svg").exit_code == 0 and "elu(alpha=0.5)" in (tmp_path / "x.svg").read_text()
    assert run("export", *own, "--format", "c", "-o", "out").exit_code == 0


def test_functions_lists_parameters_and_defaults():
    rows = {row["name"]: row["parameters"] for row in json.loads(run("functions", "--json").output)}
    assert rows["hardtanh"] == {"min_val": -1.0, "max_val": 1.0} and rows["gelu"] == {}
    listed = run("functions").output
    assert "min_val=-1, max_val=1" in listed and "negative_slope=0.01" in listed


@pytest.mark.parametrize(
    "function, message",
    [("elu(alpha=x)", "write name=number"), ("elu(beta=1)", "it has alpha=1"), ("gelu(alpha=1)", "has no parameters")],
)
def test_mistyped_parameters(function, message):
    made = run("compile", function, "-o", "-")
    assert made.exit_code == 2 and message in made.output and len(made.output.splitlines()) == 1
