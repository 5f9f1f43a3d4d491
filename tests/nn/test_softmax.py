"""LUTSoftmax against float64: the table evaluated by numpy, torch's masks and special values, gradients, dtypes,
shapes.
"""

import copy
import math
import pickle

import numpy as np
import pytest
import torch

from lutc.errors import LutcError
from lutc.functions import FUNCTIONS, Line
from lutc.nn import LUTSoftmax
from lutc.table.bodies import Cells, Lines
from lutc.table.prologues import PeriodPrologue
from lutc.table.table import Table
from lutc.table.table_set import TableSet
from tests.helpers.handmade import cell_tables, float_tables, int_tables

FINE_EXP, FINE_RECI = float_tables("exp", -30, 0, 4000), float_tables("reciprocal", 1, 2, 500)
EXP, RECI = float_tables("exp", -10, 0, 24), float_tables("reciprocal", 1, 2, 8)
INT_EXP, INT_RECI = int_tables("exp"), int_tables("reciprocal", 8, range(3, 7))
CELL_EXP = cell_tables("exp", [-20, -8, -2, 0, 1], [8, 32, 32, 1], left=FUNCTIONS["exp"].left)
CELL_RECI = cell_tables("reciprocal", [0.5, 1, 2, 4], [4, 32, 4])


def period_exp(pieces=64):
    edges = np.linspace(0, math.log(2), pieces + 1)
    body = Cells(np.float32([0, math.log(2)]).astype(float), (pieces,), np.exp(edges).astype(np.float32))
    return Table(body, PeriodPrologue(math.log(2), 1))


def reference(exp: Table, reciprocal: Table | None, x: np.ndarray) -> np.ndarray:
    """The definition in float64 numpy, tables by their own evaluation."""
    d = x - x.max(-1, keepdims=True)
    w = np.where(d < -87, 0, np.maximum(exp(d), 0))
    s = w.sum(-1, keepdims=True)
    if reciprocal is None:
        return w / s
    m, e = np.frexp(s)
    return w * np.ldexp(reciprocal(2 * m), 1 - e)


def only(tables):
    return next(iter(tables.values()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("exp", "reciprocal"),
    [
        (only(EXP), None),
        (only(EXP), only(RECI)),
        (INT_EXP["4"], INT_RECI["5"]),
        (only(CELL_EXP), only(CELL_RECI)),
        (period_exp(), only(RECI)),
    ],
    ids=["lines, division", "lines", "int8 tables", "cells", "exp by its period"],
)
def test_equals_the_definition(exp, reciprocal, dtype):
    x = (torch.randn(7, 129, generator=torch.Generator().manual_seed(0)) * 6).to(dtype)
    module = LUTSoftmax(exp, reciprocal)
    got = module(x)
    assert got.dtype == dtype
    want = reference(exp, reciprocal, x.double().numpy())
    # fp32 arithmetic on x - max of up to 40 moves the exponential by 40 * 2**-24; cuts of coarse tables may then fall
    # on the other side
    jump = 2.0**-8 if isinstance(exp.body, Lines) and dtype != torch.float64 else 0.0
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, torch.finfo(dtype).eps)
    close = np.abs(got.double().numpy() - want) <= tolerance + jump * want
    assert close.all()


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4, 5), (1, 1), (3, 0), (0, 3), (4, 1)])
@pytest.mark.parametrize("dim", [-1, 0])
def test_shapes_and_dims(shape, dim):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    got = LUTSoftmax(FINE_EXP, FINE_RECI, dim=dim)(x)
    assert got.shape == x.shape
    assert (got - torch.softmax(x, dim)).abs().max().item() < 2e-4 if x.numel() else True


def test_zero_dimensional_and_strided():
    module = LUTSoftmax(FINE_EXP)
    assert module(torch.tensor(3.0)).item() == pytest.approx(1.0, abs=1e-5)
    x = torch.randn(6, 10, 8)
    for view in (x[:, ::3], x.permute(2, 0, 1), x[..., None].expand(6, 10, 8, 3), x[::2, 1:, ::5], x.flip(1)[:, 2:]):
        assert torch.equal(module(view), module(view.contiguous()))
    image = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    assert torch.equal(module(image), module(image.contiguous()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_masks_as_torch(dtype):
    x = torch.randn(6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).to(dtype)
    x[0, 3:] = -math.inf
    x[1, :5] = torch.finfo(dtype).min
    x[2] = -math.inf
    x[3] = torch.finfo(dtype).min
    x[4, 2] = math.nan
    x[5, 2] = math.inf
    got, want = LUTSoftmax(FINE_EXP, FINE_RECI)(x), torch.softmax(x, -1)
    assert torch.equal(got.isnan(), want.isnan())
    assert torch.equal(got == 0, want == 0)
    assert torch.allclose(got, want, atol=2e-4 + 2 * torch.finfo(dtype).eps, equal_nan=True)
    # whatever a table's left tail is, masked elements weigh nothing
    edges = np.linspace(-8, 0, 33)
    tail = Line(0.0, 0.0625)
    coarse = LUTSoftmax(Table(Cells(np.array([-8.0, 0.0]), (32,), np.float32(np.exp(edges) + 0.0625)), left=tail))
    assert (coarse(x)[0, 3:] == 0).all()
    assert (coarse(x)[1, :5] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_long_rows_and_sums_beyond_fp16(dtype):
    x = torch.zeros(2, 131072, dtype=dtype)
    x[1, ::2] = -1.0
    got = LUTSoftmax(FINE_EXP, FINE_RECI)(x)
    want = torch.softmax(x.double(), -1)
    assert torch.allclose(
        got.double(), want, rtol=2e-3, atol=1e-8
    )  # 1 / 131072 is subnormal in fp16: half a step of it
    assert got.double().sum(-1).sub(1).abs().max() < 5e-3


def test_large_differences_in_fp16():
    x = torch.tensor([[65504.0, -65504.0, 65472.0]], dtype=torch.float16)
    assert torch.equal(LUTSoftmax(FINE_EXP)(x), torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float16))


def test_gradients():
    x = torch.randn(3, 17, dtype=torch.float64, requires_grad=True)
    module = LUTSoftmax(FINE_EXP, FINE_RECI)
    upstream = torch.randn(3, 17, dtype=torch.float64)
    (got,) = torch.autograd.grad(module(x), x, upstream)
    (want,) = torch.autograd.grad(torch.softmax(x, -1), x, upstream)
    assert (got - want).abs().max() < 1e-3
    y = module(x).detach()
    assert torch.allclose(got, y * (upstream - (upstream * y).sum(-1, keepdim=True)))
    with torch.no_grad():
        assert not module(x).requires_grad


def test_opcheck_and_compile():
    module = LUTSoftmax(EXP, RECI)
    x = torch.randn(4, 33, requires_grad=True)
    torch.library.opcheck(torch.ops.lutc.softmax.default, (x, module.words, module.meta, 0.0))
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), module(x))
    exported = torch.export.export(module, (x.detach(),))
    assert torch.equal(exported.module()(x.detach()), module(x.detach()))


