"""`patch(softmax=..., attention="fused")`: models compute what the materialising patch computes, in memory that grows
with the tokens.
"""

import copy
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lutc
from lutc.errors import LutcError
from lutc.nn import LUTSoftmax
from lutc.nn.patching import attention as attentions
from tests.helpers.handmade import float_tables, int_tables

transformers = pytest.importorskip("transformers")

EXP, COARSE, RECI = float_tables("exp", -30, 0, 3000), int_tables("exp"), float_tables("reciprocal", 1, 2, 40)
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 50}
SIZES |= {"initializer_range": 0.3, "num_key_value_heads": 2}


def models():
    gemma = {**SIZES, "head_dim": 8, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 8, "sliding_window": 4}
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8, "sliding_window": 4}
    plain = {name: value for name, value in SIZES.items() if name != "num_key_value_heads"}
    t5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 50}
    return {
        "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)),
        "mistral, window": lambda: transformers.MistralForCausalLM(
            transformers.MistralConfig(**SIZES, sliding_window=4)
        ),
        "gemma2, soft cap": lambda: transformers.Gemma2ForCausalLM(
            transformers.Gemma2Config(**gemma, attn_implementation="eager")
        ),
        "bert": lambda: transformers.BertModel(transformers.BertConfig(**plain)),
        "t5, position bias": lambda: transformers.T5EncoderModel(transformers.T5Config(**t5)),
        "gpt-oss, sinks": lambda: transformers.GptOssForCausalLM(
            transformers.GptOssConfig(**{**SIZES, **experts}, attn_implementation="eager")
        ),
    }


MODELS = models()


def made(name):
    torch.manual_seed(0)
    return MODELS[name]().eval()


def batch(side):
    ids = torch.randint(0, 50, (3, 11), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, slice(5, None) if side == "right" else slice(None, 4)] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", [name for name in MODELS if "sinks" not in name])
def test_equals_the_materialising_patch(name, side):
    """With a coarse table too, whose own error is far larger than the tolerance."""
    model, given = made(name), batch(side)
    seen = given["attention_mask"].bool()
    exact = model(**given)[0]
    lutc.patch(model, softmax=(COARSE, RECI))
    want = model(**given)[0]
    lutc.unpatch(model)
    lutc.patch(model, softmax=(COARSE, RECI), attention="fused")
    got = model(**given)[0]
    assert not torch.allclose(want[seen], exact[seen], atol=1e-3)
    assert torch.allclose(got[seen], want[seen], atol=2e-4, rtol=1e-3)
    lutc.unpatch(model)
    assert torch.equal(model(**given)[0], exact)


def test_sinks_are_served():
    model, given = made("gpt-oss, sinks"), batch("left")
    for layer in model.model.layers:
        nn.init.normal_(layer.self_attn.sinks)
    seen, exact = given["attention_mask"].bool(), model(**given)[0]
    report = lutc.patch(model, softmax=EXP, attention="fused")
    assert sum("self_attn" in one.path for one in report.replaced) == 2
    assert torch.allclose(model(**given)[0][seen], exact[seen], atol=1e-4)
    lutc.unpatch(model)
    assert "give attention='fused'" in str(lutc.patch(model, softmax=EXP))


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize("form", ["fused", "fused-exact", "fused-table"])
def test_generation(form, cache):
    model, given = made("llama"), batch("left")
    options = {"max_new_tokens": 6, "do_sample": False, "cache_implementation": cache, "pad_token_id": 0}
    exact = model.generate(**given, **options)
    lutc.patch(model, softmax=EXP, attention=form)
    assert torch.equal(model.generate(**given, **options), exact)


def test_forms_differ_with_a_coarse_table(monkeypatch):
    from lutc.nn import attention_blocks

    monkeypatch.setattr(attention_blocks, "_KEYS", 4)
    results = {}
    for form in attentions.FORMS:
        model = made("llama")
        lutc.patch(model, softmax=COARSE, attention=form)
        results[form] = model(**batch("right"))[0]
    assert torch.allclose(results["materialised"], results["fused"], atol=2e-4)
    assert not torch.allclose(results["fused"], results["fused-exact"], atol=2e-4)
    assert not torch.allclose(results["fused-exact"], results["fused-table"], atol=2e-4)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_in_integers(cache):
    """Near the exact model, compiled too, and it generates; training says that there is no gradient."""
    model, given = made("llama"), batch("left")
    seen, exact = given["attention_mask"].bool(), model(**given)[0]
    lutc.patch(model, softmax=EXP, attention="integer")
    got = model(**given)[0]
    assert 0 < (got - exact)[seen].std() < 0.03 * exact[seen].std()
    with torch.no_grad():
        assert torch.equal(torch.compile(model, backend="aot_eager", fullgraph=True)(**given)[0], got)
        made_of = model.generate(**given, max_new_tokens=6, do_sample=False, cache_implementation=cache, pad_token_id=0)
    assert made_of.shape == (3, given["input_ids"].shape[1] + 6)
    with pytest.raises(LutcError, match="has no gradient"):
        model(**given)[0].sum().backward()


def test_training_compiling_and_copies():
    model, given = made("llama"), batch("right")
    reference = copy.deepcopy(model)
    lutc.patch(reference, softmax=EXP)
    lutc.patch(model, softmax=EXP, attention="fused")
    for one in (reference, model):
        one(**given, labels=given["input_ids"]).loss.backward()
    for (name, p), (_, q) in zip(model.named_parameters(), reference.named_parameters()):
        assert torch.allclose(p.grad, q.grad, atol=1e-4, rtol=1e-2), name
    want = model(**given)[0]
    assert torch.equal(copy.deepcopy(model)(**given)[0], want)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(**given)[0], want, atol=1e-5)


