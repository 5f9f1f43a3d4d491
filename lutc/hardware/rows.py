"""Integer-only softmax, LayerNorm and RMSNorm in numpy: the models that every integer backend is held to, bit by bit.

int8 or int16 codes in, codes of 8 or 16 bits out; between them integers only. For int8, sums and products of two
operands fit int32 (checked when a model is built, or against the row's length); norms of int16 codes take sums and
products of int64. Requantising multiplies into int64, as lutc.table.integer's rule does. The
division of softmax and the inverse square root of the norms are tables over the mantissa that is left when the leading
one of the sum is shifted to its place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from lutc.certify.coverage import EXP, RECIPROCAL, RSQRT, Interval, serving_key
from lutc.checks import is_finite, is_int
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.formats.requantise import INT32_MAX, requantise, requantiser
from lutc.table.integer import IntegerLines, integer_lines
from lutc.table.library import TableSource

EXP_BITS = (
    12  # exp(0) = 1 is 1 << 12: rows of half a million fit an int32 sum, and 2**-12 is a sixteenth of an output code
)
ROOT_BITS = 15  # results of the reciprocal and rsqrt tables, in (1/2, 1], have 15 fraction bits
RECIPROCAL_INPUTS = Inputs(bits=16, scale=2.0**-14)  # [1, 2) is 16,384 .. 32,767
RSQRT_INPUTS = Inputs(bits=16, scale=2.0**-13)  # [1, 4) is 8,192 .. 32,767
DEVIATION_BITS = 7  # fraction bits of a deviation from the mean: 255 << 7 fits 16 bits
LARGEST_DEVIATION = 255  # |q - q'| of int8 codes
DROPPED_BITS = {8: 0, 16: 7}  # of deviation x root, rounded off, so that requantising it fits int64
FINEST = 2.0**-24  # output scale: finer ones could not be requantised by a shift to the right


def leading_one(x: np.ndarray | int) -> np.ndarray:
    """Index of the highest set bit of positive integers below 2**63 (int64): floor(log2 x) without floating point."""
    x = np.asarray(x, np.int64).copy()
    index = np.zeros_like(x)
    for step in (32, 16, 8, 4, 2, 1):
        large = x >= 1 << step
        index += large * step
        x = np.where(large, x >> step, x)
    return index


def shift_to(x: np.ndarray | int, places: ArrayLike) -> np.ndarray:
    """x * 2**places, rounded half up where places < 0 (int64, elementwise)."""
    x, places = np.asarray(x, np.int64), np.asarray(places, np.int64)
    right = np.maximum(-places, 0)
    return np.where(places >= 0, x << np.maximum(places, 0), (x + ((1 << right) >> 1)) >> right)


def divide(numerator: np.ndarray | int, n: int) -> np.ndarray:
    """numerator / n rounded half up, n > 0."""
    return (2 * np.asarray(numerator, np.int64) + n) // (2 * n)


def row_requantise(acc: np.ndarray | int, multiplier: int, shift: ArrayLike) -> np.ndarray:
    """lutc.table.integer.requantise with a shift per row, of at least 0; from 62 bits on the result is 0 for
    |acc * multiplier| < 2**61. Where a shift would be negative acc is 0 in every model.
    """
    shift = np.clip(np.asarray(shift, np.int64), 0, 62)
    return (np.asarray(acc, np.int64) * multiplier + ((np.int64(1) << shift) >> 1)) >> shift


def root_codes(lines: IntegerLines, mantissa: np.ndarray) -> np.ndarray:
    """Reciprocal or rsqrt of a mantissa code, ROOT_BITS fraction bits."""
    return requantise(lines.accumulate(mantissa), *requantiser(lines.unit * 2.0**ROOT_BITS))


def root_lines(source: TableSource, interval: Interval, inputs: Inputs) -> IntegerLines:
    """The best table over codes of the set, checked over every mantissa code: positive and small enough for a 16 x 17
    bit product.
    """
    tables, key = serving_key(source, interval)
    lines = integer_lines(tables[key], inputs)
    codes = root_codes(lines, np.arange(round(interval.lo / inputs.scale), inputs.maximum + 1))
    if codes.min() <= 0:
        raise LutcError(
            f"the {interval.function} table '{tables.name}' is not positive on {interval}; use more entries"
        )
    return lines


def _positive(name: str, value: float) -> float:
    if not (is_finite(value) and value > 0):
        raise LutcError(f"{name} is a positive finite number; given {value}")
    if not 2.0**-64 <= value <= 2.0**64:
        raise LutcError(f"{name} lies between 2^-64 and 2^64; given {value}")
    return float(value)


@dataclass(frozen=True, eq=False)
class OutputCodes:
    """Scale, zero point and limits of the codes that come out."""

    scale: float
    zero_point: int
    minimum: int
    maximum: int

    def __post_init__(self):
        if not FINEST <= _positive("out_scale", self.scale):
            raise LutcError(f"out_scale must be at least 2**-24; given {self.scale}")
        if not (is_int(self.zero_point) and self.minimum <= self.zero_point <= self.maximum):
            raise LutcError(f"out_zero_point lies in {self.minimum}..{self.maximum}; given {self.zero_point!r:.40}")
        object.__setattr__(self, "zero_point", int(self.zero_point))

    def saturate(self, codes: np.ndarray) -> np.ndarray:
        return np.clip(codes + self.zero_point, self.minimum, self.maximum)


@dataclass(frozen=True, eq=False)
class IntegerSoftmaxModel:
    """Softmax over the last axis of codes of `bits` bits at `scale`; the zero point cancels.

    d = q - max in [1 - 2**bits, 0]; p = exp table at d, requantised to EXP_BITS and clamped at 0; s = sum p (int32);
    s = m * 2**L with m in [1, 2); r = reciprocal table at m; code = round(p r 2**-L / out_scale). Rows that are masked
    as a whole give the code of 0.
    """

    exp: IntegerLines
    reciprocal: IntegerLines
    out: OutputCodes
    longest_row: int
    bits: int = 8

    @classmethod
    def build(
        cls, exp: TableSource, reciprocal: TableSource, scale: float, out: OutputCodes, bits: int = 8
    ) -> IntegerSoftmaxModel:
        """Of a table over 8-bit codes the one whose codes reach as far as those of 16 bits serves these."""
        scale = _positive("scale", scale)
        _check_bits(bits)
        tables, _ = serving_key(exp, EXP)
        if not tables.inputs:
            raise LutcError(
                f"an integer softmax takes exp tables over codes; '{tables.name}' holds float tables "
                f"({', '.join(tables)})"
            )
        wide = bits == 16 and all(inputs.bits == 8 for inputs in tables.inputs.values())
        key = tables.key_for_scale(scale * 256 if wide else scale)
        # differences of two codes: of 9 bits, or of 16 below the largest code
        differences = Inputs(9, scale) if bits == 8 else Inputs(16, scale, (1 << 15) - 1)
        lines = integer_lines(tables[key], differences)
        weights = exp_codes(lines, np.arange(1 - (1 << bits), 1))
        if weights[-1] <= 0:
            raise LutcError(
                f"the exp table '{tables.name}' gives {weights[-1]} / {1 << EXP_BITS} at 0; use a table whose range "
                "ends at 0"
            )
        roots = root_lines(reciprocal, RECIPROCAL, RECIPROCAL_INPUTS)
        return cls(lines, roots, out, INT32_MAX // int(weights.max()), bits)

    def check_row(self, n: int) -> None:
        if n > self.longest_row:
            raise LutcError(
                f"a row of {n} could overflow the int32 sum of the integer softmax; rows have at most "
                f"{self.longest_row} elements here"
            )

    def __call__(self, q, mask=None) -> np.ndarray:
        """Codes (int64, shape of q); `mask` (broadcast to q) is True where an element takes part."""
        q = np.asarray(q, np.int64)
        self.check_row(q.shape[-1])
        if q.size == 0:
            return np.zeros_like(q)
        keep = np.ones(q.shape, bool) if mask is None else np.broadcast_to(np.asarray(mask, bool), q.shape)
        top = np.where(keep, q, -(1 << (self.bits - 1))).max(axis=-1, keepdims=True)
        weights = np.where(keep, exp_codes(self.exp, np.minimum(q - top, 0)), 0)
        total = np.maximum(weights.sum(axis=-1, keepdims=True), 1)
        leading = leading_one(total)
        mantissa = np.minimum(shift_to(total, 14 - leading), RECIPROCAL_INPUTS.maximum)
        multiplier, shift = requantiser(2.0**-ROOT_BITS / self.out.scale)
        return self.out.saturate(
            row_requantise(weights * root_codes(self.reciprocal, mantissa), multiplier, shift + leading)
        )


def exp_codes(lines: IntegerLines, difference: np.ndarray | int) -> np.ndarray:
    """exp of a code difference, at most 0, EXP_BITS fraction bits, clamped to [0, 2)."""
    acc = lines.accumulate(difference + lines.inputs.zero_point)
    codes = requantise(acc, *requantiser(lines.unit * 2.0**EXP_BITS))
    return np.clip(codes, 0, (2 << EXP_BITS) - 1)


@dataclass(frozen=True, eq=False)
class IntegerNormModel:
    """LayerNorm (`centred`) or RMSNorm over the last axis of n codes of `bits` bits with zero point z; weight and bias
    as integers.

    c = q - z; the deviations from the rounded mean are exact integers, their sum corrects both variance and deviations
    to `fraction` bits: A = n 2**fraction (variance + eps / scale**2), int32 (int64 for 16 bits). A = m * 4**e with m in
    [1, 4); r = rsqrt table at m; h = deviation r 2**-e (`dropped` bits of the product rounded off first), brought to an
    int16 with `hidden_bits` fraction bits; code = round((weight h + bias) unit / out_scale).
    """

    n: int
    centred: bool
    zero_point: int
    fraction: int
    epsilon: int
    rsqrt: IntegerLines
    hidden_bits: int
    weight: np.ndarray | None
    bias: np.ndarray | None
    unit: float
    out: OutputCodes
    bits: int = 8

    @classmethod
    def build(
        cls,
        rsqrt: TableSource,
        n: int,
        scale: float,
        zero_point: int,
        eps: float,
        weight: ArrayLike | None,
        bias: ArrayLike | None,
        centred: bool,
        out: OutputCodes,
        bits: int = 8,
    ) -> IntegerNormModel:
        scale = _positive("scale", scale)
        _check_bits(bits)
        half = 1 << (bits - 1)
        if not (is_int(zero_point) and -half <= zero_point < half):
            raise LutcError(f"the zero point of {bits}-bit codes lies in {-half}..{half - 1}; given {zero_point!r:.40}")
        if not (is_finite(eps) and eps >= 0):
            raise LutcError(f"eps is a finite number, not negative; given {eps!r:.40}")
        fraction, epsilon = _variance_bits(n, eps / scale**2, bits)
        hidden_bits = min(14, math.floor(math.log2(32767 / math.sqrt(n))))
        integers = _affine_codes(n, weight, bias, hidden_bits)
        lines = root_lines(rsqrt, RSQRT, RSQRT_INPUTS)
        return cls(n, centred, int(zero_point), fraction, epsilon, lines, hidden_bits, *integers, out, bits)

    @property
    def dropped(self) -> int:
        return DROPPED_BITS[self.bits]

    @property
    def hidden_requantiser(self) -> tuple[int, int]:
        """deviation (7 bits) x root (15 bits), less what is dropped, x sqrt(n 2**fraction) to hidden_bits."""
        fraction = DEVIATION_BITS + ROOT_BITS - self.dropped
        return requantiser(math.sqrt(self.n * 2.0**self.fraction) * 2.0 ** (self.hidden_bits - fraction))

    def __call__(self, q) -> np.ndarray:
        """Codes (int64, shape of q)."""
        c = np.asarray(q, np.int64) - self.zero_point
        if c.shape[-1] != self.n:
            raise LutcError(f"this norm takes rows of {self.n}; given {c.shape[-1]}")
        rest = np.zeros((*c.shape[:-1], 1), np.int64)
        if self.centred:
            total = c.sum(axis=-1, keepdims=True)
            mean = divide(total, self.n)
            c, rest = c - mean, total - self.n * mean
        squares = (np.square(c).sum(axis=-1, keepdims=True) << self.fraction) - divide(
            np.square(rest) << self.fraction, self.n
        )
        spread = np.maximum(squares + self.epsilon, 1)
        half = leading_one(spread) >> 1
        mantissa = np.minimum(shift_to(spread, 13 - 2 * half), RSQRT_INPUTS.maximum)
        deviation = (c << DEVIATION_BITS) - divide(rest << DEVIATION_BITS, self.n)
        multiplier, shift = self.hidden_requantiser
        product = shift_to(deviation * root_codes(self.rsqrt, mantissa), -self.dropped)
        hidden = np.clip(row_requantise(product, multiplier, shift + half), -32768, 32767)
        acc = hidden if self.weight is None else hidden * self.weight
        acc = acc if self.bias is None else acc + self.bias
        return self.out.saturate(requantise(acc, *requantiser(self.unit / self.out.scale)))


def _check_bits(bits: int) -> None:
    if bits not in DROPPED_BITS:
        raise LutcError(f"bits of the input codes are 8 or 16; given {bits}")


def _variance_bits(n: int, eps_codes: float, bits: int) -> tuple[int, int]:
    """(fraction, epsilon): the most fraction bits (up to 14) with n ((2**bits - 1)**2 + eps / scale**2) 2**fraction
    inside int32, for 16 bits inside 62 bits, as n**2 2**fraction then is too.
    """
    if n < 1:
        raise LutcError("a norm needs at least one feature")
    largest, limit = (1 << bits) - 1, INT32_MAX if bits == 8 else 1 << 62
    for fraction in range(14, -1, -1):
        epsilon = math.floor(n * eps_codes * 2.0**fraction + 0.5)
        if (n * largest**2 << fraction) + epsilon <= limit and n * n << fraction <= 1 << 62:
            return fraction, max(epsilon, 1 if eps_codes > 0 else 0)
    if bits == 16:
        raise LutcError(
            "an integer norm of 16-bit codes needs n * (65535**2 + eps / scale**2) and n**2 below 2**62; given "
            f"n = {n} and eps / scale**2 = {eps_codes:.4g}"
        )
    longest = INT32_MAX // largest**2
    raise LutcError(
        f"the int32 sum of squares of an integer norm holds rows of at most {longest}, and n * (255**2 + eps / "
        f"scale**2) must stay below 2**31; given n = {n} and eps / scale**2 = {eps_codes:.4g}"
    )


def _affine_codes(n: int, weight, bias, hidden_bits: int) -> tuple[np.ndarray | None, np.ndarray | None, float]:
    """(weight int16, bias int32, unit): weight at one scale for the tensor, bias at weight scale * 2**-hidden_bits."""
    values = {}
    for name, given in (("weight", weight), ("bias", bias)):
        if given is None:
            continue
        values[name] = np.asarray(given, np.float64)
        if values[name].shape != (n,) or not np.isfinite(values[name]).all():
            raise LutcError(f"{name} has {n} finite numbers; given shape {values[name].shape}")
    hidden = 2.0**-hidden_bits
    if "weight" not in values and "bias" not in values:
        return None, None, hidden
    # Without a weight the bias still needs steps finer than the hidden codes'; 2**-8 leaves the product far inside
    # int32.
    largest = np.abs(values["weight"]).max() if "weight" in values else 0.0
    step = largest / 32767 if largest > 0 else 2.0**-8
    weights = (
        np.rint(values["weight"] / step).astype(np.int64)
        if "weight" in values
        else np.full(n, round(1 / step), np.int64)
    )
    biases = np.floor(values["bias"] / (step * hidden) + 0.5) if "bias" in values else None
    reach = np.abs(weights) * 32768.0 + (0.0 if biases is None else np.abs(biases))
    if reach.max() > INT32_MAX:
        at = int(np.argmax(reach))
        raise LutcError(
            f"the bias of feature {at} ({values['bias'][at]:.4g}) is too large beside the largest weight "
            f"({largest:.4g}): weight x 2**15 + bias "
            f"would reach {reach.max():.4g}, beyond int32; fold the bias into the next layer"
        )
    return weights, None if biases is None else biases.astype(np.int64), step * hidden
