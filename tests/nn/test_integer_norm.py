"""Integer LayerNorm and RMSNorm: torch against the numpy model bit for bit, the model against the float norms."""

import numpy as np
import pytest
import torch

from lutc.certify.coverage import RSQRT as RSQRT_INTERVAL
from lutc.certify.coverage import serving_key, worst_error
from lutc.errors import LutcError
from lutc.formats.requantise import INT32_MAX
from lutc.hardware.rows import IntegerNormModel, OutputCodes
from lutc.nn.integer_norm import IntegerLayerNorm, IntegerRMSNorm
from tests.helpers.handmade import int_tables

RSQRT = int_tables("rsqrt", 16, range(4, 7))
TABLE_ERROR = worst_error(RSQRT[serving_key(RSQRT, RSQRT_INTERVAL)[1]], RSQRT_INTERVAL)
ROOT_ERROR = TABLE_ERROR + 2.0**-12  # plus that of mantissa and root codes


def parameters(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=generator) + 1, torch.randn(n, generator=generator)


def rows(n, seed=0):
    rng = np.random.default_rng(seed)
    q = rng.integers(-128, 128, (9, n)).astype(np.int8)
    q[0] = 5  # no variance
    q[1] = np.where(np.arange(n) % 2, 127, -128)  # the largest
    q[2] = 0
    q[2, 0] = 1  # the smallest
    q[3] = np.clip(rng.normal(20, 3, n).round(), -128, 127)
    q[4] = -128
    return torch.from_numpy(q)


@pytest.mark.parametrize("n", [1, 2, 3, 64, 384, 769, 4096, 33025])
@pytest.mark.parametrize(
    ("scale", "zero_point", "out"), [(2.0**-4, 0, 2.0**-4), (0.037, -17, 0.03), (2.0**-8, 127, 0.05)]
)
def test_torch_equals_the_model(n, scale, zero_point, out):
    weight, bias = parameters(n)
    layer = IntegerLayerNorm(
        weight, bias, 1e-5, scale=scale, zero_point=zero_point, out_scale=out, out_zero_point=3, rsqrt=RSQRT
    )
    rms = IntegerRMSNorm(weight, 1e-6, scale=scale, zero_point=zero_point, out_scale=out, rsqrt=RSQRT)
    plain = IntegerLayerNorm(None, None, scale=scale, zero_point=zero_point, out_scale=out, rsqrt=RSQRT, n=n)
    q = rows(n)
    for module in (layer, rms, plain):
        assert (module(q) == torch.from_numpy(module.model(q.numpy()))).all()


