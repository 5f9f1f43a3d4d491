"""Tables computed in fp32 and fp16: nearest even against numpy's own float16, truncation by what it must do;
certificates on every code.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from lutc import formats, functions
from lutc.certify.arithmetic import in_arithmetic
from lutc.certify.floats import certify_float, float_certificate
from lutc.errors import LutcError
from lutc.functions import Line
from lutc.table.bodies import Cells, Direct, Exponents, Lines
from lutc.table.domain import Domain
from lutc.table.library import load
from lutc.table.prologues import AbsPrologue, ExponentPrologue, PeriodPrologue
from lutc.table.table import Table

X = np.arange(1 << 16).astype(np.uint16).view(np.float16)
HALF = np.float16


def half(v):
    return np.asarray(v, np.float64).astype(HALF).astype(np.float64)


def lines():
    slopes = half([0.0, 0.37, -0.8, 1.0])
    return Table(Lines([-2.0, 0.0, 3.0], slopes, half([-1.5, -0.76, -0.1, -5.5])), coefficients="fp16")


def cells(f=np.tanh, cuts=(-4.0, -1.5, -0.25, 0.125, 2.0, 6.0), pieces=(1, 8, 4, 16, 1), **tails):
    edges = Cells(cuts, pieces, np.zeros(sum(pieces) + 1)).edges
    return Table(Cells(cuts, pieces, half(f(edges))), coefficients="fp16", **tails)


def interpolated(table, x):
    """The same steps in numpy's float16, which rounds to nearest even."""
    body = table.body
    cuts, pieces = body.cut_points, np.asarray(body.pieces)
    i = np.clip(np.searchsorted(cuts, x.astype(np.float64), side="right") - 1, 0, pieces.size - 1)
    factor = (pieces / np.diff(cuts))[i]
    power = np.clip(np.floor(np.log2(factor)), -14, 15)
    position = (x - cuts[i].astype(HALF)) * np.exp2(power).astype(HALF) * (factor / np.exp2(power)).astype(HALF)
    whole = np.clip(np.floor(np.nan_to_num(position)), 0, pieces[i] - 1)
    k = np.append(0, np.cumsum(pieces))[i] + whole.astype(np.int64)
    values = body.values.astype(HALF)
    return values[k] + (position - whole.astype(HALF)) * (values[k + 1] - values[k])


def equal(got, want):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert ((got == want) | (np.isnan(got) & np.isnan(want))).all()


def test_lines_in_nearest_even():
    table = lines()
    i = table.body.segment(X.astype(np.float64))
    with np.errstate(all="ignore"):
        want = table.body.slopes[i].astype(HALF) * X + table.body.intercepts[i].astype(HALF)
    want = np.where((table.body.slopes[i] == 0) & ~np.isnan(X), table.body.intercepts[i], want)
    equal(in_arithmetic(table, "fp16_rne")(X.astype(np.float64)), want)


def test_cells_in_nearest_even():
    table = cells()
    with np.errstate(all="ignore"):
        want = interpolated(table, X)
    equal(in_arithmetic(table, "fp16_rne")(X.astype(np.float64)), want)


def test_tails_and_a_folded_half():
    inner = cells(lambda v: np.tanh(np.abs(v)), (0.0, 0.5, 2.0, 4.0), (4, 8, 1), right=Line(0.0, 1.0))
    table = Table(inner.body, AbsPrologue((1.0, 0.0, 0.0), (-1.0, 0.0, 0.0)), None, inner.right, "fp16")
    got = in_arithmetic(table, "fp16_rne")(X.astype(np.float64))
    positive = in_arithmetic(inner, "fp16_rne")(np.abs(X.astype(np.float64)))
    equal(got, np.copysign(positive, X.astype(np.float64)) * np.where(X == 0, np.sign(positive), 1))
    equal(got[(X >= 4)], np.ones(int((X >= 4).sum())))


def test_powers_of_two_are_exact_behind_an_exponent():
    """1 / x of a table that is exact at 1: powers of two stay exact wherever the result is."""
    edges = np.linspace(1.0, 2.0, 9)
    table = Table(Cells([1.0, 2.0], (8,), half(1 / edges)), ExponentPrologue(1, -1, odd=True), coefficients="fp16")
    x = np.ldexp(1.0, np.arange(-14, 15))
    for rounding in ("fp16_rne", "fp16_trunc"):
        equal(in_arithmetic(table, rounding)(np.concatenate([x, -x])), np.concatenate([1 / x, -1 / x]))
    special = in_arithmetic(table, "fp16_rne")(np.array([np.inf, -np.inf, 0.0, np.nan]))
    equal(special, [0.0, -0.0, np.inf, np.nan])


