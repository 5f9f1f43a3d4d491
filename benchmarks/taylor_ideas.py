"""What pays at four times fewer multiply-adds: designs of one MLP of all-MiniLM-L6-v2, by the error that its layer
feels on held-out text and on text unlike what was fitted.

    python benchmarks/taylor_ideas.py --work /tmp/minilm --inputs /tmp/minilm/inputs-250000 [--layer 2 --tokens 110000]

WORK/inputs-... is what taylor_minilm.py collects. The error is the mean square of the output's error over the variance
of what it is added to, sum and all: what is left after the layer norm, whose output has variance 1.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace as changed
from pathlib import Path

import taylor_texts
import torch
from taylor_minilm import MEASURED, PATTERN, RIDGE, batched, get_model_path, spread
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from lutc import taylor

DESIGNS = {
    "1 centre, 192 neurons": changed(RIDGE, k=1, neurons=192),
    "64 centres, 160 neurons": changed(RIDGE, k=64, neurons=160),
    "16 centres, 184 local neurons": changed(RIDGE, k=16, neurons=184, local=True),
    "64 centres, 160 local neurons": changed(RIDGE, k=64, neurons=160, local=True),
    "64 centres, 232 local neurons, rank 120": changed(RIDGE, k=64, neurons=232, local=True, rank=120),
    "64 centres, 288 local neurons, rank 64": changed(RIDGE, k=64, neurons=288, local=True, rank=64),
    "64 centres, 256 local neurons, rank 96": changed(RIDGE, k=64, neurons=256, local=True, rank=96),
}
# Of the last design run: outputs of the two nearest centres are mixed by softmax(-|x - c|^2 / (2 temperature)), and the
# best of the nearest is taken, which no router can beat.
TEMPERATURE, NEAREST = 4.0, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, default=Path("/usr/share"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--inputs", type=Path, required=True)
    parser.add_argument("--layer", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=110_000)
    parser.add_argument("--only", nargs="*", choices=DESIGNS, default=list(DESIGNS))
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    path = str(get_model_path())
    model = AutoModel.from_pretrained(path, attn_implementation="eager").eval()
    block = taylor.find_blocks(model, PATTERN)[arguments.layer]
    inputs = taylor.BlockInputs(arguments.inputs)
    x = torch.cat(list(inputs.chunks(block.name, False, limit=arguments.tokens)))
    measured = {"held out": torch.cat(list(inputs.chunks(block.name, True, limit=20_000)))}
    tokenizer = AutoTokenizer.from_pretrained(path)
    for name, texts in far_texts(arguments.texts).items():
        folder = arguments.work / f"far-{name}-{arguments.layer}"
        found = taylor.collect(model, block.name, batched(tokenizer, texts)[::3], folder)
        measured[name] = torch.cat(list(found.chunks(block.name)))
    with torch.no_grad():
        pairs = {name: (x, block(x)) for name, x in measured.items()}
    for design in arguments.only:
        start = time.perf_counter()
        table = taylor.fit(block, x, DESIGNS[design])
        fewer = table.info["certificate"]["exact_multiply_adds"] / table.multiply_adds()
        errors = {name: felt(table(x), x, y).mean() for name, (x, y) in pairs.items()}
        show(f"{design} ({fewer:.2f}x, {table.storage_bytes / 2e6:.1f} MB in fp16)", errors, start)
    mixed, best = {}, {}
    start = time.perf_counter()
    for name, (x, y) in pairs.items():
        outputs, weights = of_nearest(table, x[:4000], NEAREST)
        mixed[name] = felt((weights[:, :2, None].softmax(1) * outputs[:, :2]).sum(1), x[:4000], y[:4000]).mean()
        each = [felt(outputs[:, i], x[:4000], y[:4000]) for i in range(NEAREST)]
        best[name] = torch.stack(each).amin(0).mean()
    show("the same, outputs of the two nearest centres mixed, at nearly twice the multiply-adds", mixed, start)
    show(f"the same, the best of the {NEAREST} nearest centres taken", best, start)


def far_texts(root: Path) -> dict[str, list[str]]:
    return {
        "fortunes": spread(taylor_texts.fortunes(root), MEASURED),
        "readmes": taylor_texts.readmes(MEASURED),
    }


def felt(given: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The error [n] of outputs [n, o] of a block whose output y is added to its input x and normalised."""
    return (given - y).square().mean(1) / (x + y).var(1).clamp_min(1e-6)


def of_nearest(table: taylor.TaylorTable, x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The outputs [n, count, o] that the `count` nearest centres give, and -|x - c|^2 / (2 TEMPERATURE)
    [n, count].
    """
    distances = torch.cdist(x, table.centres)
    near = distances.topk(count, 1, largest=False)
    outputs = x.new_empty(len(x), count, table.out_features)
    for index in range(table.k):
        row, place = (near.indices == index).nonzero(as_tuple=True)
        if len(row):
            outputs[row, place] = table.values[index] + table.features(x[row], index) @ table.slopes[index].T
    return outputs, -near.values.square() / (2 * TEMPERATURE)


def show(design: str, errors: dict[str, Tensor], start: float) -> None:
    figures = "  ".join(f"{name} {float(error):.4f}" for name, error in errors.items())
    print(f"{design}: {figures}  ({time.perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
