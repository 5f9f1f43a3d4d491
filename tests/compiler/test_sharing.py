"""Parameters shared over scales: breakpoints are np.rint of one set, costs those of the tables themselves."""

import numpy as np
import pytest

from lutc import functions
from lutc.compiler import pipeline
from lutc.compiler.problem import prepare
from lutc.compiler.request import Request
from lutc.compiler.sharing import SharedCuts
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.search.classic import ClassicSettings


def mean_squared(tables) -> float:
    """Mean over the scales of each table's own mean squared error, by evaluating the tables."""
    fn = functions.get(tables.function)
    lo, hi = tables.range
    errors = []
    for key, table in tables.items():
        x = tables.inputs[key].x()
        x = x[(x >= lo) & (x <= hi)]
        errors.append(np.mean((table(x) - fn(x)) ** 2))
    return float(np.mean(errors))


@pytest.mark.parametrize("search", ["genetic", "exact"])
@pytest.mark.parametrize("name", ["gelu", "exp", "reciprocal"])
def test_one_set_for_all_scales(name, search):
    tables = pipeline.compile(name, 8, share="all", search=search)
    record = tables.meta["search"]
    shared = record["shared"]
    points = np.array(shared["breakpoints"])
    assert record["cost"] == pytest.approx(mean_squared(tables), rel=1e-5)
    assert record["gap"] == 0.0 and record["optimum"] == record["cost"]
    every = {(float(k), float(t)) for k, t in zip(shared["slopes"], shared["intercepts"])}
    every |= {(tail.slope, tail.intercept) for tail in (tables["3"].left, tables["3"].right) if tail}
    outer = points[[0, -1]]
    for key, table in tables.items():
        scale = tables.inputs[key].scale
        rounded = np.unique(np.rint(points / scale) * scale)
        own = table.body.breakpoints
        assert set(own) <= set(rounded) and set(rounded) - set(own) <= set(
            np.rint(outer / scale) * scale
        )  # no tail, no outer breakpoint
        assert {(float(k), float(t)) for k, t in zip(table.body.slopes, table.body.intercepts)} <= every


@pytest.mark.parametrize(
    "inputs",
    [(Inputs(8, 0.05), Inputs(8, 0.03), Inputs(8, 0.011)), (Inputs(8, 0.05, -20), Inputs(6, 0.2), Inputs(4, 0.5))],
    ids=["scales", "widths"],
)
def test_arbitrary_scales_share_too(inputs):
    tables = pipeline.compile("silu", 8, share="all", inputs=inputs)
    record, points = tables.meta["search"], np.array(tables.meta["search"]["shared"]["breakpoints"])
    assert record["cost"] == pytest.approx(mean_squared(tables), rel=1e-5)
    for key, table in tables.items():
        scale = tables.inputs[key].scale
        assert set(table.body.breakpoints) <= set(np.rint(points / scale) * scale)


@pytest.mark.parametrize("scales", [[2.0**-b for b in range(7)], [0.3, 0.7], [0.5, 0.11, 0.013]], ids=str)
def test_every_way_of_rounding_a_breakpoint_occurs(scales):
    """Whatever real breakpoint is rounded to all scales, the cuts between samples that come of it are among those
    searched.
    """
    _, tasks = prepare(Request.of("gelu", 4, inputs=tuple(Inputs(8, scale) for scale in scales)))
    searched = set(map(tuple, SharedCuts(tasks, -4.0, 4.0).index.T))
    anywhere = np.random.default_rng(0).uniform(-4.0 - max(scales), 4.0, 100_000)
    cuts = [np.searchsorted(task.samples.x, np.rint(anywhere / s) * s, side="right") for task, s in zip(tasks, scales)]
    assert set(map(tuple, np.stack(cuts).T)) <= searched


@pytest.mark.parametrize("name", ["gelu", "exp"])
def test_shared_coefficients_cost_between_the_two(name):
    """Breakpoints of their own can only help, sharing lines can only cost."""
    own, lines, everything = (pipeline.compile(name, 8, share=share) for share in ("none", "coefficients", "all"))
    record = lines.meta["search"]
    assert record["cost"] == pytest.approx(mean_squared(lines), rel=1e-5)
    assert mean_squared(own) <= mean_squared(lines) <= mean_squared(everything)
    assert record["cost_with_shared_breakpoints"] == pytest.approx(mean_squared(everything), rel=1e-5)
    slopes = set(map(float, record["shared"]["slopes"])) | {0.0, 1.0}
    assert all(set(table.body.slopes.tolist()) <= slopes for table in lines.values())


def test_sharing_never_beats_and_seldom_ties():
    assert mean_squared(pipeline.compile("gelu", 8, share="all")) > 1.5 * mean_squared(pipeline.compile("gelu", 8))


def test_one_scale_shares_with_itself():
    one = (Inputs(8, 2.0**-4),)
    assert mean_squared(pipeline.compile("tanh", 8, share="all", inputs=one)) == mean_squared(
        pipeline.compile("tanh", 8, inputs=one)
    )


def test_symmetry_and_sharing_go_together():
    half = pipeline.compile("gelu", 8, share="all", symmetry=True)
    assert mean_squared(half) < mean_squared(pipeline.compile("gelu", 8, share="all"))
    assert all(table.prologue is not None for table in half.values())


def test_classic_tables_round_one_set():
    tables = pipeline.compile("gelu", 8, search="classic", settings=ClassicSettings(generations=20))
    shared = tables.meta["search"]["shared"]
    points = np.array(shared["breakpoints"])
    for key, table in tables.items():
        scale = tables.inputs[key].scale
        np.testing.assert_array_equal(table.body.breakpoints, np.unique(np.rint(points / scale) * scale))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": "all", "objective": "absolute"}, "squared objective"),
        ({"share": "coefficients", "search": "exact"}, "genetic search"),
        ({"share": "all", "inputs": "fp16"}, "input codes"),
        ({"share": "all", "search": "classic"}, "genetic or the exact"),
        ({"search": "classic", "inputs": (Inputs(8, 0.1),)}, "powers of two"),
        ({"search": "classic", "symmetry": True}, "leave `symmetry` out"),
        ({"share": "all", "inputs": (Inputs(16, 2.0**-13),)}, "at most"),
    ],
)
def test_what_does_not_go_together(options, message):
    with pytest.raises(LutcError, match=message) as error:
        pipeline.compile("gelu", 8, **options)
    assert "\n" not in str(error.value)


def test_classic_tables_record_their_gap_to_the_optimum_per_scale():
    tables = pipeline.compile("gelu", 8, search="classic", settings=ClassicSettings(generations=5))
    best = pipeline.compile("gelu", 8, search="exact")
    for key, gap in tables.meta["search"]["gap"].items():
        own, optimum = (t.meta["certificate"][key]["range"]["mean_squared"] for t in (tables, best))
        assert tables.meta["search"]["optimum"][key] == pytest.approx(optimum, rel=1e-5)
        assert gap == pytest.approx((own - optimum) / optimum, rel=1e-4) and gap > 0
