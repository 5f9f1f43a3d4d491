"""A scale and a zero point for every channel: every code against the integer model of its channel, floats and gradients
against modules of one scale, and what is refused.
"""

import copy
import io
import pickle

import numpy as np
import pytest
import torch

import lutc
from lutc.errors import LutcError
from lutc.formats import ROUNDINGS, Inputs, Outputs
from lutc.nn import FakeQuantize, QuantLUT, channel_plain
from lutc.table.integer import evaluate

pytestmark = pytest.mark.filterwarnings("ignore::lutc.errors.ScaleWarning")
SCALES, ZEROS = (2.0**-4, 2.0**-3, 0.07, 2.0**-4, 0.0313), (0, 5, -9, 5, 100)
SHAPES = {(7, 5): -1, (5,): 0, (2, 5, 3, 3): 1, (5, 300): 0, (0, 5): 1, (1, 5, 1): -2, (3, 5, 0): 1}


def laid_out(shape, kind):
    """Tensors of a shape, with gaps, transposed and as they come."""
    x = kind(shape)
    wide = kind((*shape[:-1], 2 * shape[-1]))[..., ::2]
    turned = kind(shape[::-1]).permute(*reversed(range(len(shape))))
    return x, wide, turned


def codes(bits=8, signed=True):
    low = -(1 << (bits - 1)) if signed else 0
    dtype = torch.uint8 if not signed else torch.int8 if bits <= 8 else torch.int16
    return lambda shape: torch.randint(low, low + (1 << bits), shape).to(dtype)


def alone(table, c, signed=True, **options):
    zero = ZEROS[c] if signed else ZEROS[c] + 128
    return QuantLUT(table, SCALES[c], zero, signed=signed, **options)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", ["gelu_8", "sigmoid_16", "exp_8"])
@pytest.mark.parametrize("signed", [True, False], ids=["int8", "uint8"])
def test_every_code_of_every_channel(name, rounding, signed):
    tables, q = lutc.load(name), torch.arange(-128, 128)
    moved = 0 if signed else 128
    out = {"out_scale": 2.0**-5, "out_zero_point": 3 + moved, "rounding": rounding}
    zeros = [zero + moved for zero in ZEROS]
    given = (q + moved).to(torch.int8 if signed else torch.uint8).expand(2, 5, 256)
    got = QuantLUT(name, SCALES, zeros, **out, axis=1, signed=signed)(given)
    floats = QuantLUT(name, SCALES, zeros, axis=-2, signed=signed)(given)
    for c, (scale, zero) in enumerate(zip(SCALES, ZEROS)):
        table, inputs = tables[tables.key_for_scale(scale)], Inputs(8, scale, zero)
        want = evaluate(table, q.numpy(), inputs, Outputs(8, 2.0**-5, 3, rounding)) + moved
        assert got.dtype == given.dtype and (got[:, c].numpy() == want).all()
        assert (floats[:, c].numpy() == evaluate(table, q.numpy(), inputs).astype(np.float32)).all()


def test_every_code_of_16_bits():
    q = torch.arange(-32768, 32768).to(torch.int16)
    module = QuantLUT("gelu_8", SCALES[:2], (0, 7), 2.0**-8, bits=16, axis=1)
    tables = lutc.load("gelu_8")
    got = module(q[:, None].expand(-1, 2))
    for c, zero in enumerate((0, 7)):
        table = tables[tables.key_for_scale(SCALES[c])]
        want = evaluate(table, q.numpy(), Inputs(16, SCALES[c], zero), Outputs(16, 2.0**-8))
        assert (got[:, c].numpy() == want).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("out", [{}, {"out_scale": 2.0**-4}], ids=["floats", "codes"])
