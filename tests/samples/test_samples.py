"""Inputs and where a table is judged."""

import numpy as np
import pytest

from lutc import formats, functions
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.samples.samples import code_samples, format_samples, grid_samples

GELU = functions.get("gelu")


@pytest.mark.parametrize(("bits", "zero_point"), [(2, 0), (4, -3), (8, 0), (8, 127), (12, 5), (16, -32768)])
def test_codes(bits, zero_point):
    inputs = Inputs(bits, 0.25, zero_point)
    q = inputs.codes()
    assert q[0] == -(2 ** (bits - 1)) and q[-1] == 2 ** (bits - 1) - 1 and q.size == 2**bits
    np.testing.assert_array_equal(inputs.x(), [0.25 * (int(v) - zero_point) for v in q])
    np.testing.assert_array_equal(inputs.quantise(inputs.x()), q)


def test_quantising_rounds_half_to_even_and_clamps():
    inputs = Inputs(8, 0.5, 3)
    x = np.array([0.25, 0.75, -0.25, -0.75, 1.249, np.nan, np.inf, -np.inf, 1e308, -1e308])
    np.testing.assert_array_equal(inputs.quantise(x), [3, 5, 3, 1, 5, 3, 127, -128, 127, -128])
    assert Inputs(8, 2.0**-60).quantise(1e308) == 127


@pytest.mark.parametrize("scale", [2.0**-9, 2.0**-6, 0.5, 1.0, 2.0, 4.0])
def test_power_of_a_scale(scale):
    assert 2.0 ** -Inputs(8, scale).power == scale


def test_no_power():
    assert Inputs(8, 0.1).power is None and Inputs(8, 3.0).power is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((1,), "2 to 16 bits; given 1"),
        ((17,), "2 to 16 bits"),
        ((8.0,), "2 to 16 bits"),
        (("8",), "2 to 16 bits"),
        ((8, 0.0), "positive finite"),
        ((8, -1.0), "positive finite"),
        ((8, float("nan")), "positive finite"),
        ((8, float("inf")), "positive finite"),
        ((8, "1"), "positive finite"),
        ((8, 10**400), "positive finite"),
        ((8, 1.0, 128), "-128..127; given 128"),
        ((8, 1.0, 0.5), "zero point"),
        ((8, 1.0, True), "zero point"),
    ],
)
def test_inputs_are_checked(given, message):
    with pytest.raises(LutcError, match=message):
        Inputs(*given)


def test_code_samples_lie_in_the_range_and_the_domain():
    s = code_samples(GELU, Inputs(8, 2.0**-4), -1.0, 2.0)
    np.testing.assert_array_equal(s.x, np.arange(-16, 33) / 16)
    np.testing.assert_array_equal(s.y, GELU(s.x))
    assert (s.weight == 1).all() and len(s) == 49
    positive = code_samples(functions.get("log"), Inputs(8, 2.0**-4), -1.0, 2.0)  # undefined below 0, infinite at 0
    np.testing.assert_array_equal(positive.x, np.arange(1, 33) / 16)


def test_no_code_in_the_range():
    with pytest.raises(
        LutcError, match=r"no code of 8 bits at scale 0.001 lies in \[1, 2\].*choose another scale or range"
    ):
        code_samples(GELU, Inputs(8, 0.001), 1.0, 2.0)


@pytest.mark.parametrize("name", ["fp16", "bf16"])
def test_format_samples_are_all_values(name):
    s = format_samples(GELU, name, -2.0, 3.0)
    every = formats.get(name).decode(np.arange(1 << 16))
    np.testing.assert_array_equal(s.x, np.unique(every[(every >= -2.0) & (every <= 3.0)]))
    assert (np.diff(s.x) > 0).all()


def test_only_sixteen_bit_formats_are_listed():
    for name in ("fp32", "fp8_e4m3", "q4.11"):
        with pytest.raises(LutcError, match="fp16 or bf16"):
            format_samples(GELU, name, -1.0, 1.0)


def test_grid_samples():
    s = grid_samples(GELU, -4.0, 4.0, 9)
    np.testing.assert_array_equal(s.x, np.arange(-4.0, 5.0))


def test_weights():
    x = code_samples(GELU, Inputs(8, 2.0**-3), -4.0, 4.0).x

    def weight(of):
        return code_samples(GELU, Inputs(8, 2.0**-3), -4.0, 4.0, of).weight

    assert (weight("uniform") == 1).all()
    np.testing.assert_allclose(weight("gauss"), np.exp(-(x**2) / 2), rtol=1e-14)
    np.testing.assert_allclose(weight("gauss:0.5"), np.exp(-2 * x**2), rtol=1e-14)
    np.testing.assert_array_equal(weight(lambda v: v**2), x**2)


@pytest.mark.parametrize("weight", ["gaus", "gauss:0", "gauss:-1", "gauss:x", "gauss:nan", 3])
def test_unknown_weights(weight):
    with pytest.raises(LutcError, match="gauss:SIGMA"):
        code_samples(GELU, Inputs(8, 0.125), -4.0, 4.0, weight)


@pytest.mark.parametrize(
    "weight", [lambda x: -x, lambda x: 0 * x, lambda x: x[1:], lambda x: np.log(np.maximum(x, 1)) * np.inf], ids="abcd"
)
def test_useless_weights(weight):
    with np.errstate(invalid="ignore"), pytest.raises(LutcError, match="finite, not negative"):
        code_samples(GELU, Inputs(8, 0.125), -4.0, 4.0, weight)
