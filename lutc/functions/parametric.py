"""float64 definitions and derivatives of functions with parameters; parameters are floats and follow x.

At the default parameters nothing is rounded that the plain formula would not round. At a kink the derivative follows
torch.
"""

from __future__ import annotations

import numpy as np

from lutc.functions.definitions import logistic_slope, logsigmoid_half, sigmoid, silent, two_product, where


@silent
def leaky_relu(x: np.ndarray, slope: float) -> np.ndarray:
    return np.where(x > 0, x, slope * x)


@silent
def leaky_relu_derivative(x: np.ndarray, slope: float) -> np.ndarray:
    return where(x > 0, 1.0, slope, x)


@silent
def elu(x: np.ndarray, alpha: float) -> np.ndarray:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0)))


@silent
def elu_derivative(x: np.ndarray, alpha: float) -> np.ndarray:
    return np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0.0)))


@silent
def celu(x: np.ndarray, alpha: float) -> np.ndarray:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0) / alpha))


@silent
def celu_derivative(x: np.ndarray, alpha: float) -> np.ndarray:
    return np.exp(np.minimum(x, 0.0) / alpha)


@silent
def softplus(x: np.ndarray, beta: float) -> np.ndarray:
    return np.maximum(x, 0.0) + np.log1p(np.exp(-beta * np.abs(x))) / beta


@silent
def softplus_derivative(x: np.ndarray, beta: float) -> np.ndarray:
    return sigmoid(beta * x)


@silent
def softplus_half(u: np.ndarray, beta: float) -> np.ndarray:
    return logsigmoid_half(beta * u) / beta


@silent
def hardtanh(x: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip(x, low, high)


@silent
def hardtanh_derivative(x: np.ndarray, low: float, high: float) -> np.ndarray:
    return where((x > low) & (x < high), 1.0, 0.0, x)


@silent
def hardshrink(x: np.ndarray, threshold: float) -> np.ndarray:
    return where(np.abs(x) > threshold, x, 0.0, x)


@silent
def shrink_derivative(x: np.ndarray, threshold: float) -> np.ndarray:
    return where(np.abs(x) > threshold, 1.0, 0.0, x)


@silent
def softshrink(x: np.ndarray, threshold: float) -> np.ndarray:
    return where(np.abs(x) > threshold, x - np.copysign(threshold, x), 0.0, x)


@silent
def snake(x: np.ndarray, alpha: float) -> np.ndarray:
    """x + sin(alpha x)^2 / alpha (arXiv:2006.08195)."""
    wave = np.where(np.isinf(x), 0.0, np.sin(alpha * x))
    return x + wave * wave / alpha


@silent
def snake_derivative(x: np.ndarray, alpha: float) -> np.ndarray:
    """1 + sin(2 alpha x), as a square, which keeps its digits where it is near 0."""
    return (np.sin(alpha * x) + np.cos(alpha * x)) ** 2


@silent
def softcap(x: np.ndarray, cap: float) -> np.ndarray:
    """cap tanh(x / cap), the cap of logits in Gemma 2 (arXiv:2408.00118)."""
    return cap * np.tanh(x / cap)


@silent
def softcap_derivative(x: np.ndarray, cap: float) -> np.ndarray:
    z = np.exp(-2.0 * np.abs(x / cap))
    return 4.0 * z / (1.0 + z) ** 2


@silent
def xielu(x: np.ndarray, alpha_p: float, alpha_n: float, beta: float) -> np.ndarray:
    """alpha_p x^2 + beta x above 0, alpha_n (exp(x) - 1 - x) + beta x below (arXiv:2411.13010)."""
    below, slope = np.minimum(x, 0.0), beta - alpha_n
    line = slope * below if slope else 0.0
    return np.where(x > 0, x * (alpha_p * x + beta), alpha_n * np.expm1(below) + line)


@silent
def xielu_derivative(x: np.ndarray, alpha_p: float, alpha_n: float, beta: float) -> np.ndarray:
    return np.where(x > 0, 2.0 * alpha_p * x + beta, alpha_n * np.expm1(np.minimum(x, 0.0)) + beta)


def _gate_upper(u: np.ndarray, alpha: float) -> np.ndarray:
    """sigmoid(-alpha u), u >= 0."""
    high, low = two_product(np.minimum(u, 1e4), alpha)
    z = np.exp(-high) * np.exp(-low)
    return z / (1.0 + z)


@silent
def swigluoai(x: np.ndarray, alpha: float, limit: float) -> np.ndarray:
    """y sigmoid(alpha y) of y = min(x, limit): the gate of GPT-OSS."""
    y = np.minimum(x, limit)
    tail = _gate_upper(np.abs(y), alpha)
    return np.where(y < 0, np.maximum(y, -1e4) * tail, y * (1.0 - tail))


@silent
def swigluoai_derivative(x: np.ndarray, alpha: float, limit: float) -> np.ndarray:
    slope = logistic_slope(np.minimum(x, limit), lambda u: _gate_upper(u, alpha), alpha)
    return where(x > limit, 0.0, slope, x)
