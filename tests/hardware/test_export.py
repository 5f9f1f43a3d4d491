"""Exported files, read by a unit that knows docs/hardware.md alone, and by a C compiler, give what the integer model
gives for every code.
"""

import csv
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from lutc.cli import main
from lutc.compiler import pipeline
from lutc.errors import LutcError
from lutc.formats.codes import Inputs, Outputs
from lutc.hardware import export
from lutc.hardware.export.text import identifier
from lutc.table.bodies import Lines
from lutc.table.integer import evaluate
from lutc.table.library import load
from lutc.table.table import Table
from lutc.table.table_set import TableSet

PARTS = ("cuts", "slopes", "intercepts", "acc", "codes")
OUT = Inputs(8, 2.0**-4)


def one(key: str, body: Lines, inputs: Inputs) -> TableSet:
    return TableSet("one", {key: Table(body, coefficients="q1.6")}, {key: inputs})


TABLES = {
    "powers of two": lambda: (load("gelu_8"), OUT),
    "q2.5, outputs wider than sums": lambda: (load("reci_8"), Inputs(16, 2.0**-13, -5)),
    "any scale": lambda: (
        pipeline.compile("silu", 8, search="exact", inputs=(Inputs(8, 0.05, 3), Inputs(8, 0.013, -100))),
        Inputs(7, 0.03, 9),
    ),
    "halves away from zero": (lambda: (load("silu_8"), Outputs(8, 2.0**-3, 0, "half_away"))),
    "halves to even": (lambda: (load("silu_8"), Outputs(8, 2.0**-3, 5, "half_even"))),
    "halves to even, any scale": lambda: (
        pipeline.compile("silu", 8, search="exact", inputs=(Inputs(8, 0.05, 3),)),
        Outputs(7, 0.03, 9, "half_even"),
    ),
    "half stored": lambda: (pipeline.compile("sigmoid", 6, search="exact", symmetry=True), OUT),
    "wide inputs": lambda: (
        pipeline.compile("exp", 6, search="exact", inputs=(Inputs(11, 2.0**-7),)),
        Inputs(8, 2.0**-7),
    ),
    "no intercepts, at a scale beyond 32 bits": lambda: (
        one("40", Lines([0.0], [0.0, 1.0], [0.0, 0.0]), Inputs(8, 2.0**-40)),
        OUT,
    ),
    "coarse, one line": lambda: (one("x/*", Lines([], [1.5], [-0.25]), Inputs(4, 8.0)), OUT),
}


@pytest.fixture(scope="module", params=TABLES)
def case(request):
    """(table set, output codes)."""
    return TABLES[request.param]()


def words(text: str, bits: int) -> list[int]:
    """Two's complement numbers of a file of hex words, as $readmemh takes it."""
    values = [int(line, 16) for line in text.splitlines() if not line.startswith("//")]
    assert all(0 <= value < 1 << bits for value in values)
    return [value - (1 << bits) if value >> (bits - 1) else value for value in values]


def unit(q: int, p: dict, cuts, slopes, intercepts) -> tuple[int, int]:
    """(acc, code) by docs/hardware.md: comparators, a multiplier, an adder; multiplier, rounding shift
    and saturation.
    """
    i = sum(cut < q for cut in cuts)
    acc = slopes[i] * (q - p["input_zero_point"]) + (intercepts[i] << p["intercept_shift"])
    for value in (acc, slopes[i] * (q - p["input_zero_point"]), intercepts[i] << p["intercept_shift"]):
        assert -(1 << (p["acc_bits"] - 1)) <= value < 1 << (p["acc_bits"] - 1) <= 1 << 31
    product, shift = acc * p["multiplier"], p["shift"]
    half = (1 << (shift - 1)) if shift > 0 else 0
    half -= {
        "half_up": 0,
        "half_away": int(product < 0),
        "half_even": 1 - (product >> max(shift, 0) & 1),
    }[p["rounding"]]
    code = (product + half >> shift if shift > 0 else product << -shift) + p["output_zero_point"]
    largest = (1 << (p["output_bits"] - 1)) - 1
    return acc, min(max(code, -largest - 1), largest)


def expected(tables, key, out) -> list[tuple[int, int]]:
    inputs = tables.inputs[key]
    acc = evaluate(tables[key], inputs.codes(), inputs) / (
        inputs.scale * 2.0 ** -int(tables[key].coefficients.split(".")[1])
    )
    return list(zip(np.rint(acc).astype(int).tolist(), evaluate(tables[key], inputs.codes(), inputs, out).tolist()))


def rows(text: str) -> list[dict]:
    return [
        {k: v if k in ("key", "rounding") else float(v) if "scale" in k else int(v or 0) for k, v in row.items()}
        for row in csv.DictReader(text.splitlines())
    ]


def test_hex_words(case):
    tables, out = case
    files = export.render("t", export.units(tables, out=out), "memh")
    parameters = rows(files["t.csv"])
    assert [p["key"] for p in parameters] == list(tables) and len({p["entries"] for p in parameters}) == 1
    for p, key in zip(parameters, tables):
        name = f"t_{identifier(key)}"
        widths = {part: p[f"{of}_bits"] for part, of in zip(PARTS, ("input", "slope", "intercept", "acc", "output"))}
        arrays = {part: words(files.get(f"{name}_{part}.memh", ""), bits) for part, bits in widths.items()}
        assert [len(arrays[part]) for part in PARTS[:3]] == [p["entries"] - 1, p["entries"], p["entries"]]
        codes = tables.inputs[key].codes().tolist()
        found = [unit(q, p, arrays["cuts"], arrays["slopes"], arrays["intercepts"]) for q in codes]
        assert found == expected(tables, key, out)
        assert found == [(arrays["acc"][q % len(codes)], arrays["codes"][q % len(codes)]) for q in codes]


