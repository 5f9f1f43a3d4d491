"""What promises cost: the proven optimum of int8 tables with each promise, beside that without.

python benchmarks/promises.py [--entries 8 16 32] [FUNCTION ...]: mean squared error, the mean over scales 2^-3 .. 2^-6,
and by how much a promise raises it; a dash where the function does not have it. The last column keeps three at once.
With --inputs fp16 or bf16: all values of that format, fp32 coefficients unless --coefficients says otherwise, the table
found beside the optimum without promises. With --shipped: the same for the shipped int8 tables over all their scales,
and what those promise.
"""

from __future__ import annotations

import argparse
import re

import numpy as np

import lutc
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.functions import FUNCTIONS
from lutc.functions.promises import PROMISES, promised
from lutc.table import library

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


def optimum(name: str, entries: int, promises: tuple[str, ...], **options) -> float:
    """Mean over the scales of the proven optimum, or of what was found where that is not proven; nan where no table
    keeps the promises.
    """
    try:
        options = {"inputs": SCALES, **options}
        tables = lutc.compile(name, entries, search="exact", promises=promises, **options)
    except LutcError:
        return float("nan")
    search = tables.meta["search"]
    return float(np.mean(list((search["cost"] if promises else search.get("optimum", search["cost"])).values())))


def shipped() -> None:
    """Print what each promise costs the shipped int8 tables, what they promise and what that costs."""
    print("| | entries | through-zero | bounded | monotone | promised | cost |\n|---|---|---|---|---|---|---|")
    stems = [stem.rsplit("_", 1) for stem in library.names() if re.fullmatch(r".*(?<!nnlut)_\d+", stem)]
    for name, entries in sorted(stems, key=lambda stem: (stem[0], int(stem[1]))):
        tables = lutc.load(f"{name}_{entries}")
        first = next(iter(tables.values()))
        options = {"inputs": tuple(tables.inputs.values()), "coefficients": first.coefficients, "range": tables.range}
        plain, row = optimum(name, int(entries), (), **options), []
        promised = tuple(tables.meta.get("promises", ()))
        for promises in (("through-zero",), ("bounded",), ("monotone",), promised):
            has = kept(FUNCTIONS[tables.function].name, promises)
            price = optimum(name, int(entries), has, **options) / plain - 1 if has else None
            row.append("-" if price is None else f"{100 * max(price, 0.0):.1f} %")
        row[-1] = row[-1] if promised else "0.0 %"
        row.insert(3, ", ".join(promised) or "nothing")
        print(f"| {name} | {entries} |", " | ".join(row), "|", flush=True)


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("functions", nargs="*", default=[name for name in FUNCTIONS if name not in ("relu", "celu")])
    parser.add_argument("--entries", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--shipped", action="store_true", help="the shipped int8 tables")
    parser.add_argument("--inputs", choices=("codes", "fp16", "bf16", "grid"), default="codes")
    parser.add_argument("--coefficients", help="their format, fp32 for float inputs by default")
    args = parser.parse_args()
    if args.shipped:
        shipped()
        return
    options = {"coefficients": args.coefficients} if args.coefficients else {}
    if args.inputs != "codes":
        options = {"inputs": args.inputs, "coefficients": args.coefficients or "fp32"}
    print("| | entries | optimum |", " | ".join(SETS), "|")
    print("|---|---|---|" + "---|" * len(SETS))
    for name in args.functions:
        for entries in args.entries:
            plain, row = optimum(name, entries, (), **options), []
            for promises in SETS.values():
                has = kept(name, promises)
                if not has:
                    row.append("-")
                    continue
                price = optimum(name, entries, has, **options) / plain - 1 if plain > 0 else 0.0
                row.append("none keeps it" if np.isnan(price) else f"{100 * max(price, 0.0):.1f} %")
            print(f"| {name} | {entries} | {plain:.3g} |", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
