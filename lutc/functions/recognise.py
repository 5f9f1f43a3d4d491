"""The registered function that a callable computes, told by its values."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch

from lutc.errors import LutcError
from lutc.functions import FAMILIES, FUNCTIONS
from lutc.functions.estimates import ESTIMATES

# Values of float32; of decimals, at which a threshold may lie, only those that are exact in it. Far points tell clipped
# and thresholded variants apart (gelu clipped at 10, relu6), near ones gelu's two forms (4e-4 apart at 2).
_PROBE = np.concatenate([np.arange(-384, 385) / 32.0, [-90.0, -40.0, 25.0, 40.0, 90.0]])
_TOLERANCE = 1e-5


@functools.cache
def _probe_values() -> dict[str, np.ndarray]:
    """Values of every registered function that is finite on the whole probe, except those that only composed operators
    use.
    """
    values = {name: fn(_PROBE) for name, fn in FUNCTIONS.items()}
    return {name: v for name, v in values.items() if np.isfinite(v).all() and np.abs(v).max() < 1e6}


def functions_of(callable_: Callable, device: str | torch.device = "cpu") -> tuple[str, ...]:
    """Registry names of the elementwise function that `callable_` computes in float32, those of plain functions first,
    with the parameters that it has (elu and celu are one at alpha = 1); () where it is none or fails.
    """
    y = values_of(callable_, _PROBE, device)
    if y is None:
        return ()
    plain = [name for name, exact in _probe_values().items() if _equal(y, exact)]
    at = dict(zip(_PROBE.tolist(), y.tolist(), strict=True))
    others = (_member(family, estimate(at), y) for family, estimate in ESTIMATES.items() if family not in plain)
    return (*plain, *(name for name in others if name is not None))


def _member(family: str, estimates: list[dict[str, float]], y: np.ndarray) -> str | None:
    """The first of the family at estimated parameters that has the values y on the probe."""
    for values in estimates:
        try:
            fn = FAMILIES[family].member(values)
        except LutcError:  # the estimate of another function
            continue
        if _equal(y, fn(_PROBE)):
            return fn.name
    return None


def values_of(callable_: Callable, x: np.ndarray, device: str | torch.device = "cpu") -> np.ndarray | None:
    """float64 values, of the shape of x (n,), that the callable gives for float32 x; None where it fails, or gives
    another shape or what is not finite.
    """
    given = torch.tensor(x, dtype=torch.float32, device=device)
    try:
        with torch.no_grad():
            y = callable_(given.clone())
    except Exception:  # noqa: BLE001  a candidate may want other arguments or shapes; then it is not a plain activation
        return None
    if not isinstance(y, torch.Tensor) or y.shape != given.shape or not y.isfinite().all():
        return None
    return y.double().cpu().numpy()


def _equal(y: np.ndarray, exact: np.ndarray) -> bool:
    return bool((np.abs(y - exact) <= _TOLERANCE * (1 + np.abs(exact))).all())
