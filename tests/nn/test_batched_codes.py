"""The batching rules of tables over codes against a call for each element of the batch, with gradients: sizes that are
no multiple of 8, scales and tables that are batched too.
"""

import pytest

torch = pytest.importorskip("torch")

from torch.func import functional_call, grad, stack_module_state, vjp, vmap  # noqa: E402

from lutc.nn import FakeQuantize, QuantLUT, batched_codes  # noqa: E402

SCALES = [2.0**-4, 2.0**-3, 2.0**-5]


def modules():
    yield QuantLUT("gelu_8", 2.0**-4)
    yield QuantLUT("gelu_8", torch.nn.Parameter(torch.tensor(2.0**-4)))
    yield FakeQuantize(2.0**-4)
    yield QuantLUT("gelu_8", SCALES, axis=0)
    yield FakeQuantize(SCALES, axis=0)


def loss(module):
    return lambda x: (module(x) * torch.arange(x.numel()).reshape(x.shape)).sum()


@pytest.mark.parametrize("shape", [(3,), (3, 8), (3, 5, 7), (3, 0)])
@pytest.mark.parametrize("at", range(5))
def test_gradients_of_a_batch(shape, at, monkeypatch):
    """As an element at a time, and by one call where a rule says so."""
    module, x = list(modules())[at], torch.randn(6, *shape) * 3
    want = torch.stack([grad(loss(module))(row) for row in x])
    if at < 3:
        monkeypatch.setattr(batched_codes, "one_by_one", None)
    assert torch.equal(vmap(grad(loss(module)))(x), want)
    assert torch.equal(vmap(grad(loss(module)), 1, 1)(x.movedim(0, 1)), want.movedim(0, 1))
    y, back = vjp(module, x[0])
    many = torch.randn(4, *y.shape)
    assert torch.equal(vmap(back)(many)[0], torch.stack([back(one)[0] for one in many]))


@pytest.mark.parametrize("shape", [(5,), (3, 8), (2, 5, 7)])
def test_an_ensemble_of_learned_scales(shape):
    """A scale for each module is a scale for each channel of a batch."""
    each = [QuantLUT("gelu_8", torch.nn.Parameter(torch.tensor(scale))) for scale in SCALES]
    x, weight = torch.randn(3, *shape), torch.randn(shape)
    parameters, buffers = stack_module_state(each)

    def loss_of(parameters, buffers, x):
        return (functional_call(each[0], (parameters, buffers), (x,)) * weight).sum()

    found = vmap(grad(loss_of))(parameters, buffers, x)["scale"]
    for one, row, got in zip(each, x, found, strict=True):
        (one(row) * weight).sum().backward()
        assert torch.allclose(one.scale.grad, got, rtol=1e-5, atol=1e-5)
