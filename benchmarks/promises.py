"""What promises cost: the proven optimum of int8 tables with each promise, beside that without.

python benchmarks/promises.py [--entries 8 16 32] [FUNCTION ...]: mean squared error, the mean over scales 2^-3 .. 2^-6,
and by how much a promise raises it; a dash where the function does not have it. The last column keeps every promise of
the shipped tables.
"""

from __future__ import annotations

import argparse

import numpy as np

import lutc
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.functions import FUNCTIONS
from lutc.functions.promises import PROMISES, promised

SCALES = tuple(Inputs(8, 2.0**-b) for b in range(3, 7))
SETS = {**{name: (name,) for name in PROMISES}, "zero, bounded, monotone": ("through-zero", "bounded", "monotone")}


def kept(name: str, promises: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the promises that the function itself keeps over its default range."""
    fn, has = FUNCTIONS[name], []
    for promise in promises:
        try:
            promised(fn, (promise,), *fn.range)
        except LutcError:
            continue
        has.append(promise)
    return tuple(has)


def optimum(name: str, entries: int, promises: tuple[str, ...]) -> float:
    """Mean over the scales of the proven optimum, nan where no table keeps the promises."""
    try:
        tables = lutc.compile(name, entries, inputs=SCALES, search="exact", promises=promises)
    except LutcError:
        return float("nan")
    return float(np.mean(list(tables.meta["search"]["optimum"].values())))


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("functions", nargs="*", default=[name for name in FUNCTIONS if name not in ("relu", "celu")])
    parser.add_argument("--entries", type=int, nargs="+", default=[8, 16])
    args = parser.parse_args()
    print("| | entries | optimum |", " | ".join(SETS), "|")
    print("|---|---|---|" + "---|" * len(SETS))
    for name in args.functions:
        for entries in args.entries:
            plain, row = optimum(name, entries, ()), []
            for promises in SETS.values():
                has = kept(name, promises)
                if not has:
                    row.append("-")
                    continue
                price = optimum(name, entries, has) / plain - 1 if plain > 0 else 0.0
                row.append("none keeps it" if np.isnan(price) else f"{100 * max(price, 0.0):.1f} %")
            print(f"| {name} | {entries} | {plain:.3g} |", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
