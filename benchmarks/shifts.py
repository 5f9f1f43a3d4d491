"""Slopes by shifts beside slopes by a multiplier: proven optima over int8 codes at scale 2^-4.

python benchmarks/shifts.py [FUNCTION ...]: mean squared error; intercepts in the function's
format, slopes that are powers of two (pot) or sums of two (apot:2).
"""

from __future__ import annotations

import sys

import lutc
from lutc.formats.codes import Inputs

SCALE = Inputs(8, 2.0**-4)
KINDS = {"a multiplier": {}, "apot:2": {"slopes": "apot:2"}, "pot": {"slopes": "pot"}}
ENTRIES = (8, 16, 32)


def main() -> None:
    """Print the table as Markdown."""
    print("| | entries |", " | ".join(KINDS), "|")
    print("|---|---|" + "---|" * len(KINDS))
    for name in sys.argv[1:] or ("gelu", "silu", "sigmoid", "tanh", "exp", "softplus"):
        for entries in ENTRIES:
            optima = [
                lutc.compile(name, entries, inputs=SCALE, search="exact", **kind).meta["search"]["optimum"]["4"]
                for kind in KINDS.values()
            ]
            print(f"| {name} | {entries} |", " | ".join(f"{optimum:.3g}" for optimum in optima), "|", flush=True)


if __name__ == "__main__":
    main()
