"""Number formats: fixed point qI.F and binary floating point, from a few stored fields; everything else is derived.

All arithmetic is on float64 arrays that hold values of the format exactly. Rounding is to nearest, ties to even, in one
step from float64 (a detour over fp32, as a cast to bf16 or fp8 may take, rounds twice). Finite overflow saturates to
the largest value.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lutc.errors import LutcError


def _float64(x) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # widening a signalling NaN warns
        return np.asarray(x, np.float64)


@dataclass(frozen=True)
class Format:
    """A number format of up to 32 bits.

    Fixed point (`kind == "fixed"`): two's complement with a sign, `integer_bits` and `fraction_bits`; value = code *
    2**-fraction_bits. There is no -0, no infinity and no NaN; every operation passes NaN through as NaN, to be caught
    by its caller.

    Floating point (`kind == "float"`): sign, `exponent_bits`, `mantissa_bits` stored (without the hidden bit), with
    subnormals. With `ieee` the top exponent holds infinities and NaNs; without it (fp8 e4m3, arXiv:2209.05433) it holds
    numbers, but for the one code of all ones per sign, which is NaN.
    """

    name: str
    kind: str
    integer_bits: int = 0
    fraction_bits: int = 0
    exponent_bits: int = 0
    mantissa_bits: int = 0
    ieee: bool = True
    dtype_name: str | None = None  # the name of the type in torch, and in numpy or ml_dtypes

    @property
    def is_fixed(self) -> bool:
        return self.kind == "fixed"

    @property
    def bits(self) -> int:
        """Width of a code, the sign included."""
        return 1 + self.integer_bits + self.fraction_bits + self.exponent_bits + self.mantissa_bits

    @property
    def step(self) -> float:
        """Distance between neighbours of a fixed-point format."""
        if not self.is_fixed:
            raise LutcError(f"format {self.name} is floating point and has no one step; use ulp(x)")
        return 2.0**-self.fraction_bits

    @property
    def exponent_bias(self) -> int:
        """Bias of the stored exponent (floating point; 0 for fixed point)."""
        return 0 if self.is_fixed else 2 ** (self.exponent_bits - 1) - 1

    @property
    def max(self) -> float:
        """Largest finite value."""
        if self.is_fixed:
            return 2.0**self.integer_bits - self.step
        top = 2**self.exponent_bits - (2 if self.ieee else 1)
        fraction = 2.0 - 2.0**-self.mantissa_bits * (1 if self.ieee else 2)
        return fraction * 2.0 ** (top - self.exponent_bias)

    @property
    def min(self) -> float:
        """Most negative finite value."""
        return -(2.0**self.integer_bits) if self.is_fixed else -self.max

    @property
    def smallest_normal(self) -> float:
        """Smallest positive normal value; fixed point: the step."""
        return self.step if self.is_fixed else 2.0 ** (1 - self.exponent_bias)

    @property
    def smallest_subnormal(self) -> float:
        """Smallest positive value; fixed point: the step."""
        return self.step if self.is_fixed else 2.0 ** (1 - self.exponent_bias - self.mantissa_bits)

    @property
    def epsilon(self) -> float:
        """Distance from 1 to the next larger value; fixed point: the step."""
        return self.step if self.is_fixed else 2.0**-self.mantissa_bits

    @property
    def has_inf(self) -> bool:
        return not self.is_fixed and self.ieee

    @property
    def has_nan(self) -> bool:
        return not self.is_fixed

    def ulp(self, x: ArrayLike) -> np.ndarray:
        """Distance between neighbours around |x|: the spacing of the binade that holds x, the step in fixed point.
        Beyond the largest value its spacing; NaN gives NaN. Shape of x, float64.
        """
        return self._spacing(_float64(x))[()]

    def round(self, x: ArrayLike) -> np.ndarray:
        """The nearest value, ties to even, float64, shape of x. NaN stays NaN; finite overflow saturates; an infinity
        stays one where the format has it and saturates otherwise. Float formats keep the sign of zero, fixed point has
        one zero.
        """
        x = _float64(x)
        rounded = self._snap(np.rint, x)
        return np.where(np.isinf(x), x, rounded)[()] if self.has_inf else rounded[()]

    def holds(self, x: ArrayLike) -> np.ndarray:
        """Whether x is exactly a value of the format; NaN and infinities where it has codes for them. Booleans, shape
        of x.
        """
        x = _float64(x)
        return ((self.round(x) == x) | (np.isnan(x) & self.has_nan))[()]

    def neighbours(self, x: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """(largest finite value <= x, smallest finite value >= x); both x itself where it is a value. Beyond the range,
        both are the end of the range. NaN gives NaN. Float64, shape of x.
        """
        x = _float64(x)
        return self._snap(np.floor, x)[()], self._snap(np.ceil, x)[()]

    def values(self) -> np.ndarray:
        """All finite values, ascending, float64, one zero; formats of up to 16 bits."""
        if self.bits > 16:
            raise LutcError(f"format {self.name} has 2**{self.bits} codes; only formats of up to 16 bits can be listed")
        decoded = self.decode(np.arange(2**self.bits))
        return np.unique(decoded[np.isfinite(decoded)]) + 0.0

    def codes(self, x: ArrayLike) -> np.ndarray:
        """Fixed point: int64 codes of the nearest values, value = code * step; shape of x. Error for NaN and for float
        formats.
        """
        if not self.is_fixed:
            raise LutcError(f"format {self.name} is floating point; encode(x) gives its bits")
        x = _float64(x)
        if np.isnan(x).any():
            raise LutcError(f"format {self.name} has no code for NaN")
        return np.rint(self._snap(np.rint, x) / self.step).astype(np.int64)[()]

    def encode(self, x: ArrayLike) -> np.ndarray:
        """Bits of the nearest values as unsigned integers (int64 array, shape of x): two's complement or sign,
        exponent, mantissa. NaN becomes the positive quiet NaN; error where the format has none.
        """
        if self.is_fixed:
            return self.codes(x) & (2**self.bits - 1)
        rounded = np.asarray(self.round(x))
        magnitude = np.abs(np.where(np.isfinite(rounded), rounded, 0.0))
        spacing = self._spacing(magnitude)
        exponent = np.where(
            magnitude < self.smallest_normal, 0, np.frexp(spacing)[1] - 1 + self.mantissa_bits + self.exponent_bias
        )
        mantissa = np.rint(magnitude / spacing).astype(np.int64) - (
            (exponent > 0).astype(np.int64) << self.mantissa_bits
        )
        pattern = (exponent.astype(np.int64) << self.mantissa_bits) + mantissa
        infinity = (2**self.exponent_bits - 1) << self.mantissa_bits
        quiet = infinity | (1 << (self.mantissa_bits - 1)) if self.ieee else infinity | (2**self.mantissa_bits - 1)
        pattern = np.where(np.isinf(rounded), infinity, pattern) | (
            np.signbit(rounded).astype(np.int64) << (self.bits - 1)
        )
        return np.where(np.isnan(rounded), quiet, pattern)[()]

    def decode(self, codes: ArrayLike) -> np.ndarray:
        """Values (float64, shape of `codes`) of unsigned integer codes in [0, 2**bits), NaN and infinities included."""
        codes = np.asarray(codes, np.int64)
        if ((codes < 0) | (codes >= 2**self.bits)).any():
            raise LutcError(f"a code of format {self.name} lies in [0, {2**self.bits - 1}]")
        sign = codes >> (self.bits - 1)
        if self.is_fixed:
            return ((codes - (sign << self.bits)) * self.step)[()]
        top = 2**self.exponent_bits - 1
        exponent = (codes >> self.mantissa_bits) & top
        mantissa = codes & (2**self.mantissa_bits - 1)
        significand = mantissa + ((exponent > 0).astype(np.int64) << self.mantissa_bits)
        shift = np.maximum(exponent, 1) - self.exponent_bias - self.mantissa_bits
        magnitude = np.ldexp(significand.astype(np.float64), shift.astype(np.int32))
        if self.ieee:
            magnitude = np.where(exponent == top, np.where(mantissa == 0, np.inf, np.nan), magnitude)
        else:
            magnitude = np.where((exponent == top) & (mantissa == 2**self.mantissa_bits - 1), np.nan, magnitude)
        return np.where(sign == 1, -magnitude, magnitude)[()]

    def _spacing(self, x: np.ndarray) -> np.ndarray:
        if self.is_fixed:
            return np.where(np.isnan(x), np.nan, self.step)
        magnitude = np.clip(np.abs(x), self.smallest_normal, self.max)
        # |x| = m * 2**exponent with m in [0.5, 1), so the last of 1 + mantissa_bits bits weighs 2**(exponent - 1 -
        # mantissa_bits).
        exponent = np.frexp(np.where(np.isnan(magnitude), 1.0, magnitude))[1]
        return np.where(np.isnan(magnitude), np.nan, np.ldexp(1.0, exponent - 1 - self.mantissa_bits))

    def _snap(self, to_integer, x: np.ndarray) -> np.ndarray:
        """to_integer (rint, floor, ceil) in units of the spacing; dividing by a power of two is exact."""
        inside = np.clip(x, self.min, self.max)
        spacing = self._spacing(inside)
        with np.errstate(invalid="ignore"):  # signalling NaNs
            snapped = to_integer(inside / spacing) * spacing
        return snapped + 0.0 if self.is_fixed else np.copysign(snapped, x)


_FLOATS = (
    Format("fp32", "float", exponent_bits=8, mantissa_bits=23, dtype_name="float32"),
    Format("bf16", "float", exponent_bits=8, mantissa_bits=7, dtype_name="bfloat16"),
    Format("fp16", "float", exponent_bits=5, mantissa_bits=10, dtype_name="float16"),
    Format("fp8_e4m3", "float", exponent_bits=4, mantissa_bits=3, ieee=False, dtype_name="float8_e4m3fn"),
    Format("fp8_e5m2", "float", exponent_bits=5, mantissa_bits=2, dtype_name="float8_e5m2"),
)
FLOAT_FORMATS = {fmt.name: fmt for fmt in _FLOATS}
_ALIASES = {"half": "fp16", "e4m3": "fp8_e4m3", "e5m2": "fp8_e5m2", "single": "fp32"} | {
    fmt.dtype_name: fmt.name for fmt in _FLOATS
}
_FIXED = re.compile(r"q(\d{1,2})\.(\d{1,2})", re.ASCII)


def get(text: str | Format) -> Format:
    """The format named `text`: 'q1.6', 'fp16' or 'half' or 'float16', 'bf16', 'fp32', 'fp8_e4m3', 'fp8_e5m2', in any
    case.
    """
    if isinstance(text, Format):
        return text
    allowed = (
        f"known: {', '.join(FLOAT_FORMATS)} and qI.F with 2 to 32 bits in all, such as q1.6 (a sign, 1 integer and 6 "
        "fraction bits)"
    )
    if not isinstance(text, str):
        raise LutcError(f"a format is given by its name, not {text!r}; {allowed}")
    name = text.strip().lower()
    name = _ALIASES.get(name, name)
    if name in FLOAT_FORMATS:
        return FLOAT_FORMATS[name]
    match = _FIXED.fullmatch(name)
    if not match:
        raise LutcError(f"unknown format {text!r}; {allowed}")
    integer, fraction = int(match[1]), int(match[2])
    if not 1 <= integer + fraction <= 31:
        raise LutcError(f"format {text!r} has {1 + integer + fraction} bits with its sign; {allowed}")
    return Format(f"q{integer}.{fraction}", "fixed", integer_bits=integer, fraction_bits=fraction)


def properties(fmt: str | Format) -> dict:
    """What characterises a format, for a listing: plain numbers, strings and None where it does not apply."""
    fmt = get(fmt)
    listed = {
        "name": fmt.name,
        "kind": fmt.kind,
        "bits": fmt.bits,
        "smallest": fmt.smallest_subnormal,
        "largest": fmt.max,
    }
    listed |= {"most_negative": fmt.min, "step_near_1": fmt.epsilon}
    if fmt.is_fixed:
        listed |= {"integer_bits": fmt.integer_bits, "fraction_bits": fmt.fraction_bits, "nan_codes": 0, "inf_codes": 0}
        listed |= dict.fromkeys(
            ("exponent_bits", "mantissa_bits", "exponent_bias", "smallest_normal", "largest_subnormal")
        )
        return listed
    listed |= {"integer_bits": None, "fraction_bits": None}
    listed |= {"nan_codes": 2 * (2**fmt.mantissa_bits - 1) if fmt.ieee else 2, "inf_codes": 2 if fmt.has_inf else 0}
    listed |= {
        "exponent_bits": fmt.exponent_bits,
        "mantissa_bits": fmt.mantissa_bits,
        "exponent_bias": fmt.exponent_bias,
    }
    return listed | {
        "smallest_normal": fmt.smallest_normal,
        "largest_subnormal": fmt.smallest_normal - fmt.smallest_subnormal,
    }


def nearest(fmt: str | Format, x: float) -> dict:
    """How `fmt` stores x: {"value", "bits", "error"}; bits are separated into sign, exponent and mantissa (or sign,
    integer and fraction) by spaces; error = value - x, 0 where x is stored exactly and None where the difference is not
    finite.
    """
    fmt = get(fmt)
    x = float(x)
    if math.isnan(x) and not fmt.has_nan:
        raise LutcError(f"format {fmt.name} has no code for NaN")
    value = float(fmt.round(x))
    pattern = f"{int(fmt.encode(x)):0{fmt.bits}b}"
    middle = 1 + (fmt.integer_bits if fmt.is_fixed else fmt.exponent_bits)
    parts = (pattern[:1], pattern[1:middle], pattern[middle:])
    error = 0.0 if value == x else value - x
    return {
        "value": value,
        "bits": " ".join(part for part in parts if part),
        "error": error if math.isfinite(error) else None,
    }
