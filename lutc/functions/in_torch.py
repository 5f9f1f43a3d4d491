"""The registry's functions as torch computes them, and their gradients: what `grad="function"` multiplies the incoming
gradient by.

Where torch has a backward kernel of its own it is used (one pass over the data); the rest are closed forms. 16-bit
inputs are computed in float32 and rounded once, as those kernels do inside. Parameters follow x, in the order of the
registry's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

from lutc.functions.definitions import QUICK_RATE, SELU_ALPHA, SELU_SCALE
from lutc.functions.registry import FUNCTIONS, find, get
from lutc.functions.spelling import base

_aten = torch.ops.aten

_Backward = Callable[..., torch.Tensor]
_KERNELS: dict[str, _Backward] = {
    "gelu": lambda g, x: _aten.gelu_backward(g, x, approximate="none"),
    "gelu_tanh": lambda g, x: _aten.gelu_backward(g, x, approximate="tanh"),
    "silu": _aten.silu_backward,
    "relu": lambda g, x: _aten.threshold_backward(g, x, 0),
    "leaky_relu": lambda g, x, slope: _aten.leaky_relu_backward(g, x, slope, False),
    "elu": lambda g, x, alpha: _aten.elu_backward(g, alpha, 1.0, 1.0, False, x),
    "celu": lambda g, x, alpha: _aten.elu_backward(g, alpha, 1.0, 1.0 / alpha, False, x),
    "selu": lambda g, x: _aten.elu_backward(g, SELU_ALPHA, SELU_SCALE, 1.0, False, x),
    "hardswish": _aten.hardswish_backward,
    "hardsigmoid": _aten.hardsigmoid_backward,
    "mish": _aten.mish_backward,
    "softplus": lambda g, x, beta: _aten.softplus_backward(g, x, beta, 20.0),
    "prelu": lambda g, x, weight: _aten.leaky_relu_backward(g, x, weight, False),
    "hardtanh": lambda g, x, low, high: _aten.hardtanh_backward(g, x, low, high),
    "relu6": lambda g, x: _aten.hardtanh_backward(g, x, 0.0, 6.0),
    "hardshrink": lambda g, x, threshold: _aten.hardshrink_backward(g, x, threshold),
    "softshrink": lambda g, x, threshold: _aten.softshrink_backward(g, x, threshold),
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
    "relu2": lambda g, x: g * 2.0 * torch.relu(x),
    "xielu": lambda g, x, p, n, beta: g * (torch.where(x > 0, 2.0 * p * x, n * torch.expm1(x.clamp(max=0.0))) + beta),
    "swigluoai": lambda g, x, alpha, limit: torch.where(x > limit, 0.0, _aten.silu_backward(g, alpha * x)),
    "snake": lambda g, x, alpha: g * (1.0 + torch.sin(2.0 * alpha * x)),
    "softcap": lambda g, x, cap: _aten.tanh_backward(g, torch.tanh(x / cap)),
    "softsign": lambda g, x: g / (1.0 + x.abs()) ** 2,
    "logsigmoid": lambda g, x: g * torch.sigmoid(-x),
    "tanhshrink": lambda g, x: g * torch.tanh(x) ** 2,
    "exp2": lambda g, x: g * math.log(2.0) * torch.exp2(x),
    "log2": lambda g, x: g / (math.log(2.0) * x),
    "log1p": lambda g, x: g / (1.0 + x),
    "expm1": lambda g, x: g * torch.exp(x),
    "atan": lambda g, x: g / (1.0 + x * x),
}
_BACKWARD = {**_KERNELS, **_FORMULAS}

_VALUE: dict[str, Callable[..., torch.Tensor]] = {
    "gelu": _aten.gelu,
    "gelu_tanh": lambda x: _aten.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(QUICK_RATE * x),
    "leaky_relu": _aten.leaky_relu,
    "prelu": _aten.leaky_relu,
    "celu": lambda x, alpha: _aten.elu(x, alpha, 1.0, 1.0 / alpha),
    "inverse_sigmoid": _aten.logit,
    "relu2": lambda x: torch.relu(x).square(),
    "xielu": lambda x, p, n, beta: torch.where(x > 0, p * x * x, n * (torch.expm1(x.clamp(max=0.0)) - x)) + beta * x,
    "swigluoai": lambda x, alpha, limit: x.clamp(max=limit) * torch.sigmoid(alpha * x.clamp(max=limit)),
    "snake": lambda x, alpha: x + torch.sin(alpha * x).square() / alpha,
    "softcap": lambda x, cap: cap * torch.tanh(x / cap),
    "softsign": F.softsign,
    "logsigmoid": F.logsigmoid,
    "tanhshrink": F.tanhshrink,
}
_VALUE |= {name: getattr(_aten, name) for name in _BACKWARD if name not in _VALUE}


def names() -> list[str]:
    """The functions that are known, in the registry's order, those with parameters once."""
    return list(_BACKWARD)


# Canonical name -> (name without parameters, their values); a plain dict, through which torch.compile traces.
_PARAMETERS = {name: (name, tuple(value for _, value in fn.parameters)) for name, fn in FUNCTIONS.items()}


def _parameters(function: str) -> tuple[str, tuple[float, ...]]:
    if function not in _PARAMETERS:
        fn = get(function)
        _PARAMETERS[function] = base(fn.name), tuple(value for _, value in fn.parameters)
    return _PARAMETERS[function]


def value(function: str, x: torch.Tensor) -> torch.Tensor:
    """f(x) as torch computes it, with torch's own gradient, for the canonical name of a known function; shape and dtype
    of x.
    """
    name, parameters = _parameters(function)
    return _VALUE[name](x, *parameters)


def known(function: str | None) -> bool:
    """Whether torch's derivative of the registry's function of this canonical name is here."""
    if function is None or function in _PARAMETERS:
        return function is not None
    return base(function) in _BACKWARD and find(function) is not None


def backward(function: str, gradient: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """gradient * f'(x) for the canonical name of a known function; tensors of one shape and float dtype, which the
    result has too.
    """
    name, parameters = _parameters(function)
    if x.dtype in (torch.float16, torch.bfloat16) and name not in _KERNELS:
        return _BACKWARD[name](gradient.float(), x.float(), *parameters).to(x.dtype)
    return _BACKWARD[name](gradient, x, *parameters)


def derivative(function: str, x: torch.Tensor) -> torch.Tensor:
    """f'(x) for the canonical name of a known function, in the shape and dtype of x."""
    return backward(function, torch.ones_like(x), x)
