"""Observed models: histograms against the raw values that hooks and arithmetic give."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lutc.calibration import Histogram, calibrate, model_digest, read
from lutc.errors import LutcError

torch.manual_seed(0)


class Block(nn.Module):
    """An activation module used twice, calls in the forward, a norm and a softmax module."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 8)
        act = nn.SiLU()
        self.act_1, self.act_2 = act, act
        self.norm, self.softmax = nn.LayerNorm(8, eps=1e-3), nn.Softmax(dim=1)

    def forward(self, x):
        h = self.act_1(self.first(x))
        g = F.gelu(h, approximate="tanh") + torch.sigmoid(2 * h)
        h = self.act_2(self.second(self.norm(g)))
        return self.softmax(h) + F.softmax(3 * h, -1)


def test_every_site_sees_what_the_model_computes():
    model, x = Block(), torch.randn(40, 6)
    before, modules = model(x), dict(model.named_modules(remove_duplicate=False))
    found = calibrate(model, [x])
    assert (
        torch.equal(model(x), before)
        and dict(model.named_modules(remove_duplicate=False)) == modules
        and model.training
    )
    with torch.no_grad():
        a = model.first(x)
        h = F.silu(a)
        g = F.gelu(h, approximate="tanh") + torch.sigmoid(2 * h)
        b = model.second(model.norm(g))
        h2 = F.silu(b)
    wanted = {
        "act_1": ("silu", "x", a),
        "(gelu)": ("gelu_tanh", "x", h),
        "(sigmoid)": ("sigmoid", "x", 2 * h),
        "norm": ("rsqrt", "variance(x) + eps", g.var(-1, unbiased=False) + 1e-3),
        "act_2": ("silu", "x", b),
        "softmax": ("exp", "x - max(x)", h2 - h2.amax(1, keepdim=True)),
        "(softmax)": ("exp", "x - max(x)", 3 * h2 - (3 * h2).amax(-1, keepdim=True)),
    }
    assert list(found.layers) == list(wanted) and not found.left
    for name, (function, quantity, values) in wanted.items():
        layer = found.layers[name]
        assert (layer.function, layer.quantity) == (function, quantity) and layer.histogram == Histogram.of(
            values.numpy()
        ), name
    assert np.array_equal(found.layers["act_1"].channel_low, a.amin(0).numpy()) and found.data == {
        "batches": 1,
        "examples": 40,
        "tokens": 0,
    }


def test_merging_two_calibrations_equals_one_pass():
    model, x = Block(), torch.randn(33, 6)
    whole, merged = calibrate(model, [x[:20], x[20:]]), calibrate(model, [x[:20]]) + calibrate(model, [x[20:]])
    assert whole.data == merged.data and whole.model == merged.model
    for name, layer in whole.layers.items():
        assert layer.histogram == merged.layers[name].histogram and layer.histogram.count > 0
        assert (layer.channel_low is None) == (merged.layers[name].channel_low is None)
        assert layer.channel_low is None or np.array_equal(layer.channel_high, merged.layers[name].channel_high)


def tiny(kind: str):
    transformers = pytest.importorskip("transformers")
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 50,
    }
    torch.manual_seed(1)
    if kind == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, num_key_value_heads=1)).eval()
    config = transformers.BertConfig(**sizes, initializer_range=0.5)
    return transformers.BertModel(config, add_pooling_layer=False).eval()


def captured(model, names, call):
    """Inputs of modules by name, while `call` runs."""
    seen, hooks = {name: [] for name in names}, []
    for name in names:
        hooks.append(
            model.get_submodule(name).register_forward_pre_hook(
                lambda _, args, name=name: seen[name].append(args[0].detach())
            )
        )
    with torch.no_grad():
        out = call()
    for hook in hooks:
        hook.remove()
    return seen, out


def close(histogram, values):
    """The same values up to float32 rounding: as many, and the same quantiles."""
    values = np.sort(values.numpy().astype(np.float64).ravel())
    p = np.linspace(0, 1, 21)
    exact = np.quantile(values, p, method="inverted_cdf")
    assert histogram.count == values.size and np.allclose(histogram.quantile(p), exact, rtol=2.0**-6, atol=1e-4)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_causal_model_of_transformers(implementation):
    model, ids = tiny("llama"), torch.randint(0, 50, (3, 9))
    model.set_attn_implementation(implementation)
    found = calibrate(model, [{"input_ids": ids}])
    assert model.config._attn_implementation == implementation and found.data["tokens"] == 27
    names = ["model.layers.0.input_layernorm", "model.layers.1.mlp.act_fn", "model.norm"]
    seen, _ = captured(model, names, lambda: model(ids))
    close(found.layers[names[0]].histogram, seen[names[0]][0].square().mean(-1) + 1e-6)
    close(found.layers[names[1]].histogram, seen[names[1]][0])
    close(found.layers[names[2]].histogram, seen[names[2]][0].square().mean(-1) + 1e-6)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        weights = model(ids, output_attentions=True).attentions[1]
    scores = (weights.log() - weights.amax(-1, keepdim=True).log())[weights > 0]
    layer = found.layers["model.layers.1.self_attn"]
    close(layer.histogram, scores)
    assert scores.numel() == 3 * 2 * 45 and layer.masked == 3 * 2 * 36


