"""A function that only its caller knows, carried by the table's file as a sample, by which the table is judged."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping

import numpy as np

from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.functions.kinds import Function

GRID = 8193  # even points over the range, ends included: those of a certificate's "float" figures
_OCTAVES, _STEPS = (-24, 16), 16  # beside them, for float tables: x of both signs, so many in each octave


def points(interval: tuple[float, float], inputs: Iterable[Inputs] = ()) -> np.ndarray:
    """Where a function over `interval` is sampled, float64, ascending: the grid, and every code of `inputs`; without
    inputs, octaves up to fp16's largest value.
    """
    codes = [code.x() for code in inputs]
    if not codes:
        far = 2.0 ** (np.arange(_OCTAVES[0] * _STEPS, _OCTAVES[1] * _STEPS) / _STEPS)
        codes = [-far, far]
    return np.unique(np.concatenate([np.linspace(*interval, GRID), *codes])) + 0.0


def record(fn: Function, inputs: Iterable[Inputs] = ()) -> dict:
    """The sample of `fn` for a file: y = fn(points) as base64 of little-endian float64, and its digest."""
    payload = np.asarray(fn(points(fn.range, inputs)), "<f8").tobytes()
    return {"y": base64.b64encode(payload).decode(), "sha256": hashlib.sha256(payload).hexdigest()}


def from_record(name: str, sample: object, interval: tuple[float, float], inputs: Iterable[Inputs] = ()) -> Function:
    """The function of a file's sample: exact at its points, a monotone cubic between them (Fritsch and Carlson 1980),
    NaN beyond and where the function was not finite. LutcError for a sample that is damaged.
    """
    from scipy.interpolate import PchipInterpolator  # brings scipy

    x = points(interval, inputs)
    try:
        given = sample if isinstance(sample, Mapping) else {}
        payload = base64.b64decode(given["y"], validate=True)
        fits = len(payload) == 8 * x.size and hashlib.sha256(payload).hexdigest() == given.get("sha256")
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise LutcError(f"the file's sample of {name!r} is damaged: {x.size} float64 numbers in base64, by sha256")
    y = np.frombuffer(payload, "<f8")
    known = np.isfinite(y)
    if known.sum() < 2:
        raise LutcError(f"the file's sample of {name!r} is damaged: it holds no finite values")
    curve = PchipInterpolator(x[known], y[known], extrapolate=False)

    def f(at: np.ndarray) -> np.ndarray:
        return np.asarray(curve(np.asarray(at, np.float64)))[()]

    return Function(name, f, None, interval, domain=(float(x[known][0]), float(x[known][-1])))