class Calls(nn.Module):
    def forward(self, q, k, v, **options):
        return F.scaled_dot_product_attention(q, k, v, **options)


@pytest.mark.parametrize("form", ["fused", "integer"])
def test_autocast(form):
    """Rotary positions leave queries and keys in float32 there, values in bfloat16."""
    inputs = batch("left")
    patched = made("llama")
    lutc.patch(patched, softmax="exp_fplut", attention=form)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        want, got = made("llama")(**inputs).logits, patched(**inputs).logits
    assert got.dtype == want.dtype
    assert (got - want)[inputs["attention_mask"].bool()].abs().max() < (
        0.05 if form == "fused" else 0.2
    ) * want.abs().max()


def test_gradient_checkpointing():
    inputs = batch("left")
    gradients = []
    for checkpoints in (False, True):
        model = made("llama").train()
        lutc.patch(model, softmax="exp_fplut", attention="fused")
        if checkpoints:
            model.gradient_checkpointing_enable()
        model(**inputs).logits.square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients))


def test_functional_calls_and_multi_head_attention():
    model = nn.ModuleDict({"calls": Calls(), "heads": nn.MultiheadAttention(16, 4, batch_first=True)})
    lutc.patch(model, softmax=EXP, attention="fused")
    q, k = torch.randn(2, 4, 9, 16), torch.randn(2, 2, 30, 16)
    for options in (
        {"enable_gqa": True},
        {"enable_gqa": True, "is_causal": True},
        {"enable_gqa": True, "attn_mask": torch.rand(9, 30) < 0.5, "scale": 0.5},
    ):
        got, want = model["calls"](q, k, k, **options), F.scaled_dot_product_attention(q, k, k, **options)
        assert torch.allclose(got, want, atol=1e-4)
    with pytest.raises(LutcError, match="has no dropout; given 0.5"):
        model["calls"](q, k, k, enable_gqa=True, dropout_p=0.5)
    x = torch.randn(2, 9, 16)
    got = model["heads"](x, x, x, need_weights=False)[0]
    lutc.unpatch(model)
    assert torch.allclose(got, model["heads"](x, x, x, need_weights=False)[0], atol=1e-4)


def test_what_is_not_served_materialises_and_says_so_once():
    model, x = Calls(), torch.randn(9, 16)
    model = nn.ModuleDict({"calls": model})
    lutc.patch(model, softmax=EXP, attention="fused")
    attentions._said.cache_clear()
    with pytest.warns(UserWarning, match="materialises its scores here: query, key and value differ in their batch"):
        got = model["calls"](x, x, x)
    assert torch.allclose(got, F.scaled_dot_product_attention(x, x, x), atol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model["calls"](x, x, x)
    q, k = torch.randn(2, 1, 9, 16), torch.randn(2, 4, 9, 16)
    with pytest.warns(UserWarning, match="1 heads of query, 4 of key and 4 of value are no groups"):
        got = model["calls"](q, k, k)
    assert torch.allclose(got, F.scaled_dot_product_attention(q, k, k), atol=1e-4)
    lutc.unpatch(model)
    lutc.patch(model, softmax=EXP, attention="integer")
    with pytest.warns(
        UserWarning, match="runs in floats and materialises its scores here: query, key and value differ"
    ):
        model["calls"](x, x, x)


@pytest.mark.parametrize("form", ["materialised", "fused"])
def test_masks_of_integers_are_refused_as_by_torch(form):
    model, x = nn.ModuleDict({"calls": Calls()}), torch.randn(1, 2, 9, 16)
    lutc.patch(model, softmax=EXP, attention=form)
    with pytest.raises(LutcError, match="a mask is bool .* given torch.int64"):
        model["calls"](x, x, x, attn_mask=torch.ones(9, 9).long())


def test_attention_weights_are_given_where_asked_for():
    model = made("bert")
    lutc.patch(model, softmax=EXP, attention="fused")
    attentions._said.cache_clear()
    with pytest.warns(UserWarning, match="the weights of attention are asked for"):
        found = model(**batch("right"), output_attentions=True).attentions
    assert all(one.shape == (3, 4, 11, 11) for one in found)


def test_bad_forms_and_modules_of_others():
    softmax = LUTSoftmax(EXP)
    with pytest.raises(
        LutcError, match="attention is one of materialised, fused, fused-exact, fused-table, integer; given 'x'"
    ):
        lutc.patch(Calls(), softmax=softmax, attention="x")
    with pytest.raises(LutcError, match="give softmax= with it"):
        lutc.patch(made("bert"), activation="gelu_16", attention="fused")
    lutc.patch(nn.ModuleDict({"calls": Calls()}), softmax=softmax, attention="fused")
    assert softmax.rescale is None


PEAK = """
import resource, torch, lutc

model = torch.nn.ModuleDict({"heads": torch.nn.MultiheadAttention(16, 1, batch_first=True)})
lutc.patch(model, softmax="exp_fplut", attention="fused-exact")

def peak(n):
    x = torch.randn(1, n, 16)
    with torch.no_grad():
        model["heads"](x, x, x, need_weights=False)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

print(-peak(64) + peak(8192))
"""


@pytest.mark.slow
def test_memory_is_not_that_of_the_scores():
    """8,192 tokens: the scores of one head alone would take 256 MiB."""
    run = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert float(run.stdout) < 64
