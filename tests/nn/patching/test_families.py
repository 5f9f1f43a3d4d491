"""Families of language models, small and random: what a patch reaches in each, and that tables as good as exact leave
what it computes; the same with the weights kept elsewhere by accelerate.
"""

import copy

import pytest
import torch

import lutc
from lutc.calibration import calibrate
from lutc.formats.codes import Inputs
from lutc.observe.next_layer import layer_errors
from tests.helpers.handmade import float_tables

transformers = pytest.importorskip("transformers")

NAMES = {"silu": 14, "gelu": 8, "gelu_tanh": 8, "relu": 8, "sigmoid": 14, "tanh": 9}
TABLES = {
    "activation": [float_tables(name, -reach, reach, 3000) for name, reach in NAMES.items()],
    "softmax": (float_tables("exp", -30, 0, 3000), float_tables("reciprocal", 1, 2, 1000)),
    "norm": float_tables("rsqrt", 1, 4, 1000),
}
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 64,
    "initializer_range": 0.3,
}
GROUPED, EXPERTS = {"num_key_value_heads": 2}, {"num_local_experts": 4, "num_experts_per_tok": 2}
T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "feed_forward_proj": "gated-gelu",
}
# class, options, what is replaced by kind (Gemma 2: a tanh on the logits; experts: a softmax in each router and one in
# the routers' loss)
FAMILIES = {
    "mistral, window": ("Mistral", {"sliding_window": 4, **GROUPED}, {"silu": 2, "rms_norm": 5, "softmax": 2}),
    "qwen3, tied": (
        "Qwen3",
        {"head_dim": 8, "tie_word_embeddings": True, **GROUPED},
        {"silu": 2, "rms_norm": 9, "softmax": 2},
    ),
    "gemma2": (
        "Gemma2",
        {"head_dim": 8, "sliding_window": 4, **GROUPED},
        {"gelu_tanh": 2, "rms_norm": 9, "softmax": 2, "tanh": 1},
    ),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4}, {"gelu_tanh": 2, "layer_norm": 5}),
    "opt": ("OPT", {"ffn_dim": 64, "word_embed_proj_dim": 32}, {"relu": 2, "layer_norm": 5, "softmax": 2}),
    "mixtral": ("Mixtral", {**EXPERTS, **GROUPED}, {"silu": 2, "rms_norm": 5, "softmax": 5}),
    "gpt-oss": (
        "GptOss",
        {"head_dim": 8, "sliding_window": 4, **EXPERTS, **GROUPED},
        {"sigmoid": 2, "rms_norm": 5, "softmax": 3},
    ),
    "t5": ("T5ForConditionalGeneration", T5, {"gelu_tanh": 4, "rms_norm": 12, "softmax": 6}),
}


def made(family):
    name, options, _ = FAMILIES[family]
    name = name if name.endswith(("Model", "Generation")) else f"{name}ForCausalLM"
    config = getattr(
        transformers,
        name.removesuffix("ForCausalLM").removesuffix("LMHeadModel").removesuffix("ForConditionalGeneration")
        + "Config",
    )
    torch.manual_seed(0)
    model = getattr(transformers, name)(
        config(**{**SIZES, **options, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
    ).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))  # trained gains: Gemma's begin as 0, others' as 1
    return model


def batch(family):
    ids = torch.randint(3, 60, (2, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 8:] = 0
    return {"input_ids": ids, "attention_mask": mask, **({"decoder_input_ids": ids[:, :7]} if family == "t5" else {})}


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_what_is_reached_and_what_is_computed(family):
    model, inputs = made(family), batch(family)
    kept = slice(None) if family == "t5" else inputs["attention_mask"] == 1
    want = model(**inputs).logits
    report = lutc.patch(model, **TABLES)
    found = [entry.what for entry in report.replaced]
    assert {what: found.count(what) for what in FAMILIES[family][2]} == FAMILIES[family][2]
    assert [(entry.what, entry.why) for entry in report.left] == [
        ("softmax", "its attention has sinks; give attention='fused'")
    ] * (2 if family == "gpt-oss" else 0)
    got = model(**inputs).logits
    assert (got[kept] - want[kept]).norm() < 3e-5 * want[kept].norm() and not torch.equal(got, want)
    lutc.unpatch(model)
    assert torch.equal(model(**inputs).logits, want)


@pytest.mark.parametrize("family", ["gemma2", "gpt-oss"])
@torch.no_grad()
def test_weights_kept_elsewhere(family):
    """accelerate brings weights in for one module's forward: norms and calls in modules with weights of their own once
    stayed exact, or failed.
    """
    accelerate = pytest.importorskip("accelerate")
    model, inputs = made(family), batch(family)
    away = accelerate.cpu_offload(copy.deepcopy(model), execution_device=torch.device("cpu"))
    assert all(parameter.is_meta for parameter in away.parameters())
    exact = model(**inputs).logits
    seen = [{name: layer.histogram for name, layer in calibrate(m, [inputs]).layers.items()} for m in (model, away)]
    assert seen[0] == seen[1]
    if family == "gemma2":
        (want, got) = (
            layer_errors(m, [inputs], [Inputs(8, 0.25)])["model.layers.1.mlp.act_fn"][0] for m in (model, away)
        )
        assert (got.form == want.form).all() and got.facts["norm"] == want.facts[
            "norm"
        ] == "model.layers.1.post_feedforward_layernorm"
    reports = [lutc.patch(m, **TABLES) for m in (model, away)]
    assert reports[0] == reports[1]
    want = model(**inputs).logits
    assert torch.equal(away(**inputs).logits, want) and not torch.equal(want, exact)
    assert torch.equal(copy.deepcopy(away)(**inputs).logits, want)
    lutc.unpatch(away)
    assert torch.equal(away(**inputs).logits, exact) and all(parameter.is_meta for parameter in away.parameters())
