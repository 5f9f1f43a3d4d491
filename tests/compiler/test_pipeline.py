"""The compiler end to end: the figures it is held to, what every option does to a table, and what it refuses."""

import subprocess
import sys

import numpy as np
import pytest

from lutc import formats, functions
from lutc.certify.proof import EXACT_LINES
from lutc.compiler import pipeline, solve
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.search.classic import ClassicSettings
from lutc.table.prologues import AbsPrologue

GRID4 = (Inputs(8, 2.0**-4),)

# mean squared error over the int8 codes in the range, at most: mean over b = 0..6, over b = 3..6, one shared set over b
# = 0..6
FIGURES = {
    ("gelu", 8): (1.80e-5, 2.40e-5, 3.21e-5),
    ("gelu", 16): (3.40e-6, 3.06e-6, 5.2e-6),
    ("hswish", 8): (6.65e-5, 9.3e-5, 1.12e-4),
    ("hswish", 16): (7.5e-6, 6.9e-6, 1.22e-5),
    ("exp", 8): (1.115e-5, 9.7e-6, 2.0e-5),
    ("exp", 16): (7.65e-6, 4.4e-6, 9.6e-6),
}


def mean_squared(tables) -> np.ndarray:
    """One figure per key, by evaluating the tables over their codes."""
    fn, (lo, hi) = functions.get(tables.function), tables.range
    found = []
    for key, table in tables.items():
        x = tables.inputs[key].x()
        x = x[(x >= lo) & (x <= hi)]
        found.append(np.mean((table(x) - fn(x)) ** 2))
    return np.array(found)


@pytest.mark.parametrize(("name", "entries"), FIGURES)
def test_the_figures(name, entries):
    every, fine, shared = FIGURES[name, entries]
    own = pipeline.compile(name, entries)
    errors = mean_squared(own)
    assert errors.mean() <= every and errors[3:].mean() <= fine
    assert set(own.meta["search"]["gap"].values()) == {0.0}
    assert mean_squared(pipeline.compile(name, entries, share="all")).mean() <= shared
    assert all(table.entries <= entries for table in own.values())


