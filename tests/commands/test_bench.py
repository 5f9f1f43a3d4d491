import csv
import json

import pytest

from tests.helpers.plan_tables import TABLES, table_set

torch = pytest.importorskip("torch")

from click.testing import CliRunner  # noqa: E402

from lutc.commands import bench  # noqa: E402
from lutc.errors import LutcError  # noqa: E402
from lutc.table.table_set import TableSet  # noqa: E402


@pytest.fixture
def path(tmp_path):
    TableSet("gelu", {"5": TABLES["grid"]}, {}, "gelu").save(tmp_path / "grid.json")
    return tmp_path / "grid.json"


def run(*arguments):
    return CliRunner().invoke(bench.bench, [str(a) for a in arguments])


def test_contenders_of_one_run():
    rows = bench.measure(table_set("grid"), "fp32", 1000, seconds=0.0)
    assert [(r.contender, r.plan) for r in rows] == [
        ("copy", ""), ("F.gelu", ""), ("F.silu", ""), ("module", "chain"),
        ("plan", "chain"), ("plan", "uniform"), ("plan", "cells"), ("plan", "search"), ("bucketize + gather", ""),
    ]  # fmt: skip
    assert all(0 < r.p20 <= r.p50 <= r.p80 for r in rows)
    assert rows[0].copies == 1.0 and rows[-1].shape == "1000" and rows[-1].table == "grid[5] 8"
    half = bench.measure(table_set("grid"), "bf16", 1000, seconds=0.0, slow=False)
    assert [(r.contender, r.plan) for r in half][3:] == [("module", "direct"), ("plan", "direct")]


def test_contenders_compute_the_table():
    """What is timed is the table: every contender but the exact functions gives its values."""
    seen = {}
    original = bench.time_calls

    def spy(calls, device, seconds):
        seen.update({key: call() for key, call in calls.items()})
        return original(calls, device, seconds)

    bench.time_calls = spy
    try:
        bench.measure(table_set("floats"), "fp32", 500, seconds=0.0)
    finally:
        bench.time_calls = original
    torch.testing.assert_close(seen[("module", "chain")], seen[("bucketize + gather", "")])


def test_command_appends_rows(path, tmp_path):
    out = tmp_path / "rows.csv"
    for _ in range(2):
        result = run(path, "--dtype", "fp32", "--dtype", "fp16", "--size", 100, "--seconds", 0, "--csv", out)
        assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["contender"] for row in rows].count("copy") == 4
    assert {row["device"] for row in rows} == {f"cpu x{torch.get_num_threads()}"} and rows[0]["dtype"] == "fp32"
    assert (
        result.output.splitlines()[0].split()
        == "contender table plan device dtype elements p20 us p50 us p80 us x copy".split()
    )


def test_json(path):
    result = run(path, "--dtype", "fp32", "--size", 100, "--seconds", 0, "--json")
    rows = json.loads(result.output)
    assert rows[0]["contender"] == "copy" and rows[0]["shape"] == "100"


def test_bad_input(path, tmp_path):
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    result = run(path, "--size", 100, "--dtype", "fp32", "--seconds", 0, "--csv", tmp_path / "other.csv")
    assert isinstance(result.exception, LutcError) and "has other columns than contender" in str(result.exception)
    assert (tmp_path / "other.csv").read_text() == "a,b\n1,2\n"
    result = run(path, "--device", "abacus")
    assert isinstance(result.exception, LutcError) and "no device 'abacus' here" in str(result.exception)
    assert run(path, "--size", 0).exit_code == 2 and run(path, "--dtype", "fp8").exit_code == 2
