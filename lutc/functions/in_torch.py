"""The registry's functions as torch computes them, and their gradients: what `grad="function"` multiplies the incoming
gradient by.

Where torch has a backward kernel of its own it is used (one pass over the data); the rest are closed forms. 16-bit
inputs are computed in float32 and rounded once, as those kernels do inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from lutc.functions.definitions import LEAKY_SLOPE, QUICK_RATE, SELU_ALPHA, SELU_SCALE

_aten = torch.ops.aten

_Backward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
_KERNELS: dict[str, _Backward] = {
    "gelu": lambda g, x: _aten.gelu_backward(g, x, approximate="none"),
    "gelu_tanh": lambda g, x: _aten.gelu_backward(g, x, approximate="tanh"),
    "silu": _aten.silu_backward,
    "relu": lambda g, x: _aten.threshold_backward(g, x, 0),
    "leaky_relu": lambda g, x: _aten.leaky_relu_backward(g, x, LEAKY_SLOPE, False),
    "elu": lambda g, x: _aten.elu_backward(g, 1.0, 1.0, 1.0, False, x),
    "celu": lambda g, x: _aten.elu_backward(g, 1.0, 1.0, 1.0, False, x),
    "selu": lambda g, x: _aten.elu_backward(g, SELU_ALPHA, SELU_SCALE, 1.0, False, x),
    "hardswish": _aten.hardswish_backward,
    "hardsigmoid": _aten.hardsigmoid_backward,
    "mish": _aten.mish_backward,
    "softplus": lambda g, x: _aten.softplus_backward(g, x, 1.0, 20.0),
}
_FORMULAS: dict[str, _Backward] = {
    "quick_gelu": lambda g, x: _aten.silu_backward(g, QUICK_RATE * x),
    "sigmoid": lambda g, x: _aten.sigmoid_backward(g, torch.sigmoid(x)),
    "tanh": lambda g, x: _aten.tanh_backward(g, torch.tanh(x)),
    "exp": lambda g, x: g * torch.exp(x),
    "log": lambda g, x: g / x,
    "sin": lambda g, x: g * torch.cos(x),
    "cos": lambda g, x: -g * torch.sin(x),
    "reciprocal": lambda g, x: -g / x / x,
    "rsqrt": lambda g, x: g * (-0.5 * torch.rsqrt(x) / x),
    "sqrt": lambda g, x: g * 0.5 * torch.rsqrt(x),
    "square": lambda g, x: g * 2.0 * x,
    "inverse_sigmoid": lambda g, x: g / (x * (1.0 - x)),
    "erf": lambda g, x: g * (2.0 / math.sqrt(math.pi)) * torch.exp(-x * x),
}
_BACKWARD = {**_KERNELS, **_FORMULAS}

_VALUE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": _aten.gelu,
    "gelu_tanh": lambda x: _aten.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(QUICK_RATE * x),
    "leaky_relu": lambda x: _aten.leaky_relu(x, LEAKY_SLOPE),
    "celu": _aten.elu,
    "inverse_sigmoid": _aten.logit,
}
_VALUE |= {name: getattr(_aten, name) for name in _BACKWARD if name not in _VALUE}


def names() -> list[str]:
    """The functions that are known, in the registry's order."""
    return list(_BACKWARD)


def value(function: str, x: torch.Tensor) -> torch.Tensor:
    """f(x) as torch computes it, with torch's own gradient, for the canonical name of a known function; shape and dtype
    of x.
    """
    return _VALUE[function](x)


def known(function: str | None) -> bool:
    """Whether torch's derivative of the registry's function of this canonical name is here."""
    return function in _BACKWARD


def backward(function: str, gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """gradient * f'(x) for the canonical name of a known function; tensors of one shape and float dtype, which the
    result has too.
    """
    if x.dtype in (torch.float16, torch.bfloat16) and function not in _KERNELS:
        return _BACKWARD[function](gradient.float(), x.float()).to(x.dtype)
    return _BACKWARD[function](gradient, x)


def derivative(function: str, x: torch.Tensor) -> torch.Tensor:
    """f'(x) for the canonical name of a known function, in the shape and dtype of x."""
    return backward(function, torch.ones_like(x), x)
