"""Beyond a table's range: its last segment, or the function itself."""

import copy
import io
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lutc
from lutc.errors import LutcError
from lutc.formats import Inputs
from lutc.nn import LUT
from lutc.table.reach import reach

FAR = torch.tensor([-1e4, -300.0, -9.0, -0.25, 0.0, 0.25, 1.5, 9.0, 300.0, 1e4])
EXACT = {
    "relu2": lambda x: F.relu(x).square(),
    "square": torch.square,
    "snake": lambda x: x + torch.sin(x).square(),
    "xielu": lambda x: torch.where(x > 0, 0.8 * x * x + 0.5 * x, 0.8 * (torch.expm1(x.clamp(max=0)) - x) + 0.5 * x),
    "log1p": torch.log1p,
    "expm1": torch.expm1,
}


def made(name):
    return lutc.compile(name, 16, search="exact", inputs=Inputs(8, 2.0**-5))


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_function_itself_beyond_the_ends_and_the_table_within(name, dtype):
    tables, x = made(name), FAR.to(dtype)
    lut, plain = LUT(tables, outside="exact"), LUT(tables)
    lo, hi = lut.ends
    beyond = (x < lo) | (x > hi)
    want = torch.where(beyond, EXACT[name](x.double()), plain(x).double()).to(dtype)
    torch.testing.assert_close(lut(x), want, rtol=2 * torch.finfo(dtype).eps, atol=1e-6, equal_nan=True)
    assert beyond.any() and not beyond.all() and lut(x).dtype == dtype
    gate = torch.full_like(x, 2.0)
    torch.testing.assert_close(lut.gated(x, gate), 2 * lut(x), equal_nan=True)


def test_squares_of_large_numbers_are_no_line():
    x = torch.tensor([1e4])
    assert LUT(made("relu2"), outside="exact")(x) == 1e8 and LUT(made("relu2"))(x) < 1e5


@pytest.mark.parametrize("name", ["silu_8", "exp_fplut", "rsqrt_fplut", "relu_fplut"])
def test_tables_that_hold_everywhere_compute_nothing_else(name):
    lut = LUT(name, outside="exact")
    assert lut.ends == (-math.inf, math.inf) and not lut.exact_outside
    assert torch.equal(lut(FAR), LUT(name)(FAR)) or FAR[lut(FAR).isnan()].max() < 0


def test_gradients_are_finite_and_the_functions_own():
    lut = LUT(made("log1p"), outside="exact")
    x = torch.tensor([-0.4, 3.0, 50.0, 1e4], requires_grad=True)
    (got,) = torch.autograd.grad(lut(x).sum(), x)
    torch.testing.assert_close(got, 1.0 / (1.0 + x.detach()))


def test_a_function_that_torch_does_not_know_is_given():
    class Cube(nn.Module):
        def forward(self, x):
            return x**3

    tables = lutc.compile(Cube(), 8, range=(-2.0, 2.0), search="exact", inputs=Inputs(8, 2.0**-6))
    with pytest.raises(LutcError, match="torch does not know of 'Cube'; give it as outside="):
        LUT(tables, outside="exact")
    lut = LUT(tables, outside=Cube())
    assert lut(torch.tensor(100.0)) == 1e6 and not list(lut.children())
    with pytest.raises(LutcError, match="outside is 'table' or 'exact'"):
        LUT(tables, outside="clamp")


def test_copies_files_and_graphs_keep_it():
    lut = LUT(made("square"), outside="exact")
    stored = io.BytesIO()
    torch.save(lut, stored)
    stored.seek(0)
    for other in (copy.deepcopy(lut), torch.load(stored, weights_only=False), lut.half().float()):
        assert torch.equal(other(FAR), lut(FAR)) and "beyond -2 .. 2 the function" in repr(other)
    assert "beyond -2 .. 2 its last segment goes on" in repr(LUT(made("square")))
    exported = torch.export.export(nn.Sequential(lut), (FAR,)).module()
    assert torch.equal(exported(FAR), lut(FAR))


def test_how_far_tables_reach():
    lines = made("relu2")
    assert reach(lines, "5") == (-math.inf, 2.0)
    assert reach(lutc.load("exp_8"), "4") == (-math.inf, 0.0) and reach(lutc.load("sin_8"), "4") == (-4.0, 4.0)
    assert reach(lutc.load("square_fplut"), "fp32") == (-math.inf, math.inf)  # range reduction
    half = lutc.compile("cos", 8, search="exact", symmetry=True, inputs=Inputs(8, 2.0**-5))
    assert reach(half, "5") == (-4.0, 4.0)
