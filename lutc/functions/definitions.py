"""float64 definitions, derivatives and stored halves of the functions in the registry.

Everything is written in terms of quantities that neither overflow nor cancel: exp of a negative number, and the tail
probability Phi(-u) for u >= 0. Inputs are clamped where a limit is reached, which also keeps 0 * inf out. A half
`*_half(u)` is h of `Symmetry`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946
# sqrt(8 / pi) as the sum of two doubles: gelu_tanh(x) = x * sigmoid(sqrt(8 / pi) * (x + 0.044715 x^3)).
_TANH_SCALE, _TANH_SCALE_LOW = 1.5957691216057308, -9.96930880911092e-17
_TANH_CUBE, _TANH_CUBE_LOW = 0.044715, 2.1960211427085595e-18
QUICK_RATE, _QUICK_LOW = 1.702, 4.263256414560601e-17


def silent(f: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Give f float64 arrays, numpy's warnings off; a scalar comes back for a scalar. Parameters (floats) follow x."""

    @functools.wraps(f)
    def evaluate(x, *parameters):
        with np.errstate(all="ignore"):
            return np.asarray(f(np.asarray(x, np.float64), *parameters), np.float64)[()]

    return evaluate


def special() -> Any:
    from scipy import special  # a sixth of a second, so only for the functions that need it

    return special


def where(condition: np.ndarray, yes: ArrayLike, no: ArrayLike, x: np.ndarray) -> np.ndarray:
    """np.where that keeps a NaN of x."""
    return np.where(np.isnan(x), np.nan, np.where(condition, yes, no))


def gauss(u: np.ndarray, factor: float) -> np.ndarray:
    """exp(-factor * u^2) for factor 1/2 or 1, u >= 0. Rounding u^2 costs up to 700 ulp, so u is split: u = m + d with
    m^2 exact.
    """
    u = np.minimum(u, 64.0)
    m = np.rint(u * 64.0) / 64.0
    return np.exp(-factor * m * m) * np.exp(-factor * (u - m) * (u + m))


def _upper(u):
    """Phi(-u), the upper tail of the standard normal distribution, u >= 0. erfc itself would magnify the rounding of u
    / sqrt(2).
    """
    z = u / math.sqrt(2.0)
    return 0.5 * np.where(u < 1.0, special().erfc(z), special().erfcx(z) * gauss(u, 0.5))


