"""The weights of a softmax on the CPU: lines found by the bits of r against the table's own kernel, sums, ends."""

import math

import numpy as np
import pytest
import torch

import lutc
from lutc.lower.lowering import single
from lutc.lower.piece_plans import CELLS, piece_plan
from lutc.lower.segments import reduced_segments
from lutc.nn import LUTSoftmax
from lutc.nn.cpu import attention, weights
from lutc.nn.cpu.permuted import permutes
from lutc.nn.row_tables import plans_of
from lutc.table.bodies import Cells
from lutc.table.prologues import PeriodPrologue
from lutc.table.table import Table

PERIOD = math.log(2)


def periodic(cuts, pieces) -> Table:
    edges = np.concatenate([np.linspace(a, b, n + 1)[:-1] for a, b, n in zip(cuts, cuts[1:], pieces)] + [[cuts[-1]]])
    cuts = np.float32(cuts).astype(float)
    return Table(Cells(cuts, pieces, np.exp(edges).astype(np.float32)), PeriodPrologue(PERIOD, 1))


TABLES = {
    "exp_fplut": lutc.load("exp_fplut")["fp32"],
    "its other key": lutc.load("exp_fplut")["fp16"],
    "one interval": periodic([0, 0.7], (64,)),
    "cuts near 0 alone": periodic([0, 0.01, 0.011, 0.7], (16, 8, 1)),
    "cuts of many sizes": periodic([0, 1e-6, 1e-3, 0.5, 0.7], (1, 8, 16, 2)),
}


NO_PIECES = torch.zeros(0, dtype=torch.int32), ()
EVEN = {
    "exp_fplut": TABLES["exp_fplut"],
    "one interval": TABLES["one interval"],
    "more than a run holds": periodic([0, 0.7], (128,)),
    "two widths": periodic([0, 0.3, 0.7], (32, 16)),
}


def pieces_of(table):
    lines = reduced_segments(Table(table.body), "fp32")
    plan = piece_plan(lines, PERIOD)
    assert plan is not None
    return lines, plan


@pytest.mark.parametrize("table", EVEN.values(), ids=EVEN)
def test_places_of_pieces_are_the_segments(table):
    lines, plan = pieces_of(table)
    last = np.nextafter(np.float32(PERIOD), np.float32(0))
    cuts = lines.thresholds[(lines.thresholds > 0) & (lines.thresholds < last)].astype(np.float32)
    near = np.clip(cuts.view(np.int32) + np.arange(-40, 41)[:, None], 0, last.view(np.int32)).astype(np.int32)
    spread = np.random.default_rng(0).random(200_000, np.float32) * last
    r = np.concatenate([near.view(np.float32).reshape(-1), spread, [0, np.float32(1e-30), last]]).astype(np.float32)
    places, unsure = plan.places(r)
    segment = lines.index(r.astype(np.float64))
    right = (plan.lines[places] == np.stack(single(lines), -1)[segment]).all(-1)
    assert right[~unsure].all()
    assert not right[unsure].all()  # they are told for a reason
    assert unsure[near.size :].mean() < 1e-4 and not unsure[-3]
    assert plan.lines[:, 1].min() >= 0 and len(plan.words()) == 6 * CELLS + plan.lines.size


def reduced(d, period):
    """r of float32 d, each step rounded to float32; products with the high part of the period are exact."""
    d = np.where(np.isfinite(d), d, np.float32(0))
    high = math.ldexp(round(math.ldexp(period, 14)), -14)
    k = np.floor(d * np.float32(1 / period)).astype(np.float64)
    r = (d - k * high).astype(np.float32)
    r = (r - k * float(np.float32(period - high))).astype(np.float32)
    return np.clip(r, np.float32(0), np.float32(period * (1 - 2.0**-24)))


