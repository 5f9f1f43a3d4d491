"""Functions with parameters in a model: a table goes where its function stands with its very parameters."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lutc
from lutc.nn import LUT
from tests.helpers.handmade import float_tables

HALF, DEFAULT = float_tables("elu(alpha=0.5)", -20, 0, 2000), float_tables("elu", -20, 0, 2000)
X = torch.linspace(-6.0, 6.0, 402).reshape(2, 201)


class Written(nn.Module):
    """Calls with parameters given in several ways."""

    def __init__(self):
        super().__init__()
        self.alpha, self.slope = 0.5, nn.Identity()
        self.slope.value = 0.2

    def forward(self, x):
        a = F.elu(x, 0.5) + F.elu(x, alpha=1.0) + F.elu(x)
        b = F.elu(x, self.alpha) + F.leaky_relu(x, negative_slope=self.slope.value)
        alpha = float(x.numel() > 0) * 0.5
        return a, b, F.elu(x, alpha), F.elu(x, 0.25)


def test_modules_take_tables_of_their_own_parameters():
    model = nn.Sequential(nn.ELU(0.5), nn.ELU(), nn.CELU(), nn.CELU(0.5), nn.ELU(0.25)).eval()
    exact = copy.deepcopy(model)
    report = lutc.patch(model, activation=[HALF, DEFAULT])
    assert [(one.path, one.what) for one in report.replaced] == [("0", "elu(alpha=0.5)"), ("1", "elu"), ("2", "elu")]
    assert [one.what for one in report.left] == ["celu(alpha=0.5)", "elu(alpha=0.25)"]
    assert isinstance(model[0], LUT) and model[0].tables.function == "elu(alpha=0.5)"
    torch.testing.assert_close(model(X), exact(X), atol=1e-4, rtol=1e-4)


def test_calls_take_tables_of_their_own_parameters():
    model = Written()
    exact = [value.clone() for value in model(X)]
    report = lutc.patch(model, activation=HALF)
    assert {(one.path, one.what) for one in report.replaced} == {("(elu)", "elu(alpha=0.5)")}
    assert {one.what for one in report.left} >= {"elu", "elu(alpha=0.25)", "leaky_relu(negative_slope=0.2)"}
    model.get_submodule("lutc_elu_alpha_0_5").register_forward_hook(lambda *_: seen.append(1))
    seen = []
    got = model(X)
    assert len(seen) == 3  # 0.5 as a number, as an attribute and computed
    for one, other in zip(got, exact, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert torch.equal(got[3], exact[3])
    lutc.unpatch(model)
    assert all(torch.equal(one, other) for one, other in zip(model(X), exact, strict=True))


@pytest.mark.parametrize("activation", ["elu(alpha=0.5)", "ELU( alpha = 0.5)"])
def test_a_mapping_names_functions_with_parameters(activation):
    model = nn.Sequential(nn.ELU(0.5), nn.ELU())
    report = lutc.patch(model, activation={activation: HALF})
    assert [one.path for one in report.replaced] == ["0"]


def test_gradients_are_those_of_the_parameters():
    lut, x = LUT(HALF), X.clone().requires_grad_()
    assert lut.gradient == "elu(alpha=0.5)"
    (got,) = torch.autograd.grad(lut(x).sum(), x)
    (want,) = torch.autograd.grad(F.elu(x, 0.5).sum(), x)
    torch.testing.assert_close(got, want)


def test_exact_functions_behind_quantisers_keep_their_parameters():
    model = nn.Sequential(nn.ELU(0.5))
    lutc.patch(model, activation="elu(alpha=0.5)", quantise=2**-4)
    codes = (X / 2**-4).round().clamp(-128, 127) * 2**-4
    torch.testing.assert_close(model(X), F.elu(codes, 0.5))
