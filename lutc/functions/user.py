"""A user's own function, given as package.module:name: found, wrapped for float64 arrays, and tried over its range."""

import contextlib
import functools
import importlib
import math
import os
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lutc.errors import LutcError
from lutc.formats.format import get as get_format
from lutc.functions.kinds import Function
from lutc.functions.registry import checked_range, find

_PROBES = 1025


def load_user(spec: str, range: tuple[float, float] | None) -> Function:
    """The callable at 'package.module:name' as a Function over `range`; tails, symmetry and inflections unknown.

    It may take a float64 array, a torch tensor, or one number at a time; its attribute `derivative`, if it has one, is
    used likewise.
    """
    if range is None:
        raise LutcError(f"function {spec!r} has no default range; give one (`range`)")
    return _over(spec, _import(spec), range)


def from_callable(target: Callable, range: tuple[float, float] | None) -> Function:
    """Any callable as a Function over `range`, called as `load_user` has it: a function, a partial, a torch module."""
    name = name_of(target)
    if range is None:
        raise LutcError(f"the function {name} has no default range; give one (`range`)")
    own, registered = _over(name, target, range), find(name)
    if registered is None:
        return own
    x = _probes(*own.range)  # files name the registry's functions, so only those may have their names
    same = np.allclose(own(x), registered(x), rtol=1e-5, atol=1e-6)
    return replace(own, name=registered.name if same else f"own_{name}")


def name_of(target: Callable) -> str:
    """What a callable is called in files: the name it was defined by, a partial with what it binds, or its class."""
    if isinstance(target, functools.partial):
        bound = [*map(str, target.args), *(f"{key}={value}" for key, value in target.keywords.items())]
        return f"{name_of(target.func)}({', '.join(bound)})" if bound else name_of(target.func)
    name = getattr(target, "__name__", type(target).__name__)
    return "function" if name == "<lambda>" else name


def _over(spec: str, target: Callable, range) -> Function:
    try:
        lo, hi = range
    except (TypeError, ValueError):
        raise LutcError(f"a range is two numbers, not {range!r}") from None
    plain = Function(spec, np.asarray, None, (0.0, 1.0))
    lo, hi = checked_range(plain, lo, hi)
    points = _probes(lo, hi)
    f = _Elementwise(spec, target, points)
    derivative = getattr(target, "derivative", None)
    if derivative is not None:
        derivative = _Elementwise(f"{spec}.derivative", derivative, points) if callable(derivative) else None
    return Function(spec, f, derivative, (lo, hi), coefficients=_narrowest_format(f, lo, hi))


def _import(spec: str):
    module_name, _, path = spec.partition(":")
    if not module_name or not path or module_name.startswith("."):
        raise LutcError(f"function {spec!r} is not of the form package.module:name")
    try:
        with _current_directory_importable():
            target = importlib.import_module(module_name)
    except Exception as error:
        raise LutcError(
            f"cannot import {module_name!r} for function {spec!r}: {type(error).__name__}: {_one_line(error)}"
        ) from error
    for part in path.split("."):
        if not hasattr(target, part):
            raise LutcError(f"module {module_name!r} has no {path!r}; give package.module:name of a function in it")
        target = getattr(target, part)
    if not callable(target):
        raise LutcError(
            f"{spec!r} is {type(target).__name__}, not something to call; give package.module:name of a function"
        )
    return target


@contextlib.contextmanager
def _current_directory_importable():
    """As `python -m` has it: modules beside the user are found first, and stay importable for what they import
    themselves.
    """
    here = os.getcwd()
    if "" not in sys.path and here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    yield


def _probes(lo: float, hi: float) -> np.ndarray:
    """Points where a user's function is tried: an even grid, and the multiples of 1/64, where a kink or a pole usually
    lies.
    """
    grid = np.linspace(lo, hi, _PROBES)
    codes = np.arange(max(math.ceil(lo * 64.0), -(2**13)), min(math.floor(hi * 64.0), 2**13) + 1) / 64.0
    return np.unique(np.concatenate((grid, codes))) + 0.0


