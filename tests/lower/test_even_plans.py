"""Weights of attention in even pieces against the table."""

import numpy as np
import pytest

from lutc.lower.even_plans import PERIODS, PIECES, TOP, EvenPlan, even_plan
from lutc.table import library
from lutc.table.prologues import PeriodPrologue
from lutc.table.table import Table
from tests.helpers.handmade import cell_tables, float_tables, int_tables


def plan_of(table: Table) -> tuple[EvenPlan, float]:
    if not isinstance(table.prologue, PeriodPrologue):
        return even_plan(table), 1.0
    return even_plan(Table(table.body, None, table.left, table.right, table.coefficients), table.prologue.period), (
        table.prologue.period
    )


DISTANCES = -np.random.default_rng(0).uniform(0, 30, 100_000)


@pytest.mark.parametrize("name", ["exp_8", "exp_16", "exp_32"])
@pytest.mark.parametrize("key", ["3", "4", "5", "6"])
def test_a_table_over_codes_keeps_its_lines(name, key):
    """At every distance, and at both ends of every piece but the cuts themselves."""
    table = library.load(name)[key]
    plan, _ = plan_of(table)
    grid = np.arange(1 - PIECES, 0) * (plan.reach / PIECES)
    d = np.concatenate([DISTANCES, grid + 1e-9, grid + plan.reach / PIECES - 1e-9, [0.0, -1e30, -np.inf]])
    assert np.abs(plan(d) - table(d)).max() <= 1e-14
    assert np.isfinite(plan.lines).all() and plan.lines.dtype == np.float32 and (plan.lines[0] == 0).all()


@pytest.mark.parametrize(("name", "bound"), [("exp_fplut", 1.7e-5), ("exp_nnlut_32", 7e-5), ("exp_nnlut_16", 1.7e-4)])
def test_behind_a_period_chords_stay_near_the_table(name, bound):
    """Relative; exp's own chord over a 64th of an octave is 1.5e-5 above it, and a table's knee adds to that."""
    table = library.load(name)["fp32"]
    plan, period = plan_of(table)
    near = DISTANCES[DISTANCES > -0.999 * (PERIODS - 0.1) * period]
    off = plan(near / period) / table(near) - 1
    assert 1e-6 < np.abs(off).max() < bound
    ends = np.arange(2 - PIECES, 0) * (PERIODS / PIECES)
    ends = ends[ends != np.rint(ends)]  # where periods meet, tables jump
    assert np.abs(plan(ends) / table(ends * period) - 1).max() < 1e-5  # rounding of lines, which are 22 times a weight
    assert plan(np.array([-PERIODS * 1.0, -np.inf, np.nan])).tolist() == [0, 0, 0] and abs(plan(0.0) - 1) < 1e-4
    assert plan.reach == PERIODS and TOP == 1 - 1 / PIECES


@pytest.mark.parametrize(
    "table",
    [
        float_tables("exp", -12, 0, 40)["fp32"],  # cuts on no grid
        cell_tables("exp", [-8, -4, -1, 0], [4, 4, 4])["fp32"],
        float_tables("tanh", -8, 8, 100)["fp32"],
        float_tables("reciprocal", 1, 2, 100)["fp32"],
        int_tables("silu")["4"],  # below 0
    ],
    ids=["float", "cells", "tanh", "reciprocal", "silu"],
)
def test_what_does_not_serve_has_no_plan(table):
    assert even_plan(table) is None
