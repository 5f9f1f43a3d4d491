"""nn.FPLUT as its users call it: a drop-in for an activation, from any callable."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from lutc import formats
from lutc.certify.arithmetic import in_arithmetic
from lutc.errors import LutcError
from lutc.nn import FPLUT, LUT, LUTRMSNorm, LUTSoftmax
from lutc.table import library

CODES = torch.arange(-(1 << 15), 1 << 15).to(torch.int16)
CUTS = (-8.0, -4.0, -1.0, -0.25, 0.0, 0.25, 1.0, 4.0, 8.0)


@pytest.mark.parametrize(
    "module, name",
    [(nn.SiLU(), "silu"), (nn.GELU(), "gelu"), (nn.GELU(approximate="tanh"), "gelu_tanh"), (nn.Tanh(), "tanh")],
)
def test_the_call_its_users_write(module, name):
    """FPLUT(function=nn.SiLU(), func_name="silu") is the shipped table."""
    lut = FPLUT(function=module, func_name=name)
    shipped = library.load(f"{name}_fplut")
    np.testing.assert_array_equal(lut.tables["fp32"].body.values, shipped["fp32"].body.values)
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 4
    exact = module(x)
    assert ((lut(x) - exact).abs() <= 0.01 * exact.abs().clamp_min(2.0**-14)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("key", ["fp32", "fp16"])
def test_every_code_is_the_table_rounded_once(key, dtype):
    lut = FPLUT(func_name="silu", key=key)
    x = CODES.view(dtype)
    want = formats.get(str(dtype).removeprefix("torch.")).round(library.load("silu_fplut")[key](x.double().numpy()))
    got = lut(x)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got.double().numpy(), want)


def test_bf16_beyond_fp16_takes_the_tail():
    x = torch.tensor([65504.0, 70000.0, 1e6, 3e38, float("inf"), -70000.0, -3e38], dtype=torch.bfloat16)
    for name in ("silu", "gelu", "hardswish", "mish", "softplus"):
        assert torch.equal(FPLUT(func_name=name)(x), torch.relu(x))


def test_a_drop_in_in_a_model():
    model = nn.Sequential(nn.Linear(8, 16), FPLUT(nn.SiLU(), "silu"), nn.Linear(16, 4))
    other = copy.deepcopy(model)
    exact = nn.Sequential(model[0], nn.SiLU(), model[2])
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
    assert (model(x) - exact(x)).abs().max() < 1e-3
    model(x).sum().backward()
    assert model[0].weight.grad is not None and torch.isfinite(model[0].weight.grad).all()
    again = pickle.loads(pickle.dumps(other))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x), model(x))


def test_fixed_cut_points_and_pieces():
    lut = FPLUT(nn.SiLU(), "silu", cut_points=CUTS, pieces=16, values="sampled")
    body = lut.tables["fp32"].body
    assert tuple(body.cut_points) == CUTS and body.pieces == (1, 16, 16, 16, 16, 16, 16, 1)
    edges = torch.from_numpy(body.edges.copy())
    np.testing.assert_array_equal(body.values, nn.functional.silu(edges).float().numpy())


def test_another_function_under_a_known_name_keeps_its_own_tails():
    """LeakyReLU(0.2) called leaky_relu is not the registered one with slope 0.01."""
    lut = FPLUT(nn.LeakyReLU(0.2), "leaky_relu")
    x = torch.tensor([-1e6, -70000.0, -3.0, 0.0, 2.0, 1e6])
    torch.testing.assert_close(lut(x), nn.functional.leaky_relu(x, 0.2), rtol=1e-5, atol=1e-6)
    assert lut.tables.function is None and lut.gradient == "table"


def test_a_function_of_ones_own():
    def loose_gelu(v):
        return v * torch.sigmoid(1.8 * v)

    lut = FPLUT(loose_gelu, "loose_gelu", cut_points=CUTS)
    x = torch.linspace(-20, 20, 2001)
    assert (lut(x) - loose_gelu(x)).abs().max() < 6e-3  # in the first and the last interval, which have one piece
    assert lut.tables.name == "loose_gelu" and lut.gradient == "table"
    assert torch.equal(lut(torch.tensor([-1e6, 1e6])), torch.tensor([0.0, 1e6]))  # its tails were found


def test_range_reduction_of_the_shipped_table():
    lut = FPLUT(torch.exp, "exp")
    x = torch.linspace(-80, 80, 999)
    torch.testing.assert_close(lut(x), torch.exp(x), rtol=2e-5, atol=0)


@pytest.mark.parametrize("arithmetic", ["fp16_rne", "fp16_trunc"])
def test_fp16_arithmetic_on_every_code(arithmetic):
    lut = FPLUT(nn.Tanh(), "tanh", key="fp16", arithmetic=arithmetic)
    x = CODES.view(torch.float16)
    want = in_arithmetic(library.load("tanh_fplut")["fp16"], arithmetic)(x.double().numpy())
    got = lut(x).double().numpy()
    np.testing.assert_array_equal(got, want)
    y = torch.linspace(-3, 3, 100)
    assert lut(y).dtype == torch.float32
    assert torch.equal(lut(y), lut(y.half()).float())
    copied = pickle.loads(pickle.dumps(lut))
    assert torch.equal(copied(y), lut(y)) and arithmetic in repr(copied)
    assert torch.equal(lut.gated(y, y), lut(y) * y)


def test_softmax_and_norm_take_fplut_tables():
    x = torch.randn(6, 33, generator=torch.Generator().manual_seed(2)) * 3
    softmax = LUTSoftmax(exp="exp_fplut", reciprocal="reciprocal_fplut")
    torch.testing.assert_close(softmax(x), torch.softmax(x, -1), rtol=1e-4, atol=1e-6)
    norm = LUTRMSNorm(33, rsqrt="rsqrt_fplut")
    torch.testing.assert_close(norm(x), nn.functional.rms_norm(x, (33,), eps=norm.eps), rtol=1e-4, atol=1e-6)


def test_a_shipped_table_as_any_other():
    assert LUT("silu_fplut").tables.default_key == "fp32"
    assert "key=fp16" in repr(LUT("silu_fplut", key="fp16"))


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((), {}, "given neither"),
        ((), {"func_name": "nosuch"}, "unknown function"),
        ((3, "silu"), {}, "takes a callable"),
        ((nn.SiLU(), "silu"), {"arithmetic": "fp8"}, "fp32, fp16_rne, fp16_trunc"),
        ((nn.SiLU(), "silu"), {"pieces": 12}, "powers of two"),
        ((nn.SiLU(), "silu"), {"cut_points": (1.0, 0.0, 2.0)}, "increase strictly"),
        ((nn.SiLU(), "silu"), {"key": "fp8"}, "fp16, bf16, fp32"),
        ((lambda v: v[:3], "odd"), {}, "of its shape"),
        ((lambda v: 1 / v, "inverse"), {"cut_points": (-1.0, 0.0, 1.0)}, "finite"),
    ],
)
def test_bad_input(arguments, options, message):
    with pytest.raises(LutcError, match=message):
        FPLUT(*arguments, **options)
