"""Certificates against a plain evaluation, number by number; a file that claims too much is caught."""

import copy
import json
import math

import numpy as np
import pytest

from lutc import certify, functions
from lutc.compiler import pipeline
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.measures import rounded
from lutc.table import table_set
from lutc.table.bodies import Lines
from lutc.table.prologues import ExponentPrologue
from lutc.table.table import Table
from lutc.table.table_set import TableSet

OUT = Inputs(8, 2.0**-4)


def plain_value(table: Table, x: float) -> float:
    segment = sum(1 for point in table.body.breakpoints if point < x)
    return float(table.body.slopes[segment]) * x + float(table.body.intercepts[segment])


def agree(found: float, expected: float) -> bool:
    """Equal at 5 digits of the 6 that a file holds."""
    return math.isclose(found, expected, rel_tol=1e-5, abs_tol=1e-300)


@pytest.fixture(scope="module")
def gelu() -> TableSet:
    return pipeline.compile("gelu", 8, out=OUT)


@pytest.mark.parametrize("name", ["gelu", "reciprocal", "log", "exp"])
def test_figures_by_a_plain_loop(name):
    tables = pipeline.compile(name, 8)
    fn = functions.get(name)
    for key in ("0", "3", "6"):
        table, claimed = tables[key], tables.meta["certificate"][key]
        assert claimed["entries"] == table.entries
        codes = [2.0 ** -int(key) * q for q in range(-128, 128)]
        for part, x in (("range", [v for v in codes if fn.range[0] <= v <= fn.range[1]]), ("domain", codes)):
            exact = [float(fn(v)) for v in x]
            errors = [(abs(plain_value(table, v) - y), v) for v, y in zip(x, exact) if math.isfinite(y)]
            figures = claimed[part]
            assert figures["inputs"] == len(errors) and figures["undefined"] == len(x) - len(errors)
            assert agree(figures["mean_squared"], math.fsum(e * e for e, _ in errors) / len(errors))
            assert agree(figures["mean_absolute"], math.fsum(e for e, _ in errors) / len(errors))
            assert agree(figures["worst_absolute"]["error"], max(errors)[0])
            assert agree(
                abs(plain_value(table, figures["worst_absolute"]["x"]) - float(fn(figures["worst_absolute"]["x"]))),
                max(errors)[0],
            )
        assert claimed["float"]["inputs"] == certify.GRID


def test_undefined_inputs_are_counted_apart():
    claimed = pipeline.compile("reciprocal", 8).meta["certificate"]["4"]["domain"]
    assert (claimed["inputs"], claimed["undefined"]) == (255, 1)  # 1 / 0
    assert pipeline.compile("log", 8).meta["certificate"]["4"]["domain"]["undefined"] == 129


def test_output_codes_by_plain_integers(gelu):
    fn = functions.get("gelu")
    for key in ("2", "4", "6"):
        table, b = gelu[key], int(key)
        wrong = []
        for q in range(-128, 128):
            x = q * 2.0**-b
            if abs(x) > 4:
                continue
            segment = sum(1 for point in table.body.breakpoints if point < x)
            k, t = int(table.body.slopes[segment] * 64), int(table.body.intercepts[segment] * 64)
            shift = 6 + b - 4
            code = min(max(((k * q + (t << b)) + (1 << (shift - 1))) >> shift, -128), 127)
            wrong.append(abs(code - min(max(round(float(fn(x)) * 16), -128), 127)))
        claimed = gelu.meta["certificate"][key]["output"]
        expected = {
            "inputs": len(wrong),
            "wrong": sum(w > 0 for w in wrong),
            "largest": max(wrong),
            "squared": sum(w * w for w in wrong),
        }
        assert claimed == expected


def test_the_cost_of_the_search_is_the_certificates(gelu):
    """Two ways to the same number: sums of segments, and evaluation of the stored table."""
    for key, cost in gelu.meta["search"]["cost"].items():
        assert agree(cost, gelu.meta["certificate"][key]["range"]["mean_squared"])


def test_rounded_tails_are_stated():
    claimed = pipeline.compile("selu", 8).meta["certificate"]["4"]["tail_deviation"]
    assert agree(claimed["left"]["intercept"], -1.765625 + 1.7580993408473766)
    assert agree(claimed["right"]["slope"], 67 / 64 - 1.0507009873554805)


def test_six_digits():
    assert rounded(1.23456789e-7) == 1.23457e-7 and rounded(0.0) == 0.0
    assert rounded(np.float64(123456789.0)) == 123457000.0 and isinstance(rounded(np.float64(1)), float)


