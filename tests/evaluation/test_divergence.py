"""KL divergence and standard errors: against numpy in float64, and what NaN and infinities make of them."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import lutc
from lutc.cli import main
from lutc.errors import LutcError
from lutc.evaluation import evaluate, on_codes, variant
from lutc.evaluation.estimates import difference, per_token, perplexity, relative
from lutc.evaluation.outputs import outputs_of
from lutc.formats.codes import Inputs
from tests.helpers import tiny_models


@pytest.fixture(scope="module")
def ids():
    return torch.randint(3, 50, (5, 24), generator=torch.Generator().manual_seed(2))


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits.numpy().astype(np.float64)


def by_numpy(exact, found, ids):
    """Mean loss and KL of each window, (windows,)."""
    p, q = log_softmax(exact[:, :-1]), log_softmax(found[:, :-1])
    losses = -np.take_along_axis(q, ids[:, 1:, None].numpy(), -1)[..., 0].mean(1)
    return losses, (np.exp(p) * (p - q)).sum(-1).mean(1)


def test_divergence_and_errors_by_numpy(ids):
    model, chosen = tiny_models.llama(), [variant("silu_8"), variant("all=silu_fplut,exp_fplut,rsqrt_fplut")]
    found = evaluate(model, [{"input_ids": part} for part in ids.split(2)], chosen)
    exact = logits(model, ids)
    losses, zero = by_numpy(exact, exact, ids)
    assert found.windows == [23] * 5 and found["exact"].losses == pytest.approx(losses, rel=1e-9) and not zero.any()
    assert found["exact"].kl is None and found["exact"].divergences == []
    for one in chosen:
        one.patch(model)
        with_tables = logits(model, ids)
        lutc.unpatch(model)
        result, (others, divergences) = found[one.name], by_numpy(exact, with_tables, ids)
        assert result.losses == pytest.approx(others, rel=1e-9)
        assert result.divergences == pytest.approx(divergences, rel=1e-6) and min(result.divergences) > 0
        assert result.kl == pytest.approx(divergences.mean(), rel=1e-6)
        assert result.kl_se == pytest.approx(divergences.std(ddof=1) / math.sqrt(5), rel=1e-6)
        changed = others - losses
        assert result.change == pytest.approx(math.exp(changed.mean()) - 1, rel=1e-6)
        assert result.change_se == pytest.approx(
            math.exp(changed.mean()) * changed.std(ddof=1) / math.sqrt(5), rel=1e-6
        )
    less = np.subtract(found["silu_8"].divergences, found["all"].divergences)
    assert found.difference("silu_8", "all") == pytest.approx((less.mean(), less.std(ddof=1) / math.sqrt(5)))
    assert found.difference("silu_8", "exact", "losses").value == pytest.approx(math.log1p(found["silu_8"].change))
    with pytest.raises(LutcError, match="'exact' has no divergences: only tables in a causal model"):
        found.difference("silu_8", "exact")


def test_batches_and_padding_do_not_change_windows(ids):
    """Windows of different lengths count by their tokens; one without a next token not at all."""
    model, mask, lengths = tiny_models.llama(), torch.zeros(4, 24, dtype=torch.int64), [24, 9, 1, 15]
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
    together = evaluate(model, [{"input_ids": ids[:4], "attention_mask": mask}], [variant("silu_8")])
    apart = evaluate(model, [{"input_ids": ids[i : i + 1, :n]} for i, n in enumerate(lengths)], [variant("silu_8")])
    assert together.windows == apart.windows == [23, 8, 14]
    one, other = together["silu_8"], apart["silu_8"]
    assert one.divergences == pytest.approx(other.divergences, rel=1e-4)
    assert one.kl == pytest.approx(np.dot(one.divergences, [23, 8, 14]) / 45)
    # jackknife: leaving one window out at a time estimates the same standard error
    kls, tokens = np.array(one.divergences), np.array([23, 8, 14])
    without = [np.delete(kls * tokens, i).sum() / np.delete(tokens, i).sum() for i in range(3)]
    assert one.kl_se == pytest.approx(
        math.sqrt(2 / 3 * np.square(np.subtract(without, np.mean(without))).sum()), rel=0.5
    )


def test_standard_error_is_the_spread_of_the_mean():
    """Over many texts of 20 windows the means spread as each text says; windows of one length are plain statistics."""
    draw, tokens = np.random.default_rng(0), [40, 10, 25, 25] * 5
    estimates = [per_token(0.3 + draw.normal(size=20), tokens) for _ in range(4000)]
    spread = np.std([estimate.value for estimate in estimates])
    assert np.sqrt(np.mean([estimate.se**2 for estimate in estimates])) == pytest.approx(spread, rel=0.05)
    assert np.mean([estimate.value for estimate in estimates]) == pytest.approx(0.3, abs=0.02)
    assert per_token([0.25], [7]) == (0.25, None) and difference([0.5], [0.25], [7]) == (0.25, None)
    assert relative([math.log(3)], [math.log(2)], [9]) == (pytest.approx(0.5), None)
    assert perplexity([800.0], [5]) == math.inf and relative([800.0] * 2, [1.0] * 2, [5, 5]) == (math.inf, math.inf)


def test_to_the_exact_function_on_codes(ids):
    found = evaluate(tiny_models.llama(), [{"input_ids": ids}], on_codes([variant("silu_8")], Inputs(8, 2**-4)))
    changed = np.subtract(found["silu_8"].losses, found["exact on int8 inputs"].losses)
    assert found["silu_8"].change_on_codes == pytest.approx(math.expm1(changed.mean()))
    assert found["silu_8"].change_on_codes_se == pytest.approx(
        math.exp(changed.mean()) * changed.std(ddof=1) / math.sqrt(5)
    )


def kl_of(exact, found):
    """Of one row of logits each, as evaluation computes it, with whether it is finite."""
    ids, both = torch.tensor([[0, 1]]), [torch.tensor([[row, row]], dtype=torch.float32) for row in (exact, found)]
    first = outputs_of(both[0], ids, "causal", None)
    result = outputs_of(both[1], ids, "causal", None, first)
    return result.windows[0].kl, result.finite


def test_what_cannot_be():
    inf = math.inf
    p = np.exp(log_softmax(np.array([1.0, 2.0])))
    q = log_softmax(np.array([0.5, 2.0, 1.0]))[:2]
    assert kl_of([1, 2, -inf], [0.5, 2, 1]) == (
        pytest.approx(float(p @ (np.log(p) - q))),
        True,
    )  # the exact model rules a token out
    assert kl_of([1, 2, -inf], [1, 2, -inf]) == (pytest.approx(0, abs=1e-15), True)
    assert kl_of([1, 2, 0], [1, 2, -inf]) == (inf, False)  # the tables rule out what may come
    for bad in ([1, 2, math.nan], [1, 2, inf], [-inf, -inf, -inf]):
        kl, finite = kl_of([1, 2, -inf], bad)
        assert math.isnan(kl) and not finite


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_tables_that_spoil_one_logit_give_no_number(ids, value):
    model = tiny_models.llama()
    exact = type(model.model.layers[0].mlp.act_fn)

    def spoil(module, args, output):
        if not isinstance(model.model.layers[0].mlp.act_fn, exact):
            output[-1, 5, 7] = value

    model.lm_head.register_forward_hook(spoil)
    found = evaluate(model, [{"input_ids": ids[:2]}], [variant("silu_8")], layers=False)
    result = found["silu_8"]
    assert result.failed == "NaN or infinities, first in the model's output"
    assert result.kl is None and result.perplexity is None and result.change is None and result.divergences == []
    with pytest.raises(LutcError, match="'silu_8' has no divergences: NaN or infinities"):
        found.difference("silu_8", "silu_8")


def test_printed_and_written(folders, tmp_path):
    table = tmp_path / "out.csv"
    arguments = [
        "evaluate",
        folders["llama"],
        "--text",
        folders["text"],
        "--seqlen",
        "32",
        "--max-tokens",
        "128",
        "--tables",
        "silu_8",
        "--tables",
    ]
    arguments = [*map(str, arguments), "silu_16", "--no-layers", "--csv", str(table)]
    found = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).output)
    exact, coarse, fine = found["results"]
    assert (
        found["windows"] == [31] * 4
        and len(exact["losses"]) == len(coarse["losses"]) == len(coarse["divergences"]) == 4
    )
    assert coarse["kl"] == pytest.approx(np.mean(coarse["divergences"])) and coarse["kl"] > fine["kl"] > 0
    with open(table, newline="") as file:
        rows = {(row["tables"], row["layer"], row["measure"]): float(row["value"]) for row in csv.DictReader(file)}
    assert rows["silu_8", "", "kl"] == coarse["kl"] and rows["silu_8", "", "change_se"] == coarse["change_se"]
    out = CliRunner().invoke(main, arguments).output
    assert f"{coarse['kl']:.2e} ± {coarse['kl_se']:.0e}" in out
    above, se = difference(coarse["divergences"], fine["divergences"], found["windows"])
    assert f"least KL: silu_16\n  then silu_8, {above:.1e} ± {se:.0e} above\n" in out
    one = CliRunner().invoke(main, [*arguments[:6], "--max-tokens", "32", "--tables", "silu_8", "--no-layers"]).output
    assert "±" not in one and "least KL" not in one


def test_logits_in_parts_give_the_figures_of_whole_ones(ids, monkeypatch):
    model, chosen = tiny_models.llama(), [variant("silu_8"), variant("silu_8,exp_8", "fused")]
    chosen[1] = replace(chosen[1], attention="fused")
    batches = [{"input_ids": part} for part in ids.split(2)]
    whole = evaluate(model, batches, chosen, each_layer=True)
    monkeypatch.setattr("lutc.evaluation.logits.LIMIT", 0)
    sizes = []
    model.lm_head.register_forward_hook(
        lambda module, args, out: sizes.append(len(out) if out.ndim == 2 and out.shape[-1] == 50 else 0)
    )
    parts = evaluate(model, batches, chosen, each_layer=True)
    assert len(sizes) > 10 and max(sizes) <= 16
    assert "forward" not in vars(model.lm_head)
    for one in ("exact", *(v.name for v in chosen)):
        assert parts[one].losses == pytest.approx(whole[one].losses, rel=1e-6)
        assert parts[one].divergences == pytest.approx(whole[one].divergences, rel=1e-3, abs=1e-9)
        assert parts[one].same == whole[one].same
        assert [layer.error for layer in parts[one].layers] == pytest.approx([x.error for x in whole[one].layers])


def test_logits_that_are_capped_behind_the_head_stay_whole(ids, monkeypatch):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 64, "head_dim": 16}
    config = transformers.Gemma2Config(
        **sizes, num_attention_heads=2, num_key_value_heads=2, final_logit_softcapping=0.05, max_position_embeddings=64
    )
    model = transformers.Gemma2ForCausalLM(config).eval()
    whole = evaluate(model, [{"input_ids": ids}], [variant("gelu_tanh_8")])
    monkeypatch.setattr("lutc.evaluation.logits.LIMIT", 0)
    assert evaluate(model, [{"input_ids": ids}], [variant("gelu_tanh_8")])["exact"].losses == whole["exact"].losses
