"""Layer errors against what a model's next layer really gives, token by token."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lutc import functions
from lutc.calibration.layer import layer_errors
from lutc.errors import LutcError
from lutc.samples import Inputs


class Norm(nn.Module):
    """A block with a residual and a norm behind it, before (plain) or after (gated) the next block."""

    def __init__(self, width, kind):
        super().__init__()
        self.norm = nn.LayerNorm(width) if kind == "layer_norm" else nn.RMSNorm(width, 1e-5)
        nn.init.uniform_(self.norm.weight, 0.5, 2.0)

    def forward(self, x):
        return self.norm(x)


class Plain(nn.Module):
    def __init__(self, kind="layer_norm"):
        super().__init__()
        self.up, self.act, self.drop, self.down, self.end = nn.Linear(5, 12), nn.GELU(), nn.Dropout(0.5), nn.Linear(12, 5), Norm(5, kind)

    def forward(self, x):
        return self.end(x + self.down(self.drop(self.act(self.up(x)))))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down, self.act_fn, self.end = nn.Linear(5, 12), nn.Linear(5, 12), nn.Linear(12, 5), nn.SiLU(), Norm(5, "rms_norm")

    def forward(self, x):
        return self.end(x + self.down(self.act_fn(self.gate(x)) * self.up(x)))


class Called(nn.Module):
    """Functional, with a product before a matrix product of its own and a scalar on the way."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(12, 5) * 0.5), nn.Parameter(torch.randn(12, 5) * 0.5)

    def forward(self, x):
        return torch.addmm(torch.zeros(5), 0.5 * F.gelu(F.linear(x, self.first)).reshape(-1, 12), self.second)


class WithTable(nn.Module):
    """f on the codes plus e there."""

    def __init__(self, inputs, values):
        super().__init__()
        self.inputs, self.values = inputs, torch.as_tensor(values)

    def forward(self, x):
        return self.values[torch.as_tensor(self.inputs.quantise(x.detach().numpy()) - self.inputs.minimum)]


@pytest.fixture(autouse=True)
def double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def squares(a, b, weights=1.0):
    return float(((a - b).detach() ** 2).sum(-1).mul(weights).mean())


@pytest.mark.parametrize("inputs", [Inputs(8, 2.0**-4), Inputs(6, 0.11, 3)])
@pytest.mark.parametrize("make, name", [(Plain, "act"), (Gated, "act_fn")])
def test_the_form_is_the_squared_error_of_the_next_layer(make, name, inputs):
    model, x = make().eval(), torch.randn(40, 5) * 3
    (error,) = layer_errors(model, [x[:24], x[24:]], [inputs], tokens=1000, token_weights=False)[name]
    seen = {}
    model.down.register_forward_hook(lambda module, args, y: seen.update(y=y))
    exact = functions.get(error.function)(inputs.x())
    table = exact + np.random.default_rng(0).normal(size=exact.size) * 0.1

    def output(values):
        kept = getattr(model, name)
        setattr(model, name, kept if values is None else WithTable(inputs, values))
        model(x)
        setattr(model, name, kept)
        return seen["y"]

    with torch.no_grad():
        real, on_codes, with_table = output(None), output(exact), output(table)
    assert error.tokens == 40 and error.facts == {"linear": "down", "norm": None}
    assert error.error(table, exact) == pytest.approx(squares(with_table, on_codes), rel=1e-9)
    assert error.total(table, exact) == pytest.approx(squares(with_table, real), rel=1e-9)
    assert error.floor == pytest.approx(squares(on_codes, real), rel=1e-9)


