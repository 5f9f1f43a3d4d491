"""Number formats over every code, against ml_dtypes and numpy, and rounding against a search among all values."""

import dataclasses
import math
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lutc import formats
from lutc.errors import LutcError
from lutc.formats.format import FLOAT_FORMATS, Format, get, nearest, properties

DTYPES = {
    "fp16": np.float16,
    "bf16": ml_dtypes.bfloat16,
    "fp8_e4m3": ml_dtypes.float8_e4m3fn,
    "fp8_e5m2": ml_dtypes.float8_e5m2,
    "fp32": np.float32,
}
SMALL = [name for name in DTYPES if name != "fp32"]
FIXED = ["q1.6", "q2.5", "q0.7", "q7.0", "q4.3", "q0.1", "q1.0", "q3.12", "q0.15", "q15.0"]


def unsigned(fmt: Format):
    return {8: np.uint8, 16: np.uint16, 32: np.uint32}[fmt.bits]


def theirs(name: str) -> np.ndarray:
    """The value of every code by numpy or ml_dtypes."""
    fmt = get(name)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        return np.arange(2**fmt.bits, dtype=unsigned(fmt)).view(DTYPES[name]).astype(np.float64)


def brute_force_round(fmt: Format, x: np.ndarray) -> np.ndarray:
    """The nearest of all values, ties to the even code, in exact rational arithmetic; overflow saturates."""
    values = fmt.values()
    patterns = [int(code) for code in fmt.encode(values)]
    result = []
    for number in x:
        i = int(np.searchsorted(values, number))
        if i == 0 or i == len(values):
            result.append(values[min(i, len(values) - 1)])
            continue
        below, above = Fraction(float(values[i - 1])), Fraction(float(values[i]))
        middle, exact = (below + above) / 2, Fraction(float(number))
        up = exact > middle or (exact == middle and patterns[i] % 2 == 0)
        result.append(values[i] if up else values[i - 1])
    return np.array(result)


