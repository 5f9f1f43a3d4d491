"""Tiny random models of many families with every function by a table (FPLUT): how far the output moves, and what was
left. A family is whole where nothing is left but what is no function of one variable.

    python benchmarks/families.py [FAMILY ...]
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections import Counter
from pathlib import Path

import torch

import lutc
from lutc.fplut import compile_fplut

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.helpers.families import FAMILIES, build

NAMES = ["gelu", "gelu_tanh", "quick_gelu", "silu", "sigmoid", "tanh", "relu", "softplus", "elu", "selu", "mish"]
RELU2 = compile_fplut("relu2", formats=("fp32",))  # Nemotron's, which holds up to 256; no table of it is shipped
TABLES = [*(f"{name}_fplut" for name in (*NAMES, "erf", "exp", "sqrt", "log")), RELU2]


def first(output) -> torch.Tensor:
    return next(value for value in output.to_tuple() if isinstance(value, torch.Tensor))


def tried(name: str) -> tuple[float, bool, lutc.nn.patching.Report]:
    """(relative difference of the output, whether unpatching restores it exactly, the report)."""
    model, inputs = build(name)
    with torch.no_grad():
        exact = first(model(**inputs))
        report = lutc.patch(model, TABLES, "exp_fplut", "rsqrt_fplut", attention="fused")
        found = first(model(**inputs))
        lutc.unpatch(model)
        same = torch.equal(first(model(**inputs)), exact)
    return float((found - exact).norm() / exact.norm()), same, report


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    whole = 0
    for name in sys.argv[1:] or FAMILIES:
        try:
            error, same, report = tried(name)
        except Exception as problem:  # noqa: BLE001  a family that fails is a row, too
            print(f"{name:16s}{type(problem).__name__}: {str(problem)[:100]}")
            continue
        left = ", ".join(f"{count} {what}" for what, count in Counter(one.what for one in report.left).items())
        whole += error <= 1e-3 and same and not left
        told = "" if same else "  NOT RESTORED"
        print(f"{name:16s}{error:9.1e}  {len(report.replaced):3d} replaced  left: {left or '-'}{told}")
    print(f"{whole} families whole")


if __name__ == "__main__":
    main()