@pytest.mark.skipif(not permutes(), reason="the processor has no AVX-512")
@pytest.mark.parametrize("n", [16, 17, 31, 128, 255, 256])
@pytest.mark.parametrize("table", EVEN.values(), ids=EVEN)
def test_weights_by_pieces_are_those_of_cells(table, n):
    plan, period = plan_of(table)
    _, pieces = pieces_of(table)
    d = np.random.default_rng(n).standard_normal((50, n)).astype(np.float32) * 20
    d = np.minimum(d, 0)
    d[0, ::3], d[1, 2], d[2, ::2] = -math.inf, math.nan, -87.5
    d[:, 1] = 0
    d[pieces.places(reduced(d, period))[1] & np.isfinite(d)] = -1.0
    d, top = torch.from_numpy(d), torch.zeros(50)
    want, sums = weighed(d, top, plan._replace(pieces=NO_PIECES), period)
    words, meta = plan.vector
    nowhere = words.clone()
    nowhere[: 2 * meta[2] + 2] = 0  # no lines: what is right comes from the pieces
    got, totals = weighed(d, top, plan._replace(vector=(nowhere, meta)), period)
    assert torch.equal(got.view(torch.int32), want.view(torch.int32))
    assert torch.allclose(totals, sums, rtol=1e-6, equal_nan=True)
    assert (got[0, ::3] == 0).all() and totals[1].isnan() and (got[2, ::2][d[2, ::2] < -87] == 0).all()


@pytest.mark.parametrize(
    "table",
    [periodic([0, 1e-6, 1e-3, 0.5, 0.7], (1, 8, 16, 2)), Table(Cells(np.float32([0, 0.7]), (8,), -np.ones(9)))],
    ids=["several cuts in a cell", "below 0"],
)
def test_tables_that_lie_in_no_runs(table):
    assert piece_plan(reduced_segments(Table(table.body), "fp32"), PERIOD) is None


def plan_of(table):
    module = LUTSoftmax(table)
    return plans_of(module.words, module.meta)[0], module.tables["exp"][1]


def weighed(x, top, plan, period):
    x = x.clone()
    return x, attention.weights(x, top, plan, period)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_lines_found_by_bits_are_those_of_the_kernel(table):
    plan, period = plan_of(table)
    thresholds = np.unique(np.concatenate([table.body.edges, np.linspace(0, PERIOD, 500)]).astype(np.float32))
    near = np.concatenate([np.nextafter(thresholds, np.float32(s)) for s in (-1, 1)] + [thresholds])
    near = near[(near >= 0) & (near < PERIOD)]
    d = torch.from_numpy(np.concatenate([near - np.float32(k * PERIOD) for k in (1, 2, 30, 125)] + [-near * 130]))
    d = torch.cat([d, torch.tensor([0.0, -0.0, -87.0, -87.1, -1e30, -math.inf, math.nan])])[None]
    top = torch.zeros(1)
    got, sums = weighed(d, top, plan, period)
    assert weights.table_of(plan, period)[0][0] == weights._CELLS
    words, meta = plan.vector
    words = words.clone()
    words[2 * meta[2] + 2] = 0  # a threshold that no r lies below, but none that is known for it
    by_kernel = plan._replace(vector=(words, meta), pieces=NO_PIECES)
    assert weights.table_of(by_kernel, period)[0][0] == weights._PERIOD
    want, _ = weighed(d, top, by_kernel, period)
    assert torch.equal(got.view(torch.int32), want.view(torch.int32))
    finite = got[:, :-1].double()
    exact = torch.exp(d[:, :-1].double())
    exact[d[:, :-1] < -87] = 0
    assert torch.allclose(finite, exact, rtol=0.07, atol=0)  # one piece at the coarsest
    assert sums.isnan().all() and got[0, -1].isnan()


@pytest.mark.parametrize("n", [1, 2, 3, 255, 256, 257, 1000])
@pytest.mark.parametrize("name", ["exp_8", "exp_fplut"])
def test_sums_and_what_lies_behind_a_row(name, n):
    module = LUTSoftmax(name)
    plan, period = plans_of(module.words, module.meta)[0], module.tables["exp"][1]
    room = torch.full((3, n), math.nan)
    x = room[1:2]
    x.copy_(torch.randn(n, generator=torch.Generator().manual_seed(n)) * 3)
    top = x.amax(-1)
    sums = attention.weights(x, top, plan, period)
    assert room[0].isnan().all() and room[2].isnan().all()
    assert torch.allclose(sums.double(), x.double().sum(-1), rtol=1e-6)