def hard_cases(fmt: Format, seed: int = 0) -> np.ndarray:
    """Values, midpoints, the doubles next to both, numbers whose rounding through fp32 is wrong, and random ones of
    every size.
    """
    values = fmt.values()
    if len(values) > 4000:
        values = np.unique(np.concatenate((values[:: len(values) // 3000], values[:50], values[-50:])))
    middles = (fmt.values()[:-1] + fmt.values()[1:]) / 2
    middles = middles[:: max(1, len(middles) // 3000)]
    near = np.concatenate((values, middles))
    through_fp32 = middles * (1 + 2.0**-40), middles * (1 - 2.0**-40)
    rng = np.random.default_rng(seed)
    spread = fmt.smallest_subnormal * 2.0 ** rng.uniform(-3, math.log2(fmt.max / fmt.smallest_subnormal) + 2, 2000)
    both = np.concatenate((spread, -spread))
    return np.concatenate(
        (
            near,
            np.nextafter(near, np.inf),
            np.nextafter(near, -np.inf),
            *through_fp32,
            both,
            [1e300, -1e300, 5e-324, 0.0],
        )
    )


# floating point against numpy and ml_dtypes


@pytest.mark.parametrize("name", SMALL)
def test_every_code_decodes_as_elsewhere(name):
    fmt = get(name)
    codes = np.arange(2**fmt.bits)
    np.testing.assert_array_equal(fmt.decode(codes), theirs(name))
    zeros = fmt.decode(np.array([0, 2 ** (fmt.bits - 1)]))
    assert not np.signbit(zeros[0]) and np.signbit(zeros[1])


@pytest.mark.parametrize("name", SMALL)
def test_every_code_encodes_to_itself(name):
    fmt = get(name)
    codes = np.arange(2**fmt.bits)
    decoded = fmt.decode(codes)
    number = ~np.isnan(decoded)
    np.testing.assert_array_equal(fmt.encode(decoded[number]), codes[number])
    assert np.isnan(fmt.decode(fmt.encode(np.nan)))


@pytest.mark.parametrize("name", SMALL)
def test_values_are_all_finite_codes(name):
    expected = theirs(name)
    expected = np.unique(expected[np.isfinite(expected)])
    got = get(name).values()
    np.testing.assert_array_equal(got, expected)
    assert not np.signbit(got[got == 0]).any() and (np.diff(got) > 0).all()


@pytest.mark.parametrize("name", DTYPES)
def test_constants_against_finfo(name):
    fmt, info = get(name), ml_dtypes.finfo(DTYPES[name])
    assert (fmt.bits, fmt.mantissa_bits, fmt.exponent_bits) == (info.bits, info.nmant, info.nexp)
    assert (fmt.max, fmt.min, fmt.epsilon) == (float(info.max), float(info.min), float(info.eps))
    assert (fmt.smallest_normal, fmt.smallest_subnormal) == (
        float(info.smallest_normal),
        float(info.smallest_subnormal),
    )
    assert fmt.dtype_name == np.dtype(DTYPES[name]).name
    assert not fmt.is_fixed and fmt.has_nan and fmt.has_inf == (name != "fp8_e4m3")


def test_fp32_rounds_and_encodes_as_numpy():
    fmt = get("fp32")
    rng = np.random.default_rng(3)
    random = rng.integers(0, 2**64, 200_000, dtype=np.uint64).view(np.float64)
    singles = rng.integers(0, 2**32, 200_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    singles = singles[np.isfinite(singles)]
    subnormal = rng.uniform(-1, 1, 20_000) * 2.0**-126
    middles = singles.astype(np.float64) + np.spacing(singles).astype(np.float64) / 2
    x = np.concatenate((random, singles, subnormal, middles, [fmt.max, 3.5e38, np.inf, -np.inf, np.nan, 0.0, -0.0]))
    with np.errstate(all="ignore"):
        expected = x.astype(np.float32)
    overflow = np.isinf(expected) & np.isfinite(x)
    expected[overflow] = np.copysign(np.float32(fmt.max), x[overflow])
    rounded = fmt.round(x)
    np.testing.assert_array_equal(rounded, expected.astype(np.float64))
    np.testing.assert_array_equal(np.signbit(rounded), np.signbit(expected))
    number = ~np.isnan(x)
    np.testing.assert_array_equal(fmt.encode(x[number]), expected[number].view(np.uint32).astype(np.int64))
    np.testing.assert_array_equal(fmt.decode(fmt.encode(x[number])), expected[number].astype(np.float64))
    with pytest.raises(LutcError, match="up to 16 bits"):
        fmt.values()


def test_rounding_once_where_a_cast_through_fp32_rounds_twice():
    """1 + 2^-8 is the tie between two neighbours in bf16; just above it lies nearer to the upper, but in fp32 becomes
    the tie.
    """
    x = 1 + 2.0**-8 + 2.0**-40
    assert float(np.float32(x)) == 1 + 2.0**-8
    assert get("bf16").round(x) == 1 + 2.0**-7
    assert get("bf16").round(1 + 2.0**-8) == 1.0


@pytest.mark.parametrize("name", SMALL + FIXED)
def test_rounding_is_nearest_even(name):
    fmt = get(name)
    x = hard_cases(fmt)
    np.testing.assert_array_equal(fmt.round(x), brute_force_round(fmt, x))


@pytest.mark.parametrize("name", SMALL)
def test_rounding_agrees_with_casts_from_fp32(name):
    """From fp32 values no cast rounds twice. Where a cast overflows to infinity or NaN, rounding here saturates."""
    fmt = get(name)
    singles = np.random.default_rng(5).integers(0, 2**32, 300_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    singles = np.concatenate((singles, fmt.values().astype(np.float32)))
    with np.errstate(all="ignore"):
        cast = singles.astype(DTYPES[name]).astype(np.float64)
    finite = np.isfinite(cast)
    rounded = fmt.round(singles)  # signalling NaNs among them: no warning
    np.testing.assert_array_equal(rounded[finite], cast[finite])
    np.testing.assert_array_equal(np.signbit(rounded[finite]), np.signbit(cast[finite]))
    beyond = ~finite & np.isfinite(singles)
    assert beyond.any() or name == "bf16"
    np.testing.assert_array_equal(rounded[beyond], np.copysign(fmt.max, singles[beyond]))


# what holds for every format


@pytest.mark.parametrize("name", SMALL + FIXED)
def test_neighbours_and_ulp_against_all_values(name):
    fmt = get(name)
    values, x = fmt.values(), hard_cases(fmt, seed=1)
    below, above = fmt.neighbours(x)
    i = np.searchsorted(values, x, side="right") - 1
    j = np.searchsorted(values, x, side="left")
    np.testing.assert_array_equal(below, values[np.maximum(i, 0)])
    np.testing.assert_array_equal(above, values[np.minimum(j, len(values) - 1)])
    positive = values[values >= 0]
    spacing = np.append(np.diff(positive), np.diff(positive)[-1])
    np.testing.assert_array_equal(fmt.ulp(positive), spacing)
    np.testing.assert_array_equal(fmt.ulp(-positive), spacing)
    inside = (x > fmt.min) & (x < fmt.max)
    i = np.clip(np.searchsorted(positive, np.abs(x[inside]), side="right") - 1, 0, len(positive) - 1)
    np.testing.assert_array_equal(fmt.ulp(x[inside]), spacing[i])


@pytest.mark.parametrize("name", SMALL + FIXED + ["fp32", "q31.0", "q0.31", "q16.15"])
def test_special_inputs(name):
    fmt = get(name)
    assert (
        np.isnan(fmt.round(np.nan)) and np.isnan(fmt.ulp(np.nan)) and all(np.isnan(v) for v in fmt.neighbours(np.nan))
    )
    assert bool(fmt.holds(np.nan)) == fmt.has_nan
    for x in (np.inf, -np.inf):
        end = fmt.max if x > 0 else fmt.min
        assert fmt.round(x) == (x if fmt.has_inf else end)
        assert bool(fmt.holds(x)) == fmt.has_inf
        assert fmt.neighbours(x) == (end, end) and fmt.ulp(x) == fmt.ulp(fmt.max)
    for x in (1e308, -1e308):
        assert fmt.round(x) == (fmt.max if x > 0 else fmt.min)
    assert fmt.round(5e-324) == 0 and fmt.round(0.0) == 0
    assert np.signbit(fmt.round(-0.0)) != fmt.is_fixed
    assert np.signbit(fmt.round(-fmt.smallest_subnormal / 4)) != fmt.is_fixed
    shaped = np.ones((2, 3))
    for result in (fmt.round(shaped), fmt.holds(shaped), fmt.ulp(shaped), *fmt.neighbours(shaped)):
        assert result.shape == (2, 3)
    assert fmt.round(np.empty(0)).shape == (0,) and fmt.round([1, 0]).dtype == np.float64


@pytest.mark.parametrize("name", SMALL + FIXED)
def test_holds_values_and_nothing_between(name):
    fmt = get(name)
    values = fmt.values()
    assert fmt.holds(values).all()
    assert not fmt.holds((values[:-1] + values[1:]) / 2).any()
    assert not fmt.holds([fmt.max * 1.0001, fmt.min * 1.0001]).any()


# fixed point


@pytest.mark.parametrize("name", FIXED + ["q31.0", "q0.31"])
def test_fixed_point_from_its_definition(name):
    fmt = get(name)
    integer, fraction = (int(part) for part in name[1:].split("."))
    assert fmt.bits == 1 + integer + fraction and fmt.step == 2.0**-fraction
    assert fmt.min == -(2.0**integer) and fmt.max == 2.0**integer - 2.0**-fraction
    assert (
        not (fmt.has_inf or fmt.has_nan)
        and fmt.dtype_name is None
        and fmt.epsilon == fmt.smallest_subnormal == fmt.step
    )
    half = 2 ** (fmt.bits - 1)
    codes = np.array([-half, -1, 0, 1, half - 1])
    np.testing.assert_array_equal(fmt.codes(codes * fmt.step), codes)
    np.testing.assert_array_equal(fmt.codes([-1e9 * 2**32, 1e9 * 2**32]), [-half, half - 1])
    np.testing.assert_array_equal(fmt.decode(fmt.encode(codes * fmt.step)), codes * fmt.step)
    np.testing.assert_array_equal(fmt.encode(codes * fmt.step), codes % (2 * half))
    if fmt.bits <= 16:
        np.testing.assert_array_equal(fmt.values(), np.arange(-half, half) * fmt.step)
        np.testing.assert_array_equal(np.sort(fmt.decode(np.arange(2 * half))), fmt.values())


def test_the_default_format():
    fmt = get("q1.6")
    assert (fmt.bits, fmt.min, fmt.max, fmt.step) == (8, -2.0, 1.984375, 0.015625)
    np.testing.assert_array_equal(fmt.codes([1.5 / 64, 2.5 / 64, -1.5 / 64, 9.0]), [2, 2, -2, 127])


def test_errors():
    with pytest.raises(LutcError, match="no code for NaN"):
        get("q1.6").codes([0.0, np.nan])
    with pytest.raises(LutcError, match="floating point"):
        get("fp16").codes(1.0)
    with pytest.raises(LutcError, match="no one step"):
        _ = get("fp16").step
    for code in (-1, 256):
        with pytest.raises(LutcError, match=r"lies in \[0, 255\]"):
            get("q1.6").decode(code)
    with pytest.raises(dataclasses.FrozenInstanceError):
        get("fp16").name = "mine"


# names


def test_names_and_aliases():
    for text, name in {
        "Q2.5": "q2.5",
        " q01.06 ": "q1.6",
        "half": "fp16",
        "float16": "fp16",
        "BF16": "bf16",
        "bfloat16": "bf16",
        "float32": "fp32",
        "single": "fp32",
        "e4m3": "fp8_e4m3",
        "float8_e4m3fn": "fp8_e4m3",
        "fp8_e5m2": "fp8_e5m2",
        "E5M2": "fp8_e5m2",
    }.items():
        assert get(text).name == name and get(get(text)) is get(text) or get(text) == get(name)
    assert get("q1.6") == get("Q1.6") and hash(get("q1.6")) == hash(get("Q1.6"))


@pytest.mark.parametrize(
    "text", ["q0.0", "q31.1", "q99.99", "q1", "q1.6.1", "q-1.6", "q1,6", "1.6", "fp17", "", "q١.٦", "q100.1"]
)
def test_bad_names_list_what_is_allowed(text):
    with pytest.raises(
        LutcError, match=r"known: fp32, bf16, fp16, fp8_e4m3, fp8_e5m2 and qI\.F with 2 to 32 bits in all"
    ):
        get(text)


def test_not_a_name():
    for wrong in (None, 1.6, b"fp16", ["fp16"]):
        with pytest.raises(LutcError, match="given by its name"):
            get(wrong)


@given(st.integers(0, 40), st.integers(0, 40), st.sampled_from("qQ"))
def test_every_fixed_name_parses_or_is_refused_for_its_bits(integer, fraction, letter):
    if 1 <= integer + fraction <= 31:
        fmt = get(f"{letter}{integer}.{fraction}")
        assert (fmt.integer_bits, fmt.fraction_bits, fmt.name) == (integer, fraction, f"q{integer}.{fraction}")
    else:
        with pytest.raises(LutcError, match=f"has {1 + integer + fraction} bits"):
            get(f"{letter}{integer}.{fraction}")


@given(st.text() | st.from_regex(r"[qQ]?[0-9]{0,3}\.?[0-9]{0,3}", fullmatch=True))
def test_any_text_is_a_format_or_a_clear_error(text):
    try:
        fmt = get(text)
    except LutcError as error:
        assert repr(text) in str(error)
    else:
        assert get(fmt.name) == fmt


@given(st.floats(), st.sampled_from(SMALL + FIXED + ["fp32", "q31.0", "q16.15"]))
def test_rounding_any_double(x, name):
    fmt = get(name)
    rounded = fmt.round(x)
    if math.isnan(x):
        assert math.isnan(rounded)
        return
    assert fmt.round(rounded) == rounded and fmt.holds(rounded)
    low, high = fmt.neighbours(x)
    assert rounded in (low, high, x) and fmt.holds(low) and fmt.holds(high)
    if fmt.min <= x <= fmt.max:
        assert low <= x <= high and abs(Fraction(float(rounded)) - Fraction(x)) <= Fraction(float(fmt.ulp(x))) / 2


# for a listing


@pytest.mark.parametrize("name", SMALL + FIXED)
def test_properties_counted_over_every_code(name):
    fmt, listed = get(name), properties(name)
    decoded = fmt.decode(np.arange(2**fmt.bits))
    finite = np.unique(np.abs(decoded[np.isfinite(decoded)]))
    assert listed["bits"] == fmt.bits and listed["name"] == fmt.name and listed["kind"] == fmt.kind
    assert listed["nan_codes"] == np.isnan(decoded).sum() and listed["inf_codes"] == np.isinf(decoded).sum()
    assert listed["smallest"] == finite[1] and listed["largest"] == decoded[np.isfinite(decoded)].max()
    assert listed["most_negative"] == decoded[np.isfinite(decoded)].min()
    values = fmt.values()
    if fmt.max > 1 and fmt.holds(1.0):
        assert listed["step_near_1"] == values[np.searchsorted(values, 1.0) + 1] - 1.0
    if fmt.is_fixed:
        assert listed["smallest_normal"] is None and listed["exponent_bias"] is None
        return
    assert 1 + listed["exponent_bits"] + listed["mantissa_bits"] == fmt.bits
    spacing = np.diff(finite)
    first_wider = int(np.argmax(spacing > spacing[0]))  # subnormals and the first binade share the spacing
    assert finite[first_wider] == 2 * listed["smallest_normal"]
    assert listed["largest_subnormal"] == finite[np.searchsorted(finite, listed["smallest_normal"]) - 1]
    assert fmt.decode(listed["exponent_bias"] << listed["mantissa_bits"]) == 1.0


def test_properties_are_plain_and_alike():
    listings = [properties(name) for name in (*FLOAT_FORMATS, "q1.6")]
    assert len({frozenset(listed) for listed in listings}) == 1
    values = [value for listed in listings for value in listed.values()]
    assert all(
        isinstance(value, (int, float, str, type(None))) and not isinstance(value, np.generic) for value in values
    )


def test_nearest():
    assert nearest("fp16", 0.1) == {
        "value": 0.0999755859375,
        "bits": "0 01011 1001100110",
        "error": 0.0999755859375 - 0.1,
    }
    assert nearest("q1.6", -0.1)["bits"] == "1 1 111010" and nearest("q0.7", 0.5)["bits"] == "0 1000000"
    assert nearest("q3.0", 2.0) == {"value": 2.0, "bits": "0 010", "error": 0.0}
    assert nearest("fp32", 0.1)["bits"].replace(" ", "") == f"{np.float32(0.1).view(np.uint32):032b}"
    assert nearest("fp16", 1e6)["value"] == 65504.0 and nearest("fp8_e4m3", -1e6)["value"] == -448.0
    assert nearest("fp16", math.inf) == {"value": math.inf, "bits": "0 11111 0000000000", "error": 0.0}
    assert nearest("q1.6", -math.inf) == {"value": -2.0, "bits": "1 0 000000", "error": None}
    assert nearest("fp8_e4m3", math.nan)["bits"] == "0 1111 111" and nearest("bf16", math.nan)["error"] is None
    assert nearest("bf16", -0.0)["bits"] == "1 00000000 0000000"
    with pytest.raises(LutcError, match="no code for NaN"):
        nearest("q1.6", math.nan)


def test_module_needs_numpy_only():
    assert not hasattr(formats, "ml_dtypes")
