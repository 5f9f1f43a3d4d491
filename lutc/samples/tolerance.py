"""Error bounds for the greedy search: `0.01`, `0.5%`, `1lsb`, `2ulp`."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from lutc import formats
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.formats.format import Format
from lutc.measures import RELATIVE_FLOOR


@dataclass(frozen=True)
class ErrorBound:
    """size and unit: "" absolute, "%" of max(|f|, 2**-14), "lsb" output steps, "ulp" of f in the float format."""

    size: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> ErrorBound:
        match = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?\d+)?)\s*(lsb|%|ulp|)\s*", text, re.IGNORECASE | re.ASCII)
        try:
            size = float(match.group(1)) if match else np.nan
        except ValueError:
            size = np.nan
        if match is None or not (np.isfinite(size) and size > 0):
            raise LutcError(
                "an error bound is a positive number, alone or with lsb, % or ulp (1lsb, 0.01, 0.5%, 2ulp); given "
                f"{text!r}"
            )
        return cls(size, match.group(2).lower())

    def tolerance(self, y: np.ndarray, out: Inputs | None, fmt: Format, inputs: Inputs | None) -> np.ndarray:
        """Allowed |error| at each value y of the function.

        lsb: the output scale where there is one, else the step of fixed-point coefficients. ulp: of the float input
        format, else of the coefficients' float format.
        """
        if self.unit == "%":
            return self.size / 100 * np.maximum(np.abs(y), RELATIVE_FLOOR)
        if self.unit == "ulp":
            name = inputs if inputs in ("fp16", "bf16") else fmt.name
            if formats.get(name).kind != "float":
                raise LutcError(f"ulp needs float inputs or coefficients; given {fmt.name}: use lsb, or `inputs` fp16")
            return self.size * formats.get(name).ulp(y)
        if self.unit == "lsb":
            if out is None and fmt.kind != "fixed":
                raise LutcError(
                    f"lsb needs an output scale (`out_scale`) or fixed-point coefficients; given {fmt.name}"
                )
            return np.full_like(y, self.size * (out.scale if out else fmt.step))
        return np.full_like(y, self.size)