def test_a_file_holds_what_it_claims(gelu):
    again = table_set.loads(gelu.dumps())
    assert certify.check(again.meta["certificate"], certify.certify(again)) == []


def test_agreement_at_five_digits():
    assert certify.check({"a": 1.234567}, {"a": 1.234566}) == []
    assert certify.check({"a": 1.23457}, {"a": 1.23460}) == ["a: the file says 1.23457, recomputed 1.2346"]
    assert certify.check({"a": 0.0}, {"a": 1e-12}) != [] and certify.check({"a": 0.0}, {"a": 0}) == []


def paths(certificate, prefix=()):
    """Every number in a certificate."""
    for key, value in certificate.items():
        if isinstance(value, dict):
            yield from paths(value, (*prefix, key))
        else:
            yield (*prefix, key)


def test_any_changed_figure_is_caught(gelu):
    found = certify.certify(gelu)
    for path in paths(found["4"], ("4",)):
        claimed = copy.deepcopy(found)
        part = claimed
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = part[path[-1]] * 0.999 - 0.001
        (line,) = certify.check(claimed, found)
        assert line.startswith(".".join(path)) and "recomputed" in line
        del part[path[-1]]
        (line,) = certify.check(claimed, found)
        assert "does not say" in line


def test_any_changed_coefficient_is_caught(gelu):
    text = json.loads(gelu.dumps())
    for name in ("slopes", "intercepts", "breakpoints"):
        for at in range(1, len(text["gelu"]["4"][name]) - 1):
            altered = copy.deepcopy(text)
            altered["gelu"]["4"][name][at] += 1 / 64 if name != "breakpoints" else 1 / 16
            tables = table_set.loads(json.dumps(altered))
            differences = certify.check(tables.meta["certificate"], certify.certify(tables))
            assert differences and all(line.startswith("4.") for line in differences)


@pytest.mark.parametrize(
    "claim", [{}, {"4": 3}, {"4": None}, {"4": {"entries": "8"}}, {"4": {"entries": True}}, {"9": {}}]
)
def test_hostile_claims_differ(gelu, claim):
    lines = certify.check(claim, certify.certify(gelu))
    assert lines and all("\n" not in line for line in lines)


def test_a_function_that_nobody_knows():
    tables = TableSet("mystery", {"0": Table(Lines([], [1.0], [0.0]))}, {"0": Inputs()})
    with pytest.raises(LutcError, match="'mystery', no function of lutc's own.*`function`"):
        certify.certify(tables)
    assert certify.certify(tables, functions.get("relu"))["0"]["range"]["worst_absolute"] == {"error": 4.0, "x": -4.0}


def test_a_table_that_is_nan_where_the_function_is_not():
    table = Table(Lines([], [0.0], [1.0]), ExponentPrologue(step=1, growth=1), coefficients="q1.6")
    with pytest.raises(LutcError, match="no finite value at x = -1, where the function has one"):
        certify.errors(table, functions.get("gelu"), np.array([-1.0, 1.0]))


def test_no_code_in_the_range():
    tables = TableSet(
        "x", {"k": Table(Lines([], [1.0], [0.0]))}, {"k": Inputs(4, 2.0**-4)}, "relu", {"range": [2.0, 4.0]}
    )
    assert certify.certify(tables)["k"]["range"] == {"inputs": 0, "undefined": 0}


def test_the_right_rule_moves_breakpoints_only():
    table = Table(Lines([0.0, 1.0], [0.0, 1.0, 2.0], [1.0, 2.0, 3.0]))
    x = np.array([-0.5, 0.0, 0.5, 1.0, 2.0])
    np.testing.assert_array_equal(certify.right_rule(table)(x), [1.0, 2.0, 2.5, 5.0, 7.0])
    np.testing.assert_array_equal(table(x), [1.0, 1.0, 2.5, 3.0, 7.0])


def test_float_tables_are_certified_over_sixteen_bit_inputs():
    tables = pipeline.compile("tanh", 16, inputs="bf16", search="genetic")
    claimed = tables.meta["certificate"]["bf16"]
    assert set(claimed) == {"fp16", "bf16"}
    from lutc import formats

    x = formats.get("bf16").decode(np.arange(1 << 16))
    x = x[np.isfinite(x) & (np.abs(x) <= 4)]
    error = np.abs(tables["bf16"](x) - np.tanh(x))
    assert claimed["bf16"]["range"]["inputs"] == x.size
    assert agree(claimed["bf16"]["range"]["mean_absolute"], error.mean())
    assert agree(claimed["bf16"]["range"]["mean_relative"], (error / np.maximum(np.abs(np.tanh(x)), 2.0**-14)).mean())
