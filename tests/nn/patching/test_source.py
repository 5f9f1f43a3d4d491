"""Functions that a forward reaches by operators, its children's methods, a registry or an autograd function."""

import copy

import pytest
import torch
from torch import nn

import lutc

TABLES = ["tanh_fplut", "sqrt_fplut", "rsqrt_fplut", "reciprocal_fplut"]


class Root(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.sqrt(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return gradient / (2 * x.sqrt())


class Router(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def routed(self, x):
        return self._squashed(self.linear(x))

    def _squashed(self, x):
        return torch.tanh(x)


class Reaching(nn.Module):
    def __init__(self):
        super().__init__()
        self.router, self.head_dim = Router(), 4

    def forward(self, x):
        square = x.pow(2).mean(-1, keepdim=True) + 1e-3
        y = self.router.routed(x * square**-0.5) * self.head_dim**-0.5
        y = y + square ** torch.ones_like(square)  # another power
        return y + square.pow(0.5) + torch.pow(square, -1) + (square + 1.0) ** 0.5 + Root.apply(square)


def test_operators_methods_of_children_and_autograd_functions():
    torch.manual_seed(0)
    model, x = nn.Sequential(Reaching()), torch.randn(5, 4)
    exact = copy.deepcopy(model)
    report = lutc.patch(model, TABLES, audit=x)
    assert {one.what for one in report.replaced} == {"tanh", "rsqrt", "sqrt", "reciprocal"}
    assert [one.what for one in report.audits[1].exact] == ["pow"] and sum(
        one.calls for one in report.audits[0].exact
    ) == 7
    given, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    got, want = model(given), exact(other)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)
    got.sum().backward()
    want.sum().backward()
    torch.testing.assert_close(given.grad, other.grad, rtol=1e-2, atol=1e-3)
    lutc.unpatch(model)
    assert torch.equal(model(x), exact(x))


class Numbers(nn.Module):
    """Powers of what is no tensor."""

    def __init__(self):
        super().__init__()
        self.factor, self.act = 4, nn.GELU()

    def forward(self, x):
        rate = 1.0 / torch.pow(10000, torch.arange(4) / 4)
        return self.act(x) * self.factor**-0.5 * x.shape[-1] ** 0.5 * int(x.shape[0]) ** -0.5 * rate


def test_powers_of_numbers_are_left_alone():
    report = lutc.patch(nn.Sequential(Numbers()), ["gelu_fplut", *TABLES])
    assert [one.what for one in report.replaced] == ["gelu"]


class Looking(nn.Module):
    def __init__(self):
        super().__init__()
        self.activation, self.other = "silu", "no activation"

    def forward(self, x):
        from transformers.activations import ACT2FN

        return looked(x, self.activation) + ACT2FN["gelu_new"](x)


def looked(x, activation):
    return ACT2FN[activation](x)  # noqa: F821 - the test puts it there


def test_a_registry_of_activations(monkeypatch):
    activations = pytest.importorskip("transformers.activations")
    monkeypatch.setitem(globals(), "ACT2FN", activations.ACT2FN)
    model, x = nn.Sequential(Looking()), torch.randn(64)
    want = model(x)
    report = lutc.patch(model, ["silu_fplut", "gelu_tanh_fplut", "tanh_fplut"], audit=x)
    assert {one.what for one in report.replaced} == {"silu", "tanh"} and not report.audits[1].exact
    assert report.unused == [("gelu_tanh", "gelu_tanh_fplut")]  # gelu_new writes it out by tanh
    torch.testing.assert_close(model(x), want, rtol=1e-3, atol=1e-3)
