"""Evaluation of whole models: held against the same figures computed by hand."""

import math

import pytest
import torch

import lutc
from lutc.errors import LutcError
from lutc.evaluation import evaluate, int8_scales, on_codes, variant
from lutc.formats.codes import Inputs
from tests.helpers import tiny_models

COARSE = "silu_8"
ALL = "all=silu_fplut,exp_fplut,rsqrt_fplut"


@pytest.fixture(scope="module")
def ids():
    return torch.randint(3, 50, (4, 24), generator=torch.Generator().manual_seed(1))


def by_hand(model, ids):
    """Perplexity, largest next tokens, and outputs of the layers (layers, batch, length, width)."""
    with torch.no_grad():
        hidden = model.model.embed_tokens(ids)
        position = model.model.rotary_emb(hidden, torch.arange(ids.shape[1])[None])
        mask = (
            torch.full((1, 1, ids.shape[1], ids.shape[1]), -math.inf).triu(1)
            if model.config._attn_implementation.endswith("eager")
            else None
        )
        outputs = []
        for layer in model.model.layers:
            hidden = layer(hidden, attention_mask=mask, position_embeddings=position)
            outputs.append(hidden)
        logits = model.lm_head(model.model.norm(hidden)).double()
        likely = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])
        return float((-likely.mean()).exp()), logits[:, :-1].argmax(-1), torch.stack(outputs)


def test_causal_model_by_hand(ids):
    model = tiny_models.llama()
    variants = [variant(COARSE), variant(ALL)]
    found = evaluate(model, [{"input_ids": part} for part in ids.split(3)], variants)
    exact, largest, outputs = by_hand(model, ids)
    assert found["exact"].perplexity == pytest.approx(exact, rel=1e-5) and found.tokens == 4 * 23
    for chosen in variants:
        chosen.patch(model)
        perplexity, same, got = by_hand(model, ids)
        layers = [model.model.layers[i] for i in range(3)]
        lutc.unpatch(model)
        result = found[chosen.name]
        assert result.perplexity == pytest.approx(perplexity, rel=1e-5)
        assert result.change == pytest.approx(perplexity / exact - 1, abs=2e-5)
        assert result.same == pytest.approx(float((same == largest).float().mean()))
        errors = ((got - outputs).norm(dim=-1) / outputs.norm(dim=-1)).mean((1, 2))
        assert [layer.error for layer in result.layers] == pytest.approx(errors.tolist(), rel=1e-3)
        assert [layer.name for layer in result.layers] == [f"model.layers.{i}" for i in range(3)] and len(layers) == 3
        # the first layer's input is exact, so the error is its own; later ones inherit some
        assert result.layers[0].own == pytest.approx(result.layers[0].error, rel=1e-6)
        assert result.layers[2].own < result.layers[2].error
        assert result.worst is max(result.layers, key=lambda layer: layer.own)
    assert found[COARSE].sites == {"silu": 3} and found["all"].sites == {"silu": 3, "softmax": 3, "rms_norm": 7}
    assert found["all"].layers[0].own < 0.1 * found[COARSE].layers[0].own


def test_own_error_is_of_the_layer_on_exact_inputs(ids):
    """Only the last layer has tables: nothing but its own error is there."""
    model = tiny_models.llama()
    whole = evaluate(model, [{"input_ids": ids}], [variant(COARSE)])[COARSE]
    _, _, outputs = by_hand(model, ids)
    lutc.patch(model, activation=COARSE, only="model.layers.2")
    _, _, got = by_hand(model, ids)
    own = ((got[2] - outputs[2]).norm(dim=-1) / outputs[2].norm(dim=-1)).mean()
    assert whole.layers[2].own == pytest.approx(float(own), rel=1e-3)


