"""QuantLUT: every code against the numpy model and the rule in Python integers; gradients against finite differences of
the exact function.
"""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.nn import QuantLUT
from lutc.table import library
from lutc.table.integer import evaluate
from tests.helpers.handmade import float_tables, int_tables

pytestmark = pytest.mark.filterwarnings("ignore::lutc.errors.ScaleWarning")  # scales without a table, on purpose

GELU = int_tables("gelu")
SETS = {name: int_tables(name) for name in ("gelu", "silu", "hardswish", "exp", "tanh", "sigmoid")}
SETS["reciprocal"] = int_tables("reciprocal", 8, range(1, 7))
SCALES = [2.0**-b for b in range(-1, 10)] + [0.05, 0.0123, 1 / 3]


def python_code(table, q, inputs, out):
    """The rule for one code in Python integers."""
    bits = {"q1.6": 6, "q2.5": 5}[table.coefficients]
    centred = q - inputs.zero_point
    segment = sum(1 for point in table.body.breakpoints.tolist() if point < inputs.scale * centred)
    slope, intercept = (
        round(float(values[segment]) * 2**bits) for values in (table.body.slopes, table.body.intercepts)
    )
    acc = slope * centred + math.floor(intercept / inputs.scale + 0.5)
    assert abs(acc) < 2**31
    mantissa, exponent = math.frexp(inputs.scale * 2.0**-bits / out.scale)
    multiplier, shift = (1, 1 - exponent) if mantissa == 0.5 else (round(mantissa * 2**31), 31 - exponent)
    scaled = (acc * multiplier + (1 << (shift - 1))) >> shift if shift > 0 else acc * multiplier << -shift
    return min(max(scaled + out.zero_point, out.minimum), out.maximum)


def every_code(bits=8):
    inputs = Inputs(bits)
    return torch.arange(inputs.minimum, inputs.maximum + 1, dtype=torch.int8 if bits <= 8 else torch.int16)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("scale", SCALES)
def test_every_code_and_scale(name, scale):
    tables, q = SETS[name], every_code()
    table = tables[tables.key_for_scale(scale)]
    for zero_point, out_scale, out_zero_point in ((0, scale, 0), (-30, 0.031, 12), (127, 2.0**-7, -128)):
        inputs, out = Inputs(8, scale, zero_point), Inputs(8, out_scale, out_zero_point)
        got = QuantLUT(tables, scale, zero_point, out_scale, out_zero_point)(q)
        assert got.dtype == torch.int8
        assert got.tolist() == evaluate(table, q.numpy(), inputs, out).tolist()
        assert got[::17].tolist() == [python_code(table, int(code), inputs, out) for code in q[::17]]
    real = QuantLUT(tables, scale, -30)(q)
    assert real.dtype == torch.float32
    assert real.tolist() == evaluate(table, q.numpy(), Inputs(8, scale, -30)).astype(np.float32).tolist()


@pytest.mark.parametrize("name", library.names())
def test_shipped_tables(name):
    tables = library.load(name)
    if not tables.inputs or next(iter(tables.values())).body.payload != "lines":
        pytest.skip("not a table over codes with lines")
    for key, inputs in tables.inputs.items():
        for scale in (inputs.scale, inputs.scale * 1.1)[: 2 if key == tables.default_key else 1]:
            out = Inputs(inputs.bits, 2.0**-5, 3)
            given = Inputs(inputs.bits, scale, inputs.zero_point)
            q = every_code(inputs.bits)
            got = QuantLUT(tables, scale, inputs.zero_point, 2.0**-5, 3, bits=inputs.bits)(q)
            assert got.tolist() == evaluate(tables[tables.key_for_scale(scale)], q.numpy(), given, out).tolist(), key


