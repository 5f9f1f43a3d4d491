"""Figures as files hold them: six significant digits, and the floor under a relative error."""

from __future__ import annotations

DIGITS = 6
RELATIVE_FLOOR = 2.0**-14  # denominator of the relative error: max(|f|, floor)


def rounded(value: float) -> float:
    """6 significant digits."""
    return float(f"{value:.{DIGITS}g}")