def two_product(a: np.ndarray, b: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """a * b as a sum of two doubles (Dekker 1971, Veltkamp's splitting)."""

    def split(v):
        high = 134217729.0 * v
        high = high - (high - v)
        return high, v - high

    product = a * b
    (ah, al), (bh, bl) = split(a), split(b)
    return product, ((ah * bh - product) + ah * bl + al * bh) + al * bl


def _tanh_argument(u):
    """sqrt(8 / pi) * (u + 0.044715 u^3), u >= 0, as a sum of two doubles: exp of it would magnify a rounding error by
    its size.
    """
    u = np.minimum(u, 64.0)
    square, square_low = two_product(u, u)
    inner, inner_low = two_product(square, _TANH_CUBE)
    inner_low = inner_low + square_low * _TANH_CUBE + square * _TANH_CUBE_LOW
    total = 1.0 + inner
    part = total - 1.0  # two-sum: either of 1 and inner may be the larger
    total_low = (1.0 - (total - part)) + (inner - part) + inner_low
    scaled, scaled_low = two_product(u, _TANH_SCALE)
    scaled_low = scaled_low + u * _TANH_SCALE_LOW
    product, product_low = two_product(scaled, total)
    return product, product_low + scaled * total_low + scaled_low * total


def _tanh_upper(u):
    """sigmoid(-argument of gelu_tanh), u >= 0."""
    high, low = _tanh_argument(u)
    z = np.exp(-high) * np.exp(-low)
    return z / (1.0 + z)


def _logistic_upper(u):
    """sigmoid(-u), u >= 0."""
    z = np.exp(-u)
    return z / (1.0 + z)


def _gate(x, upper):
    """x * gate(x) where gate(-u) = upper(u) and gate(u) = 1 - upper(u)."""
    tail = upper(np.abs(x))
    return np.where(x < 0, np.maximum(x, -1e4) * tail, x * (1.0 - tail))


def _mirror(x, below):
    """g(x) with g(-u) = below(u), g(u) = 1 - below(u), u >= 0."""
    value = below(np.abs(x))
    return np.where(x < 0, value, 1.0 - value)


def logistic_slope(x: np.ndarray, upper: Callable[[np.ndarray], np.ndarray], rate: float = 1.0) -> np.ndarray:
    """Derivative of `_gate(x, upper)` with upper(u) = sigmoid(-rate u)."""

    def below(u):
        tail = upper(u)
        return tail * (1.0 - rate * np.minimum(u, 1e4) * (1.0 - tail))

    return _mirror(x, below)


# gelu, x * Phi(x)


@silent
def gelu(x: np.ndarray) -> np.ndarray:
    return _gate(x, _upper)


@silent
def gelu_derivative(x: np.ndarray) -> np.ndarray:
    return _mirror(x, lambda u: _upper(u) - np.minimum(u, 1e4) * gauss(u, 0.5) / math.sqrt(2.0 * math.pi))


@silent
def gelu_half(u: np.ndarray) -> np.ndarray:
    return -np.minimum(u, 1e4) * _upper(u)


# gelu with the tanh approximation


@silent
def gelu_tanh(x: np.ndarray) -> np.ndarray:
    return _gate(x, _tanh_upper)


@silent
def gelu_tanh_derivative(x: np.ndarray) -> np.ndarray:
    def below(u):
        u = np.minimum(u, 64.0)
        tail = _tanh_upper(u)
        return tail * (1.0 - u * (1.0 - tail) * _TANH_SCALE * (1.0 + 3.0 * _TANH_CUBE * u * u))

    return _mirror(x, below)


@silent
def gelu_tanh_half(u: np.ndarray) -> np.ndarray:
    return -np.minimum(u, 1e4) * _tanh_upper(u)


# gelu with the sigmoid approximation, x * sigmoid(1.702 x), as CLIP uses it


def _quick_upper(u):
    """sigmoid(-1.702 u), u >= 0."""
    u = np.minimum(u, 1e4)
    high, low = two_product(u, QUICK_RATE)
    z = np.exp(-high) * np.exp(-(low + u * _QUICK_LOW))
    return z / (1.0 + z)


@silent
def quick_gelu(x: np.ndarray) -> np.ndarray:
    return _gate(x, _quick_upper)


@silent
def quick_gelu_derivative(x: np.ndarray) -> np.ndarray:
    return logistic_slope(x, _quick_upper, QUICK_RATE)


@silent
def quick_gelu_half(u: np.ndarray) -> np.ndarray:
    return -np.minimum(u, 1e4) * _quick_upper(u)


# silu, sigmoid and tanh


@silent
def silu(x: np.ndarray) -> np.ndarray:
    return _gate(x, _logistic_upper)


@silent
def silu_derivative(x: np.ndarray) -> np.ndarray:
    return logistic_slope(x, _logistic_upper)


@silent
def silu_half(u: np.ndarray) -> np.ndarray:
    return -np.minimum(u, 1e4) * _logistic_upper(u)


@silent
def sigmoid(x: np.ndarray) -> np.ndarray:
    z = np.exp(-np.abs(x))
    return np.where(x < 0, z, 1.0) / (1.0 + z)


@silent
def sigmoid_derivative(x: np.ndarray) -> np.ndarray:
    z = np.exp(-np.abs(x))
    return z / (1.0 + z) ** 2


@silent
def sigmoid_half(u: np.ndarray) -> np.ndarray:
    return _logistic_upper(u)


@silent
def tanh(x: np.ndarray) -> np.ndarray:
    return np.tanh(x)


@silent
def tanh_derivative(x: np.ndarray) -> np.ndarray:
    z = np.exp(-2.0 * np.abs(x))
    return 4.0 * z / (1.0 + z) ** 2


# pieces of lines and exponentials


@silent
def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0.0)


@silent
def relu_derivative(x: np.ndarray) -> np.ndarray:
    return where(x > 0, 1.0, 0.0, x)


