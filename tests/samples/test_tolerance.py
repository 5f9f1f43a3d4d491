"""Error bounds as text, and what they allow."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lutc import formats
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.samples.tolerance import ErrorBound

Y = np.array([-3.0, -1e-9, 0.0, 0.3, 2.0])
Q16 = formats.get("q1.6")


@pytest.mark.parametrize(
    ("text", "size", "unit"),
    [
        ("0.01", 0.01, ""),
        ("1lsb", 1.0, "lsb"),
        (" 0.5 % ", 0.5, "%"),
        ("2ULP", 2.0, "ulp"),
        ("1e-3", 1e-3, ""),
        ("1.5e+2lsb", 150.0, "lsb"),
    ],
)
def test_bounds_are_read(text, size, unit):
    assert ErrorBound.parse(text) == ErrorBound(size, unit)


@pytest.mark.parametrize(
    "text", ["", "lsb", "-1", "0", "0lsb", "1.2.3", ".", "1 foo", "nan", "inf", "1e999", "1%%", "٣", "1\nlsb x"]
)
def test_what_is_no_bound(text):
    with pytest.raises(LutcError, match="an error bound is a positive number") as error:
        ErrorBound.parse(text)
    assert "\n" not in str(error.value)


@given(st.text(max_size=12))
def test_any_text_is_a_bound_or_an_error(text):
    try:
        assert ErrorBound.parse(text).size > 0
    except LutcError:
        pass


def test_tolerances():
    def allowed(text, out=None, fmt=Q16, inputs=()):
        return ErrorBound.parse(text).tolerance(Y, out, fmt, inputs)

    np.testing.assert_array_equal(allowed("0.01"), np.full(5, 0.01))
    np.testing.assert_allclose(allowed("50%"), [1.5, 2.0**-15, 2.0**-15, 0.15, 1.0])
    np.testing.assert_array_equal(allowed("2lsb"), np.full(5, 2 / 64))
    np.testing.assert_array_equal(allowed("0.5lsb", Inputs(8, 0.1)), np.full(5, 0.05))
    np.testing.assert_array_equal(allowed("1lsb", Inputs(8, 0.1), formats.get("fp16")), np.full(5, 0.1))
    np.testing.assert_array_equal(
        allowed("1ulp", None, formats.get("fp32"), "bf16"), [2.0**-6, 2.0**-37, 2.0**-133, 2.0**-9, 2.0**-6]
    )
    np.testing.assert_array_equal(allowed("1ulp", None, formats.get("fp16")), formats.get("fp16").ulp(Y))


def test_units_that_need_more():
    with pytest.raises(LutcError, match="ulp needs float"):
        ErrorBound.parse("1ulp").tolerance(Y, None, Q16, ())
    with pytest.raises(LutcError, match="lsb needs an output scale"):
        ErrorBound.parse("1lsb").tolerance(Y, None, formats.get("fp16"), "fp16")
