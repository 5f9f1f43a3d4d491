"""Means over the tokens of a text, and how far chance may have moved them.

Tokens of one window depend on each other, windows hardly do. So the window is the unit: its differences from the same
window under other tables are what is averaged (paired), and their spread between windows gives the standard error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_LARGEST = 709.0  # exp of more overflows


class Estimate(NamedTuple):
    """A mean and its standard error; None where there are not two windows."""

    value: float
    se: float | None


def per_token(means: Sequence[float] | np.ndarray, tokens: Sequence[int]) -> Estimate:
    """Mean over all tokens of what has `means` (windows,) per token in windows of so many `tokens` (windows,). Standard
    error of this ratio of two sums: sqrt(W / (W - 1) sum (n_w (m_w - m))^2) / sum n_w, for windows of one length that
    of the mean of W numbers. Tokens must not all be 0.
    """
    m, n = np.asarray(means, np.float64), np.asarray(tokens, np.float64)
    value = float(n @ m / n.sum())
    if len(m) < 2:
        return Estimate(value, None)
    return Estimate(value, float(math.sqrt(len(m) / (len(m) - 1)) * np.linalg.norm(n * (m - value)) / n.sum()))


def difference(one: Sequence[float], other: Sequence[float], tokens: Sequence[int]) -> Estimate:
    """Mean per token of `one` less that of `other`, window by window."""
    return per_token(np.subtract(one, other), tokens)


def relative(one: Sequence[float], other: Sequence[float], tokens: Sequence[int]) -> Estimate:
    """Relative change of the perplexity from that of the losses `other` to that of the losses `one`, both (windows,),
    nats per token: exp(difference) - 1, its standard error to first order.
    """
    found = difference(one, other, tokens)
    if found.value > _LARGEST:
        return Estimate(math.inf, None if found.se is None else math.inf)
    return Estimate(math.expm1(found.value), None if found.se is None else math.exp(found.value) * found.se)


def perplexity(means: Sequence[float], tokens: Sequence[int]) -> float:
    """exp of the mean loss per token; inf where that overflows."""
    mean = per_token(means, tokens).value
    return math.exp(mean) if mean <= _LARGEST else math.inf
