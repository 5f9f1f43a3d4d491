"""How good compiled tables are: mean squared errors beside GQA-LUT's, wrong output codes, gaps to the optimum.

    python benchmarks/compiler_figures.py

Every table is compiled with the defaults (genetic search, int8 codes at scales 2^0 .. 2^-6) and evaluated here, over
the codes in the range. GQA-LUT's published tables are read from ../shared/anchors/gqa_lut where that folder exists, and
evaluated the same way.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lutc import certify, functions
from lutc.compiler import pipeline
from lutc.formats.codes import Inputs
from lutc.table import table_set

ANCHORS = Path(__file__).resolve().parents[2] / "shared" / "anchors" / "gqa_lut"
PUBLISHED = {("gelu", 8): "gelu_pwl_7", ("gelu", 16): "gelu_pwl_15", ("exp", 8): "exp_pwl_7"}
COMPARED = [(name, entries) for name in ("gelu", "hswish", "exp") for entries in (8, 16)]


def mean_squared(tables, rule=lambda table: table) -> np.ndarray:
    """One figure per scale 2^0 .. 2^-6."""
    fn, (lo, hi) = functions.get(tables.function), tables.range
    found = []
    for key, table in tables.items():
        x = tables.inputs[key].x()
        x = x[(x >= lo) & (x <= hi)]
        found.append(np.mean((rule(table)(x) - fn(x)) ** 2))
    return np.array(found)


def figures(errors: np.ndarray) -> str:
    return f"{errors.mean():>13.3e}{errors[3:].mean():>13.3e}"


def worst_gap(gap) -> float:
    return max(gap.values()) if isinstance(gap, dict) else gap


def errors_table() -> None:
    print(f"mean squared error{'b = 0..6':>24}{'b = 3..6':>13}{'gap':>9}")
    for name, entries in COMPARED:
        for share in ("none", "all", "coefficients"):
            tables = pipeline.compile(name, entries, share=share)
            gap = tables.meta["search"].get("gap")
            proven = "-" if gap is None else f"{100 * worst_gap(gap):.2f} %"
            print(f"{name + ' ' + str(entries):<11}{'share ' + share:<18}{figures(mean_squared(tables))}{proven:>9}")
        path = ANCHORS / f"{PUBLISHED.get((name, entries))}.json"
        if path.is_file():
            published = table_set.read(path)
            print(f"{'':<11}{'GQA-LUT, runtime':<18}{figures(mean_squared(published))}")
            print(f"{'':<11}{'GQA-LUT, search':<18}{figures(mean_squared(published, certify.right_rule))}")
    if not ANCHORS.is_dir():
        print("(GQA-LUT's own tables are not here: they are read from ../shared/anchors/gqa_lut)")


def codes_table() -> None:
    scale = Inputs(8, 2.0**-4)
    print(f"\noutput codes at input and output scale 2^-4{'squared error':>24}{'rounded codes':>24}")
    print(f"{'':<43}{'wrong':>10}{'squares':>14}{'wrong':>10}{'squares':>14}{'of codes':>10}")
    for name in ("gelu", "silu", "hswish", "sigmoid", "tanh"):
        for entries in (8, 16):
            cells = []
            for objective in ("squared", "codes"):
                output = pipeline.compile(name, entries, inputs=(scale,), out=scale, objective=objective).meta[
                    "certificate"
                ]["4"]["output"]
                cells.append(f"{output['wrong']:>10}{output['squared']:>14}")
            print(f"{name + ' ' + str(entries):<43}{''.join(cells)}{output['inputs']:>10}")


def gaps_table() -> None:
    print("\nlargest gap of the genetic search to the optimum over b = 0..6")
    for entries in (8, 16, 32):
        worst = {}
        for name, fn in functions.FUNCTIONS.items():
            x = Inputs(8, 2.0**-6).x()
            if entries <= ((x >= fn.range[0]) & (x <= fn.range[1])).sum():
                worst[name] = worst_gap(pipeline.compile(name, entries).meta["search"]["gap"])
        name = max(worst, key=worst.get)
        print(
            f"{entries:>3} entries, {len(worst)} functions: {100 * worst[name]:.4f} % "
            f"({name if worst[name] else 'none above 0'})"
        )


if __name__ == "__main__":
    errors_table()
    codes_table()
    gaps_table()
