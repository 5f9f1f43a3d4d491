"""What several formats write alike: names, CSV, words of two's complement."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

import numpy as np


def identifier(text: str) -> str:
    """Letters, digits and underscores, as C and Verilog take them in the middle of a name."""
    return re.sub(r"\W", "_", text, flags=re.ASCII)


def csv_text(rows: Iterable[Sequence]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def hex_words(values: np.ndarray, bits: int) -> list[str]:
    """Each value in two's complement of `bits` bits, as many hex digits as they need."""
    digits, mask = (bits + 3) // 4, (1 << bits) - 1
    return [f"{int(value) & mask:0{digits}x}" for value in values]


def c_array(name: str, values: np.ndarray, bits: int) -> str:
    kind = next(f"int{width}_t" for width in (8, 16, 32) if bits <= width)
    lines = [", ".join(map(str, values[at : at + 16])) for at in range(0, values.size, 16)]
    body = lines[0] if len(lines) == 1 else "\n    " + ",\n    ".join(lines) + "\n"
    return f"static const {kind} {name}[{values.size}] = {{{body}}};"