def test_one_layer_at_a_time(ids):
    model, calls = tiny_models.llama(), []
    variants = [variant(ALL), variant(COARSE)]
    found = evaluate(
        model, [{"input_ids": ids}], variants, each_layer=True, progress=lambda n, total=None: calls.append((n, total))
    )
    assert [layer.name for layer in found["all"].layers] == [*(f"model.layers.{i}" for i in range(3)), "the rest"]
    assert [layer.name for layer in found[COARSE].layers] == [f"model.layers.{i}" for i in range(3)]
    assert calls[0] == (0, 1 + 2 * (2 + 4)) and calls[1:] == [(1, None)] * (1 + 2 * (2 + 4))
    exact, _, _ = by_hand(model, ids)
    for index in range(3):
        lutc.patch(model, activation=COARSE, only=f"model.layers.{index}")
        perplexity, _, _ = by_hand(model, ids)
        lutc.unpatch(model)
        assert found[COARSE].layers[index].change == pytest.approx(perplexity / exact - 1, abs=2e-5)
    assert found[COARSE].worst is max(found[COARSE].layers, key=lambda layer: layer.kl)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_does_not_count(ids, side):
    """Padded documents give what each gives alone."""
    for model, tables in ((tiny_models.bert(), "gelu_8"), (tiny_models.llama(), COARSE)):
        mask = torch.ones(2, 24, dtype=torch.int64)
        mask[1, slice(15, None) if side == "right" else slice(None, 9)] = 0
        together = evaluate(model, [{"input_ids": ids[:2], "attention_mask": mask}], [variant(tables)])
        position = (
            {} if side == "right" or "Bert" not in type(model).__name__ else {"position_ids": torch.arange(9, 24)[None]}
        )
        alone = [{"input_ids": ids[:1]}, {"input_ids": ids[1:2][:, mask[1].bool()], **position}]
        apart = evaluate(model, alone, [variant(tables)])
        for name in ("exact", tables):
            for key in ("perplexity", "cosine", "worst_cosine", "same"):
                one, other = getattr(together[name], key), getattr(apart[name], key)
                assert one is other or one == pytest.approx(other, rel=1e-5), (name, key)
        for one, other in zip(together[tables].layers, apart[tables].layers, strict=True):
            assert (one.error, one.own, one.outside) == pytest.approx((other.error, other.own, other.outside), rel=1e-3)


def test_encoder_cosine_by_hand(ids):
    model = tiny_models.bert()
    found = evaluate(model, [{"input_ids": ids[:3]}, {"input_ids": ids[3:]}], [variant("gelu_8")])
    with torch.no_grad():
        exact = model(ids).last_hidden_state.mean(1)
        lutc.patch(model, activation="gelu_8")
        got = model(ids).last_hidden_state.mean(1)
    cosines = torch.cosine_similarity(got.double(), exact.double())
    assert found["gelu_8"].cosine == pytest.approx(float(cosines.mean()), abs=1e-7)
    assert found["gelu_8"].worst_cosine == pytest.approx(float(cosines.min()), abs=1e-7)
    assert found["gelu_8"].perplexity is None and found.kind == "encoder"