def test_a_period_is_taken_off_in_two_parts():
    edges = np.linspace(0.0, 1.0, 33) * np.float64(np.float16(0.6934))
    table = Table(
        Cells([0.0, float(np.float16(0.6934))], (32,), half(np.exp(edges))),
        PeriodPrologue(np.log(2.0), 1),
        coefficients="fp16",
    )
    x = X[np.isfinite(X) & (X < 11) & (X > -9)].astype(np.float64)
    got = in_arithmetic(table, "fp16_rne")(x)
    assert np.abs(got / np.exp(x) - 1).max() < 0.01
    equal(in_arithmetic(table, "fp16_rne")(np.array([-60000.0, -np.inf, np.inf])), [0.0, 0.0, np.inf])


def test_truncation_errs_more_and_downwards():
    table = cells()
    x = X[(X < 4) & (X > 0.2)].astype(np.float64)
    exact, rne, cut = (in_arithmetic(table, name)(x) for name in ("float64", "fp16_rne", "fp16_trunc"))
    assert np.abs(cut - exact).mean() > 1.3 * np.abs(rne - exact).mean()
    assert (cut - exact).mean() < 0


def test_exponent_addressing_in_fp16():
    bits = [-2] * 31 + [0] + [-1] * 9 + [2, 2, 3, 3, 4, 4, 4] + [-2] * 14
    body = Exponents("fp16", tuple(bits), np.zeros(1 + 1 + sum(1 << b for b in bits if b > 0)))
    table = Table(Exponents("fp16", tuple(bits), half(np.sqrt(body.edges))), coefficients="fp16")
    x = X[(X > 0) & (X < 2)].astype(np.float64)
    assert np.abs(in_arithmetic(table, "fp16_rne")(x) - table(x)).max() < 2e-3


def test_fp32_interpolation_is_close_to_the_table():
    for table in (lines(), cells(), cells(left=Line(0.0, -1.0), right=Line(0.0, 1.0))):
        x = X[np.isfinite(X)].astype(np.float64)
        want = table(x)
        np.testing.assert_allclose(
            in_arithmetic(table, "fp32")(x), want, rtol=1e-6, atol=1e-6 * np.abs(want[np.abs(x) < 8]).max()
        )


def test_refusals():
    with pytest.raises(LutcError, match="float64, fp32, fp16_rne, fp16_trunc"):
        in_arithmetic(lines(), "fp8")
    with pytest.raises(LutcError, match="direct table"):
        in_arithmetic(Table(Direct(np.zeros(256), 8, 1.0)), "fp16_rne")
    with pytest.raises(LutcError, match="fp16 or bf16"):
        certify_float(lines(), np.tanh, "fp32")
    with pytest.raises(LutcError, match="fp16 inputs"):
        certify_float(cells(), functions.get("tanh"), "bf16", "fp16_rne")


# --- certificates


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_figures_against_their_definition(dtype):
    fn, table = functions.get("tanh"), cells(left=Line(0.0, -1.0), right=Line(0.0, 1.0))
    figures = certify_float(table, fn, dtype)
    x = formats.get(dtype).decode(np.arange(1 << 16))
    x = x[np.isfinite(x)]
    error = np.abs(table(x) - np.tanh(x))
    relative = error / np.maximum(np.abs(np.tanh(x)), 2.0**-14)
    domain = figures["domain"]
    assert domain["inputs"] == x.size
    assert domain["mean_relative"] == pytest.approx(relative.mean(), rel=1e-5)
    assert domain["worst_relative"]["error"] == pytest.approx(relative.max(), rel=1e-5)
    assert relative[x == domain["worst_relative"]["x"]].max() == pytest.approx(relative.max(), rel=1e-5)
    assert domain["worst_absolute"]["error"] == pytest.approx(error.max(), rel=1e-5)
    assert domain["worst_ulp"]["error"] == pytest.approx((error / formats.get(dtype).ulp(np.tanh(x))).max(), rel=1e-5)
    inside = (x >= fn.range[0]) & (x <= fn.range[1])
    assert figures["range"]["inputs"] == inside.sum()
    nan_and_infinities = (1 << 16) - x.size
    assert figures["undefined"]["inputs"] + figures["overflow"]["inputs"] == nan_and_infinities
    assert figures["undefined"]["agree"] + figures["overflow"]["agree"] == nan_and_infinities


