"""The registered function that a callable computes, told by its values."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch

from lutc.functions import FUNCTIONS

# Far points tell clipped and thresholded variants apart (gelu clipped at 10, relu6), near ones gelu's two forms (4e-4
# apart at 2).
_PROBE = np.concatenate([np.linspace(-12.0, 12.0, 961), [-90.0, -40.0, 25.0, 40.0, 90.0]])
_TOLERANCE = 1e-5


@functools.cache
def _probe_values() -> dict[str, np.ndarray]:
    """Values of every registered function that is finite on the whole probe, except those that only composed operators
    use.
    """
    probe = _PROBE.astype(np.float32).astype(np.float64)
    values = {name: fn(probe) for name, fn in FUNCTIONS.items()}
    return {name: v for name, v in values.items() if np.isfinite(v).all() and np.abs(v).max() < 1e6}


def functions_of(callable_: Callable, device: str | torch.device = "cpu") -> tuple[str, ...]:
    """Registry names of the elementwise function that `callable_` computes in float32 (elu and celu are one); () where
    it is none or fails.
    """
    x = torch.tensor(_PROBE, dtype=torch.float32, device=device)
    try:
        with torch.no_grad():
            y = callable_(x.clone())
    except Exception:  # noqa: BLE001  a candidate may want other arguments or shapes; then it is not a plain activation
        return ()
    if not isinstance(y, torch.Tensor) or y.shape != x.shape or not y.isfinite().all():
        return ()
    y = y.double().cpu().numpy()
    return tuple(
        name for name, exact in _probe_values().items() if (np.abs(y - exact) <= _TOLERANCE * (1 + np.abs(exact))).all()
    )