def test_half_copies_pickles_and_checkpoints_keep_the_table():
    module, x = LUTSoftmax(EXP, RECI), torch.randn(3, 8)
    want = module(x)
    for other in (copy.deepcopy(module).half(), pickle.loads(pickle.dumps(module)), module.to("cpu").bfloat16()):
        assert torch.equal(other(x), want)
    different = LUTSoftmax(FINE_EXP, FINE_RECI)
    assert not torch.equal(different(x), want)
    different.load_state_dict(module.state_dict())
    assert torch.equal(different(x), want)
    assert set(module.state_dict()) == {"exp_table", "reciprocal_table"}
    broken = {**module.state_dict(), "exp_table": torch.zeros(5, dtype=torch.uint8)}
    with pytest.raises(LutcError, match="checkpoint's entry 'exp_table' is no table"):
        different.load_state_dict(broken)


def test_the_best_table_of_a_set_is_used():
    grid = np.linspace(-16, 0, 20001)
    worst = {key: np.abs(INT_EXP[key](grid) - np.exp(grid)).max() for key in ("6", "3")}
    assert worst["3"] < 0.9 * worst["6"]
    both = TableSet("exp", {key: INT_EXP[key] for key in worst}, {key: INT_EXP.inputs[key] for key in worst}, "exp")
    x = torch.randn(50, 40) * 3
    got = LUTSoftmax(both, INT_RECI)(x)
    assert torch.equal(got, LUTSoftmax(INT_EXP["3"], INT_RECI)(x)) and not torch.equal(
        got, LUTSoftmax(INT_EXP["6"], INT_RECI)(x)
    )


@pytest.mark.parametrize(
    ("exp", "reciprocal", "message"),
    [
        (float_tables("gelu", -4, 4, 8), None, "a table of exp is needed here; 'gelu' is one of gelu"),
        (EXP, float_tables("rsqrt", 1, 4, 8), "a table of reciprocal is needed here"),
        (cell_tables("exp", [-60, -50, -40], [4, 4]), None, r"no table in 'exp' covers exp on \[-16, 0\]"),
        (EXP, cell_tables("reciprocal", [4, 8, 16], [4, 4]), r"no table in 'reciprocal' covers reciprocal on \[1, 2\)"),
        (7, None, "a table is given by name, path, TableSet or Table, not by int"),
    ],
)
def test_tables_that_do_not_serve(exp, reciprocal, message):
    with pytest.raises(LutcError, match=message):
        LUTSoftmax(exp, reciprocal)


@pytest.mark.parametrize("x", [torch.zeros(3, dtype=torch.int32), torch.zeros(3, dtype=torch.complex64), [1.0]])
def test_inputs_that_are_no_floats(x):
    with pytest.raises(LutcError, match="LUTSoftmax takes float32, float16, bfloat16 and float64 tensors; given"):
        LUTSoftmax(EXP)(x)


def test_the_operator_takes_any_strides():
    """As a compiler may hand them to it."""
    layer, x = LUTSoftmax(), torch.randn(7, 5)
    _, period = layer.tables["exp"]
    for given in (x.t(), x[:, ::2], x[::2], x[:1].expand(4, 5)):
        torch.library.opcheck(
            torch.ops.lutc.softmax.default, (given, layer.words, layer.meta, period), test_utils="test_faketensor"
        )
        assert torch.equal(torch.ops.lutc.softmax(given, layer.words, layer.meta, period), layer(given.contiguous()))


def test_a_table_elsewhere_than_the_input():
    with pytest.raises(LutcError, match="the input is on cpu, the module's table or parameters on meta; move it"):
        LUTSoftmax().to("meta")(torch.zeros(3, 4))