@pytest.mark.parametrize("name", ["silu", "tanh", "gelu"])
def test_shipped_tables_in_fp16_by_the_documented_steps(name):
    """docs/hardware.md in numpy's float16, from the file alone."""
    data = json.loads((Path(__file__).resolve().parents[2] / f"pretrained/{name}_fplut.json").read_text())
    table, tails = data[name]["fp16"], data["lutc"]["tails"]
    cuts, pieces, values = np.array(table["cut_points"]), np.array(table["pieces"]), half(table["values"]).astype(HALF)
    x = X[np.isfinite(X)]

    def line(tail):
        return (HALF(tail["slope"]) * x if tail["slope"] else HALF(0) * np.abs(np.sign(x))) + HALF(tail["intercept"])

    with np.errstate(all="ignore"):
        interval = np.clip((x[:, None] >= cuts).sum(axis=1) - 1, 0, pieces.size - 1)
        factor = (pieces / np.diff(cuts))[interval]
        power = np.exp2(np.clip(np.floor(np.log2(factor)), -14, 15))
        position = (x + (-cuts[interval]).astype(HALF)) * power.astype(HALF) * (factor / power).astype(HALF)
        whole = np.clip(np.nan_to_num(np.floor(position)), 0, pieces[interval] - 1)
        n = np.append(0, np.cumsum(pieces))[interval] + whole.astype(int)
        y = values[n] + (position - whole.astype(HALF)) * (values[n + 1] - values[n])
        y = np.where(x < cuts[0], line(tails["left"]), np.where(x >= cuts[-1], line(tails["right"]), y))
    assert y.dtype == HALF
    np.testing.assert_array_equal(y, in_arithmetic(load(f"{name}_fplut")["fp16"], "fp16_rne")(x.astype(np.float64)))


def test_an_answer_that_is_no_number_counts_as_wrong_by_the_largest():
    table = Table(Lines([], [1.0], [0.0]), domain=Domain(low=0.0))
    figures = certify_float(table, functions.get("relu"), "fp16")["domain"]
    assert figures["worst_absolute"]["error"] == 65504 and figures["worst_absolute"]["x"] < 0
    assert figures["correct"] == pytest.approx(np.mean(X[np.isfinite(X)] >= 0), rel=1e-5)


def test_overflow_and_undefined_inputs_are_counted_apart():
    """exp in fp16: above 11.09 it overflows; log below 0 is undefined. A table that gives a number there does not
    agree.
    """
    table = Table(
        Cells([-10.0, 0.0, 11.0], (8, 64), np.float32(np.exp(Cells([-10.0, 0.0, 11.0], (8, 64), np.zeros(73)).edges)))
    )
    figures = certify_float(table, functions.get("exp"), "fp16")
    x = X.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # some C libraries' exp raises "invalid" on NaN
        too_large = int(((np.exp(x) >= 65520) | np.isinf(x)).sum())
    assert figures["overflow"]["inputs"] == too_large > figures["overflow"]["agree"]
    figures = certify_float(table, functions.get("log"), "fp16")
    assert figures["undefined"]["inputs"] == int((np.isnan(x) | (x < 0)).sum())
    assert figures["undefined"]["agree"] == int(np.isnan(x).sum())


def test_a_correctly_rounded_table_is_correct():
    """relu is what two lines compute exactly."""
    table = Table(Lines([0.0], [0.0, 1.0], [0.0, 0.0]))
    for dtype in ("fp16", "bf16"):
        assert certify_float(table, functions.get("relu"), dtype)["domain"]["correct"] == 1.0


def test_certificate_holds_every_arithmetic_of_fp16_values():
    tables = float_certificate(cells(), functions.get("tanh"))
    assert set(tables["fp16"]["arithmetic"]) == {"fp32", "fp16_rne", "fp16_trunc"} and set(
        tables["bf16"]["arithmetic"]
    ) == {"fp32"}
    assert tables["fp16"]["arithmetic"]["fp16_trunc"]["mean_relative"] > tables["fp16"]["domain"]["mean_relative"]
