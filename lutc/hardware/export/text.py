"""What several formats write alike: names, CSV, words of two's complement."""

from __future__ import annotations

import csv
import io
import re

import numpy as np


def identifier(text: str) -> str:
    """Letters, digits and underscores, as C and Verilog take them in the middle of a name."""
    return re.sub(r"\W", "_", text, flags=re.ASCII)


def csv_text(rows) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def hex_words(values: np.ndarray, bits: int) -> list[str]:
    """Each value in two's complement of `bits` bits, as many hex digits as they need."""
    digits, mask = (bits + 3) // 4, (1 << bits) - 1
    return [f"{int(value) & mask:0{digits}x}" for value in values]
