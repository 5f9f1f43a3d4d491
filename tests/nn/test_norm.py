"""LUTLayerNorm and LUTRMSNorm: against the definition in float64, torch's special values, gradients, every positive
variance.
"""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lutc.errors import LutcError
from lutc.nn import LUTLayerNorm, LUTRMSNorm
from lutc.nn.cpu import norms as cpu_norms
from lutc.nn.row_tables import plans_of
from lutc.table.prologues import ExponentPrologue
from lutc.table.table import Table
from tests.helpers.handmade import cell_tables, float_tables, int_tables

FINE = float_tables("rsqrt", 1, 4, 1000)
LINES = float_tables("rsqrt", 1, 4, 16)
INTS = int_tables("rsqrt", 16, range(4, 7))
CELLS = cell_tables("rsqrt", [0.25, 1, 4], [4, 32])
REDUCED = Table(CELLS["fp32"].body, ExponentPrologue(step=2, growth=-1))


def root(table, v):
    """1/sqrt(v) in float64 numpy by the table on [1, 4)."""
    m, e = np.frexp(v)
    half = (e - 1) // 2
    return table(np.ldexp(m, e - 2 * half)) * np.ldexp(1.0, -half)


def reference(table, x, weight, bias, eps, centred):
    mean = x.mean(-1, keepdims=True) if centred else 0.0
    deviation = x - mean
    return deviation * root(table, np.square(deviation).mean(-1, keepdims=True) + eps) * weight + bias


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "table",
    [LINES["fp32"], INTS["5"], CELLS["fp32"], REDUCED],
    ids=["lines", "int8 table", "cells", "with its prologue"],
)
def test_equals_the_definition(table, dtype):
    generator = torch.Generator().manual_seed(0)
    n = 65
    x = (torch.randn(9, n, generator=generator) * torch.logspace(-2, 2, 9)[:, None]).to(dtype)
    weight, bias = (torch.randn(n, generator=generator).to(dtype) for _ in range(2))
    plain = Table(table.body, None, table.left, table.right, table.coefficients)
    arguments = x.double().numpy(), weight.double().numpy()
    layer = LUTLayerNorm(n, rsqrt=table, dtype=dtype)
    layer.weight.data, layer.bias.data = weight, bias
    rms = LUTRMSNorm(n, 1e-6, rsqrt=table, dtype=dtype)
    rms.weight.data = weight
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 2 * torch.finfo(dtype).eps)
    for got, want in (
        (layer(x), reference(plain, *arguments, bias.double().numpy(), 1e-5, True)),
        (rms(x), reference(plain, *arguments, 0.0, 1e-6, False)),
    ):
        assert got.dtype == dtype
        assert (np.abs(got.detach().double().numpy() - want) <= tolerance * (1 + np.abs(want))).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_positive_mean_square_is_served(dtype):
    """Rows of one element each: the mean of squares is x^2, from subnormals to the largest."""
    tiny = {torch.float32: 1e-22, torch.float16: 6e-8, torch.bfloat16: 1e-22}[dtype]
    large = {torch.float32: 1e19, torch.float16: 65504.0, torch.bfloat16: 1e19}[dtype]
    x = torch.logspace(math.log10(tiny), math.log10(large), 400, dtype=torch.float64).to(dtype)[:, None]
    got = LUTRMSNorm(1, 0.0, elementwise_affine=False, rsqrt=FINE)(x)
    square = x.float().square()  # rounded coarsely where it is subnormal, here as in torch
    want = x.double() / square.double().sqrt()
    assert (got.double() / want - 1).abs().max() < 1e-3 + torch.finfo(dtype).eps
    assert square[0] < torch.finfo(torch.float32).smallest_normal or dtype == torch.float16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_special_values_as_torch(dtype):
    x = torch.randn(6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(dtype)
    x[0, 1] = math.nan
    x[1, 1] = math.inf
    x[2] = 3.0
    x[3] = torch.finfo(dtype).max
    x[4] = 0.0
    for eps in (1e-5, 0.0):
        # torch's LayerNorm works by Welford's update; of rows that overflow in the plain formula it is asked nothing
        # here
        rows = [0, 1, 2, 4, 5]
        got = LUTLayerNorm(8, eps, elementwise_affine=False, rsqrt=FINE)(x)[rows]
        assert torch.allclose(got, F.layer_norm(x, (8,), eps=eps)[rows], atol=1e-3, rtol=1e-3, equal_nan=True)
        assert torch.allclose(
            LUTRMSNorm(8, eps, elementwise_affine=False, rsqrt=FINE)(x),
            F.rms_norm(x, (8,), eps=eps),
            atol=1e-3,
            rtol=1e-3,
            equal_nan=True,
        )


SHAPES = [((2, 3, 4), (3, 4)), ((5,), 5), ((0, 4), 4), ((3, 2, 0, 4), (4,)), ((1, 1), 1), ((2, 40000), 40000)]


@pytest.mark.parametrize(("shape", "normalized"), SHAPES)
def test_shapes(shape, normalized):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    module = LUTLayerNorm(normalized, rsqrt=FINE)
    with torch.no_grad():
        assert torch.allclose(
            module(x), F.layer_norm(x, module.normalized_shape, module.weight, module.bias), atol=1e-3
        )


def test_strided_inputs():
    module = LUTRMSNorm(6, rsqrt=FINE, elementwise_affine=False)
    x = torch.randn(4, 6, 5)
    for view in (
        x.transpose(1, 2),
        x.permute(2, 0, 1),
        x[:1].expand(3, 6, 5).transpose(1, 2),
        x.transpose(1, 2)[..., ::2, :].flip(0),
    ):
        assert torch.equal(module(view), module(view.contiguous()))


@pytest.mark.parametrize("centred", [True, False])
def test_gradients(centred):
    generator = torch.Generator().manual_seed(3)
    x, w, b, upstream = (
        torch.randn(shape, dtype=torch.float64, generator=generator) for shape in ((4, 7), (7,), (7,), (4, 7))
    )
    x.requires_grad_()
    module = (
        LUTLayerNorm(7, rsqrt=FINE, dtype=torch.float64)
        if centred
        else LUTRMSNorm(7, 1e-6, rsqrt=FINE, dtype=torch.float64)
    )
    module.weight.data = w.clone()
    if centred:
        module.bias.data = b.clone()
    got = torch.autograd.grad(module(x), [x, *module.parameters()], upstream)
    exact = F.layer_norm(x, (7,), module.weight, module.bias) if centred else F.rms_norm(x, (7,), module.weight, 1e-6)
    want = torch.autograd.grad(exact, [x, *module.parameters()], upstream)
    for one, other in zip(got, want, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)


def test_opcheck_and_compile():
    for module in (LUTLayerNorm(9, rsqrt=LINES), LUTRMSNorm(9, rsqrt=LINES)):
        x = torch.randn(4, 9, requires_grad=True)
        bias = getattr(module, "bias", None)
        torch.library.opcheck(
            torch.ops.lutc.norm.default, (x, module.weight, bias, 1e-5, module.centred, module.words, module.meta)
        )
        assert torch.equal(torch.compile(module, fullgraph=True, backend="aot_eager")(x), module(x))
        exported = torch.export.export(module, (x.detach(),))
        assert torch.equal(exported.module()(x.detach()), module(x.detach()))


def test_half_copies_pickles_and_checkpoints_keep_the_table():
    module, x = LUTLayerNorm(8, rsqrt=LINES), torch.randn(3, 8)
    want = module(x)
    assert torch.equal(copy.deepcopy(module)(x), want)
    assert torch.equal(pickle.loads(pickle.dumps(module))(x), want)
    halved = copy.deepcopy(module).half()
    assert torch.equal(halved.rsqrt_fast, module.rsqrt_fast)
    other = LUTLayerNorm(8, rsqrt=FINE)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(x), want)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: LUTLayerNorm(8, rsqrt=float_tables("exp", -8, 0, 8)),
            "a table of rsqrt is needed here; 'exp' is one of exp",
        ),
        (
            lambda: LUTLayerNorm(8, rsqrt=cell_tables("rsqrt", [1, 1.5, 2], [2, 2])),
            r"no table in 'rsqrt' covers rsqrt on \[1, 4\)",
        ),
        (lambda: LUTLayerNorm(0, rsqrt=LINES), "normalized_shape is a positive number or several; given 0"),
        (lambda: LUTRMSNorm(8, -1e-6, rsqrt=LINES), "eps is a number, not negative; given -1e-06"),
        (lambda: LUTRMSNorm(8, math.nan, rsqrt=LINES), "eps is a number, not negative; given nan"),
        (
            lambda: LUTLayerNorm(8, rsqrt=LINES)(torch.zeros(3, 7)),
            r"over \(8,\) takes tensors that end in this shape; given \(3, 7\)",
        ),
        (
            lambda: LUTLayerNorm(8, rsqrt=LINES, device="meta")(torch.zeros(3, 8)),
            "input is on cpu, the module's table or parameters on meta",
        ),
        (
            lambda: LUTLayerNorm(8, rsqrt=LINES).normalise(torch.zeros(3, 8), (8,), torch.ones(4)),
            r"weight and bias of this shape; given \(4,\)",
        ),
        (
            lambda: LUTLayerNorm(8, rsqrt=LINES)(torch.zeros(8, dtype=torch.int8)),
            "takes float32, float16, bfloat16 and float64 tensors; given int8",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(LutcError, match=message):
        make()


@pytest.mark.parametrize("n", [3, 300, 1000])
def test_squares_whose_sum_exceeds_float32(n):
    """Each square is within float32, their sum is not: the mean still is."""
    x = torch.full((2, n), 1e19)
    x[:, ::2] *= -1
    for module in (LUTRMSNorm(n), LUTLayerNorm(n)):
        want = (
            torch.nn.functional.rms_norm(x.double(), (n,))
            if isinstance(module, LUTRMSNorm)
            else torch.nn.functional.layer_norm(x.double(), (n,))
        )
        assert torch.allclose(module(x).double(), want, rtol=1e-4)


def test_the_mean_of_numbers_whose_sum_leaves_float32():
    x = torch.full((2, 700), 3e38, dtype=torch.bfloat16)
    mean, variance = (torch.empty(2, 1) for _ in range(2))
    module = LUTLayerNorm(700, elementwise_affine=False)
    plan = plans_of(module.words, module.meta)[0].vector
    cpu_norms.norm(x, None, None, torch.empty_like(x), mean, variance, 1e-5, True, plan)
    assert torch.equal(mean, x[:, :1].float()) and not variance.any()


def test_exponents_come_off_variances_exactly():
    rng = np.random.default_rng(0)
    spread = rng.integers(1, 0x7F800000, 5000).astype(np.int32).view(np.float32)
    for v in np.concatenate([spread, np.float32([1, 2, 4, 3.999, 1e-45, 1e-38, 2.0**-126, 3.4e38])]):
        mantissa, power = cpu_norms._apart(v)
        assert 1 <= mantissa < 4 and float(mantissa) / float(power) ** 2 == float(v)
    assert all(cpu_norms._apart(np.float32(v)) == (1, 1) for v in (0, -1, np.inf, np.nan))
