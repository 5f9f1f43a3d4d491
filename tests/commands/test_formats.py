"""`lutc formats`: what it prints is what numpy and ml_dtypes say of the formats."""

import json

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner

from lutc.cli import main

DTYPES = {
    "fp32": np.float32,
    "bf16": ml_dtypes.bfloat16,
    "fp16": np.float16,
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
}


def run(*arguments) -> str:
    result = CliRunner().invoke(main, ["formats", *map(str, arguments)])
    assert result.exit_code == 0, result.output + result.stderr
    return result.output


def rows(text: str) -> dict[str, str]:
    return {line.split()[0]: line for line in text.splitlines()[1:]}


def test_the_listing_agrees_with_ml_dtypes():
    listed = {entry["name"]: entry for entry in json.loads(run("--json"))}
    assert list(listed) == [*DTYPES, "q1.6"]
    for name, dtype in DTYPES.items():
        info, entry = ml_dtypes.finfo(dtype), listed[name]
        assert (
            entry["bits"] == info.bits and entry["mantissa_bits"] == info.nmant and entry["exponent_bits"] == info.nexp
        )
        assert entry["largest"] == float(info.max) and entry["smallest_normal"] == float(info.smallest_normal)
        assert entry["smallest"] == float(info.smallest_subnormal) and entry["step_near_1"] == float(info.eps)
        one = int(np.ones((), dtype).view(f"u{info.bits // 8}"))
        assert entry["exponent_bias"] == one >> info.nmant
    q = listed["q1.6"]
    assert (q["bits"], q["most_negative"], q["largest"], q["step_near_1"], q["nan_codes"]) == (
        8,
        -2.0,
        127 / 64,
        1 / 64,
        0,
    )


def test_the_printed_table_holds_the_same_figures():
    table = rows(run("--format", "q2.5", "--format", "q0.7", "--format", "fp16"))
    assert list(table)[:7] == [*DTYPES, "q2.5", "q0.7"]  # fp16 is not listed twice
    assert (
        table["fp16"].split()[1:4] == ["16", "1+5+10", "15"]
        and "5.96046e-08 .. 6.09756e-05" in table["fp16"]
        and "65504" in table["fp16"]
    )
    assert table["fp8_e4m3"].split()[-2:] == ["2", "0"] and table["fp8_e5m2"].split()[-2:] == ["6", "2"]
    assert table["q2.5"].split()[2] == "1+2+5" and "-4" in table["q2.5"].split() and "3.96875" in table["q2.5"].split()


@pytest.mark.parametrize("number", ["0.1", "-0.1", "1e6", "-1e-5", "2^-24", "0", "-0.0", "1e300", "-1e-300"])
def test_a_number_in_each_format_against_casts(number):
    x = 2.0**-24 if "^" in number else float(number)
    shown = json.loads(run(number, "--json"))
    assert shown["number"] == x
    for name, dtype in DTYPES.items():
        entry, bits = shown["nearest"][name], ml_dtypes.finfo(dtype).bits
        limit = float(ml_dtypes.finfo(dtype).max)  # a number beyond the largest is stored as that
        cast = np.asarray(np.clip(x, -limit, limit)).astype(dtype)
        assert entry["value"] == float(cast) and entry["error"] == float(cast) - x
        assert entry["bits"].replace(" ", "") == f"{int(cast.view(f'u{bits // 8}')):0{bits}b}"
    q = shown["nearest"]["q1.6"]
    code = int(np.clip(np.rint(x * 64), -128, 127))
    assert q["value"] == code / 64 and q["bits"].replace(" ", "") == f"{code % 256:08b}"
    assert rows(run(number))["fp8_e4m3"].split()[1] == repr(shown["nearest"]["fp8_e4m3"]["value"])


def test_numbers_that_are_not_finite_are_spelled_out():
    for number in ("inf", "-inf", "nan"):
        shown = json.loads(run(number, "--json"))
        assert shown["number"] == shown["nearest"]["fp16"]["value"] == number
        assert "fp16" in rows(run(number))
    assert shown["nearest"]["q1.6"] is None and "no code for NaN" in rows(run("nan"))["q1.6"]
    assert json.loads(run("inf", "--json"))["nearest"]["fp8_e4m3"] == {
        "value": 448.0,
        "bits": "0 1111 110",
        "error": None,
    }


@pytest.mark.parametrize(
    "arguments, said",
    [(["abc"], "'abc' is no number"), (["--format", "q9.99"], "q9.99"), (["1", "2"], "extra argument")],
)
def test_bad_input(arguments, said):
    result = CliRunner().invoke(main, ["formats", *arguments])
    assert result.exit_code == 2 and said in result.stderr and "Traceback" not in result.stderr
