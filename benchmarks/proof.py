"""Tables of float inputs held against what is proven: the optimum, the table's error, the gap, seconds; with coarser
coefficients than fp32 also what those cost beside the best real lines.

    python benchmarks/proof.py [--inputs fp16 bf16] [--coefficients fp32] [--entries 8 16 ...]
                               [--objective squared] [FUNCTION ...]

Mean squared, relative or absolute errors over every value of the inputs in the default range, tails exact. A row is one
`lutc.compile`; seconds are processor time of the whole call (one thread, so that other work beside it counts little),
certificate and proof included, after one call that warms it up.
`snake` stands for a function of the user's own, x + sin(x)^2 over [-4, 4].
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

import lutc

FUNCTIONS = ("gelu", "silu", "sigmoid", "tanh", "exp", "mish", "softplus", "erf", "snake")
ENTRIES = (8, 16, 32, 64, 128, 256)


def snake(x: np.ndarray) -> np.ndarray:
    """x + sin(x)^2 (arXiv:2006.08195)."""
    return x + np.sin(x) ** 2


def row(name: str, entries: int, **options) -> tuple[dict, float]:
    """The record of the search for one table, and the seconds of processor time that it took."""
    given = {"function": snake, "range": (-4.0, 4.0)} if name == "snake" else {"function": name}
    start = time.process_time()
    search = lutc.compile(**given, entries=entries, **options).meta["search"]
    return {what: next(iter(fact.values())) for what, fact in search.items() if isinstance(fact, dict)}, (
        time.process_time() - start
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("functions", nargs="*", default=FUNCTIONS, metavar="FUNCTION")
    parser.add_argument("--inputs", nargs="+", default=("fp16", "bf16"), choices=("fp16", "bf16", "grid"))
    parser.add_argument("--coefficients", default="fp32")
    parser.add_argument("--entries", nargs="+", type=int, default=ENTRIES)
    parser.add_argument("--search", default="genetic", choices=("genetic", "exact"))
    parser.add_argument("--objective", default="squared", choices=("squared", "relative", "absolute"))
    args = parser.parse_args()
    options = {"coefficients": args.coefficients, "search": args.search, "objective": args.objective}
    row("gelu", 62, inputs="bf16", **options)
    coarse = args.coefficients != "fp32"
    print("| | inputs | entries | proven optimum | table | gap |" + " rounding costs |" * coarse + " seconds |")
    print("|---" * (7 + coarse) + "|")
    for name in args.functions:
        for inputs in args.inputs:
            for entries in args.entries:
                facts, seconds = row(name, entries, inputs=inputs, **options)
                bound = facts.get("optimum", facts.get("lower_bound"))
                figures = f"{bound:.5g} | {facts['cost']:.5g} | {100 * facts['gap']:.4f} %"
                figures += f" | {100 * facts['rounding']:.3g} %" if coarse else ""
                print(f"| {name} | {inputs} | {entries} | {figures} | {seconds:.1f} |", flush=True)
    print(f"\npeak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