def test_codes_of_any_layout(shape, out):
    axis = SHAPES[shape]
    module = QuantLUT("gelu_8", SCALES, ZEROS, **out, axis=axis)
    for q in laid_out(shape, codes()):
        got, each = module(q), q.movedim(axis, 0)
        assert got.shape == q.shape and len(each) == 5
        for c, found in enumerate(got.movedim(axis, 0)):
            assert torch.equal(found, alone("gelu_8", c, **out)(each[c]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_floats_and_gradients_of_any_layout(shape, dtype):
    axis = SHAPES[shape]
    module, quantiser = (
        QuantLUT("gelu_8", SCALES, ZEROS, 2.0**-4, axis=axis),
        FakeQuantize(SCALES, zero_point=ZEROS, axis=axis),
    )

    def kind(shape):
        x = (torch.randn(shape) * 6).to(dtype)
        x.view(-1)[:2] = torch.tensor([torch.nan, torch.inf])[: x.numel()]
        return x

    singles = [alone("gelu_8", c, out_scale=2.0**-4) for c in range(5)]
    quantisers = [FakeQuantize(scale, zero_point=zero) for scale, zero in zip(SCALES, ZEROS)]
    for x in laid_out(shape, kind):
        for whole, parts in ((module, singles), (quantiser, quantisers)):
            x = x.detach().requires_grad_()
            got, upstream = whole(x), torch.randn(x.shape).to(dtype)
            want = torch.stack([part(row) for part, row in zip(parts, x.movedim(axis, 0))]).movedim(0, axis)
            assert got.dtype == dtype
            close = {"rtol": 1e-6, "atol": 1e-7} if dtype == torch.float64 else {"rtol": 0, "atol": 0}
            torch.testing.assert_close(got, want, equal_nan=True, **close)
            gradients = [torch.autograd.grad(y, x, upstream, retain_graph=True)[0] for y in (got, want)]
            eps = max(torch.finfo(dtype).eps, 1e-6)  # 16 bits: the slope is rounded before the product
            torch.testing.assert_close(*gradients, rtol=2 * eps, atol=1e-6, equal_nan=True)


def test_halves_between_codes_and_the_ends():
    """Ties round to even, and what rounds beyond the end codes is clamped: as one scale has it."""
    steps = torch.arange(-140, 140).double().sub(0.5)
    steps = torch.cat(
        [steps, steps.nextafter(torch.tensor(1e9).double()), steps.nextafter(-torch.tensor(1e9).double())]
    )
    for c, (scale, zero) in enumerate(zip((2.0**-4, 0.07), (0, 3))):
        x = ((steps - zero) * scale).float().requires_grad_()
        both = torch.stack([x, x], 1)
        got = FakeQuantize((2.0**-4, 0.07), zero_point=(0, 3), axis=1)(both)[:, c]
        want = FakeQuantize(scale, zero_point=zero)(x)
        assert torch.equal(got, want)
        gradients = [torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for y in (got, want)]
        assert torch.equal(*gradients) and 0 < gradients[0].sum() < len(x)


def test_a_patched_quantiser_gives_its_scales_to_the_table():
    quantise = FakeQuantize(SCALES, zero_point=[zero + 128 for zero in ZEROS], axis=-1, signed=False)
    module = QuantLUT("gelu_8", quantise, out_scale=2.0**-4, out_zero_point=128)
    x, q = torch.randn(9, 5), codes(signed=False)((9, 5))
    for c in range(5):
        single = alone("gelu_8", c, signed=False, out_scale=2.0**-4, out_zero_point=128)
        assert torch.equal(module(x)[:, c], single(x[:, c])) and torch.equal(module(q)[:, c], single(q[:, c]))
    saved = io.BytesIO()
    torch.save(module.state_dict(), saved)
    saved.seek(0)
    other = QuantLUT("gelu_8", FakeQuantize([1.0] * 5, axis=-1, signed=False), out_scale=2.0**-4, out_zero_point=128)
    other.load_state_dict(torch.load(saved))
    assert other.quantise.scale == SCALES and torch.equal(other(x), module(x)) and torch.equal(other(q), module(q))
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), copy.deepcopy(module).half().float()):
        assert torch.equal(copied(x), module(x)) and torch.equal(copied(q), module(q))
    with pytest.raises(LutcError, match="has 8 unsigned bits and scales of channels; this one is 'learned"):
        FakeQuantize().load_state_dict(quantise.state_dict(), strict=False)


