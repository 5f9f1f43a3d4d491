"""Integer softmax and norms against docs/hardware.md, written out in Python's integers and nothing else."""

import math
from fractions import Fraction

import numpy as np
import pytest

from lutc.certify.coverage import EXP, RECIPROCAL, RSQRT, serving_key
from lutc.hardware.rows import IntegerNormModel, IntegerSoftmaxModel, OutputCodes

SIGNED, UNSIGNED = OutputCodes(2.0**-5, 3, -128, 127), OutputCodes(0.0043, 0, 0, 255)


def scaled(value: int, ratio: float, extra: int = 0) -> int:
    """round(value ratio 2^-extra) by multiplier and shift, halves up."""
    mantissa, exponent = math.frexp(ratio)
    multiplier, shift = (1, 1 - exponent) if mantissa == 0.5 else (round(mantissa * 2**31), 31 - exponent)
    shift, product = shift + extra, value * multiplier
    return product + (1 << (shift - 1)) >> shift if shift > 0 else product << -shift


def shifted(value: int, places: int) -> int:
    """value 2^places, halves up."""
    return value << places if places >= 0 else value + (1 << (-places - 1)) >> -places


def div(a: int, n: int) -> int:
    return (2 * a + n) // (2 * n)


class Unit:
    """The lines of a shipped table over codes at scale S."""

    def __init__(self, name, interval, scale=None):
        tables, key = serving_key(name, interval)
        self.table, self.scale = tables[key if scale is None else tables.key_for_scale(scale)], scale
        self.bits = int(self.table.coefficients.split(".")[1])

    def __call__(self, code: int, scale: float, bits: int) -> int:
        """The value at `code`, of `bits` fraction bits."""
        x, body = Fraction(scale) * code, self.table.body
        i = sum(Fraction(float(b)) < x for b in body.breakpoints)
        k, t = (int(Fraction(float(v[i])) * 2**self.bits) for v in (body.slopes, body.intercepts))
        return scaled(
            k * code + math.floor(Fraction(t) / Fraction(scale) + Fraction(1, 2)), scale * 2.0 ** (bits - self.bits)
        )


def softmax(row: list[int], scale: float, out: OutputCodes, bits: int = 8) -> list[int]:
    exp, reciprocal = Unit("exp_8", EXP, scale * 2.0 ** (bits - 8)), Unit("reci_8", RECIPROCAL)
    p = [min(max(exp(q - max(row), scale, 12), 0), 8191) for q in row]
    lead = sum(p).bit_length() - 1
    r = reciprocal(min(shifted(sum(p), 14 - lead), 32767), 2.0**-14, 15)
    return [min(max(scaled(v * r, 2.0**-15 / out.scale, lead) + out.zero_point, out.minimum), out.maximum) for v in p]


def norm(
    row: list[int],
    scale: float,
    zero_point: int,
    eps: float,
    weight,
    bias,
    centred: bool,
    out: OutputCodes,
    bits: int = 8,
) -> tuple[list[int], int]:
    """Codes, and the largest number before it is clamped to 16 bits."""
    n = len(row)
    reach = n * ((2**bits - 1) ** 2 + eps / scale**2)
    f = max(f for f in range(15) if max(reach, n * n if bits == 16 else 0) * 2.0**f < 2 ** (31 if bits == 8 else 62))
    epsilon = max(math.floor(n * eps / scale**2 * 2.0**f + 0.5), 1 if eps > 0 else 0)
    h = min(14, math.floor(math.log2(32767 / math.sqrt(n))))
    c, rest = [q - zero_point for q in row], 0
    if centred:
        mean = div(sum(c), n)
        c, rest = [v - mean for v in c], sum(c) - n * mean
    spread = max((sum(v * v for v in c) << f) - div(rest**2 << f, n) + epsilon, 1)
    e = (spread.bit_length() - 1) >> 1
    r = Unit("sqrt_reci_8", RSQRT)(min(shifted(spread, 13 - 2 * e), 32767), 2.0**-13, 15)
    y, d = [((v << 7) - div(rest << 7, n)) * r for v in c], 0 if bits == 8 else 7
    y = [scaled(shifted(v, -d) if d else v, math.sqrt(n * 2.0**f) * 2.0 ** (h - 22 + d), e) for v in y]
    g = 1.0 if weight is None and bias is None else 2.0**-8 if weight is None else np.abs(weight).max() / 32767
    w = [round(1 / g)] * n if weight is None else np.rint(weight / g).astype(int).tolist()
    b = [0] * n if bias is None else [math.floor(v / (g * 2.0**-h) + 0.5) for v in bias]
    codes = [
        scaled(wi * min(max(yi, -32768), 32767) + bi, g * 2.0**-h / out.scale) + out.zero_point
        for wi, yi, bi in zip(w, y, b)
    ]
    return [min(max(code, out.minimum), out.maximum) for code in codes], max(y)


