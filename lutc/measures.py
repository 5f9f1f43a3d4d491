"""Numbers that all parts share: digits of figures in files, the floor under a relative error, where exp ends."""

from __future__ import annotations

DIGITS = 6
RELATIVE_FLOOR = 2.0**-14  # denominator of the relative error: max(|f|, floor)
EXP_FLOOR = -87.0  # exp(-87) is the last above float32's smallest normal number: below, a softmax weight is 0


def rounded(value: float) -> float:
    """6 significant digits."""
    return float(f"{value:.{DIGITS}g}")