def python_layer_norm(model: IntegerNormModel, row):
    """The statistics in Python integers: mean, variance and deviation as documented, before the table."""
    n, f = model.n, model.fraction
    c = [q - model.zero_point for q in row]
    mean = (2 * sum(c) + n) // (2 * n)
    deviations, rest = [v - mean for v in c], sum(c) - n * mean
    squares = (sum(d * d for d in deviations) << f) - (2 * (rest * rest << f) + n) // (2 * n)
    assert 0 <= squares + model.epsilon <= INT32_MAX
    return squares, [(d << 7) - (2 * (rest << 7) + n) // (2 * n) for d in deviations]


@pytest.mark.parametrize("n", [2, 3, 100, 384, 5000])
def test_integer_statistics_are_the_true_ones(n):
    model = IntegerLayerNorm(None, None, scale=2.0**-4, zero_point=-100, out_scale=2.0**-4, rsqrt=RSQRT, n=n).model
    for row in rows(n, 3).tolist():
        squares, deviations = python_layer_norm(model, row)
        assert abs(squares / (n * 2.0**model.fraction) - np.var(row)) <= 0.5 / (n * 2.0**model.fraction) + 1e-9
        assert np.abs(np.array(deviations) / 128 - (row - np.mean(row))).max() <= 0.5 / 128 + 1e-9


@pytest.mark.parametrize("n", [64, 768, 4096])
def test_close_to_the_float_norms(n):
    weight, bias = parameters(n, 1)
    q, scale = rows(n, 1)[5:], 2.0**-5
    x = q.double() * scale
    out = float((weight.abs() * 4 + bias.abs()).max()) / 127
    layer = IntegerLayerNorm(weight, bias, 1e-5, scale=scale, out_scale=out, rsqrt=RSQRT)
    want = torch.nn.functional.layer_norm(x, (n,), weight.double(), bias.double(), 1e-5)
    # half a code of the output and of the hidden codes, and the table's relative error of the weighted part
    hidden = weight.abs() * 0.51 * 2.0**-layer.model.hidden_bits
    assert ((layer(q) * out - want).abs() <= 0.51 * out + hidden + ROOT_ERROR * (want - bias).abs()).all()
    rms = IntegerRMSNorm(weight, 1e-6, scale=scale, out_scale=out, rsqrt=RSQRT)
    want = torch.nn.functional.rms_norm(x, (n,), weight.double(), 1e-6)
    assert ((rms(q) * out - want).abs() <= 0.51 * out + hidden + ROOT_ERROR * want.abs()).all()


def test_eps_counts_for_rows_of_little_variance():
    q = torch.zeros(1, 64, dtype=torch.int8)
    q[0, 0] = 1
    scale, eps = 2.0**-9, 1e-5
    module = IntegerLayerNorm(None, None, eps, scale=scale, out_scale=2.0**-6, rsqrt=RSQRT, n=64)
    want = torch.nn.functional.layer_norm(q.double() * scale, (64,), eps=eps)
    assert torch.nn.functional.layer_norm(q.double() * scale, (64,), eps=0.0).max() > 4 * want.max()
    assert (module(q) * 2.0**-6 - want).abs().max() < 2.0**-6


def test_bias_without_weight_and_zero_weight():
    bias = torch.linspace(-3, 3, 32)
    q = rows(32)
    with_bias = IntegerLayerNorm(None, bias, scale=2.0**-4, out_scale=2.0**-4, rsqrt=RSQRT)
    want = torch.nn.functional.layer_norm(q.double() * 2.0**-4, (32,), None, bias.double())
    assert ((with_bias(q) * 2.0**-4 - want).abs() <= 0.51 * 2.0**-4 + ROOT_ERROR * (want - bias).abs()).all()
    only_bias = IntegerLayerNorm(torch.zeros(32), bias, scale=2.0**-4, out_scale=2.0**-4, rsqrt=RSQRT)
    assert (only_bias(q) == torch.floor(bias * 16 + 0.5).to(torch.int8)).all()


def test_shapes_and_state_dict():
    weight, bias = parameters(16)
    module = IntegerLayerNorm(weight, bias, scale=2.0**-4, out_scale=2.0**-4, rsqrt=RSQRT)
    q = rows(16).reshape(3, 3, 16)
    assert (module(q).reshape(9, 16) == module(q.reshape(9, 16))).all()
    assert (module(q.transpose(0, 1)) == module(q).transpose(0, 1)).all()
    assert module(torch.empty(0, 16, dtype=torch.int8)).shape == (0, 16)
    assert {"weight", "bias", "rsqrt.slopes"} <= set(module.state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": 0.0}, "scale is a positive finite number; given 0.0"),
        ({"zero_point": 200}, "zero point of 8-bit codes lies in -128..127; given 200"),
        ({"eps": -1.0}, "eps is a finite number, not negative"),
        ({"eps": 1e9}, r"must stay below 2\*\*31; given n = 8"),
        ({"out_scale": float("inf")}, "out_scale is a positive finite number"),
        ({"out_zero_point": 128}, "out_zero_point lies in -128..127"),
        ({"rsqrt": int_tables("exp")}, "a table of rsqrt is needed here"),
        ({"rsqrt": int_tables("rsqrt", 2, [4])}, r"no table in 'rsqrt' covers rsqrt on \[1, 4\)"),
        ({"weight": torch.full((8,), 1e-3), "bias": torch.full((8,), 1e6)}, "the bias of feature 0"),
        ({"weight": torch.full((8,), float("nan"))}, "weight has 8 finite numbers"),
        ({"weight": torch.ones(40000), "bias": None}, "rows of at most 33025"),
        ({"weight": None, "bias": None}, "give n"),
    ],
)
def test_bad_arguments(arguments, message):
    arguments = {
        "weight": torch.ones(8),
        "bias": torch.zeros(8),
        "scale": 2.0**-4,
        "out_scale": 2.0**-4,
        "rsqrt": RSQRT,
        **arguments,
    }
    with pytest.raises(LutcError, match=message):
        IntegerLayerNorm(**arguments)


def test_bad_inputs():
    module = IntegerRMSNorm(torch.ones(8), scale=1.0, out_scale=2.0**-6, rsqrt=RSQRT)
    with pytest.raises(LutcError, match=r"rows of 8; given shape \(2, 7\)"):
        module(torch.zeros(2, 7, dtype=torch.int8))
    with pytest.raises(LutcError, match="takes torch.int8 codes"):
        module(torch.zeros(2, 8))
    with pytest.raises(LutcError, match="rows of 8; given 7"):
        module.model(np.zeros((2, 7)))
    assert OutputCodes(1.0, 0, -128, 127).saturate(np.array([500])) == [127]
