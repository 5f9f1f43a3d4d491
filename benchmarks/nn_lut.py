"""Figures of learned tables (NN-LUT): against a published one, against the optimum, by initialisation, outside the
range, and training time.

    python benchmarks/nn_lut.py

The published table is read from ../shared/anchors where that folder exists; its row is left out elsewhere. Mean squared
errors are over 20,001 points of the range; `as learned`: the best network itself; `ours`: its breakpoints with the best
lines and exact tails; `optimum`: no table with that many entries errs less on the 4,096 samples (dynamic programming
over all cuts, real coefficients).
"""

import time
from pathlib import Path

import numpy as np

import lutc
from lutc import formats, functions
from lutc.commands.options import echo_table
from lutc.samples.samples import grid_samples
from lutc.search.gradient import GradientSettings, train

ANCHORS = Path(__file__).resolve().parents[2] / "shared" / "anchors"
RANGES = {"silu": (-8.0, 8.0), "gelu": (-4.0, 4.0)}
SEED = 42


def mean_squared(table, fn, interval) -> float:
    x = np.linspace(*interval, 20001)
    return float(np.mean((table(x) - fn(x)) ** 2))


def worst(table, fn, dtype: str) -> float:
    """Largest absolute error over every finite code of the 16-bit format."""
    x = formats.get(dtype).values()
    return float(np.max(np.abs(table(x) - fn(x))))


def row(label, table, fn, interval, optimum, baseline) -> list:
    error = mean_squared(table, fn, interval)
    figures = [
        label,
        table.entries,
        f"{error:.3e}",
        f"{error / baseline:.3f}" if baseline else "-",
        f"{error / optimum:.2f}" if optimum else "-",
    ]
    return [*figures, *(f"{worst(table, fn, dtype):.3g}" for dtype in ("fp16", "bf16"))]


def main() -> None:
    path = ANCHORS / "nn_lut" / "lut_details_silu_H16_sub.json"
    published = lutc.load(path)["fp32"] if path.is_file() else None
    header = [
        "",
        "entries",
        "mean squared",
        "/ published",
        "/ optimum",
        "worst, fp16 codes",
        "worst, bf16 codes",
        "training s",
    ]
    rows = []
    for name, interval in RANGES.items():
        fn = functions.get(name)
        baseline = mean_squared(published, fn, interval) if published and name == "silu" else None
        if baseline:
            rows.append([*row("silu, published", published, fn, interval, None, baseline), "-"])
        samples = grid_samples(fn, *interval)
        for entries in (16, 32):
            for init in ("random", "curvature"):
                settings = GradientSettings(init=init)
                start = time.perf_counter()
                networks = train(samples, entries - 1, fn.left, fn.right, "squared", SEED, settings)
                seconds = time.perf_counter() - start
                tables = lutc.compile(
                    name, entries, search="gradient", inputs="grid", range=interval, seed=SEED, settings=settings
                )
                optimum = tables.meta["search"]["lower_bound"]["fp32"]
                learned = min(
                    (network.read_off() for network in networks), key=lambda lines: mean_squared(lines, fn, interval)
                )
                rows.append(
                    [
                        *row(f"{name}, {init} start, as learned", learned, fn, interval, optimum, baseline),
                        f"{seconds:.1f}",
                    ]
                )
                rows.append([*row(f"{name}, {init} start, ours", tables["fp32"], fn, interval, optimum, baseline), ""])
    echo_table(header, rows)


if __name__ == "__main__":
    main()
