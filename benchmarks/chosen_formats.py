"""The coefficients' format that is chosen where none is given: functions over ranges that their own does not hold.

    python benchmarks/chosen_formats.py

int8 codes at the finest power of two that covers the range, 16 entries: the format, and the root mean squared error of
the proven table beside that of as many real lines.
"""

from __future__ import annotations

import math

import lutc
from lutc import functions
from lutc.costs.points import Points
from lutc.costs.segments import real_costs
from lutc.formats.codes import Inputs
from lutc.samples.samples import code_samples
from lutc.search.exact import exact

CASES = (
    ("gelu", -8, 8), ("silu", -8, 8), ("sigmoid", -4, 4), ("tanh", -2, 2), ("mish", -8, 8), ("softplus", -4, 4),
    ("elu", -8, 8), ("hardswish", -8, 8), ("erf", -2, 2), ("exp", -4, 4), ("exp", -2, 8), ("exp", -16, 0),
    ("log", 0.125, 4), ("log", 0.0625, 16), ("reciprocal", 0.0625, 4), ("reciprocal", 0.001, 32), ("rsqrt", 0.0625, 4),
    ("sqrt", 0.0625, 16), ("square", -4, 4), ("square", -16, 16), ("sin", -8, 8), ("cos", -8, 8),
    ("inverse_sigmoid", 0.02, 0.98),
)  # fmt: skip
ENTRIES = 16


def main() -> None:
    print("| function | range | scale | its own | chosen | error | of real lines |\n|---|---|---|---|---|---|---|")
    for name, lo, hi in CASES:
        fn = functions.load(name, (float(lo), float(hi)))
        power = math.floor(math.log2(127 / max(abs(lo), abs(hi))))
        inputs = Inputs(8, 2.0**-power)
        tables = lutc.compile(name, ENTRIES, range=fn.range, inputs=(inputs,), search="exact")
        (table,) = tables.values()
        samples = code_samples(fn, inputs, *fn.range)
        real = exact(real_costs(Points.of(samples), table.left, table.right), ENTRIES).cost
        (cost,) = tables.meta["search"]["cost"].values()
        figures = f"{math.sqrt(cost):.2g} | {math.sqrt(real):.2g}"
        print(f"| {name} | [{lo}, {hi}] | 2^{-power} | {fn.coefficients} | {table.coefficients} | {figures} |")


if __name__ == "__main__":
    main()