@pytest.mark.parametrize("bits", [2, 4, 12, 16])
def test_other_widths(bits):
    inputs, out = Inputs(bits, 2.0**-3, 1), Inputs(bits, 2.0**-3, 0)
    q = every_code(bits)
    got = QuantLUT(GELU, 2.0**-3, 1, 2.0**-3, bits=bits)(q)
    assert got.tolist() == evaluate(GELU["3"], q.numpy(), inputs, out).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("out_scale", [None, 0.04])
def test_floats_are_quantised_and_given_back(dtype, out_scale):
    inputs = Inputs(8, 2.0**-4, 5)
    x = torch.tensor([-1e30, -9, -0.03125, 0.0, 0.03125, 0.09375, 0.4, 3.0, 9, 1e30, math.inf, -math.inf, math.nan]).to(
        dtype
    )
    got = QuantLUT(GELU, 2.0**-4, 5, out_scale, -3)(x)
    q = inputs.quantise(x.double().numpy())
    if out_scale is None:
        want = evaluate(GELU["4"], q, inputs)
    else:
        codes = evaluate(GELU["4"], q, inputs, Inputs(8, out_scale, -3)) + 3
        want = (codes.astype(np.float32) * np.float32(out_scale)).astype(np.float64)
    assert got.dtype == dtype
    assert torch.equal(
        got[:-1], torch.from_numpy(want[:-1]).to(torch.float32 if dtype != torch.float64 else dtype).to(dtype)
    )
    assert got[-1].isnan()


def test_scale_per_call_and_learned():
    q = every_code()
    dynamic = QuantLUT(GELU)
    for scale in (2.0**-3, 0.07, torch.tensor(2.0**-5)):
        assert torch.equal(dynamic(q, scale), QuantLUT(GELU, float(scale))(q))
    learned = QuantLUT(GELU, torch.nn.Parameter(torch.tensor(2.0**-3)))
    assert torch.equal(learned(q), QuantLUT(GELU, 2.0**-3)(q))
    assert [name for name, _ in learned.named_parameters()] == ["scale"]
    x = torch.randn(400, generator=torch.Generator().manual_seed(0))
    target = F.gelu(x)
    optimiser = torch.optim.Adam(learned.parameters(), 3e-3)
    start = (learned(x) - target).square().mean().item()
    for _ in range(40):
        optimiser.zero_grad()
        (learned(x) - target).square().mean().backward()
        optimiser.step()
    assert learned.scale.item() < 0.09
    assert (learned(x) - target).square().mean().item() < 0.6 * start


def test_gradients_are_straight_through():
    x = torch.linspace(-9, 9, 701, dtype=torch.float64, requires_grad=True)
    scale = torch.nn.Parameter(torch.tensor(2.0**-4, dtype=torch.float64))
    module = QuantLUT(GELU, scale)
    to_x, to_scale = torch.autograd.grad(module(x).sum(), [x, scale])
    q = torch.round(x.detach() * 16).clamp(-128, 127)
    inside = (x.detach() * 16 >= -128.5) & (x.detach() * 16 <= 127.5)
    at = (q / 16).requires_grad_()
    (slope,) = torch.autograd.grad(F.gelu(at).sum(), at)
    assert torch.allclose(to_x, slope * inside)
    # eq. 3 of LSQ times the function's slope
    assert torch.allclose(to_scale, (torch.where(inside, q - x.detach() * 16, q) * slope).sum())
    saturated = QuantLUT(GELU, 2.0**-4, 0, 2.0**-7)
    (to_x,) = torch.autograd.grad(saturated(x).sum(), x)
    assert (to_x[x > 1.3] == 0).all() and (to_x[(x > 0.1) & (x < 0.8)] > 0.5).all()


def test_a_function_without_derivative_takes_the_tables_slope():
    own = type(GELU)("mine", GELU.tables, GELU.inputs, "mypackage.activations:mine")
    x = torch.linspace(-5, 5, 101, requires_grad=True)
    (got,) = torch.autograd.grad(QuantLUT(own, 2.0**-4)(x).sum(), x)
    body = GELU["4"].body
    want = body.slopes[body.segment(np.rint(x.detach().double().numpy() * 16) / 16)]
    assert got.tolist() == want.tolist()


