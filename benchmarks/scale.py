"""What calibrating and compiling cost for each value, place and table here, and by that a large model on paper.

    python benchmarks/scale.py [--tokens 1e9] [--context 4096]

Counting is timed on random values on one core of this machine (on a GPU the same counts are torch's bincount); tables
are compiled as `lutc model compile` does. The model on paper is Llama 3 70B: 80 layers, 64 heads, MLPs of 28,672.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from lutc.calibration.histogram import Histogram
from lutc.calibration.weights import Measured
from lutc.compiler.pipeline import compile
from lutc.formats.codes import Inputs
from lutc.observe.accumulator import Accumulator

LAYERS, HEADS, WIDTH, HIDDEN = 80, 64, 8192, 28672
PARAMETERS = 70.6e9


def seconds(run, repeats: int = 3) -> float:
    """CPU time of a call, the least of some."""
    run()
    found = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        found.append(time.process_time() - start)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=float, default=1e9)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--devices", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    x = 3 * torch.randn(4096, 1024, generator=torch.Generator().manual_seed(0))
    counted = Accumulator()
    value = seconds(lambda: counted.add(x)) / x.numel()
    score = seconds(lambda: counted.add_below_maximum(x)) / x.numel()
    histogram = Histogram.of(x.numpy())
    held = histogram.codes.nbytes + histogram.counts.nbytes + histogram.residues.nbytes
    weights = Measured(histogram, {"model": "none", "layer": "none", "values": histogram.count})
    table = seconds(lambda: compile("silu", 16, inputs=Inputs(8, 2.0**-4), weights=weights, search="exact"), 1)
    print(f"counting: {1e9 * value:.2f} ns a value, {1e9 * score:.2f} ns a score of attention, on one core")
    print(f"a place: 1 MiB while it counts, {held / 1024:.0f} KiB sent and stored ({histogram.codes.size:,} bins)")
    print(f"a table of 16 entries over int8 codes: {table:.1f} s on one core")
    places = 4 * LAYERS + 1
    values = LAYERS * HIDDEN + 2 * LAYERS + 1
    scores = LAYERS * HEADS * arguments.context
    print(f"70 B: {places} places; a token brings {values:,} values and {scores:,} scores")
    for name, number in (("values", values * value), ("scores", scores * score)):
        print(f"  counting {name}: {1e3 * number:.1f} ms a token on one core")
    flops = 2 * PARAMETERS + 4 * LAYERS * WIDTH * arguments.context
    print(f"  the forward: {flops / 1e9:.0f} GFLOP a token, {flops / 4e14 * 1e3:.2f} ms on a GPU at 400 TFLOP/s")
    whole = arguments.tokens * flops / 4e14 / arguments.devices / 3600
    print(f"  {arguments.tokens:.0e} tokens on {arguments.devices} such GPUs: {whole:.1f} hours of forwards")
    print(
        f"  each of {arguments.devices} ranks sends {places * held / 2**20:.0f} MiB once; most a place can take: "
        f"{(1 << 16) * 18 / 2**20:.1f} MiB"
    )
    print(f"  tables: {LAYERS * table:.0f} s of one core for all layers of SiLU")
    most = np.iinfo(np.int64).max / 0xFFFF
    print(
        f"  counts and sums are int64: exact up to {most / HIDDEN:.0e} tokens of values, "
        f"{most / (HEADS * arguments.context):.0e} of scores, were all in one bin"
    )


if __name__ == "__main__":
    main()