def test_padding_is_kept_out():
    model = tiny("bert")
    documents = [torch.randint(1, 50, (1, n)) for n in (7, 4, 2)]
    alone = calibrate(model, [{"input_ids": d} for d in documents])
    ids, mask = torch.zeros(3, 7, dtype=torch.int64), torch.zeros(3, 7, dtype=torch.int64)
    for row, d in enumerate(documents):
        ids[row, : d.shape[1]], mask[row, : d.shape[1]] = d[0], 1
    padded = calibrate(model, [{"input_ids": ids, "attention_mask": mask}])
    assert padded.data == {"batches": 1, "examples": 3, "tokens": 13} and len(padded.layers) == 9
    for name, layer in alone.layers.items():
        other = padded.layers[name].histogram
        assert other.count == layer.histogram.count > 0, name
        assert np.allclose(
            other.quantile([0, 0.2, 0.5, 0.8, 1]),
            layer.histogram.quantile([0, 0.2, 0.5, 0.8, 1]),
            rtol=2.0**-6,
            atol=1e-4,
        ), name
        if layer.channel_low is not None:
            assert np.allclose(layer.channel_low, padded.layers[name].channel_low, atol=1e-5)
    everything = calibrate(model, [{"input_ids": ids}])
    assert everything.layers[name].histogram.count > other.count  # the mask is what made the difference


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    model = nn.Sequential(nn.ReLU()).to(dtype)
    x = torch.randn(50, 3).to(dtype)
    assert calibrate(model, [x]).layers["0"].histogram == Histogram.of(x.float().numpy())


def test_infinities_and_masks_are_counted_apart():
    model = nn.ModuleDict({"act": nn.SiLU(), "softmax": nn.Softmax(-1)})
    model.forward = lambda x: model["softmax"](model["act"](x) if x.isfinite().all() else x)
    low = torch.finfo(torch.float32).min
    found = calibrate(model, [torch.tensor([[1.0, -torch.inf, 3.0], [-torch.inf] * 3, [2.0, low, 2.0]])]).layers[
        "softmax"
    ]
    assert found.masked == 5 and found.infinite == 0 and found.histogram == Histogram.of([-2.0, 0.0, 0.0, 0.0])
    act = nn.Sequential(nn.ReLU())
    assert calibrate(act, [torch.tensor([[1.0, torch.inf]])]).layers["0"].infinite == 1


def test_nan_is_named_with_its_layer():
    model = nn.Sequential(nn.Linear(2, 2), nn.SiLU(), nn.Linear(2, 2), nn.GELU())
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan
    with pytest.raises(LutcError, match=r"NaN among the inputs of 3 \(gelu, x\)"):
        calibrate(model, [torch.randn(3, 2)])
    assert isinstance(model[1], nn.SiLU)


def test_what_cannot_be_calibrated():
    with pytest.raises(LutcError, match="Linear has no activation"):
        calibrate(nn.Linear(2, 2), [torch.randn(1, 2)])
    with pytest.raises(LutcError, match="no batches"):
        calibrate(Block(), [])
    with pytest.raises(LutcError, match="a batch is a tensor"):
        calibrate(Block(), ["text"])
    with pytest.raises(LutcError, match="no module is called"):
        calibrate(Block(), [torch.randn(1, 6)], only="act_7")
    import lutc

    model = Block()
    lutc.patch(model, activation="silu_8")
    with pytest.raises(LutcError, match="patched"):
        calibrate(model, [torch.randn(1, 6)])


def test_what_is_left_is_told_and_modes_come_back(tmp_path):
    model = nn.Sequential(nn.SiLU(), nn.Sequential(nn.GLU(), nn.Dropout()), nn.LogSoftmax(-1))
    model[1].eval()
    found = calibrate(model, [torch.randn(4, 6)])
    assert [m.training for m in model.modules()] == [True, True, False, False, False, True]
    assert len(found.left) == 1 and "1.0 (GLU): no function of the registry" in "".join(found.left)
    found.save(tmp_path / "c.json")
    assert read(tmp_path / "c.json").left == found.left == (found + found).left


def test_the_digest_is_of_names_and_shapes():
    a, b = Block(), Block()
    assert model_digest(a) == model_digest(b) != model_digest(nn.Linear(2, 2))
    assert list(calibrate(a, [torch.randn(2, 6)], only="act_*").layers) == ["act_1", "act_2"]
