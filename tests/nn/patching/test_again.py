"""Patching again, in any order; calls that change their input; what is only said: gates, scripts, graphs."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lutc
from lutc.errors import LutcError
from lutc.nn import LUT, QuantLUT

X = torch.randn(7, 4, generator=torch.Generator().manual_seed(0)) * 3


class Own(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x) ** 2


class Calls(nn.Module):
    def __init__(self):
        super().__init__()
        self.activation = F.gelu

    def forward(self, x):
        return self.activation(x) + F.silu(x)


def test_another_table_takes_the_place_of_the_first():
    model = nn.Sequential(nn.SiLU(), Own(), Calls(), nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.LogSoftmax(1))
    exact = copy.deepcopy(model)
    tables = {"softmax": "exp_8", "norm": "sqrt_reci_8"}
    lutc.patch(model, ["silu_8", "gelu_8"], **tables)
    lutc.patch(model, "auto", entries=4, only="1")
    coarse = (model(X) - exact(X)).abs().max()
    report = lutc.patch(model, ["silu_fplut", "gelu_fplut"], "exp_fplut", "rsqrt_fplut", skip="1")
    assert {one.path: one.what for one in report.replaced} == {
        "0": "silu", "2.activation": "gelu", "2 (silu)": "silu", "3": "layer_norm", "4 (group_norm)": "group_norm",
        "5 (log_softmax)": "log_softmax",
    }  # fmt: skip
    report = lutc.patch(model, "auto", entries=16, only="1")
    assert [one.what for one in report.replaced] == ["Own"] and model[1].tables.default_key
    assert (model(X) - exact(X)).abs().max() < 0.2 * coarse
    assert [model[i].tables.name for i in (0, 1)] == ["silu", "Own"]
    lutc.unpatch(model)
    assert torch.equal(model(X), exact(X)) and model[2].activation is F.gelu


def test_a_table_of_the_model_s_own_is_a_place_of_its_function():
    model = nn.Sequential(LUT("silu_8"), QuantLUT("gelu_8", 2**-4))
    report = lutc.patch(model, "silu_fplut")
    assert [(one.path, one.by) for one in report.replaced] == [("0", "silu_fplut")]


class InPlace(nn.Module):
    def forward(self, x):
        x = x + 0.0
        F.silu(x, inplace=True)
        torch.relu_(x)
        x.tanh_()
        F.elu_(x, 0.5)
        return x


def test_calls_in_place_change_their_input():
    model = nn.Sequential(InPlace())
    exact = copy.deepcopy(model)
    report = lutc.patch(model, ["silu_fplut", "relu_fplut", "tanh_fplut", "elu_fplut"], audit=X)
    assert [one.what for one in report.replaced] == ["silu", "relu", "tanh"]  # elu(alpha=0.5) is another function
    assert {one.what for one in report.audits[1].exact} == {"elu"}
    got, want = model(X), exact(X)
    assert not torch.equal(got, want)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


class InPlaceOnce(nn.Module):
    def forward(self, x):
        y = x * 1.0
        F.silu(y, inplace=True)
        return y * y


def test_calls_in_place_have_gradients():
    model = nn.Sequential(InPlaceOnce())
    exact = copy.deepcopy(model)
    lutc.patch(model, "silu_fplut")
    given, other = X.clone().requires_grad_(), X.clone().requires_grad_()
    model(given).sum().backward()
    exact(other).sum().backward()
    torch.testing.assert_close(given.grad, other.grad, rtol=1e-3, atol=1e-3)


def test_an_activation_that_is_a_lambda():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, activation=lambda x: F.gelu(x), batch_first=True).eval()
    x = torch.randn(2, 3, 8)
    want = model(x)
    report = lutc.patch(model, "gelu_fplut", audit=x)
    assert [(one.path, one.what) for one in report.replaced] == [("activation", "gelu")]
    assert 0 < (model(x) - want).norm() < 1e-3 * want.norm()
    assert not [one for one in report.audits[1].exact if one.what == "gelu"]
    lutc.unpatch(model)
    assert torch.equal(model(x), want)


def test_gates_and_scripts_are_told():
    class Scripted(nn.Module):
        def forward(self, x):
            return helper(x) + harmless(x)

    model = nn.Sequential(nn.LSTM(4, 4), nn.GRUCell(4, 4), Scripted(), nn.Tanh())
    report = lutc.patch(model, "tanh_fplut")
    assert [(one.path, one.what) for one in report.left] == [
        ("0", "LSTM"), ("1", "GRUCell"), ("2 (helper)", "helper"),
    ]  # fmt: skip
    assert not lutc.patch(nn.Sequential(nn.LSTM(4, 4), nn.GELU()), "gelu_fplut").left


@torch.jit.script
def helper(x):
    return torch.nn.functional.gelu(x)


@torch.jit.script
def harmless(x):
    return x * 2.0


class Methods(nn.Module):
    def forward(self, x):
        return (x * x + 1.0) ** -0.5 + x.tanh()


def test_methods_and_operators_are_no_silent_loss_in_fx():
    model = nn.Sequential(Methods())
    lutc.patch(model, ["rsqrt_fplut", "tanh_fplut"])
    with pytest.raises(LutcError, match=r"torch.fx cannot follow \*\*, .tanh of tensors in a Methods's forward"):
        torch.fx.symbolic_trace(model)
    graph = torch.export.export(model, (X,)).module()
    assert torch.equal(graph(X), model(X)) and "lutc" in str(graph.graph)


def test_modules_that_are_no_operators_are_refused_in_one_line():
    model = nn.Sequential(nn.Softmax(-1), nn.RMSNorm(4))
    with pytest.raises(LutcError, match="a LUTSoftmax or an IntegerSoftmax; given a Softmax"):
        lutc.patch(model, softmax=nn.Softmax(-1))
    with pytest.raises(LutcError, match="a RMSNorm has weights of its own: put it in the norm's place"):
        lutc.patch(model, norm=nn.RMSNorm(4))