@pytest.mark.parametrize("make, name", [(Plain, "act"), (lambda: Plain("rms_norm"), "act"), (Gated, "act_fn")])
def test_the_norm_that_follows_weighs_tokens_and_outputs(make, name):
    model, x, inputs = make().eval(), torch.randn(30, 5) * 2, Inputs(8, 2.0**-4)
    (error,) = layer_errors(model, [x], [inputs])[name]
    seen = {}
    model.end.norm.register_forward_pre_hook(lambda module, args: seen.update(x=args[0]))
    model.down.register_forward_hook(lambda module, args, y: seen.update(y=y))
    exact = functions.get(error.function)(inputs.x())
    with torch.no_grad():
        model(x)
        real, entering = seen["y"], seen["x"]
        setattr(model, name, WithTable(inputs, exact))
        model(x)
        change = seen["y"] - real
    norm = model.end.norm
    if isinstance(norm, nn.LayerNorm):
        spread, change = entering.var(-1, unbiased=False) + norm.eps, change - change.mean(-1, keepdim=True)
    else:
        spread = entering.square().mean(-1) + norm.eps
    assert error.facts == {"linear": "down", "norm": "end.norm"}
    assert error.floor == pytest.approx(squares(norm.weight * change, 0.0, 1 / spread), rel=1e-6)


def test_functions_called_in_a_forward_and_constant_gates():
    model, x, inputs = Called(), torch.randn(4, 3, 5), Inputs(8, 2.0**-3)
    ((path, (error,)),) = layer_errors(model, [x], [inputs]).items()
    assert path == "(gelu)" and error.facts == {"linear": "second", "norm": None} and error.tokens == 12
    exact = functions.get("gelu")(inputs.x())
    with torch.no_grad():
        hidden = F.linear(x, model.first).reshape(-1, 12)
        change = 0.5 * (torch.as_tensor(exact[inputs.quantise(hidden.numpy()) + 128]) - F.gelu(hidden)) @ model.second
    assert error.floor == pytest.approx(squares(change, 0.0), rel=1e-9)


def test_padding_is_left_out_and_tokens_are_drawn_from_all_batches():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Plain()

        def forward(self, input_ids, attention_mask):
            return self.block(input_ids)

    model, inputs = Masked().eval(), [Inputs(8, 2.0**-4)]
    x, mask = torch.randn(2, 6, 5), torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    (padded,) = layer_errors(model, [{"input_ids": x, "attention_mask": mask}], inputs)["block.act"]
    (plain,) = layer_errors(model.block, [x[mask.bool()]], inputs)["act"]
    assert padded.tokens == plain.tokens == 10
    np.testing.assert_allclose(padded.form, plain.form, rtol=1e-9, atol=1e-12)
    assert layer_errors(model.block, [x, x, x], inputs, tokens=9)["act"][0].tokens == 9


def test_float32_and_chunks_agree_with_float64(monkeypatch):
    import lutc.calibration.layer_sums as sums

    model, x, inputs = Gated().eval(), torch.randn(50, 5) * 2, [Inputs(8, 2.0**-4), Inputs(8, 2.0**-2)]
    wide = layer_errors(model, [x], inputs)["act_fn"]
    monkeypatch.setattr(sums, "_CHUNK", 2000)
    narrow = layer_errors(model.float(), [x.float()], inputs)["act_fn"]
    for a, b in zip(wide, narrow, strict=True):
        assert a.inputs == b.inputs
        np.testing.assert_allclose(a.matrix, b.matrix, rtol=1e-3, atol=1e-4 * a.matrix.max())


def test_the_model_is_as_it_was():
    model, x = Plain().train(), torch.randn(8, 5)
    before = dict(model.named_modules())
    layer_errors(model, [x], [Inputs(8, 2.0**-4)])
    assert dict(model.named_modules()) == before and model.training and not model.end.norm._forward_pre_hooks


def test_a_model_without_a_linear_layer_behind_is_an_error():
    for model in (nn.Sequential(nn.Linear(5, 5), nn.GELU(), nn.LayerNorm(5)), nn.Linear(5, 5)):
        with pytest.raises(LutcError, match="no linear layer follows"):
            layer_errors(model, [torch.randn(4, 5)], [Inputs()])


def test_other_bad_input():
    with pytest.raises(LutcError, match="at least one batch"):
        layer_errors(Plain(), [], [Inputs()])
    with pytest.raises(LutcError, match="no module is called 'nothing'"):
        layer_errors(Plain(), [torch.randn(4, 5)], [Inputs()], only="nothing")
