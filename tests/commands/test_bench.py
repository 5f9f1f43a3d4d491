import csv
import json

import pytest

from tests.helpers.plan_tables import TABLES, table_set

torch = pytest.importorskip("torch")

from click.testing import CliRunner  # noqa: E402

import lutc  # noqa: E402
from lutc.commands import bench, bench_modules  # noqa: E402
from lutc.errors import LutcError  # noqa: E402
from lutc.nn import QuantLUT  # noqa: E402
from lutc.table.table_set import TableSet  # noqa: E402


@pytest.fixture
def path(tmp_path):
    TableSet("gelu", {"5": TABLES["grid"]}, {}, "gelu").save(tmp_path / "grid.json")
    return tmp_path / "grid.json"


def run(*arguments):
    return CliRunner().invoke(bench.bench, [str(a) for a in arguments])


def of_section(section, dtype, size=1024):
    """{shape: {name: contender}}; the first is a copy."""
    tables, found = lutc.load("gelu_8"), {}
    for shape, contenders in bench_modules.contenders(section, tables, dtype, size, torch.device("cpu")):
        assert contenders[0].name == "copy"
        found[shape] = {(one.name, one.table): one for one in contenders}
    return found


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
    found = bench.contenders(table_set("floats"), "fp32", 500, torch.device("cpu"), slow=True)
    seen = {(one.name, one.plan): one.call() for one in found}
    torch.testing.assert_close(seen["module", "chain"], seen["bucketize + gather", ""])


NAME = "gelu[5] 8"


def test_codes_beside_what_torch_has():
    (found,) = of_section("codes", "int8").values()
    codes, floats, copy = (
        found[name].call() for name in (("QuantLUT to int8", NAME), ("QuantLUT to fp32", NAME), ("copy", ""))
    )
    module = QuantLUT("gelu_8", 2.0**-5)
    assert codes.dtype == copy.dtype == torch.int8 and torch.equal(floats, module(copy))
    assert ((codes * 2.0**-5 - floats).abs() <= 2.0**-6).all()
    assert {("exact gelu", ""), ("q.float()", "")} < set(found)
    (found,) = of_section("codes", "bf16").values()
    assert found["QuantLUT", NAME].call().dtype == torch.bfloat16
    assert {name for name, _ in found} >= {"QuantLUT, dynamic", "FakeQuantize", "exact gelu"}


@pytest.mark.parametrize("dtype", ["int8", "fp32"])
def test_rows_beside_torch(dtype):
    found = of_section("rows", dtype, 8192)
    assert list(found) == ["16 x 512", "1 x 8192"] and not of_section("rows", dtype, 511)
    ours = {"int8": ("IntegerSoftmax", ""), "fp32": ("LUTSoftmax", "exp_fplut")}[dtype]
    for contenders in found.values():
        y, want = contenders[ours].call(), contenders["F.softmax", ""].call()
        assert (y.float() * (2.0**-8 if dtype == "int8" else 1.0) - want).abs().max() < 0.01
        assert {"F.rms_norm", "F.layer_norm"} < {name for name, _ in contenders}


def test_a_training_step_is_forward_and_backward():
    for dtype in ("fp32", "bf16"):
        (found,) = of_section("training", dtype).values()
        assert {name for name, _ in found} >= {
            "step: QuantLUT, learned", "step: QuantLUT, fixed", "step: exact gelu", "step: exact gelu, learned",
            "step: FakeQuantize, learned", "step: torch's fake_quantize, gelu",
        }  # fmt: skip
        for one in found.values():
            one.call()


def test_all_sections_in_one_run(path):
    result = run("gelu_8", "--dtype", "fp32", "--size", 512, "--seconds", 0, "--json")
    rows = json.loads(result.output)
    assert [row["contender"] for row in rows].count("copy") == 6  # one for a section and dtype
    assert {"512", "1 x 512"} == {row["shape"] for row in rows} and {"int8", "fp32"} == {row["dtype"] for row in rows}
    rows = json.loads(run(path, "--dtype", "fp32", "--size", 100, "--seconds", 0, "--json").output)
    assert [row["contender"] for row in rows].count("copy") == 1  # a table over floats, and no row that long


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
