"""The estimate of gates in `lutc/hardware/bits.py` beside synthesis: units of constants of four functions over int8
codes at 2^-4, output codes at 2^-4, by Yosys' generic gates.

    python benchmarks/gates.py             fits the weights, prints them and how far the estimate is off
    python benchmarks/gates.py units       prints every unit too

Needs apt-get install yosys. Estimates of a function are judged by weights fitted to the other three.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from scipy.optimize import nnls

from lutc import formats
from lutc.compiler import pipeline
from lutc.explore.synthesis import rank_correlation
from lutc.formats.codes import Inputs
from lutc.formats.numbers import numbers
from lutc.hardware import handover
from lutc.hardware.bits import direct_cost, lines_cost
from lutc.hardware.options import Options
from lutc.hardware.synth import cells

CODES = Inputs(8, 2.0**-4)
FUNCTIONS = ("gelu", "silu", "tanh", "exp")
FORMATS = ("q1.4", "q1.6", "q1.9")
ENTRIES = (4, 8, 16)
KINDS = {"lines": {}, "shifts": {"slopes": "pot"}, "steps": {"cut_step": 8}}


def units():
    """(function, what, cost, sources)"""
    for function in FUNCTIONS:
        for name in FORMATS:
            fmt = formats.get(name)
            for entries in ENTRIES:
                for kind, settings in KINDS.items():
                    if kind != "lines" and name != "q1.6":
                        continue
                    tables = pipeline.compile(
                        function, entries, search="exact", inputs=CODES, coefficients=name, **settings
                    )
                    used = max(2, tables["4"].entries)
                    chosen = (numbers("pot", fmt), numbers(name, fmt)) if kind == "shifts" else None
                    cost = lines_cost(used, fmt, CODES, chosen=chosen, comparators=kind != "steps")
                    yield function, f"{kind}, {entries} entries, {name}", cost, _sources(tables, kind)
        yield function, "direct", direct_cost(CODES, 8), _sources(tables, "direct")


def _sources(tables, kind: str) -> dict[str, str]:
    options = Options(
        out=CODES,
        unit="direct" if kind == "direct" else "lines",
        latency=0,
        comparators=kind != "steps",
        multiplier=kind != "shifts",
    )
    return handover.design("sv", "t", tables, options).sources


def main() -> None:
    every = list(units())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        gates = np.array([found.gates for found in pool.map(lambda unit: cells(unit[3], "t_4", "gates"), every)])
    lines = np.array([what != "direct" for _, what, _, _ in every])
    features = np.array([cost.gate_figures for _, _, cost, _ in every], float)
    stored = np.array([cost.stored_bits for _, _, cost, _ in every], float)
    of = np.array([function for function, *_ in every])

    def fitted(rows):
        chosen = rows & lines
        weights, _ = nnls(features[chosen], gates[chosen])
        return weights, float(np.median(gates[rows & ~lines] / stored[rows & ~lines]))

    estimate = np.empty(gates.size)
    for function in FUNCTIONS:
        weights, direct = fitted(of != function)
        mine = of == function
        estimate[mine] = np.where(lines[mine], features[mine] @ weights, direct * stored[mine])
    weights, direct = fitted(np.ones(gates.size, bool))
    print(f"GATES = ({', '.join(f'{weight:.3g}' for weight in weights)})\nDIRECT_GATES = {direct:.3g}")
    off = np.abs(estimate / gates - 1)
    print(f"{gates.size} units; median error {np.median(off):.0%}, nine in ten within {np.quantile(off, 0.9):.0%}")
    for what, values in (("stored bits", stored), ("estimated gates", estimate)):
        print(f"rank correlation of {what} with the gates: {rank_correlation(values, gates):.2f}")
    if "units" in sys.argv[1:]:
        print("function | unit | stored bits | estimate | gates")
        for (function, what, cost, _), guess, found in zip(every, estimate, gates):
            print(f"{function} | {what} | {cost.stored_bits} | {guess:.0f} | {found}")


if __name__ == "__main__":
    main()
