"""`lutc batch`: the tables of `lutc compile`, one after the other in few processes."""

import pytest
from click.testing import CliRunner

from lutc.cli import main

GELU = "gelu --entries 8 --scale 2^-4 --search exact"


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_tables_are_those_of_single_commands(tmp_path, jobs):
    lines = [f"{GELU} -o {tmp_path}/a.json", "# none", "", f"tanh --entries 6 --scale 2^-4 -o '{tmp_path}/b c.json'"]
    (tmp_path / "list").write_text("\n".join(lines))
    done = CliRunner().invoke(main, ["batch", str(tmp_path / "list"), "--jobs", jobs])
    assert done.exit_code == 0 and done.output.index("a.json") < done.output.index("b c.json")
    alone = CliRunner().invoke(main, ["compile", *GELU.split(), "-o", str(tmp_path / "alone.json")])
    assert alone.exit_code == 0
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "alone.json").read_bytes()
    assert (tmp_path / "b c.json").exists()


@pytest.mark.parametrize(
    "line, told", [("gelv --entries 8", "unknown function 'gelv'"), ("gelu 'x", "No closing quotation")]
)
def test_a_line_that_cannot_be_compiled_ends_it_and_is_named(tmp_path, line, told):
    (tmp_path / "list").write_text(line + "\n")
    done = CliRunner().invoke(main, ["batch", str(tmp_path / "list")])
    assert done.exit_code == 2 and told in done.output and f"lutc compile {line}" in done.output
    assert len(done.output.strip().splitlines()) == 1
