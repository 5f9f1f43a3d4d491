"""uint8 codes give what the signed integer model gives to the codes less 128, for every code."""

import numpy as np
import pytest
import torch

from lutc.errors import LutcError
from lutc.formats import ROUNDINGS, Inputs, Outputs
from lutc.nn import FakeQuantize, QuantActivation, QuantLUT
from lutc.table.integer import evaluate
from lutc.table.library import load


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("zero_point, out_zero_point", [(0, 0), (128, 7), (255, 255), (3, 130)])
def test_every_code(zero_point, out_zero_point, rounding):
    table, inputs = load("gelu_8")["4"], Inputs(8, 2.0**-4, zero_point - 128)
    out = Outputs(8, 2.0**-3, out_zero_point - 128, rounding)
    want = evaluate(table, np.arange(256) - 128, inputs, out)
    q = torch.arange(256, dtype=torch.uint8)
    given = {"zero_point": zero_point, "out_scale": 2.0**-3, "out_zero_point": out_zero_point, "rounding": rounding}
    for module, more in ((QuantLUT("gelu_8", 2.0**-4, **given, signed=False), ()), (None, (2.0**-4,))):
        module = module or QuantLUT("gelu_8", **given, signed=False)
        codes = module(q, *more)
        assert codes.dtype == torch.uint8 and codes.tolist() == (want + 128).tolist()
        x = (torch.arange(256) - zero_point) * 2.0**-4
        assert module(x, *more).tolist() == ((want + 128 - out_zero_point) * 2.0**-3).tolist()
        assert module(torch.tensor([1e9, -1e9]), *more).tolist() == module(x, *more)[[255, 0]].tolist()
        assert module(torch.tensor([torch.nan]), *more).isnan().all()


def test_accumulators_and_narrow_codes():
    table, q = load("gelu_8")["4"], torch.arange(16, dtype=torch.uint8)
    want = evaluate(table, np.arange(16) - 8, Inputs(4, 2.0**-4, -5))
    assert QuantLUT("gelu_8", 2.0**-4, 3, bits=4, signed=False)(q).tolist() == want.tolist()
    with pytest.raises(LutcError, match="codes of 4 bits are 0 to 15; given 0 to 16"):
        QuantLUT("gelu_8", 2.0**-4, 3, bits=4, signed=False)(torch.tensor([0, 16], dtype=torch.uint8))


@pytest.mark.parametrize(
    "given, said",
    [
        ({"zero_point": 256}, "zero point.*0..255; given 256"),
        ({"out_scale": 1.0, "out_zero_point": -1}, "zero point.*0..255; given -1"),
        ({"bits": 9}, "2 to 8 bits; given 9"),
        ({"scale": FakeQuantize(0.5, zero_point=3)}, "are those of the FakeQuantize, scale=0.5, bits=8, zero_point=3"),
        ({"scale": "learned", "zero_point": 3}, "a learned scale is symmetric, with zero point 0; given 3"),
    ],
)
def test_bad_input_is_one_error(given, said):
    with pytest.raises(LutcError, match=said):
        QuantLUT("gelu_8", **{"scale": 2.0**-4, **given}, signed=False)


@pytest.mark.parametrize("zero_point", [0, 7, 128, 255])
@pytest.mark.parametrize("bits", [8, 5])
def test_a_fake_quantiser_counts_from_0(bits, zero_point):
    """As a signed one whose zero point lies half the codes lower: values, gradients, and tables behind it."""
    zero_point, half = zero_point % (1 << bits), 1 << (bits - 1)
    unsigned = FakeQuantize(0.07, bits=bits, zero_point=zero_point, signed=False)
    signed = FakeQuantize(0.07, bits=bits, zero_point=zero_point - half)
    assert unsigned.limits == (0, 2 * half - 1, zero_point)
    x = (torch.randn(2000) * 9).requires_grad_()
    for make in (lambda q: q, lambda q: QuantActivation("gelu", q), lambda q: QuantLUT("gelu_8", q)):
        got, want = make(unsigned)(x), make(signed)(x)
        assert torch.equal(got, want)
        assert torch.equal(*(torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for y in (got, want)))
    q = torch.arange(2 * half).to(torch.uint8)
    want = QuantLUT("gelu_8", signed)((torch.arange(2 * half) - half).to(torch.int8))
    assert torch.equal(QuantLUT("gelu_8", unsigned)(q), want)


@pytest.mark.parametrize("kind", ["learned", "observed", "dynamic"])
def test_scales_of_inputs_that_are_not_negative_use_all_codes(kind):
    """Symmetric at zero point 0: 255 steps above 0, where signed codes have 127; also from a kind given to QuantLUT."""
    x = torch.rand(4000, generator=torch.Generator().manual_seed(0)) * 7.9
    unsigned, signed = FakeQuantize(kind, signed=False), FakeQuantize(kind)
    errors = [(module(x) - x).abs().max().item() for module in (unsigned, signed)]
    assert errors[0] <= 2.0**-6 < errors[1] <= 2.0**-5  # steps of 2^-5 and 2^-4
    module = QuantLUT("gelu_8", kind, signed=False)
    y = module(x)
    assert module.dtype == torch.uint8 and y.isfinite().all()
    if kind != "dynamic":
        assert module.quantise.scale == unsigned.scale == 2.0**-5
        codes = module(torch.arange(256, dtype=torch.uint8))
        want = evaluate(load("gelu_8")["5"], np.arange(256) - 128, Inputs(8, 2.0**-5, -128))
        assert codes.tolist() == want.tolist()
    y.sum().backward() if kind == "learned" else None
    assert kind != "learned" or module.quantise.log2_scale.grad.isfinite().all()


def test_checkpoints_keep_signed_and_unsigned_apart():
    unsigned, signed = FakeQuantize(0.5, zero_point=128, signed=False), FakeQuantize(0.5)
    with pytest.raises(LutcError, match="has 8 unsigned bits and a fixed scale; this one is 'scale=0.5, bits=8"):
        signed.load_state_dict(unsigned.state_dict())
    other = FakeQuantize(1.0, signed=False)
    other.load_state_dict(unsigned.state_dict())
    assert (other.scale, other.zero_point) == (0.5, 128)
    old = signed.state_dict()
    old["_extra_state"] = old["_extra_state"][:3]  # of a version that knew signed codes alone
    signed.load_state_dict(old)
    with pytest.raises(LutcError, match="make it alike"):
        unsigned.load_state_dict(old)


def test_dtypes_that_do_not_fit_say_what_to_do():
    signed, unsigned = QuantLUT("gelu_8", 2.0**-4), QuantLUT("gelu_8", 2.0**-4, signed=False)
    with pytest.raises(LutcError, match="takes torch.uint8 codes or floats; given a tensor of torch.int8"):
        unsigned(torch.zeros(3, dtype=torch.int8))
    with pytest.raises(LutcError, match="takes torch.int8 codes or floats; given a tensor of torch.uint8"):
        signed(torch.zeros(3, dtype=torch.uint8))


@pytest.mark.filterwarnings("ignore")
def test_quantised_tensors_say_what_to_do():
    q = torch.quantize_per_tensor(torch.zeros(3), 0.5, 0, torch.quint8)
    with pytest.raises(LutcError, match=r"int_repr\(\)"):
        QuantLUT("gelu_8", 2.0**-4, signed=False)(q)
