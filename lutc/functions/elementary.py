"""float64 definitions and derivatives of the elementary functions in the registry."""

from __future__ import annotations

import math

import numpy as np

from lutc.functions.definitions import gauss, silent, special


@silent
def exp(x: np.ndarray) -> np.ndarray:
    return np.exp(x)


@silent
def log(x: np.ndarray) -> np.ndarray:
    return np.log(x)


@silent
def log_derivative(x: np.ndarray) -> np.ndarray:
    return np.where(x < 0, np.nan, 1.0 / np.abs(x))


@silent
def sin(x: np.ndarray) -> np.ndarray:
    return np.sin(x)


@silent
def cos(x: np.ndarray) -> np.ndarray:
    return np.cos(x)


@silent
def cos_derivative(x: np.ndarray) -> np.ndarray:
    return -np.sin(x)


@silent
def reciprocal(x: np.ndarray) -> np.ndarray:
    return 1.0 / x


@silent
def reciprocal_derivative(x: np.ndarray) -> np.ndarray:
    return -(1.0 / np.abs(x)) / np.abs(x)


@silent
def rsqrt(x: np.ndarray) -> np.ndarray:
    return 1.0 / np.sqrt(x)


@silent
def rsqrt_derivative(x: np.ndarray) -> np.ndarray:
    return -0.5 / np.sqrt(x) / np.abs(x)


@silent
def sqrt(x: np.ndarray) -> np.ndarray:
    return np.sqrt(x)


@silent
def sqrt_derivative(x: np.ndarray) -> np.ndarray:
    return 0.5 / np.abs(np.sqrt(x))


@silent
def square(x: np.ndarray) -> np.ndarray:
    return x * x


@silent
def square_derivative(x: np.ndarray) -> np.ndarray:
    return 2.0 * x


@silent
def inverse_sigmoid(x: np.ndarray) -> np.ndarray:
    inside = np.where((x >= 0) & (x <= 1), np.abs(x), np.nan)
    # log(x / (1 - x)) cancels near 1/2; 2 x - 1 is exact there.
    middle = np.log1p((2.0 * inside - 1.0) / (1.0 - inside))
    return np.where(np.abs(inside - 0.5) < 0.25, middle, np.log(inside / (1.0 - inside)))


@silent
def inverse_sigmoid_derivative(x: np.ndarray) -> np.ndarray:
    inside = np.where((x >= 0) & (x <= 1), np.abs(x), np.nan)
    return 1.0 / (inside * (1.0 - inside))


@silent
def erf(x: np.ndarray) -> np.ndarray:
    return special().erf(x)


@silent
def erf_derivative(x: np.ndarray) -> np.ndarray:
    return 2.0 / math.sqrt(math.pi) * gauss(np.abs(x), 1.0)


# of other bases, and near 0


@silent
def exp2(x: np.ndarray) -> np.ndarray:
    return np.exp2(x)


@silent
def exp2_derivative(x: np.ndarray) -> np.ndarray:
    return math.log(2.0) * np.exp2(x)


@silent
def expm1(x: np.ndarray) -> np.ndarray:
    return np.expm1(x)


@silent
def log2(x: np.ndarray) -> np.ndarray:
    return np.log2(x)


@silent
def log2_derivative(x: np.ndarray) -> np.ndarray:
    return np.where(x < 0, np.nan, 1.0 / (math.log(2.0) * np.abs(x)))


@silent
def log1p(x: np.ndarray) -> np.ndarray:
    return np.log1p(x)


@silent
def log1p_derivative(x: np.ndarray) -> np.ndarray:
    return np.where(x < -1, np.nan, 1.0 / np.abs(1.0 + x))


@silent
def atan(x: np.ndarray) -> np.ndarray:
    return np.arctan(x)


@silent
def atan_derivative(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + x * x)
