"""A scale of its own for every channel, learned, observed, dynamic, given with every call or a Parameter: against
modules of one scale, channel by channel, in every mode that torch has.
"""

import copy
import io
import math
import pickle

import pytest
import torch
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint

from lutc.errors import LutcError
from lutc.nn import FakeQuantize, QuantActivation, QuantLUT
from lutc.nn.channels import channel_samples
from tests.helpers.handmade import int_tables

pytestmark = [
    pytest.mark.filterwarnings("ignore::lutc.errors.ScaleWarning"),
    pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*:DeprecationWarning"),  # torch's, while it traces
]
GELU, C = int_tables("gelu"), 3
SPREADS = torch.tensor([0.02, 1.0, 9.0])
KINDS = ("learned", "observed", "dynamic")
SCALES, ZEROS = (0.05, 2.0**-3, 0.3), (0, -4, 100)
OUT = {"out_scale": 2.0**-5}


def data(*shape, axis=1, seed=1):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return x * SPREADS.view([-1 if i == axis % len(shape) else 1 for i in range(len(shape))])


def modules(kind, axis=1, **more):
    """(of all channels, of each alone)"""
    return [
        (FakeQuantize(kind, axis=axis, channels=C, **more), [FakeQuantize(kind, **more) for _ in range(C)]),
        (
            QuantLUT(GELU, kind, **OUT, axis=axis, channels=C, **more),
            [QuantLUT(GELU, kind, **OUT, **more) for _ in range(C)],
        ),
        (
            QuantActivation("gelu", FakeQuantize(kind, axis=axis, channels=C, **more)),
            [QuantActivation("gelu", FakeQuantize(kind, **more)) for _ in range(C)],
        ),
    ]


def quantiser(module):
    return module if isinstance(module, FakeQuantize) else module.quantise


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape, axis", [((40, 3), 1), ((8, 3, 5, 7), 1), ((6, 9, 3), -1), ((50, 3, 60), 1)])
@pytest.mark.parametrize("signed", [True, False])
def test_each_channel_is_as_a_module_of_its_own(kind, shape, axis, signed):
    for whole, parts in modules(kind, axis, signed=signed):
        for step in range(3):
            x = data(*shape, axis=axis, seed=step)
            x = (x.abs() if not signed else x).requires_grad_()
            weights = torch.randn(shape)
            got = whole(x)
            want = torch.stack([part(row) for part, row in zip(parts, x.movedim(axis, 0))]).movedim(0, axis)
            assert torch.equal(got, want)
            to_x = [torch.autograd.grad((y * weights).sum(), x, retain_graph=True)[0] for y in (got, want)]
            assert torch.allclose(*to_x, rtol=1e-6)
            if kind == "learned":
                learned = quantiser(whole).log2_scale
                alone = [quantiser(part).log2_scale for part in parts]
                grads = torch.autograd.grad((want * weights).sum(), alone)
                found = torch.autograd.grad((got * weights).sum(), learned)[0]
                assert torch.allclose(found, torch.cat(grads), rtol=1e-4, atol=1e-6)
                with torch.no_grad():
                    learned += torch.tensor([0.6, -1.2, 0.1])
                    for one, value in zip(alone, learned, strict=True):
                        one.copy_(value)
        scales = [quantiser(part).scale for part in parts]
        assert quantiser(whole).scale == (None if kind == "dynamic" else tuple(scales))
        whole.eval()
        y = whole(x)
        assert torch.equal(y, torch.stack([p.eval()(r) for p, r in zip(parts, x.movedim(axis, 0))]).movedim(0, axis))
        if kind != "dynamic":
            assert quantiser(whole).scale == tuple(scales) and len(set(scales)) > 1


