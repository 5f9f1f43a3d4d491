"""Families of models, tiny and random: every function is found and served, and comes back."""

import sys
from pathlib import Path

import pytest
import torch

import lutc
from tests.helpers.families import FAMILIES, build

pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "benchmarks"))
from families import TABLES, tried  # noqa: E402

QUICK = {"Mamba2", "FalconMamba", "Gemma3n", "ConvNeXt"}  # what only these have: gates, helpers, powers, super()


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
@pytest.mark.filterwarnings("ignore")
def test_every_function_is_served(name):
    error, same, report = tried(name)
    assert error <= 1e-3 and same
    assert error > 1e-7  # tables did run
    assert not report.left


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, (model, *_) in FAMILIES.items() if model.endswith("CausalLM")])
@pytest.mark.filterwarnings("ignore")
def test_generation_with_and_without_a_cache_agree(name):
    model, inputs = build(name)

    def agree() -> bool:
        options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
        cached, whole = (model.generate(inputs["input_ids"], use_cache=use, **options) for use in (True, False))
        return torch.equal(cached, whole)

    if not agree():
        pytest.skip("the exact model does not agree with itself")
    lutc.patch(model, TABLES, "exp_fplut", "rsqrt_fplut", attention="fused")
    assert agree()