@silent
def selu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, SELU_SCALE * x, SELU_SCALE * SELU_ALPHA * np.expm1(np.minimum(x, 0.0)))


@silent
def selu_derivative(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, SELU_SCALE, SELU_SCALE * SELU_ALPHA * np.exp(np.minimum(x, 0.0)))


@silent
def hardsigmoid(x: np.ndarray) -> np.ndarray:
    return np.clip(x + 3.0, 0.0, 6.0) / 6.0


@silent
def hardsigmoid_derivative(x: np.ndarray) -> np.ndarray:
    return where(np.abs(x) < 3.0, 1.0 / 6.0, 0.0, x)


@silent
def hardsigmoid_half(u: np.ndarray) -> np.ndarray:
    return np.maximum(3.0 - u, 0.0) / 6.0


@silent
def hardswish(x: np.ndarray) -> np.ndarray:
    return _gate(x, hardsigmoid_half)


@silent
def hardswish_derivative(x: np.ndarray) -> np.ndarray:
    inside = np.clip(x, -3.0, 3.0)
    return np.where(x <= -3.0, 0.0, np.where(x >= 3.0, 1.0, (2.0 * inside + 3.0) / 6.0))


@silent
def hardswish_half(u: np.ndarray) -> np.ndarray:
    return -np.minimum(u, 3.0) * hardsigmoid_half(u)


# mish, x * tanh(softplus(x)): with e = exp(x), tanh(log(1 + e)) = e (e + 2) / (e (e + 2) + 2), for x > 0 in terms of z
# = exp(-x)


@silent
def mish(x: np.ndarray) -> np.ndarray:
    z = np.exp(-np.abs(x))
    below = z * (z + 2.0)
    gate = np.where(x < 0, below / (below + 2.0), (1.0 + 2.0 * z) / (1.0 + 2.0 * z * (1.0 + z)))
    return np.maximum(x, -1e4) * gate


@silent
def mish_derivative(x: np.ndarray) -> np.ndarray:
    z = np.exp(-np.abs(x))
    product = z * (z + 2.0)
    lower = product / (product + 2.0), 4.0 * z * (1.0 + z) / (product + 2.0) ** 2
    divisor = 1.0 + 2.0 * z * (1.0 + z)
    upper = (1.0 + 2.0 * z) / divisor, 4.0 * z * z * (1.0 + z) / divisor**2
    inside = np.clip(x, -1e4, 1e4)
    return np.where(x < 0, lower[0] + inside * lower[1], upper[0] + inside * upper[1])


# softsign, logsigmoid, tanhshrink and the square of relu


@silent
def softsign(x: np.ndarray) -> np.ndarray:
    return np.where(np.isinf(x), np.sign(x), x / (1.0 + np.abs(x)))


@silent
def softsign_derivative(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.abs(x)) ** 2


@silent
def logsigmoid(x: np.ndarray) -> np.ndarray:
    return np.minimum(x, 0.0) - np.log1p(np.exp(-np.abs(x)))


@silent
def logsigmoid_derivative(x: np.ndarray) -> np.ndarray:
    z = np.exp(-np.abs(x))
    return np.where(x > 0, z, 1.0) / (1.0 + z)


@silent
def logsigmoid_half(u: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(-u))


@silent
def tanhshrink(x: np.ndarray) -> np.ndarray:
    """x - tanh(x), near 0 by Lambert's fraction: tanh(x) = x / (1 + c), c = x^2 / (3 + x^2 / (5 + ...)), so that
    nothing cancels.
    """
    square = np.minimum(x * x, 4.0)
    c = np.zeros_like(square)
    for odd in range(33, 1, -2):
        c = square / (odd + c)
    return np.where(np.abs(x) < 2.0, x * (c / (1.0 + c)), x - np.tanh(x))


@silent
def tanhshrink_derivative(x: np.ndarray) -> np.ndarray:
    return np.tanh(x) ** 2


@silent
def relu2(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0.0) ** 2


@silent
def relu2_derivative(x: np.ndarray) -> np.ndarray:
    return 2.0 * np.maximum(x, 0.0)