def test_int8_inputs(ids):
    model = tiny_models.llama()
    names = [f"model.layers.{i}.mlp.act_fn" for i in range(3)]
    codes = {name: Inputs(8, 2.0 ** -(7 - i)) for i, name in enumerate(names)}  # the first clips beyond +-1
    found = evaluate(model, [{"input_ids": ids}], on_codes([variant("silu_16"), variant("silu_fplut")], codes))
    inputs, outputs = {}, {}

    class OnCodes(torch.nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name, self.table = name, lutc.load("silu_16")

        def forward(self, x):
            inputs[self.name] = x
            scale = codes[self.name].scale
            q = torch.round(x / scale).clamp(-128, 127) * scale
            outputs[self.name] = torch.nn.functional.silu(q)
            return outputs[self.name]

    for i, name in enumerate(names):
        model.model.layers[i].mlp.act_fn = OnCodes(name)
    perplexity, _, _ = by_hand(model, ids)
    exact = found["exact on int8 inputs"]
    assert (
        exact.perplexity == pytest.approx(perplexity, rel=1e-5) and exact.bytes == 0 and exact.change_on_codes is None
    )
    for i, name in enumerate(names):
        scale = codes[name].scale
        clipped = ((inputs[name] < -128.5 * scale) | (inputs[name] > 127.5 * scale)).float().mean()
        assert exact.layers[i].clipped == pytest.approx(float(clipped), abs=0.01)
    assert exact.layers[0].clipped > 0.2
    # 259 float values hardly err: quantising alone is what is left
    assert abs(found["silu_fplut"].change_on_codes) < 1e-3
    assert found["silu_16"].change_on_codes == pytest.approx(found["silu_16"].perplexity / exact.perplexity - 1)
    tables = lutc.load("silu_16")
    used = {str(min(7 - i, 6)): tables[str(min(7 - i, 6))].entries for i in range(3)}
    assert found["silu_16"].bytes == sum(math.ceil((entries * 16 + (entries - 1) * 8) / 8) for entries in used.values())


def test_scales_from_a_number_and_from_a_calibration(ids, tmp_path):
    from lutc.calibration import calibrate

    model = tiny_models.llama()
    assert int8_scales("2^-4", model) == Inputs(8, 2.0**-4)
    calibrate(model, [{"input_ids": ids}]).save(tmp_path / "c.json")
    codes = int8_scales(str(tmp_path / "c.json"), model)
    assert list(codes) == [f"model.layers.{i}.mlp.act_fn" for i in range(3)] and all(
        inputs.power is not None for inputs in codes.values()
    )
    with pytest.raises(LutcError, match="another model"):
        int8_scales(str(tmp_path / "c.json"), tiny_models.llama(num_hidden_layers=2))
    with pytest.raises(LutcError, match="--int8 is a scale such as 2"):
        int8_scales("four", model)
    with pytest.raises(LutcError, match="give a table for one"):
        on_codes([variant("exp_fplut")], Inputs(8))


def test_model_is_as_before(ids):
    model = tiny_models.llama()
    before = {name: type(module) for name, module in model.named_modules()}
    with torch.no_grad():
        want = model(ids).logits
    evaluate(model, [{"input_ids": ids}], [variant(ALL)])
    assert {name: type(module) for name, module in model.named_modules()} == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with torch.no_grad():
        assert torch.equal(model(ids).logits, want)


def test_train_mode_and_its_dropout_are_left_out(ids):
    model = tiny_models.bert()
    want = evaluate(model, [{"input_ids": ids}], [variant("gelu_8")])["gelu_8"].cosine
    model.encoder.layer[1].train()
    modes = [module.training for module in model.modules()]
    assert evaluate(model, [{"input_ids": ids}], [variant("gelu_8")])["gelu_8"].cosine == want
    assert [module.training for module in model.modules()] == modes


def test_nan_is_named_with_its_layer(ids):
    model = tiny_models.llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = math.nan
    for layers in (True, False):
        with pytest.raises(LutcError, match="exact model computes NaN or infinities, first in model.layers.1;"):
            evaluate(model, [{"input_ids": ids}], [variant(COARSE)], layers=layers)
    assert not model.__dict__.get("_lutc_patches")


def test_a_variant_with_nan_fails_alone(ids):
    class Broken(torch.nn.Module):
        tables = lutc.load("silu_8")

        def forward(self, x):
            return x * math.nan

    model = tiny_models.llama()
    from dataclasses import replace

    broken = replace(variant(COARSE, "broken"), activations={"silu": lutc.load("silu_8")})
    original = type(broken).patch

    def patch(self, network, **selection):
        report = original(self, network, **selection)
        if self.name == "broken":
            network.model.layers[2].mlp.act_fn.forward = Broken().forward
        return report

    with pytest.MonkeyPatch.context() as context:
        context.setattr(type(broken), "patch", patch)
        found = evaluate(model, [{"input_ids": ids}] * 2, [broken, variant(COARSE)])
    assert found["broken"].failed == "NaN or infinities, first in model.layers.2" and found["broken"].perplexity is None
    assert found[COARSE].failed is None and found[COARSE].perplexity is not None


def test_what_is_refused(ids):
    model, batch = tiny_models.llama(), [{"input_ids": ids}]
    for what, words in [
        (
            lambda: evaluate(model, batch, [variant("gelu_8")]),
            "nothing was replaced: model.layers.0.mlp.act_fn: no table of silu",
        ),
        (lambda: evaluate(model, [], [variant(COARSE)]), "no batches"),
        (lambda: evaluate(model, batch, [variant(COARSE), variant(COARSE)]), "two variants are called 'silu_8'"),
        (lambda: variant("silu_8,silu_16"), "two tables of silu"),
        (lambda: variant("reciprocal_fplut"), "but none of exp"),
        (lambda: variant(","), "no tables were given"),
        (lambda: variant("x=silu_88"), "no shipped table 'silu_88'"),
    ]:
        with pytest.raises(LutcError, match=words):
            what()
    lutc.patch(model, activation=COARSE)
    with pytest.raises(LutcError, match="patched with tables already"):
        evaluate(model, batch, [variant(COARSE)])


def test_models_without_repeated_blocks():
    torch.manual_seed(0)
    head = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU(), torch.nn.Linear(8, 3))
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU(), head)
    x = torch.randn(50, 4)
    found = evaluate(model, [x[:30], x[30:]], [variant("gelu_8")])
    assert [layer.name for layer in found["gelu_8"].layers] == ["1", "2"] and found.kind == "other"
    with torch.no_grad():
        hidden = model[0](x)
        exact, got = torch.nn.functional.gelu(hidden), lutc.nn.LUT("gelu_8")(hidden)
        inside = hidden.abs() <= 4
    assert found["gelu_8"].layers[0].own == pytest.approx(
        float(((got - exact).norm(dim=1) / exact.norm(dim=1)).mean()), rel=1e-4
    )
    assert found["gelu_8"].layers[0].outside == pytest.approx(1 - float(inside.float().mean()))


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision(folders, ids, dtype):
    from lutc.models.loading import load

    found = evaluate(load(folders["llama"], dtype=dtype), [{"input_ids": ids}], [variant(ALL)])
    assert found.dtype == {"bf16": "bfloat16", "fp16": "float16"}[dtype]
    assert abs(found["all"].change) < 0.02 and all(layer.own < 0.02 for layer in found["all"].layers)


