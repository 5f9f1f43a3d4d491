"""Layer errors against what a model's next layer really gives, token by token."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lutc import functions
from lutc.calibration import calibrate
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.observe.next_layer import layer_errors, with_layer_errors
from tests.helpers.layer_models import Called, Gated, Plain


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
    import lutc.observe.layer_sums as sums

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


def test_what_cannot_be_calibrated():
    model, x = Plain().eval(), torch.randn(9, 5)
    with pytest.raises(LutcError, match="another model"):
        with_layer_errors(calibrate(Gated(), [x]), model, [x])
    with pytest.raises(LutcError, match="act .gelu. are not all finite"):
        layer_errors(model, [torch.full((3, 5), torch.nan)], [Inputs()])
    with pytest.raises(LutcError, match="up to 10 bits"):
        layer_errors(model, [x], [Inputs(16, 2.0**-8)])
    assert isinstance(model.act, nn.GELU)


def test_the_layers_of_transformers_are_found():
    transformers = pytest.importorskip("transformers")
    torch.set_default_dtype(torch.float32)
    small = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 30,
    }
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**small, num_key_value_heads=2))
    bert = transformers.BertModel(transformers.BertConfig(**small))
    gpt = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=30))
    batch = {"input_ids": torch.arange(12).view(2, 6), "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2])}
    after = [f"encoder.layer.{layer}.output.LayerNorm" for layer in (0, 1)]
    wanted = {
        llama: (
            "model.layers.{}.mlp.act_fn",
            "model.layers.{}.mlp.down_proj",
            ["model.layers.1.input_layernorm", "model.norm"],
        ),
        bert: ("encoder.layer.{}.intermediate.intermediate_act_fn", "encoder.layer.{}.output.dense", after),
        gpt: ("transformer.h.{}.mlp.act", "transformer.h.{}.mlp.c_proj", ["transformer.h.1.ln_1", "transformer.ln_f"]),
    }
    for model, (site, linear, norms) in wanted.items():
        found = layer_errors(model, [batch], [Inputs(8, 2.0**-6)])
        for layer, norm in enumerate(norms):
            (error,) = found[site.format(layer)]
            assert (
                error.facts == {"linear": linear.format(layer), "norm": norm} and error.tokens == 10 and error.floor > 0
            )
