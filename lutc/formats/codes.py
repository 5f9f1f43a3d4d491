"""Integer codes and the real numbers they stand for."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import numpy.typing

from lutc.errors import LutcError

HALF_UP, HALF_AWAY, HALF_EVEN = "half_up", "half_away", "half_even"
ROUNDINGS = (HALF_UP, HALF_AWAY, HALF_EVEN)


def parse_number(text: str) -> float:
    """A finite or infinite number as a person writes a scale: 0.0625, 2^-4, 2**-4 or 1/16. LutcError
    for anything else.
    """
    power = re.fullmatch(r"\s*2(?:\^|\*\*)\s*([+-]?\d{1,4})\s*", str(text))
    try:
        if power:
            return 2.0 ** int(power.group(1))
        numerator, slash, denominator = str(text).partition("/")
        return float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, OverflowError, ZeroDivisionError):
        raise LutcError(f"{text!r} is no number; write 0.0625, 2^-4, 2**-4 or 1/16") from None


@dataclass(frozen=True)
class Inputs:
    """Codes q of a quantised input stand for x = scale * (q - zero_point), q signed with 2 to 16 bits."""

    bits: int = 8
    scale: float = 1.0
    zero_point: int = 0
    rounding: ClassVar[str] = HALF_UP  # of plain codes that stand for an output; `Outputs` gives others

    def __post_init__(self) -> None:
        if not (isinstance(self.bits, (int, np.integer)) and 2 <= self.bits <= 16):
            raise LutcError(f"codes have 2 to 16 bits; given {self.bits!r:.40}")
        if not (isinstance(self.scale, (int, float, np.number)) and 2.0**-64 <= self.scale <= 2.0**64):
            raise LutcError(
                f"the scale of codes is a positive finite number, from 2^-64 to 2^64; given {self.scale!r:.40}"
            )
        whole = isinstance(self.zero_point, (int, np.integer)) and not isinstance(self.zero_point, bool)
        if not (whole and self.minimum <= self.zero_point <= self.maximum):
            raise LutcError(
                f"the zero point of {self.bits}-bit codes lies in {self.minimum}..{self.maximum}; given "
                f"{str(self.zero_point):.40}"
            )

    @property
    def written(self) -> str:
        """The scale as all output writes it: 2^-4, or digits where it is no power of two; a zero point beside it."""
        scale = f"2^{-self.power}" if self.power is not None else f"{self.scale:.9g}"
        return f"{scale}, zero point {self.zero_point}" if self.zero_point else scale

    @property
    def minimum(self) -> int:
        return -(1 << (self.bits - 1))

    @property
    def maximum(self) -> int:
        return (1 << (self.bits - 1)) - 1

    @property
    def power(self) -> int | None:
        """b where the scale is 2**-b, else None."""
        mantissa, exponent = np.frexp(self.scale)
        return int(1 - exponent) if mantissa == 0.5 else None

    def codes(self) -> np.ndarray:
        """All codes, ascending, int64."""
        return np.arange(self.minimum, self.maximum + 1)

    def x(self) -> np.ndarray:
        """The real values of all codes, float64."""
        return self.scale * (self.codes() - self.zero_point)

    def quantise(self, x: np.typing.ArrayLike) -> np.ndarray:
        """Codes (int64) of real x: rounded half to even, clamped; NaN becomes the zero point."""
        with np.errstate(over="ignore"):
            q = np.rint(np.asarray(x, np.float64) / self.scale) + self.zero_point
        return np.clip(
            np.nan_to_num(q, nan=self.zero_point, posinf=self.maximum, neginf=self.minimum), self.minimum, self.maximum
        ).astype(np.int64)


@dataclass(frozen=True)
class Outputs(Inputs):
    """Output codes, and how halves between two of them round: `half_up` (lutc's own), `half_away` from zero (TFLite,
    CMSIS-NN) or `half_even` (PyTorch, ONNX).
    """

    rounding: str = HALF_UP  # type: ignore[misc]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rounding(self.rounding)

    @property
    def written(self) -> str:
        return super().written + (f", {self.rounding}" if self.rounding != HALF_UP else "")


def check_rounding(rounding: object) -> str:
    """It itself, if it is one of ROUNDINGS; else LutcError."""
    if rounding not in ROUNDINGS:
        raise LutcError(f"`rounding` of output codes is one of {', '.join(ROUNDINGS)}; given {rounding!r:.40}")
    return str(rounding)


def output_record(out: Inputs) -> dict:
    """Output codes as files state them: `Outputs(**record)` reads it. Halves up are what absence means."""
    record = asdict(out)
    return record if out.rounding != HALF_UP else {k: v for k, v in record.items() if k != "rounding"}


def round_to_codes(out: Inputs, y: np.typing.ArrayLike) -> np.ndarray:
    """Output codes (int64) of real y, halves as `out` rounds them; saturated, NaN becomes the zero point."""
    with np.errstate(over="ignore"):
        steps = np.asarray(y, np.float64) / out.scale
    if out.rounding == HALF_EVEN:
        whole = np.rint(steps)
    else:  # a step that is no half rounds the same way everywhere; floor(x + 1/2) would not for 0.5 - 2**-54
        lower = np.floor(steps)
        half = np.where(np.isfinite(steps), steps, 0.0) - np.where(np.isfinite(lower), lower, 0.0) == 0.5
        up = lower + (1.0 if out.rounding == HALF_UP else steps > 0)
        whole = np.where(half, up, np.rint(steps))
    whole = np.nan_to_num(whole + out.zero_point, nan=out.zero_point, posinf=out.maximum, neginf=out.minimum)
    return np.clip(whole, out.minimum, out.maximum).astype(np.int64)