@pytest.mark.parametrize("out", [UNSIGNED, OutputCodes(2.0**-8, -128, -128, 127)])
@pytest.mark.parametrize("scale", [2.0**-3, 2.0**-4, 0.07])
def test_softmax(scale, out):
    model, rng = IntegerSoftmaxModel.build("exp_8", "reci_8", scale, out), np.random.default_rng(0)
    for row in (*(rng.integers(-128, 128, n) for n in (1, 7, 300)), np.full(16, 5), np.append(np.full(40, -128), 127)):
        assert model(row).tolist() == softmax(row.tolist(), scale, out)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("affine", [(), ("weight",), ("bias",), ("weight", "bias")], ids=" ".join)
@pytest.mark.parametrize(("scale", "zero_point", "eps"), [(2.0**-4, 0, 1e-5), (0.031, -17, 1e-9), (2.0**-6, 5, 0.0)])
def test_norms(scale, zero_point, eps, affine, centred):
    rng = np.random.default_rng(1)
    for n in (1, 5, 384, 1000):
        given = {"weight": rng.normal(1.0, 1.0, n), "bias": rng.normal(0.0, 0.1, n)}
        weight, bias = (given[name] if name in affine else None for name in ("weight", "bias"))
        model = IntegerNormModel.build("sqrt_reci_8", n, scale, zero_point, eps, weight, bias, centred, SIGNED)
        for row in (rng.integers(-128, 128, n), rng.integers(-2, 3, n), np.full(n, 7)):
            assert model(row).tolist() == norm(row.tolist(), scale, zero_point, eps, weight, bias, centred, SIGNED)[0]


def test_one_feature_above_all_is_clamped_to_sixteen_bits():
    row, out = [127, *[0] * 1022], OutputCodes(2.0**-10, 0, -32768, 1 << 16)
    model = IntegerNormModel.build("sqrt_reci_8", 1023, 2.0**-4, 0, 1e-5, None, None, False, out)
    codes, largest = norm(row, 2.0**-4, 0, 1e-5, None, None, False, out)
    assert largest > 32767 and codes[0] == 32767 and model(np.array(row)).tolist() == codes


@pytest.mark.parametrize("scale", [2.0**-11, 2.0**-12, 0.0007])
def test_softmax_of_sixteen_bits(scale):
    out, rng = OutputCodes(2.0**-16, 0, 0, 65535), np.random.default_rng(2)
    model = IntegerSoftmaxModel.build("exp_8", "reci_8", scale, out, 16)
    for row in (
        *(rng.integers(-32768, 32768, n) for n in (1, 7, 300)),
        np.full(16, 5),
        np.append([-32768] * 40, 32767),
    ):
        assert model(row).tolist() == softmax(row.tolist(), scale, out, 16)


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize(("scale", "zero_point", "eps"), [(2.0**-12, 0, 1e-5), (0.0003, -1700, 1e-9), (1.0, 5, 0.0)])
def test_norms_of_sixteen_bits(scale, zero_point, eps, centred):
    rng, out = np.random.default_rng(4), OutputCodes(2.0**-12, 3, -32768, 32767)
    for n in (1, 5, 384, 1000):
        weight, bias = rng.normal(1.0, 1.0, n), rng.normal(0.0, 0.1, n)
        model = IntegerNormModel.build("sqrt_reci_8", n, scale, zero_point, eps, weight, bias, centred, out, 16)
        rows = rng.integers(-32768, 32768, n), rng.integers(-2, 3, n), np.full(n, 7), np.arange(n) * 65 % 65536 - 32768
        for row in rows:
            want = norm(row.tolist(), scale, zero_point, eps, weight, bias, centred, out, 16)[0]
            assert model(row).tolist() == want