class _Elementwise:
    """A user's callable on float64 arrays of any shape. Which way to call it is found at construction, on `points`."""

    def __init__(self, name: str, target, points: np.ndarray):
        self.name, self.target = name, target
        self.call = self._numbers
        for call in (self._array, self._tensor):
            if self._answers(call, points):
                self.call = call
                break
        else:
            self._try_each(points)
        values = self(points)
        bad = ~np.isfinite(values)
        if bad.any():
            where, value = points[bad][0], values[bad][0]
            raise LutcError(
                f"function {name!r} is {value:g} at {where:g}; it must be finite over its whole range: give a range "
                "where it is"
            )

    def __call__(self, x):
        x = np.asarray(x, np.float64)
        with np.errstate(all="ignore"):
            return np.where(np.isnan(x), np.nan, self.call(x.reshape(-1)).reshape(x.shape))[()]

    def _answers(self, call, points: np.ndarray) -> bool:
        """Whether this way of calling works; an error when it does but mixes the elements of an array."""
        some = np.linspace(0, len(points) - 1, 5).astype(int)
        try:
            with np.errstate(all="ignore"):
                whole = call(points)
                alone = np.concatenate([call(points[i : i + 1]) for i in some])
        except Exception:  # noqa: BLE001 - a user's code may raise anything; the last way of calling it reports what it raised
            return False
        if not np.allclose(whole[some], alone, rtol=1e-5, atol=1e-6, equal_nan=True):
            raise LutcError(
                f"function {self.name!r} does not treat each element of an array by itself; give a function of one "
                "number"
            )
        return True

    def _array(self, x: np.ndarray) -> np.ndarray:
        result = self.target(x.copy())
        if not isinstance(result, np.ndarray) or result.shape != x.shape or result.dtype.kind not in "fiub":
            raise TypeError("not an array of the input's shape")
        return result.astype(np.float64)

    def _tensor(self, x: np.ndarray) -> np.ndarray:
        torch = sys.modules.get("torch")  # loaded only if the user's module did so
        if torch is None:
            raise TypeError("torch is not in use")
        with torch.no_grad():
            try:
                result = self.target(torch.from_numpy(x.copy()))
            except RuntimeError:  # a module with float32 parameters
                result = self.target(torch.from_numpy(x.astype(np.float32)))
        if not isinstance(result, torch.Tensor) or result.shape != x.shape:
            raise TypeError("not a tensor of the input's shape")
        return result.to(torch.float64).numpy()

    def _numbers(self, x: np.ndarray) -> np.ndarray:
        """One call per element. Outside its range a function may raise, as math.sqrt(-1) does: that is NaN here."""

        def one(value):
            try:
                return float(self.target(float(value)))
            except (ArithmeticError, ValueError):
                return math.nan

        return np.array([one(value) for value in x], np.float64)

    def _try_each(self, points: np.ndarray):
        for x in points:
            try:
                float(self.target(float(x)))
            except Exception as error:
                raise LutcError(
                    f"function {self.name!r} raises {type(error).__name__} at {x:g}: {_one_line(error)}; it must map a "
                    "number to a number"
                ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or "no message"


def _narrowest_format(f, lo: float, hi: float) -> str:
    """The 8-bit qI.F, at least q1.6, that holds slopes and intercepts of 16 even chords; fp16 or fp32
    when none does.
    """
    x = np.linspace(lo, hi, 17)
    y = f(x)
    slopes = np.diff(y) / np.diff(x)
    largest = np.abs(np.concatenate((slopes, y[:-1] - slopes * x[:-1]))).max()
    for integer_bits in (1, 2, 3, 4, 5, 6, 7):
        name = f"q{integer_bits}.{7 - integer_bits}"
        if largest <= get_format(name).max:
            return name
    return "fp16" if largest <= get_format("fp16").max else "fp32"