@pytest.mark.parametrize("shape, axis", [((5000, 3), 1), ((30, 3, 41, 17), 1), ((3, 90001), 0), ((200, 3, 2, 300), 1)])
def test_large_batches_are_sampled_in_every_channel(shape, axis):
    """Elements from all over the batch, of that channel alone."""
    x, dynamic = data(*shape, axis=axis), FakeQuantize("dynamic", axis=axis)
    samples, count = channel_samples(x, axis % x.ndim, 1 << 14), (1 << 14) // C
    assert len(samples) == C and min(count, x.numel() // C) / 2 <= samples.shape[1] <= 3 * count
    for c, row in enumerate(x.movedim(axis, 0)):
        assert set(samples[c].tolist()) <= set(row.flatten().tolist())
        assert torch.equal(dynamic.scale_for(x)[0][c], FakeQuantize("dynamic").scale_for(samples[c])[0])
    found, exact = dynamic.scale_for(x)[0], [best_power(row) for row in x.movedim(axis, 0)]
    assert ((torch.log2(found) - torch.tensor(exact)).abs() <= 1).all()


def best_power(x):
    """Of least squared error on all of x, by trying them."""
    powers = 2.0 ** torch.arange(-12, 3).double()
    errors = ((x.double() / p).round().clamp(-128, 127).mul(p).sub(x.double()).square().mean() for p in powers)
    return float(torch.log2(powers[int(torch.stack(list(errors)).argmin())]))


def test_many_channels_have_some_256_elements_each():
    x = torch.randn(300, 2000) * torch.logspace(-3, 2, 2000)
    found, exact = FakeQuantize("dynamic", axis=1)(x), [FakeQuantize("dynamic")(column) for column in x.T]
    assert (found == torch.stack(exact, 1)).float().mean() > 0.999


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_and_what_is_empty(kind):
    for module in (FakeQuantize(kind, axis=1, channels=C), QuantLUT(GELU, kind, axis=1, channels=C)):
        assert module(torch.zeros(0, C)).shape == (0, C)
        x = data(40, C)
        x[0] = torch.tensor([math.nan, math.inf, -math.inf])
        got = module(x)
        assert got[0, 0].isnan() and not got[1:].isnan().any() and not got[:, 1:].isnan().any()
    assert FakeQuantize(kind, axis=1, channels=C)(torch.zeros(4, C)).tolist() == [[0.0] * C] * 4


# --- scales of every call, and Parameters


def alone(c, scale, **more):
    return QuantLUT(GELU, scale, ZEROS[c], **more)


@pytest.mark.parametrize("kind", [list, tuple, torch.tensor, lambda s: torch.tensor(s, dtype=torch.float64)])
@pytest.mark.parametrize("out", [{}, OUT])
def test_scales_given_with_every_call(kind, out):
    module = QuantLUT(GELU, None, ZEROS, **out, axis=1)
    x, q = data(30, C, 5), torch.arange(-128, 128).to(torch.int8)[:, None].expand(-1, C)
    for scales in (SCALES, (1.0, 0.01, 0.07)):
        given = kind(scales)
        exact = [float(s) for s in given]
        want = torch.stack([alone(c, exact[c], **out)(x[:, c]) for c in range(C)], 1)
        assert torch.equal(module(x, given), want)
        want = torch.stack([alone(c, exact[c], **out)(q[:, c]) for c in range(C)], 1)
        assert torch.equal(module(q, given), want)
    fixed = QuantLUT(GELU, SCALES, ZEROS, **out, axis=1)  # a call may also overrule the module's own
    assert torch.equal(fixed(x, given), module(x, given)) and not torch.equal(fixed(x), fixed(x, given))


def test_codes_of_16_bits_with_scales_of_a_call():
    q = torch.arange(-32768, 32768).to(torch.int16)
    module = QuantLUT(GELU, None, 7, 2.0**-8, bits=16, axis=0)
    got = module(q.expand(2, -1), (2.0**-9, 0.0003))
    for c, scale in enumerate((2.0**-9, 0.0003)):
        assert torch.equal(got[c], QuantLUT(GELU, scale, 7, 2.0**-8, bits=16)(q))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_a_parameter_and_of_scales_of_a_call(dtype):
    x, weights = data(30, C, 5).to(dtype).requires_grad_(), torch.randn(30, C, 5, dtype=dtype)
    learned = QuantLUT(GELU, torch.nn.Parameter(torch.tensor(SCALES, dtype=dtype)), ZEROS, **OUT, axis=1)
    given = torch.tensor(SCALES, dtype=dtype, requires_grad=True)
    called = QuantLUT(GELU, None, ZEROS, **OUT, axis=1)
    single = [torch.nn.Parameter(torch.tensor([s], dtype=dtype)) for s in SCALES]
    want = torch.stack([alone(c, single[c], **OUT)(x[:, c]) for c in range(C)], 1)
    expected = torch.autograd.grad((want * weights).sum(), (x, *single))
    for got, scales in ((learned(x), learned.scale), (called(x, given), given)):
        assert torch.equal(got, want)
        to_x, to_scales = torch.autograd.grad((got * weights).sum(), (x, scales))
        assert torch.allclose(to_x, expected[0], rtol=1e-6)
        assert torch.allclose(to_scales, torch.cat(expected[1:]), rtol=1e-4) and to_scales.dtype == dtype
    assert [name for name, _ in learned.named_parameters()] == ["scale"]
    codes = torch.arange(-128, 128).to(torch.int8)[:, None].expand(-1, C)
    assert torch.equal(learned(codes), called(codes, given.detach()))


@pytest.mark.parametrize("kind", KINDS[:2])
def test_codes_at_the_scales_of_a_quantiser(kind):
    module, q = QuantLUT(GELU, kind, **OUT, axis=1, channels=C), torch.arange(-128, 128).to(torch.int8)
    with pytest.raises(LutcError, match="no scales of its own; give them with every call"):
        module(q[:, None].expand(-1, C))
    module(data(40, C))
    got = module.eval()(q[:, None].expand(-1, C))
    for c, scale in enumerate(module.quantise.scale):
        assert torch.equal(got[:, c], QuantLUT(GELU, scale, **OUT)(q))


# --- modes of torch


def of_every_kind():
    """Modules that have seen a batch, and what they are called with behind x."""
    made = {kind: (QuantLUT(GELU, kind, **OUT, axis=1, channels=C), ()) for kind in KINDS}
    made["fixed"] = QuantLUT(GELU, SCALES, ZEROS, **OUT, axis=1), ()
    made["quantiser"] = FakeQuantize(SCALES, zero_point=ZEROS, axis=1), ()
    made["learned quantiser"] = FakeQuantize("learned", axis=1, channels=C), ()
    made["parameter"] = QuantLUT(GELU, torch.nn.Parameter(torch.tensor(SCALES)), ZEROS, **OUT, axis=1), ()
    made["call"] = QuantLUT(GELU, None, ZEROS, **OUT, axis=1), (torch.tensor(SCALES),)
    for module, given in made.values():
        module(data(20, C, 4), *given)
    return made


EVERY = (*KINDS, "fixed", "quantiser", "learned quantiser", "parameter", "call")


@pytest.mark.parametrize("name", EVERY)
def test_compiles_as_one_graph(name):
    torch.compiler.reset()
    dynamic = name in ("observed", "fixed", "learned quantiser", "call") or None
    module, given = of_every_kind()[name]
    other = copy.deepcopy(module)
    fast = torch.compile(other, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for mode, size in ((True, 20), (False, 20), (False, 33)):
        module.train(mode), other.train(mode)
        x = data(size, C, 4, seed=4).requires_grad_()
        want, got = module(x, *given), fast(x, *given)
        assert torch.equal(got, want)
        gradients = [
            torch.autograd.grad(y.square().sum(), [x, *m.parameters()]) for y, m in ((want, module), (got, other))
        ]
        assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("name", EVERY)
def test_autocast_and_checkpointing(name):
    module, given = of_every_kind()[name]
    module.eval()
    x = data(20, C, 4, seed=4).requires_grad_()
    want = torch.autograd.grad(module(x, *given).square().sum(), [x, *module.parameters()])
    got = torch.autograd.grad(
        checkpoint(module, x, *given, use_reentrant=False).square().sum(), [x, *module.parameters()]
    )
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype=dtype):
            y = module(x.to(dtype), *given)
        assert y.dtype == dtype
        exact = module(x.to(dtype).float(), *given)
        assert torch.equal(y, exact.to(dtype))


@pytest.mark.parametrize("name", EVERY)
def test_func_grad_and_vmap(name):
    module, given = of_every_kind()[name]
    module.eval()
    x = data(4, 20, C, axis=2, seed=4)
    want = x.clone().requires_grad_()
    whole = torch.stack([module(part, *given) for part in want])
    backward = torch.autograd.grad(whole.square().sum(), want, retain_graph=True)[0]
    if name != "dynamic":  # whose scales are of a call, and here of all calls
        assert torch.equal(vmap(lambda part: module(part, *given))(x), whole)
        assert torch.equal(vmap(lambda part: module(part, *given), 1, 1)(x.movedim(0, 1)), whole.movedim(0, 1))

    def loss(part):
        return module(part, *given).square().sum()

    assert all(torch.equal(grad(loss)(part), other) for part, other in zip(x, backward, strict=True))
    assert torch.equal(vmap(grad(loss))(x), backward)
    parameters = dict(module.named_parameters())
    if parameters:
        found = grad(lambda p: functional_call(module, p, (x[0], *given)).square().sum())(parameters)
        expected = torch.autograd.grad(whole[0].square().sum(), list(parameters.values()))
        assert all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(found.values(), expected, strict=True))


