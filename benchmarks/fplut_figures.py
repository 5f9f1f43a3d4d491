"""Figures of floating-point tables: against published ones, against a lower bound, over every 16-bit input, and how
long a search takes.

    python benchmarks/fplut_figures.py [published] [exponent] [shipped] [time]

Published figures are read from ../shared/anchors where that folder exists; their columns are left out elsewhere. Errors
are means of
|error| / max(|f|, 2^-14) over all fp16 inputs between the first and the last cut point, f exact, 259 values.
`bound`: no 258 pieces,
joined or not, err less (dynamic programming without continuity).
"""

import argparse
import json
import re
import time
from pathlib import Path

import numpy as np

from lutc import formats, functions
from lutc.certify.floats import certify_float
from lutc.commands.options import echo_table
from lutc.fplut.pipeline import compile_fplut
from lutc.table import library

ANCHORS = Path(__file__).resolve().parents[2] / "shared" / "anchors"
FP16 = formats.get("fp16").values()
# The interval between the first and the last published cut point, and the errors that fitted fp32 and fp16 values
# should not exceed.
INTERVALS = {
    "silu": ((-20.359375, 65504.0), 9e-5, 1.5e-4),
    "gelu": ((-5.5390625, 65504.0), 6.2e-5, 1.25e-4),
    "exp": ((-17.34375, 11.0859375), 8.7e-5, None),
    "sigmoid": ((-17.34375, 8.3203125), 1.6e-5, None),
    "tanh": ((-4.5078125, 4.5078125), 5.5e-6, 4.2e-5),
    "hardswish": ((-3.0, 65504.0), 1.5e-5, None),
    "reciprocal": ((1.531839370727539e-05, 65504.0), None, None),
}
PROMISED = "silu gelu gelu_tanh sigmoid tanh hardswish mish elu selu softplus exp reciprocal rsqrt".split()


def mean_relative(table, fn, interval) -> float:
    x = FP16[(FP16 >= interval[0]) & (FP16 <= interval[1])]
    y = fn(x)
    return float(np.mean(np.abs(table(x) - y) / np.maximum(np.abs(y), 2.0**-14)))


def three(value) -> str:
    return "-" if value is None else f"{value:.3g}"


def published() -> None:
    """The same structure over the same interval: sampled values at published and at our cut points, fitted values."""
    path = ANCHORS / "nli" / "cut_points.json"
    cuts = json.loads(path.read_text()) if path.is_file() else {}
    rows = []
    for name, (interval, asked32, asked16) in INTERVALS.items():
        fn = functions.get(name)
        options = {"prologue": "none", "tails": False, "range": interval, "quality": "best"}
        sampled = compile_fplut(name, values="sampled", formats=("fp32",), **options)["fp32"]
        fitted = compile_fplut(name, **options)
        row = [name]
        if cuts:
            theirs = tuple(cuts[{"gelu": "gelu_standard"}.get(name, name)])
            old = compile_fplut(
                name, cut_points=theirs, values="sampled", tails=False, range=interval, formats=("fp32",)
            )["fp32"]
            row += [
                three(mean_relative(old, fn, interval)),
                f"{mean_relative(sampled, fn, interval) / mean_relative(old, fn, interval):.3f}",
            ]
        row += [three(mean_relative(t, fn, interval)) for t in (sampled, fitted["fp32"])] + [three(asked32)]
        row += [
            three(mean_relative(fitted["fp16"], fn, interval)),
            three(asked16),
            three(fitted.meta["search"]["fp32"]["lower_bound"]),
        ]
        rows.append(row)
    ratio = ["published", "ours / published"] if cuts else []
    echo_table(
        ["mean relative error", *ratio, "sampled", "fitted fp32", "asked", "fitted fp16", "asked", "bound"], rows
    )


def exponent() -> None:
    """Exponent addressing, at most 259 fp32 values, over every fp16 input."""
    readme = ANCHORS / "README.md"
    listed = (
        re.search(r"over all fp16 inputs, x 1e-4: (.*?)\. ", readme.read_text(), re.S) if readme.is_file() else None
    )
    xda = (
        {n: (float(a) * 1e-4, float(b) * 1e-4) for n, a, b in re.findall(r"(\w+) ([\d.]+)/([\d.]+)", listed.group(1))}
        if listed
        else {}
    )
    rows = []
    for name in "silu gelu exp sigmoid tanh hardswish mish rsqrt reciprocal".split():
        tables = compile_fplut(
            name, addressing="exponent", prologue="none" if name == "exp" else "auto", formats=("fp32",)
        )
        figures = tables.meta["certificate"]["fp32"]["fp16"]["domain"]
        theirs = [three(v) for v in xda[name]] if xda else []
        worst = figures["worst_relative"]
        rows.append(
            [
                name,
                tables["fp32"].entries,
                *theirs,
                three(figures["mean_relative"]),
                three(worst["error"]),
                three(worst["x"]),
            ]
        )
    other = ["XDA mean", "XDA worst"] if xda else []
    echo_table(["exponent-addressed", "values", *other, "mean", "worst", "at x"], rows)


def shipped() -> None:
    """The tables in the package: relative errors over every fp16 and bf16 input, correctly rounded results, and fp16
    arithmetic.
    """
    rows = []
    for label in [name for name in library.names() if name.endswith("_fplut")]:
        tables = library.load(label)
        fn = functions.get(tables.function)
        half, brain = (certify_float(tables["fp32"], fn, dtype)["domain"] for dtype in ("fp16", "bf16"))
        worst = max(
            certify_float(tables[key], fn, dtype)["domain"]["worst_relative"]["error"]
            for key in tables
            for dtype in ("fp16", "bf16")
        )
        cheap = [
            certify_float(tables["fp16"], fn, "fp16", name)["domain"]["mean_relative"]
            for name in ("float64", "fp16_rne", "fp16_trunc")
        ]
        promised = (
            ("yes" if worst <= 0.01 else "NO") if tables.function in PROMISED else "-" if worst <= 0.01 else "see file"
        )
        row = [label, three(half["mean_relative"]), three(brain["mean_relative"]), three(worst), promised]
        rows.append([*row, f"{100 * half['correct']:.2f} %", *map(three, cheap)])
    header = ["shipped table", "fp16 inputs", "bf16 inputs", "worst of all", "within 1 %", "correctly rounded fp16"]
    echo_table([*header, "fp16 values, exact", "in fp16", "in fp16, truncating"], rows)


def times() -> None:
    """CPU time of one search, one stored format, the compiled loops loaded."""
    compile_fplut("relu")
    rows, total = [], 0.0
    for label in [name for name in library.names() if name.endswith("_fplut")]:
        name, row = label.removesuffix("_fplut"), []
        for quality in ("quick", "best"):
            start = time.process_time()
            compile_fplut(name, quality=quality, formats=("fp32",))
            row.append(time.process_time() - start)
        start = time.process_time()
        compile_fplut(name, quality="best")
        total += time.process_time() - start
        rows.append([name, *(f"{t:.2f}" for t in row)])
    echo_table(["seconds, with certificate", "quick", "best"], rows)
    print(f"all {len(rows)} tables as shipped, both formats: {total:.1f} s of one core")


if __name__ == "__main__":
    parts = {"published": published, "exponent": exponent, "shipped": shipped, "time": times}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="*", choices=[*parts, []], help="which tables to print; all by default")
    for part in parser.parse_args().part or parts:
        parts[part]()
        print()
