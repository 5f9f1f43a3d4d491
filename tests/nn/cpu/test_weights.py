"""The weights of a softmax on the CPU: lines found by the bits of r against the table's own kernel, sums, ends."""

import math

import numpy as np
import pytest
import torch

import lutc
from lutc.nn import LUTSoftmax
from lutc.nn.cpu import attention, weights
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


def plan_of(table):
    module = LUTSoftmax(table)
    return plans_of(module.words, module.meta)[0].vector, module.tables["exp"][1]


def weighed(x, top, plan, period):
    x = x.clone()
    return x, attention.weights(x, top, plan, period)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_lines_found_by_bits_are_those_of_the_kernel(table, monkeypatch):
    plan, period = plan_of(table)
    thresholds = np.unique(np.concatenate([table.body.edges, np.linspace(0, PERIOD, 500)]).astype(np.float32))
    near = np.concatenate([np.nextafter(thresholds, np.float32(s)) for s in (-1, 1)] + [thresholds])
    near = near[(near >= 0) & (near < PERIOD)]
    d = torch.from_numpy(np.concatenate([near - np.float32(k * PERIOD) for k in (1, 2, 30, 125)] + [-near * 130]))
    d = torch.cat([d, torch.tensor([0.0, -0.0, -87.0, -87.1, -1e30, -math.inf, math.nan])])[None]
    top = torch.zeros(1)
    got, sums = weighed(d, top, plan, period)
    assert weights.table_of(plan, period)[0][0] == weights._CELLS
    monkeypatch.setattr(weights, "_MOST", 0)
    assert weights.table_of(plan, period)[0][0] == weights._PERIOD
    want, _ = weighed(d, top, plan, period)
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
    plan, period = plans_of(module.words, module.meta)[0].vector, module.tables["exp"][1]
    room = torch.full((3, n), math.nan)
    x = room[1:2]
    x.copy_(torch.randn(n, generator=torch.Generator().manual_seed(n)) * 3)
    top = x.amax(-1)
    sums = attention.weights(x, top, plan, period)
    assert room[0].isnan().all() and room[2].isnan().all()
    assert torch.allclose(sums.double(), x.double().sum(-1), rtol=1e-6)