@pytest.mark.parametrize("name", EVERY)
def test_copies_pickles_checkpoints_and_the_meta_device(name):
    module, given = of_every_kind()[name]
    module.eval()
    x = data(20, C, 4, seed=4)
    want, saved = module(x, *given), io.BytesIO()
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), copy.deepcopy(module).half().float()):
        if "parameter" in name:
            other.load_state_dict(module.state_dict())  # .half() rounds parameters
        assert torch.equal(other(x, *given), want)
    torch.save(module.state_dict(), saved)

    def fresh():
        if name == "fixed":
            return QuantLUT(GELU, SCALES, ZEROS, **OUT, axis=1)
        if name == "quantiser":
            return FakeQuantize([1.0] * C, axis=1)
        if name == "learned quantiser":
            return FakeQuantize("learned", axis=1, channels=C)
        scale = torch.nn.Parameter(torch.ones(C)) if name == "parameter" else None if name == "call" else name
        return QuantLUT(GELU, scale, 0 if name in KINDS else ZEROS, **OUT, axis=1, channels=C)

    with torch.device("meta"):
        empty = fresh()
    for other in (fresh(), empty.to_empty(device="cpu"), copy.deepcopy(module).to("meta").to_empty(device="cpu")):
        saved.seek(0)
        other.load_state_dict(torch.load(saved))
        assert torch.equal(other.eval()(x, *given), want)
    if name in ("fixed", "quantiser"):  # needs no checkpoint
        assert torch.equal(copy.deepcopy(module).to("meta").to_empty(device="cpu")(x), want)


