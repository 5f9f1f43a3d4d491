"""Fronts over gates: designs that spare parts are what they say, and cells are those of the units."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lutc.cli import main
from lutc.errors import LutcError
from lutc.explore.baselines import uniform_table
from lutc.explore.designs import Choice, Space, Workbench
from lutc.explore.evolution import EvolutionSettings, compile_design, explore
from lutc.explore.synthesis import measure, rank_correlation, undominated
from lutc.formats.codes import Inputs
from lutc.functions import get
from lutc.hardware import tools
from lutc.table.integer import evaluate

yosys = pytest.mark.skipif(not tools.installed("yosys"), reason="needs apt-get install yosys")
OUT = Inputs(8, 2.0**-4)
CODES = np.arange(-64, 65)
SPACE = Space("gelu", out=OUT, entries=(2, 6), fraction_bits=(5, 6))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_undominated_against_every_pair(points):
    for (error, area), best in zip(points, undominated(points)):
        beaten = any(e <= error and a <= area and (e, a) != (error, area) for e, a in points)
        assert best == (not beaten)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=20))
def test_rank_correlation_is_spearmans(pairs):
    a, b = np.array(pairs).T
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert np.isnan(rank_correlation(a, b))
    else:
        assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)


@pytest.mark.parametrize(
    "choice",
    [
        Choice(6, "q1.6"),
        Choice(6, "q1.6", slopes="pot"),
        Choice(6, "q1.6", slopes="apot:2", cut_step=4),
        Choice(4, "q1.5", cut_step=8),
    ],
)
def test_a_design_that_spares_parts_is_the_table_that_is_compiled(choice):
    design = Workbench(SPACE, spared=True).design(choice)
    (table,), q = compile_design(SPACE, design).values(), Inputs(8, 2.0**-4).codes()
    x = q / 16.0
    inside = (x >= -4) & (x <= 4)
    values = evaluate(table, q, Inputs(8, 2.0**-4))
    assert design.error == pytest.approx(np.mean(np.square(values - get("gelu")(x))[inside]), rel=1e-6)
    assert (design.cost.comparators == 0) == (choice.cut_step > 1)


@pytest.mark.parametrize("choice", [Choice(6, "q1.6", slopes="pot", cut_step=4), Choice(6, "q1.5", cut_step=8)])
def test_the_error_of_codes_too(choice):
    space = Space("gelu", out=OUT, objective="codes", entries=(2, 6), fraction_bits=(5, 6))
    design = Workbench(space, spared=True).design(choice)
    (table,), inputs = compile_design(space, design).values(), Inputs(8, 2.0**-4)
    q = inputs.codes()[64:193]  # -4 to 4
    wanted = np.floor(get("gelu")(q / 16.0) * 16 + 0.5)
    assert design.error == np.square(evaluate(table, q, inputs, OUT) - wanted).sum()


def test_designs_over_gates_include_some_that_spare_parts_and_cost_what_is_estimated():
    found = explore(SPACE, ("gates",), settings=EvolutionSettings(population=16, generations=8, gain=0.0))
    choices = [design.choice for design in found.front]
    assert any(choice.slopes for choice in choices) and not any(choice.symmetry for choice in choices)
    gates = [round(design.cost.gates) for design in found.front]
    errors = [design.error for design in found.front]
    assert gates == sorted(gates) and errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("minimise", ["bits", "gates"])
def test_the_tables_of_uniform_baselines_are_as_wrong_as_they_say(minimise):
    small = EvolutionSettings(population=8, generations=1)
    found = explore(SPACE, (minimise,), settings=small)
    uniform = [baseline for baseline in found.baselines if baseline.kind == "uniform"]
    assert len(uniform) > 3 and {baseline.half for baseline in uniform} == {minimise == "bits"}
    for baseline in uniform:
        values = evaluate(uniform_table(SPACE, baseline), CODES, Inputs(8, 2.0**-4))
        assert baseline.error == pytest.approx(np.mean(np.square(values - get("gelu")(CODES / 16.0))), rel=1e-6)


@yosys
@pytest.mark.slow
def test_measured_cells_and_the_command():
    arguments = ["explore", "gelu", "--out-scale", "2^-4", "--objective", "squared", "--entries", "2", "6"]
    arguments += ["--fraction-bits", "6", "6", "--minimise", "gates", "--generations", "4", "--synth", "gates"]
    data = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).output)
    assert all(row["cells"]["gates"] > 0 for row in data["front"])
    direct = next(row for row in data["baselines"] if row["kind"] == "direct")
    assert direct["cells"]["gates"] < 300 and direct["cells"]["dsps"] == 0
    assert all(row["cells"]["gates"] > 0 for row in data["baselines"])
    assert {row["kind"] for row in data["baselines"]} == {"direct", "uniform", "pot", "apot:2", "shared"}
    shown = CliRunner().invoke(main, arguments).output
    assert "rank correlation with the cells: stored bits" in shown and "estimated gates" in shown


def test_bad_input(monkeypatch):
    with pytest.raises(LutcError, match="gates are estimated of a unit"):
        explore(Space("gelu"), ("gates",))
    small = EvolutionSettings(population=8, generations=1)
    found = explore(Space("gelu", entries=(2, 3), fraction_bits=(6, 6)), ("bits",), settings=small)
    with pytest.raises(LutcError, match="give `out`"):
        measure(found, "gates")
    found = explore(SPACE, ("bits",), settings=small)
    with pytest.raises(LutcError, match="unknown target 'asic'"):
        measure(found, "asic")
    monkeypatch.setattr(tools.shutil, "which", lambda program: None)
    with pytest.raises(LutcError, match="apt-get install yosys"):
        measure(found, "gates")