def test_no_gradients_in_no_grad_and_half_autocast():
    module, x = QuantLUT(GELU, 2.0**-4), torch.randn(5, requires_grad=True)
    with torch.no_grad():
        assert not module(x).requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert module(x).requires_grad


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (7, 5)])
def test_shapes(shape):
    q = torch.ones(shape, dtype=torch.int8)
    assert QuantLUT(GELU, 2.0**-4)(q).shape == shape
    assert QuantLUT(GELU, 2.0**-4)(q.float().requires_grad_()).shape == shape
    q = torch.randint(-128, 128, (4, 6, 5), dtype=torch.int8)
    module = QuantLUT(GELU, 2.0**-4, out_scale=2.0**-4)
    assert torch.equal(module(q.permute(2, 0, 1)), module(q).permute(2, 0, 1))


@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*:DeprecationWarning")  # torch's own, while it traces
def test_copies_pickles_checkpoints_compile():
    module, q = QuantLUT(GELU, 2.0**-4, 0, 2.0**-4), every_code()
    want = module(q)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), copy.deepcopy(module).half()):
        assert torch.equal(other(q), want)
    other = QuantLUT(int_tables("silu"), 2.0**-4, 0, 2.0**-4)
    assert not torch.equal(other(q), want)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(q), want)
    x = torch.randn(50)
    assert torch.equal(torch.compile(module, fullgraph=True, backend="aot_eager")(x), module(x))


@pytest.mark.parametrize("scale", [0.0, -0.5, math.nan, math.inf, "fine", True, torch.ones(2), 1j])
def test_bad_scales(scale):
    with pytest.raises(LutcError, match="scale is one positive finite number, or learned, observed, dynamic; given"):
        QuantLUT(GELU, scale)
    with pytest.raises(LutcError, match="scale is one positive finite number; given"):
        QuantLUT(GELU)(torch.zeros(1), scale)


def test_bad_input():
    with pytest.raises(LutcError, match="QuantLUT takes tables over codes; 'gelu' holds float tables"):
        QuantLUT(float_tables("gelu", -4, 4), 1.0)
    with pytest.raises(LutcError, match="has no scale of its own; give one with every call"):
        QuantLUT(GELU)(torch.zeros(1))
    with pytest.raises(LutcError, match=r"takes torch.int8 codes or floats; given a tensor of torch.int32"):
        QuantLUT(GELU, 1.0)(torch.zeros(1, dtype=torch.int32))
    with pytest.raises(LutcError, match="given a tensor of torch.complex64"):
        QuantLUT(GELU, 1.0)(torch.zeros(1, dtype=torch.complex64))
    with pytest.raises(LutcError, match="zero point of 8-bit codes lies in"):
        QuantLUT(GELU, 1.0, 128)
    with pytest.raises(LutcError, match="codes have 2 to 16 bits"):
        QuantLUT(GELU, 1.0, bits=17)
    with pytest.raises(LutcError, match="beyond int32"):
        QuantLUT(GELU, 2.0**-28)
    with pytest.raises(LutcError, match="out_scale is one positive finite number"):
        QuantLUT(GELU, 1.0, out_scale=-1.0)
    with pytest.raises(LutcError, match="no shipped table 'gelu_9999'"):
        QuantLUT("gelu_9999", 1.0)


def test_codes_beyond_the_width():
    module = QuantLUT("gelu_8", 2.0**-1, bits=4)
    for code in (-9, 8, 100):
        with pytest.raises(LutcError, match=rf"codes of 4 bits are -8 to 7; given .*{code}"):
            module(torch.tensor([0, code], dtype=torch.int8))
    beyond, ends = (torch.tensor(codes, dtype=torch.int8) for codes in ([-9, 100], [-8, 7]))
    assert torch.equal(torch.compile(module, backend="eager")(beyond), module(ends))