def test_a_checkpoint_brings_scales_and_zero_points():
    quantise = FakeQuantize([1.0] * C, axis=1)
    quantise.load_state_dict(FakeQuantize(SCALES, zero_point=ZEROS, axis=1).state_dict())
    assert quantise.scale == SCALES and quantise.zero_point == ZEROS and quantise.limits == (-128, 127, ZEROS)
    for kind in KINDS[:2]:
        with pytest.raises(LutcError, match="the checkpoint's FakeQuantize has 8 bits and scales of channels"):
            FakeQuantize(kind, axis=1, channels=C).load_state_dict(quantise.state_dict(), strict=False)
    with pytest.raises(RuntimeError, match="size mismatch for log2_scale"):
        FakeQuantize("learned", axis=1, channels=C).load_state_dict(FakeQuantize("learned").state_dict())


# --- bad input


@pytest.mark.parametrize(
    "given, said",
    [
        ((0.1, 0.2), r"has 3 channels, and a scale for each; given shape \(2,\)"),
        (torch.ones(1), r"given shape \(1,\)"),
        (0.5, r"one number for each channel; given shape \(\)"),
        (torch.ones(C, 1), r"given shape \(3, 1\)"),
        ((0.1, 0.0, 0.2), "the scale of a channel is a positive finite number; given 0.0"),
        ((0.1, -1.0, 0.2), "given -1.0"),
        ((0.1, math.nan, 0.2), "given nan"),
        ((0.1, math.inf, 0.2), "given inf"),
        ((0.1, "a", 0.2), "a number; given 'a'"),
        ((0.1, 1e-18, 0.2), "int32"),
    ],
)
def test_bad_scales_of_a_call(given, said):
    module = QuantLUT(GELU, None, ZEROS, **OUT, axis=1)
    for x in (data(4, C), torch.zeros(4, C, dtype=torch.int8)):
        with pytest.raises(LutcError, match=said):
            module(x, given)


def test_bad_input():
    x = data(4, C)
    with pytest.raises(LutcError, match="no scales of its own"):
        QuantLUT(GELU, axis=1)(x)
    with pytest.raises(LutcError, match="along axis 2 take tensors with such a dimension; given shape"):
        FakeQuantize("dynamic", axis=2)(x)
    for kind in KINDS[:2]:
        module = FakeQuantize(kind, axis=1, channels=5)
        with pytest.raises(LutcError, match=r"5 channels along axis 1 take tensors with that many there; .* \(4, 3\)"):
            module(x)
        with pytest.raises(LutcError, match="has seen no batch yet"):
            FakeQuantize(kind, axis=1, channels=C).eval()(x)
    with pytest.raises(LutcError, match="in a QuantLUT"):
        FakeQuantize(torch.nn.Parameter(torch.ones(C)), axis=1)
    with pytest.raises(LutcError, match="a float for each channel"):
        QuantLUT(GELU, torch.nn.Parameter(torch.ones(C, 2)), axis=1)
    with pytest.raises(LutcError, match="given `scale` of 3, `zero_point` of 2"):
        QuantLUT(GELU, torch.nn.Parameter(torch.ones(C)), (1, 2), axis=1)
    with pytest.raises(LutcError, match="bits, zero_point, signed and axis are those of the FakeQuantize"):
        QuantLUT(GELU, FakeQuantize("learned", axis=1, channels=C), axis=0)


@pytest.mark.parametrize("scale", [*KINDS, 0.05])
def test_vmap_over_modules_of_one_scale(scale):
    """Which share what batches the operators of channels."""
    module = QuantLUT(GELU, scale, **OUT)
    module(data(20, C))
    module.eval()
    x, q = data(4, 20, C, axis=2), torch.randint(-128, 128, (4, 7)).to(torch.int8)
    if scale == 0.05:
        assert torch.equal(vmap(module)(q), module(q)) and torch.equal(vmap(module, 1, 1)(q), module(q))
    if scale != "dynamic":
        assert torch.equal(vmap(module)(x), module(x))

    def loss(part):
        return module(part).square().sum()

    want = torch.stack([grad(loss)(part) for part in x])
    assert torch.equal(vmap(grad(loss))(x), want) and want.any()