def test_a_constant_and_what_is_flatter_than_a_step_compile(tmp_path, monkeypatch):
    (tmp_path / "flat.py").write_text(
        "constant = lambda x: 0 * x + 0.3\nflat = lambda x: 1e-3 * x + 0.3\nfar = lambda x: 0 * x + 30\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("flat:constant", "flat:flat"):
        (table,) = pipeline.compile(name, 8, range=(-4.0, 4.0), inputs=GRID4).values()
        np.testing.assert_allclose(table([-4.0, 0.0, 4.0]), 0.3, atol=2.0**-6)
    with pytest.raises(LutcError, match="cannot hold flat:far"):
        pipeline.compile("flat:far", 8, range=(-4.0, 4.0), inputs=GRID4, coefficients="q1.6")


@pytest.mark.parametrize("name", functions.FUNCTIONS)
def test_every_function_compiles(name):
    fn, tables = functions.get(name), pipeline.compile(name, 8, search="exact")
    fmt = formats.get(fn.coefficients)
    for key, table in tables.items():
        assert fmt.holds(table.body.slopes).all() and fmt.holds(table.body.intercepts).all()
        places = table.body.breakpoints / tables.inputs[key].scale
        tails = [i for i, tail in ((0, table.left), (-1, table.right)) if tail is not None]
        assert np.isin(places % 1, [0, 0.5]).all() and (places[tails] % 1 == 0).all()
        assert (table.left is None) == (fn.left is None) and (table.right is None) == (fn.right is None)
    assert mean_squared(tables)[min(4, len(tables) - 1)] < 2e-3


def test_inputs_alone_or_in_a_list_and_a_bound_as_a_number():
    plain = pipeline.compile("gelu", 4, search="exact", inputs=GRID4).dumps()
    assert pipeline.compile("gelu", 4, search="exact", inputs=GRID4[0]).dumps() == plain
    assert pipeline.compile("gelu", 4, search="exact", inputs=list(GRID4)).dumps() == plain
    bound = {"search": "greedy", "inputs": GRID4}
    assert (
        pipeline.compile("gelu", max_error=0.01, **bound).dumps()
        == pipeline.compile("gelu", max_error="0.01", **bound).dumps()
    )


def test_aliases_name_the_file_not_the_function():
    tables = pipeline.compile("swish", 8, inputs=GRID4)
    assert (tables.name, tables.function) == ("swish", "silu")
    assert pipeline.compile("swish", 8, inputs=GRID4, name="mine").name == "mine"


def test_the_same_request_gives_the_same_bytes():
    for options in ({}, {"share": "coefficients"}, {"search": "classic", "settings": ClassicSettings(generations=5)}):
        assert pipeline.compile("exp", 6, **options).dumps() == pipeline.compile("exp", 6, **options).dumps()


def test_symmetry_acts_as_twice_the_entries():
    half, whole, double = (
        pipeline.compile("gelu", n, inputs=GRID4, symmetry=s) for n, s in ((8, True), (8, False), (16, False))
    )
    assert isinstance(half["4"].prologue, AbsPrologue) and half["4"].entries <= 8
    assert mean_squared(half) < 0.3 * mean_squared(whole)
    assert mean_squared(half) < 1.5 * mean_squared(double)


def test_free_tails_are_lines_of_their_own():
    exact, free = (pipeline.compile("gelu", 8, inputs=GRID4, tails=tails) for tails in ("exact", "free"))
    assert free["4"].left is None and free["4"].right is None
    assert mean_squared(free) <= mean_squared(exact) * (1 + 1e-9) and free.meta["free_tails"]


MEASURES = {"squared": lambda e: (e**2).mean(), "absolute": lambda e: abs(e).mean(), "maximum": lambda e: abs(e).max()}


@pytest.mark.parametrize("objective", MEASURES)
def test_each_objective_is_best_at_its_own(objective):
    fn, best, figure = functions.get("silu"), {}, MEASURES[objective]
    for other in ("squared", "absolute", "maximum"):
        tables = pipeline.compile("silu", 8, inputs=(Inputs(8, 2.0**-3),), objective=other, search="exact")
        x = np.arange(-32, 33) / 8
        best[other] = figure(tables["3"](x) - fn(x))
        if other == objective:
            assert tables.meta["search"]["cost"]["3"] == pytest.approx(best[other], rel=1e-5)
    assert best[objective] == min(best.values())


def test_relative_weighs_by_the_function():
    fn = functions.get("exp")
    x = np.arange(-128, 1) / 16

    def relative(objective):
        table = pipeline.compile("exp", 8, inputs=GRID4, objective=objective, coefficients="q1.14")["4"]
        return np.mean(((table(x) - fn(x)) / fn(x)) ** 2)

    assert relative("relative") < relative("squared")


@pytest.mark.parametrize("name", ["gelu", "silu", "hswish", "sigmoid", "tanh"])
def test_objective_codes_gets_fewer_codes_wrong(name):
    out, wrong = Inputs(8, 2.0**-4), {}
    for objective in ("squared", "codes"):
        tables = pipeline.compile(name, 8, inputs=GRID4, out=out, objective=objective)
        wrong[objective] = tables.meta["certificate"]["4"]["output"]["squared"]
    assert wrong["codes"] <= wrong["squared"]
    if name == "gelu":
        assert (wrong["squared"], wrong["codes"]) == (9, 1)


def test_weights_shift_the_error():
    x = np.arange(-64, 65) / 16
    weight = np.exp(-0.5 * (x / 0.5) ** 2)

    def weighted(weights):
        table = pipeline.compile("gelu", 6, inputs=GRID4, weights=weights)["4"]
        return np.average((table(x) - functions.get("gelu")(x)) ** 2, weights=weight)

    assert weighted("gauss:0.5") < weighted(None)
    assert weighted(lambda v: np.exp(-2 * v**2)) == weighted("gauss:0.5")


def test_a_stored_half_answers_for_the_weights_of_both_signs():
    weights = lambda x: np.where(x < 0, 5.0, 1.0) * np.exp(-np.abs(x + 1.0))  # noqa: E731
    tables = pipeline.compile("gelu", 5, symmetry=True, inputs=GRID4, weights=weights)
    x = np.arange(-64, 65) / 16
    error = (tables["4"](x) - functions.get("gelu")(x)) ** 2
    assert tables.meta["search"]["cost"]["4"] == pytest.approx(np.average(error, weights=weights(x)), rel=1e-5)


def test_zero_points_and_scales():
    inputs = (Inputs(8, 0.05, -30), Inputs(6, 0.25), Inputs(8, 2.0**-4, 3))
    tables = pipeline.compile("gelu", 8, inputs=inputs)
    assert list(tables) == ["0.05z-30", "2", "0.0625z3"] and tuple(tables.inputs.values()) == inputs
    assert (mean_squared(tables) < 1e-4).all()


@pytest.mark.parametrize(("coefficients", "wrong"), [("q1.6", 95), ("q1.10", 13)])
def test_output_codes_take_coefficients_of_any_width(coefficients, wrong):
    tables = pipeline.compile(
        "sigmoid", 16, inputs=GRID4, out=Inputs(8, 2.0**-8, -128), objective="codes", coefficients=coefficients
    )
    assert tables.meta["search"]["gap"] == {"4": 0.0}
    assert tables.meta["certificate"]["4"]["output"]["wrong"] == wrong


def test_absolute_errors_over_floats_state_their_optimum():
    found = {
        o: pipeline.compile("erf", 9, inputs="grid", coefficients="fp32", objective=o) for o in ("absolute", "squared")
    }
    search = found["absolute"].meta["search"]
    assert 0.0 <= search["gap"]["fp32"] <= 1e-3
    x = np.linspace(*found["absolute"].range, 4096)
    error = {o: np.abs(next(iter(t.values()))(x) - functions.get("erf")(x)).mean() for o, t in found.items()}
    assert error["absolute"] == pytest.approx(search["cost"]["fp32"], rel=1e-5) and error["absolute"] < error["squared"]


@pytest.mark.parametrize("objective", ["squared", "absolute"])
def test_where_real_lines_have_no_error_no_gap_is_stated(objective):
    search = pipeline.compile("leaky_relu", 3, inputs="grid", coefficients="fp16", objective=objective).meta["search"]
    assert search["lower_bound"] == {"fp16": 0.0} and search["bound_of"] == {"fp16": EXACT_LINES}
    assert search["cost"]["fp16"] > 0.0 and "gap" not in search


@pytest.mark.slow
def test_absolute_errors_of_wide_coefficients_and_many_codes():
    few, squared = (
        pipeline.compile("tanh", 12, inputs=GRID4, coefficients="q1.10", objective=o) for o in ("absolute", "squared")
    )
    errors = [tables.meta["certificate"]["4"]["range"]["mean_absolute"] for tables in (few, squared)]
    assert errors[0] < errors[1] and few.meta["search"]["gap"] == {"4": 0.0}
    inputs = (Inputs(12, 2.0**-9),)
    found = {
        objective: pipeline.compile(
            "tanh", 12, inputs=inputs, objective=objective, out=Inputs(12, 2.0**-10), coefficients="q1.14"
        )
        for objective in ("squared", "absolute", "codes")
    }
    absolute = {o: tables.meta["certificate"]["9"]["range"]["mean_absolute"] for o, tables in found.items()}
    squares = {o: tables.meta["certificate"]["9"]["output"]["squared"] for o, tables in found.items()}
    assert absolute["absolute"] < absolute["squared"] and squares["codes"] <= squares["squared"]
    assert "lower_bound" in found["absolute"].meta["search"] or "optimum" in found["absolute"].meta["search"]
    assert "gap" not in found["codes"].meta["search"]  # nothing is proven over so many


def test_sixteen_bit_codes_carry_a_bound():
    """65,536 codes: refined windows, and how far the optimum can be."""
    tables = pipeline.compile("gelu", 8, inputs=(Inputs(16, 2.0**-13),), search="exact", coefficients="q1.14")
    record = tables.meta["search"]
    assert record["gap"]["13"] <= 1e-3 and record["rounding"]["13"] < 1e-3
    assert record["cost"]["13"] == pytest.approx(mean_squared(tables)[0], rel=1e-5)


def test_float_tables():
    tables = pipeline.compile("silu", 32, inputs="fp16", search="exact")
    record = tables.meta["search"]
    assert list(tables) == ["fp16"] and 0 < record["rounding"]["fp16"] < 0.05 and record["gap"]["fp16"] <= 1e-3
    x = formats.get("fp16").values()
    x = x[np.abs(x) <= 4]
    assert np.mean((tables["fp16"](x) - functions.get("silu")(x)) ** 2) == pytest.approx(
        record["cost"]["fp16"], rel=1e-4
    )


@pytest.mark.parametrize("search", ["exact", "genetic"])
@pytest.mark.parametrize(
    "options",
    [{"inputs": "fp16"}, {"inputs": "bf16", "objective": "relative"}, {"inputs": "grid", "weights": "gauss:1.5"}],
)
def test_float_tables_reach_the_proven_optimum(search, options):
    tables = pipeline.compile("silu", 24, coefficients="fp32", search=search, **options)
    record = {name: fact["fp32"] for name, fact in tables.meta["search"].items() if isinstance(fact, dict)}
    assert record["optimum"] <= record["cost"] * (1 + 1e-5) and 0 <= record["gap"] < 1e-4 and record["rounding"] < 1e-4
    assert record.get("share", 0.0) == 0.0


def test_a_grid():
    tables = pipeline.compile("tanh", 16, inputs="grid", search="exact")
    assert list(tables) == ["fp32"] and tables.meta["search"]["cost"]["fp32"] < 4e-6


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"function": "gelv"}, "unknown function 'gelv'; did you mean 'gelu'"),
        ({"entries": 1}, "at least 2 entries; given 1"),
        ({"entries": 600}, "600 entries are more than the 256 samples of the finest scale"),
        ({"function": "log", "range": (-1.0, 2.0)}, "leaves the domain"),
        ({"function": "reci", "range": (-1.0, 2.0)}, "holds 0"),
        ({"search": "magic"}, "unknown search 'magic'; choose one of"),
        ({"objective": "l2"}, "unknown objective"),
        ({"share": "some"}, "unknown share"),
        ({"tails": "loose"}, "unknown tails"),
        ({"inputs": "fp64"}, "unknown inputs"),
        ({"objective": "codes"}, "output scale"),
        ({"objective": "codes", "inputs": "fp16", "out": Inputs()}, "input codes"),
        ({"objective": "codes", "out": Inputs(8, 2.0**-4), "coefficients": "fp8_e4m3", "inputs": GRID4}, "fixed-point"),
        (
            {"objective": "absolute", "coefficients": "fp16", "inputs": GRID4, "promises": ("bounded",)},
            "at most 8 bits",
        ),
        ({"search": "greedy"}, "go together"),
        ({"max_error": "1lsb"}, "go together"),
        ({"max_error": -1.0, "search": "greedy"}, "positive number"),
        ({"entries": "8"}, "whole number; given '8'"),
        ({"entries": 8.0}, "whole number; given 8.0"),
        ({"inputs": [2.0**-4]}, "one for each scale, or a format's name; given 0.0625"),
        ({"inputs": 7}, "one for each scale, or a format's name; given 7"),
        ({"search": "greedy", "max_error": "much"}, "positive number"),
        ({"search": "greedy", "max_error": "1e-9"}, "allow more error or a finer format"),
        ({"coefficients": "q8.8.8"}, "unknown format"),
        (
            {"function": "square", "range": (-30.0, 30.0), "inputs": (Inputs(8, 0.25),), "coefficients": "q0.7"},
            "cannot hold",
        ),
        ({"function": "sqrt", "symmetry": True}, "has no symmetry"),
        ({"inputs": GRID4 * 2}, "stand once"),
        ({"inputs": ()}, "give scales"),
        ({"inputs": (Inputs(8, 0.001),), "range": (2.0, 3.0)}, "no code of 8 bits"),
    ],
)
def test_bad_requests(request_, message):
    with pytest.raises(LutcError, match=message) as error:
        pipeline.compile(**request_)
    assert "\n" not in str(error.value)


def test_compiling_imports_no_torch():
    code = (
        "import sys, lutc, lutc.compiler.pipeline as p; p.compile('gelu', 4); sys.exit('torch' in sys.modules or "
        "'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_gaps():
    assert solve.relative_gap(1.0, 1.0 + 1e-12) == 0.0
    assert solve.relative_gap(1.02, 1.0) == 0.02
    assert solve.relative_gap(1e-13, 0.0) == 0.1 and solve.relative_gap(0.0, 0.0) == 0.0