def test_compiles_as_one_graph():
    module = QuantLUT("gelu_8", SCALES, ZEROS, 2.0**-4, axis=1)
    x, q = torch.randn(4, 5, 6, requires_grad=True), codes()((4, 5, 6))
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), module(x)) and torch.equal(compiled(q), module(q))
    gradients = [torch.autograd.grad(m(x).sum(), x)[0] for m in (compiled, module)]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads(threads):
    q, x = codes()((300, 5, 200)), torch.randn(300, 5, 200)
    module = QuantLUT("gelu_8", SCALES, ZEROS, 2.0**-4, axis=1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = module(q), module(x)
    finally:
        torch.set_num_threads(before)
    plain = channel_plain.codes(q, module.channel_outputs, module.channel_rows, 1)
    assert torch.equal(got[0], plain)
    for c in range(5):
        assert torch.equal(got[1][:, c], alone("gelu_8", c, out_scale=2.0**-4)(x[:, c]))


BAD = {
    "one number": ({"scale": 0.5}, r"one number for each channel; given shape \(\)"),
    "none": ({"scale": ()}, r"one number for each channel; given shape \(0,\)"),
    "two dimensions": ({"scale": torch.ones(2, 2)}, r"one number for each channel; given shape \(2, 2\)"),
    "zero points": ({"zero_point": (1, 2)}, "given `scale` of 5, `zero_point` of 2"),
    "a fraction": ({"zero_point": (0, 1, 2, 3, 0.5)}, "a whole number; given 0.5"),
    "zero point": ({"zero_point": 128}, "lies in -128..127; given 128"),
    "zero point of one": ({"zero_point": (0, 0, 0, 0, -129)}, "lies in -128..127; given -129"),
    "zero": ({"scale": (1.0, 0.0)}, "a positive finite number; given 0.0"),
    "negative": ({"scale": (1.0, -2.0)}, "a positive finite number; given -2.0"),
    "NaN": ({"scale": (1.0, float("nan"))}, "a positive finite number; given nan"),
    "text": ({"scale": ("a", "b")}, "a number; given 'a'"),
    "axis": ({"axis": 1.0}, "a whole number; given 1.0"),
    "kind": ({"scale": "learned"}, "`channels`, their number, is needed beforehand"),
    "kind without axis": ({"scale": "dynamic", "axis": None, "channels": 5}, "give `axis` too, or leave it out"),
    "kind off zero": (
        {"scale": "learned", "channels": 5, "zero_point": (1, 2, 3, 4, 5)},
        "symmetric, with zero point 0",
    ),
    "channels": ({"channels": 4}, "given `channels` of 4, `scale` of 5"),
    "no channels": ({"channels": 0}, "a positive whole number; given 0"),
    "no axis": ({"axis": None}, "one for each channel goes with `axis`"),
}


@pytest.mark.parametrize("given, said", BAD.values(), ids=BAD)
def test_bad_input_is_one_error(given, said):
    options = {"scale": SCALES, "axis": 1, **given}
    for make in (lambda **more: QuantLUT("gelu_8", **more), FakeQuantize):
        with pytest.raises(LutcError, match=said):
            make(**options)


@pytest.mark.parametrize("shape, axis", [((4, 6), 1), ((4,), 1), ((5, 4), 1), ((5, 4), -3), ((), 0)])
def test_inputs_of_other_shapes_are_refused(shape, axis):
    for module in (QuantLUT("gelu_8", SCALES, axis=axis), FakeQuantize(SCALES, axis=axis)):
        with pytest.raises(LutcError, match=f"5 channels along axis {axis} take tensors with that many there"):
            module(torch.zeros(shape))


def test_what_else_is_refused():
    module = QuantLUT("gelu_8", SCALES, axis=1, bits=4)
    with pytest.raises(LutcError, match="codes of 4 bits are -8 to 7; given 0 to 8"):
        module(torch.tensor([[0, 1, 2, 3, 8]], dtype=torch.int8))
    with pytest.raises(LutcError, match="are those of the FakeQuantize"):
        QuantLUT("gelu_8", FakeQuantize(SCALES, axis=1), axis=0)
