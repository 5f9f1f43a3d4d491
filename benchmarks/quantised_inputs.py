"""all-MiniLM-L6-v2 with int8 inputs to every GELU: static, dynamic, observed and learned scales, with the exact
function and with tables.

    python benchmarks/quantised_inputs.py [--sentences 128] [--only "next layer"]

Scales are observed, calibrated or learned on every other sentence; the cosine to the exact model's embedding is of the
sentences between them. What is learned are the six scales alone, by 30 steps of Adam towards the exact embeddings of
the first half. Some ten minutes on one core.
"""

from __future__ import annotations

import argparse
import copy

import torch
from minilm_cosine import embed, load_model, sentences

import lutc
from lutc.calibration import calibrate
from lutc.calibration.scales import choose
from lutc.formats.codes import Inputs
from lutc.nn import FakeQuantize
from lutc.observe.next_layer import layer_errors

TABLES = ("gelu", "gelu_8", "gelu_16")  # the first is the exact function


def batches(tokenizer, texts, size=16):
    for start in range(0, len(texts), size):
        yield tokenizer(texts[start : start + size], padding=True, truncation=True, max_length=256, return_tensors="pt")


def quantisers(model) -> list[FakeQuantize]:
    return [module for module in model.modules() if isinstance(module, FakeQuantize)]


def observe(model, tokenizer, texts) -> None:
    """Run the texts with the quantisers, and nothing else, in training mode."""
    for quantiser in quantisers(model):
        quantiser.train()
    with torch.no_grad():
        for batch in batches(tokenizer, texts):
            model(**batch)
    model.eval()


def learn(model, exact, tokenizer, texts, steps=30) -> None:
    """Train the scales to give the exact model's last hidden states."""
    scales = [quantiser.log2_scale for quantiser in quantisers(model)]
    model.requires_grad_(False)
    for scale in scales:
        scale.requires_grad_(True)
    optimiser, step = torch.optim.Adam(scales, 0.05), 0
    while step < steps:
        for batch in batches(tokenizer, texts):
            mask = batch["attention_mask"][..., None]
            with torch.no_grad():
                target = exact(**batch).last_hidden_state
            loss = ((model(**batch).last_hidden_state - target) * mask).square().sum() / mask.sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            step += 1
            if step == steps:
                break


def for_the_next_layer(model, tokenizer, texts) -> dict[str, Inputs]:
    """Of each layer the power of two at which the exact function on the codes errs least behind the next linear layer,
    tokens weighed by the norm.
    """
    tried = [Inputs(8, 2.0**-b) for b in range(1, 7)]
    found = layer_errors(model, batches(tokenizer, texts), tried, tokens=512, only="encoder")
    return {path: min(errors, key=lambda error: error.floor).inputs for path, errors in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sentences", type=int, default=128)
    parser.add_argument("--only", default="", help="rows whose name holds this")
    options = parser.parse_args()
    model, tokenizer = load_model()
    texts = sentences(2 * options.sentences)
    fit, judged = texts[::2], texts[1::2]
    exact = embed(model, tokenizer, judged)
    calibration = calibrate(model, batches(tokenizer, fit), only="encoder")
    of_x = {
        path: choose(layer.histogram) for path, layer in calibration.layers.items() if layer.operator == "activation"
    }
    print(
        f"{len(judged)} sentences; mean cosine to the exact model's embeddings (worst), int8 inputs of every GELU; "
        f"scales of {len(fit)} others"
    )
    print(f"{'scale':34s}{'exact function':>20s}{'gelu_8':>20s}{'gelu_16':>20s}   scales of the layers, log2")
    rows = {
        "static, 2^-3 everywhere": 2.0**-3,
        "static, 2^-4 everywhere": 2.0**-4,
        "static, calibrated behind gelu": calibration,
        "static, calibrated on x": of_x,
        "static, for the next layer": lambda: for_the_next_layer(model, tokenizer, fit),
        "dynamic": "dynamic",
        "observed": "observed",
        "learned, before training": "learned",
        "learned": "learned",
    }
    for name, quantise in rows.items():
        if options.only not in name:
            continue
        quantise, cells = quantise() if callable(quantise) else quantise, []
        for table in TABLES:
            patched = copy.deepcopy(model)
            lutc.patch(patched, activation=table, quantise=quantise, only="encoder")
            if quantise in ("observed", "learned"):
                observe(patched, tokenizer, fit[:16] if quantise == "learned" else fit)
            if name == "learned":
                learn(patched, model, tokenizer, fit)
            cosine = (embed(patched, tokenizer, judged) * exact).sum(1)
            cells.append(f"{cosine.mean():.5f} ({cosine.min():.5f})")
        powers = [quantiser.scale for quantiser in quantisers(patched)]
        shown = ", ".join("-" if scale is None else f"{torch.tensor(scale).log2().item():g}" for scale in powers)
        print(f"{name:34s}{''.join(f'{cell:>20s}' for cell in cells)}   {shown}", flush=True)


if __name__ == "__main__":
    main()