def test_offloaded_layers(folders, ids, tmp_path):
    """A device map that leaves layers on disk: tables are placed where the layers run, and nothing is lost."""
    pytest.importorskip("accelerate")
    from lutc.models.loading import load

    where = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    where |= {f"model.layers.{i}": "disk" if i else "cpu" for i in range(3)}
    import transformers

    network = transformers.AutoModelForCausalLM.from_pretrained(
        folders["llama"], device_map=where, offload_folder=str(tmp_path), dtype=torch.float32
    )
    assert any(parameter.is_meta for parameter in network.parameters())
    got = evaluate(network.eval(), [{"input_ids": ids}], [variant(ALL)])
    want = evaluate(load(folders["llama"]), [{"input_ids": ids}], [variant(ALL)])
    assert got["all"].sites == want["all"].sites and got["all"].perplexity == pytest.approx(
        want["all"].perplexity, rel=1e-6
    )
    assert [layer.own for layer in got["all"].layers] == pytest.approx(
        [layer.own for layer in want["all"].layers], rel=1e-2
    )


def test_a_table_that_finds_no_place_is_told(ids, capsys):
    """A model with the tanh form of gelu takes no table of gelu: its figures are not those of one."""
    from lutc.commands.evaluation_report import echo

    found = evaluate(
        tiny_models.llama(hidden_act="gelu_pytorch_tanh"),
        [{"input_ids": ids}],
        [variant("gelu_fplut,exp_fplut", "both")],
    )
    assert found["both"].sites == {"softmax": 3} and found["both"].left == [
        "3 gelu_tanh (no table of gelu_tanh was given)"
    ]
    echo(found)
    assert "both: replaced 3 softmax; left 3 gelu_tanh (no table of gelu_tanh was given)\n" in capsys.readouterr().out


def test_a_layer_that_runs_often(ids):
    """ALBERT runs one layer again and again: each run is compared with its own."""
    import transformers

    torch.manual_seed(0)
    sizes = {**tiny_models.SIZES, "embedding_size": 16, "initializer_range": 0.1}
    model = transformers.AlbertModel(
        transformers.AlbertConfig(**sizes, hidden_act="gelu"), add_pooling_layer=False
    ).eval()
    found = evaluate(model, [{"input_ids": ids}], [variant("gelu_8")])
    with torch.no_grad():
        exact = model(ids, output_hidden_states=True).hidden_states[1:]
        lutc.patch(model, activation="gelu_8")
        got = model(ids, output_hidden_states=True).hidden_states[1:]
    errors = [float(((y - x).norm(dim=-1) / x.norm(dim=-1)).mean()) for x, y in zip(exact, got, strict=True)]
    (layer,) = found["gelu_8"].layers
    assert len(errors) == 3 and layer.error == pytest.approx(sum(errors) / 3, rel=1e-3)
    assert 0 < layer.own < layer.error


def test_layers_on_the_first_batches_only(ids):
    model, batches = tiny_models.llama(), [{"input_ids": part} for part in ids.split(1)]
    found = evaluate(model, batches, [variant(COARSE)], layers=2)
    assert found[COARSE].perplexity == pytest.approx(
        evaluate(model, batches, [variant(COARSE)], layers=False)[COARSE].perplexity, rel=1e-6
    )
    few = evaluate(model, batches[:2], [variant(COARSE)])
    assert [(one.error, one.own) for one in found[COARSE].layers] == [
        (one.error, one.own) for one in few[COARSE].layers
    ]
