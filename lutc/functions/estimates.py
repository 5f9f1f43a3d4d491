"""Parameters of a function of a family from a few of its values. An estimate need not be of that family at all: what it
says is tried on many more points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

_Values = Mapping[float, float]  # x -> f(x) at the points of `recognise`
_DIGITS = 6  # a number in float32 has about seven


def _numbers(**found: float) -> list[dict[str, float]]:
    """The parameters in the few digits that people write, and as they were found."""
    if not all(map(math.isfinite, found.values())):
        return []
    written = {name: float(f"{value:.{_DIGITS}g}") + 0.0 for name, value in found.items()}
    return [written] if written == found else [written, found]


def _slope(name: str) -> Callable[[_Values], list]:
    return lambda f: _numbers(**{name: f[-90.0] / -90.0}) if f[-90.0] not in (0.0, -90.0) else []


def _below(f: _Values) -> list:
    return _numbers(alpha=-f[-90.0])


def _softplus(f: _Values) -> list:
    return _numbers(beta=math.log(2.0) / f[0.0]) if f[0.0] > 0 else []


def _hardtanh(f: _Values) -> list:
    flat = f[-40.0] == f[-90.0] and f[40.0] == f[90.0]
    return _numbers(min_val=f[-90.0], max_val=f[90.0]) if flat else []


def _hardshrink(f: _Values) -> list:
    """The threshold lies between two points: at a number of few digits, which are tried from the coarsest."""
    zeros = [x for x, y in f.items() if x > 0 and y == 0.0]
    others = [x for x, y in f.items() if x > 0 and y != 0.0]
    if not zeros or not others or not max(zeros) < min(others):
        return []
    low, high = max(zeros), min(others)
    for digits in range(6):
        value = math.floor(high * 10.0**digits) / 10.0**digits
        if low <= value < high:
            return _numbers(lambd=value)
    return _numbers(lambd=low)


def _softshrink(f: _Values) -> list:
    first = min((x for x, y in f.items() if x > 0 and y != 0.0), default=90.0)
    return _numbers(lambd=first - f[first])


def _snake(f: _Values) -> list:
    """sin(alpha / 8)^2 / alpha, what there is beside x = 1/8, grows with alpha up to 9."""
    found = _grown(lambda alpha: math.sin(alpha / 8.0) ** 2 / alpha, f[0.125] - 0.125, 9.0)
    return [{"alpha": float(f"{found:.{digits}g}")} for digits in (1, 2, 3, 4)]


def _softcap(f: _Values) -> list:
    """cap tanh(90 / cap) grows with the cap."""
    return _numbers(cap=_grown(lambda cap: cap * math.tanh(90.0 / cap), f[90.0], 1e4))


def _grown(f: Callable[[float], float], value: float, high: float) -> float:
    """Where f, which grows from 1e-3 to `high`, reaches the value."""
    low = 1e-3
    for _ in range(80):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if f(middle) < value else (low, middle)
    return low


def _xielu(f: _Values) -> list:
    alpha_p = (f[2.0] - 2.0 * f[1.0]) / 2.0
    beta = f[1.0] - alpha_p
    return _numbers(alpha_p=alpha_p, alpha_n=(f[-90.0] + 90.0 * beta) / 89.0, beta=beta)


def _swigluoai(f: _Values) -> list:
    """alpha from sigmoid(alpha) = f(1); far out f is limit sigmoid(alpha limit)."""
    if not 0.0 < f[1.0] < 1.0 or not f[90.0] == f[40.0] > 0.0:
        return []
    alpha, limit = math.log(f[1.0] / (1.0 - f[1.0])), f[90.0]
    for _ in range(40):
        limit = f[90.0] * (1.0 + math.exp(-min(max(alpha * limit, 0.0), 700.0)))
    return _numbers(alpha=alpha, limit=limit)


ESTIMATES: dict[str, Callable[[_Values], list[dict[str, float]]]] = {
    "leaky_relu": _slope("negative_slope"),
    "prelu": _slope("weight"),
    "elu": _below,
    "celu": _below,
    "softplus": _softplus,
    "hardtanh": _hardtanh,
    "hardshrink": _hardshrink,
    "softshrink": _softshrink,
    "snake": _snake,
    "softcap": _softcap,
    "xielu": _xielu,
    "swigluoai": _swigluoai,
}
