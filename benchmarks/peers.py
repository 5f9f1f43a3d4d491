"""Published figures of other compilers of tables beside ours, each on its own terms.

python benchmarks/peers.py prints docs/peers.md's tables. Published figures are those of the papers named there and of
the files that come with them; ours are computed here.
"""

from __future__ import annotations

import numpy as np

import lutc
from lutc.formats.codes import Inputs
from lutc.fplut.pipeline import compile_fplut
from lutc.functions import FUNCTIONS

# Mean squared error over the int8 codes in the range at scales 2^0 .. 2^-6, one set of breakpoints and lines for all of
# them, as the published files give it: under their runtime's rule at a breakpoint, and under their search's.
GQA_LUT = {
    ("gelu", 8): (5.18e-4, 9.97e-5),
    ("gelu", 16): (5.28e-4, 9.06e-5),
    ("hswish", 8): (4.38e-4, 3.08e-4),
    ("hswish", 16): (3.86e-4, 2.00e-4),
    ("exp", 8): (1.82e-4, 1.22e-4),
    ("exp", 16): (2.35e-4, 8.38e-5),
}
# Mean and worst relative error over fp16 inputs, max(|f|, 2^-14) in the denominator, of 259 values at 11 cut points.
NLI = {
    "silu": (2.21e-4, 7.8e-3),
    "gelu": (3.40e-4, 7.3e-3),
    "exp": (2.23e-4, 4.8e-3),
    "sigmoid": (4.17e-5, 1.1e-3),
    "tanh": (1.64e-5, 1.9e-4),
    "hardswish": (3.89e-5, 4.6e-3),
    "reciprocal": (5.08e-3, 5.9e-2),
}
# The same error over all fp16 inputs, of values addressed by exponent and mantissa bits.
XDA = {
    "silu": (2.12e-4, 70e-4),
    "gelu": (2.14e-4, 330e-4),
    "exp": (3.36e-4, 525e-4),
    "sigmoid": (1.53e-4, 86e-4),
    "tanh": (0.73e-4, 11e-4),
    "hardswish": (1.31e-4, 204e-4),
    "mish": (2.14e-4, 69e-4),
    "rsqrt": (10.6e-4, 0.75),
    "reciprocal": (11.6e-4, 90e-4),
}
SMOOTH = ("gelu", "silu", "tanh", "sigmoid", "exp")


def head(*columns: str) -> None:
    """The head of a Markdown table."""
    print("|", " | ".join(columns), "|")
    print("|" + "---|" * len(columns))


def row(*cells: object) -> None:
    """A row of it; numbers in three digits."""
    print("|", " | ".join(f"{c:.3g}" if isinstance(c, float) else str(c) for c in cells), "|", flush=True)


def gqa_lut() -> None:
    """One shared set of lines."""
    head("", "entries", "published, its runtime", "published, its search's rule", "lutc, one set", "lutc, own tables")
    for (name, entries), published in GQA_LUT.items():
        means = []
        for share in ("all", "none"):
            tables = lutc.compile(name, entries, share=share, search="exact")
            means.append(float(np.mean([c["range"]["mean_squared"] for c in tables.meta["certificate"].values()])))
        row(name, entries, *published, *means)


def cells(title: str, published: dict, addressing: str) -> None:
    """Floating-point values, ours stored as fp32."""
    head("", f"{title}, mean", f"{title}, worst", "lutc, mean", "lutc, worst", "values")
    for name, (mean, worst) in published.items():
        tables = compile_fplut(name, addressing=addressing, formats=("fp32",))
        found = tables.meta["certificate"]["fp32"]["fp16"]["domain"]
        row(name, mean, worst, found["mean_relative"], found["worst_relative"]["error"], tables["fp32"].entries)


def floats() -> None:
    """Lines in fp32 over an even grid, as breakpoints learned by gradient are judged."""
    head("", *(f"{n} entries" for n in (8, 16, 32)))
    for name in SMOOTH:
        lo, hi = (-8.0, 0.0) if name == "exp" else (-8.0, 8.0)
        errors = []
        for entries in (8, 16, 32):
            (record,) = lutc.compile(name, entries, inputs="grid", range=(lo, hi)).meta["search"]["cost"].values()
            errors.append(float(record))
        row(f"{name} over [{lo:g}, {hi:g}]", *errors)


def gaussian() -> None:
    """The error that inputs of a normal density see, of tables that know it and of tables that do not."""
    head("", "entries", "equal weights", "weights gauss:1", "times less")
    inputs = Inputs(8, 2.0**-4)
    x = inputs.x()
    for name in ("gelu", "silu"):
        fn = FUNCTIONS[name]
        weight = np.exp(-0.5 * x**2) * ((x >= fn.range[0]) & (x <= fn.range[1]))
        for entries in (8, 16):
            seen = []
            for weights in (None, "gauss:1"):
                table = lutc.compile(name, entries, inputs=inputs, weights=weights, search="exact")["4"]
                seen.append(float(weight @ (table(x) - fn(x)) ** 2 / weight.sum()))
            row(name, entries, *seen, seen[0] / seen[1])


def main() -> None:
    """Print every table under its heading."""
    for title, show in (
        ("GQA-LUT", gqa_lut),
        ("NLI", lambda: cells("NLI", NLI, "cells")),
        ("XDA", lambda: cells("XDA", XDA, "exponent")),
        ("Flex-SFU", floats),
        ("DAPA", gaussian),
    ):
        print(f"\n{title}\n")
        show()


if __name__ == "__main__":
    main()
