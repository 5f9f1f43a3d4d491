"""What a file says of its search: held against itself, the table, and a search of its own."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

import lutc
from lutc import functions
from lutc.certify.certificate import certify, function_of
from lutc.certify.proof import contradictions
from lutc.cli import main
from lutc.compiler.proof import provable, quickly_proven, reproved
from lutc.formats.codes import Inputs, Outputs
from lutc.search.genetic import GeneticSettings
from lutc.table.library import names

ONE = {"inputs": (Inputs(8, 2.0**-4),)}
FOUR = Inputs(8, 2.0**-6)
REQUESTS = [
    {},
    {"share": "all"},
    {"share": "coefficients", "search": "genetic", "settings": GeneticSettings(generations=2, restarts=1)},
    {"symmetry": True, **ONE},
    {"objective": "maximum", **ONE},
    {"objective": "absolute", **ONE},
    {"objective": "codes", "out": FOUR, **ONE},
    {"objective": "codes", "out": Outputs(8, 2.0**-6, 0, "half_even"), **ONE},
    {"inputs": "fp16", "coefficients": "fp16", "entries": 6},
    {"max_error": 0.05, "search": "greedy", **ONE},
    {"weights": "gauss", **ONE},
    {"promises": ("through-zero", "bounded"), **ONE},
    {"inputs": (Inputs(12, 2.0**-8),), "coefficients": "q1.10"},
    {"search": "classic", "inputs": (Inputs(8, 2.0**-3),)},
]
FLOATS = [
    {"inputs": "fp16", "entries": 8},
    {"inputs": "grid", "entries": 8, "objective": "relative"},
    {"inputs": "fp16", "coefficients": "fp32", "weights": "gauss:1.5", "entries": 8},
    {"inputs": "fp16", "promises": ("through-zero",), "entries": 8},
    {"inputs": "fp16", "objective": "maximum", "entries": 6},
    {"inputs": "grid", "objective": "absolute", "coefficients": "fp32", "entries": 12},
]


def tampered(path, name, key, value):
    data = json.loads(path.read_text())
    data["lutc"]["search"][name][key] = value
    path.write_text(json.dumps(data))


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda r: ",".join(f"{k}={v}" for k, v in r.items()) or "plain")
def test_no_compile_contradicts_itself(request_):
    tables = lutc.compile("gelu", **{"entries": 8, "search": "exact", **request_})
    assert contradictions(tables, certify(tables)) == []
    assert reproved(tables, function_of(tables)) == []


@pytest.mark.parametrize("request_", FLOATS, ids=lambda r: ",".join(f"{k}={v}" for k, v in r.items()))
def test_bounds_over_floats_are_proven_again(request_):
    tables = lutc.compile("gelu", search="exact", **request_)
    assert contradictions(tables, certify(tables)) == []
    assert provable(tables) and reproved(tables, function_of(tables)) == []
    named = "optimum" if "optimum" in tables.meta["search"] else "lower_bound"
    search = copy.deepcopy(tables.meta["search"])
    search[named] = {key: 1.1 * value for key, value in search[named].items()}
    (told,) = reproved(replace(tables, meta={**tables.meta, "search": search}), function_of(tables))
    assert told.startswith(f"search.{named}.")


@pytest.mark.parametrize(
    "prove, changes, told",
    [
        (False, {"gap": -5.0}, "gap"),
        (False, {"cost": 1e-6, "lower_bound": 1e-6, "gap": 0.0}, "but the table's error is"),
        (True, {"lower_bound": 2.9e-6, "gap": 0.109689}, "is proven"),
        (True, {}, "so does its proof"),
    ],
)
def test_floating_point_tables_are_held_too(tmp_path, prove, changes, told):
    data = json.loads(lutc.load("tanh_fplut").dumps())
    data["lutc"]["search"]["fp32"] |= changes
    path = tmp_path / "tanh_fplut.json"
    path.write_text(json.dumps(data))
    result = CliRunner().invoke(main, ["certify", str(path), *["--prove"] * prove])
    assert result.exit_code == (1 if changes else 0) and told in result.output


def test_a_file_that_does_not_say_enough_is_not_proven(tmp_path):
    path = tmp_path / "shared.json"
    path.write_text(lutc.compile("gelu", 8, share="all", search="exact").dumps())
    result = CliRunner().invoke(main, ["certify", str(path), "--prove"])
    assert result.exit_code == 2 and "does not say enough to prove its search again" in result.output


def test_a_jump_between_codes_weighs_next_to_nothing_in_the_cost():
    """Points between codes decide ties; the table is right at every code, and its cost is not quite 0."""
    jump = functions.user.from_callable(lambda x: np.where(np.asarray(x) > 0.3, 1.0, -1.0), (-2.0, 2.0))
    tables = lutc.compile(jump, 4, search="exact", promises=("monotone",), **ONE)
    assert tables.meta["search"]["cost"]["4"] > 0.0 == tables.meta["certificate"]["4"]["range"]["mean_squared"]
    assert contradictions(tables, certify(tables, jump)) == []


@pytest.mark.parametrize(
    "out, inputs", [(FOUR, Inputs(8, 2.0**-4)), (Outputs(12, 2.0**-10), Inputs(6, 2.0**-2))], ids=["8 bits", "12 bits"]
)
def test_the_cost_of_output_codes_is_theirs(out, inputs):
    tables = lutc.compile("gelu", 6, search="exact", objective="codes", out=out, inputs=(inputs,))
    (key,) = tables
    assert contradictions(tables, certify(tables)) == []
    search = copy.deepcopy(tables.meta["search"])
    for name in ("cost", "optimum"):
        search[name][key] *= 0.9
    (told,) = contradictions(replace(tables, meta={**tables.meta, "search": search}), certify(tables))
    assert told.startswith(f"search.cost.{key} is")


def test_no_shipped_file_contradicts_itself():
    for name in names():
        tables = lutc.load(name)
        assert contradictions(tables, tables.meta.get("certificate", {})) == [], name


@pytest.mark.parametrize("name", ["gelu_8", "exp_16", "sigmoid_8"])
def test_shipped_proofs_are_found_again(name):
    tables = lutc.load(name)
    assert quickly_proven(tables) and reproved(tables, function_of(tables)) == []


@pytest.mark.slow
def test_all_shipped_proofs_are_found_again():
    proven = [name for name in names() if quickly_proven(lutc.load(name))]
    assert len(proven) >= 60
    for name in proven:
        assert reproved(lutc.load(name), function_of(lutc.load(name))) == [], name


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"gap": -5}, "search.gap.4 is -5, but cost and optimum make it 0"),
        ({"gap": 0.1}, "search.gap.4 is 0.1, but cost and optimum make it 0"),
        ({"optimum": 1.0}, "search.cost.4 is 2.683e-05, below its optimum 1"),
        ({"optimum": 1e-6, "gap": 25.83}, "search.optimum.4 is 1e-06, but the exact search reaches 2.683e-05"),
        ({"cost": 2e-6, "optimum": 2e-6}, "search.cost.4 is 2e-06, but the table's error is 2.683e-05"),
    ],
)
def test_a_changed_proof_does_not_hold(tmp_path, changes, told):
    path = tmp_path / "gelu_8.json"
    path.write_text(lutc.load("gelu_8").dumps())
    for name, value in changes.items():
        tampered(path, name, "4", value)
    result = CliRunner().invoke(main, ["certify", str(path)])
    assert result.exit_code == 1 and told in result.output


def test_a_gap_to_nothing_is_no_claim():
    tables = lutc.compile("gelu", 8, search="exact", **ONE)
    search = copy.deepcopy(tables.meta["search"])
    del search["optimum"]
    found = contradictions(
        lutc.TableSet(tables.name, dict(tables), tables.inputs, tables.function, {**tables.meta, "search": search}),
        certify(tables),
    )
    assert found == ["search.gap.4 is 0, of no optimum or bound that the file names"]


@pytest.mark.parametrize(
    "name, key, value, told",
    [
        ("cost", "99", 1.0, "search.cost.99 is of no table of the file"),
        ("optimum", "99", 1.0, "search.optimum.99 is of no table of the file"),
        ("gap", "4", "x", "search.gap.4 is 'x', no finite number"),
        ("cost", "4", None, "search.cost.4 is None, no finite number"),
        ("optimum", "4", float("nan"), "search.optimum.4 is nan, no finite number"),
    ],
)
def test_a_broken_record_is_one_line(name, key, value, told):
    tables = lutc.load("gelu_8")
    search = copy.deepcopy(tables.meta["search"])
    search[name][key] = value
    changed = replace(tables, meta={**tables.meta, "search": search})
    assert len(contradictions(changed, tables.meta["certificate"])) == 1
    assert contradictions(changed, tables.meta["certificate"])[0].startswith(told)


def test_the_one_proof_of_a_shared_set_is_held_too():
    tables = lutc.compile("gelu", 8, search="exact", share="all")
    changed = replace(tables, meta={**tables.meta, "search": {**tables.meta["search"], "gap": -5}})
    told = contradictions(changed, tables.meta["certificate"])
    assert told == ["search.gap is -5, but cost and optimum make it 0"]