def test_csv(case):
    tables, out = case
    files = export.render("t", export.units(tables, out=out), "csv")
    for p, key in zip(rows(files["t.csv"]), tables):
        name = f"t_{identifier(key)}"
        lines, golden = rows(files[f"{name}_lines.csv"]), rows(files[f"{name}_golden.csv"])
        arrays = (
            [line["cut"] for line in lines[:-1]],
            [line["slope"] for line in lines],
            [line["intercept"] for line in lines],
        )
        assert [row["q"] for row in golden] == tables.inputs[key].codes().tolist()
        assert (
            [(row["acc"], row["code"]) for row in golden]
            == [unit(row["q"], p, *arrays) for row in golden]
            == expected(tables, key, out)
        )


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_the_c_header(case, tmp_path):
    tables, out = case
    (tmp_path / "t.h").write_text(export.render("t", export.units(tables, out=out), "c")["t.h"])
    main_c = '#include <stdio.h>\n#define T_GOLDEN\n#include "t.h"\n#include "t.h"\nint main(void) {\n'
    for key, inputs in tables.inputs.items():
        name, low = f"t_{identifier(key)}", inputs.minimum
        main_c += f"  for (int q = {low}; q <= {inputs.maximum}; ++q) {{\n"
        main_c += f"    if ({name}_acc(q) != {name}_golden_acc[q - ({low})]) return 1;\n"
        main_c += f"    if ({name}(q) != {name}_golden[q - ({low})]) return 2;\n"
        main_c += f'    printf("%d %d\\n", {name}_acc(q), {name}(q));\n  }}\n'
    (tmp_path / "main.c").write_text(main_c + "  return 0;\n}\n")
    flags = [
        "-std=c99",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-fsanitize=undefined",
        "-fno-sanitize-recover",
        "-o",
        "main",
        "main.c",
    ]
    if subprocess.run(["gcc", *flags], cwd=tmp_path, capture_output=True).returncode:
        flags = [flag for flag in flags if "sanitize" not in flag]  # no sanitiser installed: the warnings at least
        subprocess.run(["gcc", *flags], cwd=tmp_path, check=True)
    output = subprocess.run([tmp_path / "main"], check=True, capture_output=True, text=True).stdout
    found = [tuple(map(int, line.split())) for line in output.splitlines()]
    assert found == [pair for key in tables for pair in expected(tables, key, out)]


def test_the_example_of_the_documentation():
    text = (Path(__file__).resolve().parents[2] / "docs/hardware.md").read_text()
    example = export.units(load("gelu_8"), ["4"], OUT)[0]
    assert f"Cuts {', '.join(map(str, example.cuts))}; F = 6, L = 4, M = 1, s = 6." in text
    assert (example.slopes[2], example.intercepts[2], example.acc[118], example.codes[118]) == (11, -4, -174, -3)


def test_segments_that_no_code_reaches_are_left_out():
    fine = export.units(load("gelu_8"), ["6"])[0]
    assert load("gelu_8")["6"].entries == 8 and fine.slopes.size == 6  # both tails lie beyond 127 codes
    *_, padded = export.units(load("gelu_8"))
    assert (
        padded.slopes.size == 8
        and padded.cuts[-2:].tolist() == [127, 127]
        and (padded.slopes[5:] == padded.slopes[5]).all()
    )


def test_the_command(tmp_path):
    folder = tmp_path / "new" / "rtl"
    arguments = ["export", "gelu_8", "--key", "4", "-o", str(folder)]
    result = CliRunner().invoke(main, [*arguments, "--format", "c", "--out-scale", "2^-4", "--json"])
    data = json.loads(result.output)
    assert data["files"] == [str(folder / "gelu_8.h")] and data["units"][0]["shift"] == 6
    assert "wrote" in CliRunner().invoke(main, [*arguments, "--format", "memh"]).output
    assert sorted(path.suffix for path in folder.iterdir()) == [".csv", ".h", *[".memh"] * 4]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["silu_fplut", "--format", "c"], "one of float inputs"),
        (["gelu_8", "--format", "c", "--key", "9"], "no table '9'"),
        (["gelu_8", "--format", "c", "--out-bits", "4"], "add --out-scale"),
        (["gelu_8", "--format", "c", "--out-scale", "0"], "positive"),
        (["gelu_8", "--format", "c", "--out-rounding", "half_even"], "add --out-scale"),
        (
            [
                "gelu_8",
                "--format",
                "lut513",
                "--in-scale",
                "2^-12",
                "--out-scale",
                "2^-12",
                "--out-rounding",
                "half_even",
            ],
            "rounds halves up",
        ),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["export", *arguments])
    assert result.exit_code == 2 and said in result.stderr and len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    result = CliRunner().invoke(main, ["export", "gelu_8", "--format", "c", "-o", str(tmp_path / "file" / "rtl")])
    assert result.exit_code == 2 and result.stderr == f"lutc: Not a directory: {tmp_path / 'file' / 'rtl'}\n"


def test_names_that_become_one():
    body = Table(Lines([], [1.0], [0.0]), coefficients="q1.6")
    tables = TableSet("t", {"0.5": body, "0_5": body}, {"0.5": Inputs(8, 0.5), "0_5": Inputs(8, 0.5)})
    with pytest.raises(LutcError, match="one by one"):
        export.render("t", export.units(tables), "c")
