"""The histogram against numpy on the raw values."""

import numpy as np
import pytest

from lutc.calibration import Histogram
from lutc.errors import LutcError
from lutc.formats.codes import Inputs

RNG = np.random.default_rng(5)
X = np.concatenate(
    [RNG.normal(size=20_000) * 3, RNG.normal(size=500) * 1e-6, [0.0, -0.0, 61.5, -3e38, 1e-42, 2.0**-126]]
).astype(np.float32)
BODY = X[np.abs(X) < 1e6]


def test_merging_is_exact_and_equals_one_pass():
    whole = Histogram.of(X)
    parts = [Histogram.of(part) for part in np.split(X, [3, 700, 701, 15_000])]
    merged = Histogram.of([])
    for part in reversed(parts):
        merged = merged + part
    assert merged == whole and whole.count == X.size and (whole.low, whole.high) == (X.min(), X.max())
    assert whole != Histogram.of(X[1:])


def test_mean_and_quantiles_are_those_of_the_values():
    h, x = Histogram.of(BODY), BODY.astype(np.float64)
    assert h.mean == pytest.approx(x.mean(), rel=1e-12) and h.deviation == pytest.approx(x.std(), rel=1e-5)
    for p in (0.001, 0.1, 0.5, 0.77, 0.999):
        exact = np.quantile(x, p, method="inverted_cdf")
        assert abs(h.quantile(p) - exact) <= 2.0**-7 * abs(exact)
    assert h.quantile([0, 1]).tolist() == [x.min(), x.max()]
    assert h.outside(-4, 4) == ((x < -4) | (x > 4)).mean()
    assert (np.diff(h.points[0]) > 0).all() and h.points[1].sum() == x.size


@pytest.mark.parametrize("bits, power", [(8, 4), (8, 2), (4, 1), (2, 0), (6, -1)])
def test_codes_of_powers_of_two_are_exact(bits, power):
    inputs = Inputs(bits, 2.0**-power)
    found = Histogram.of(BODY).of_codes(inputs)
    assert np.array_equal(found, np.bincount(inputs.quantise(BODY) - inputs.minimum, minlength=2**bits))


def test_codes_of_any_scale_are_exact_for_bf16_values():
    x = (BODY.view(np.uint32) & 0xFFFF0000).view(np.float32)
    for inputs in (Inputs(8, 0.037, 11), Inputs(12, 0.003), Inputs(5, 0.4, -16)):
        assert np.array_equal(
            Histogram.of(x).of_codes(inputs), np.bincount(inputs.quantise(x) - inputs.minimum, minlength=2**inputs.bits)
        )


def test_counts_on_a_grid_follow_the_density():
    grid = np.linspace(-4, 4, 81)
    found = Histogram.of(BODY).on(grid)
    inside = BODY[(BODY >= -4) & (BODY <= 4)]
    exact = np.bincount(np.rint((inside + 4) * 10).astype(int), minlength=81)
    assert (
        found.sum() == pytest.approx(inside.size, rel=1e-3)
        and np.abs(found - exact).max() < 0.1 * exact.max()
        and (found >= 0).all()
    )
    fine = np.arange(-4096, 4097) / 1024  # many points in a bin: each gets its share
    assert Histogram.of(BODY).on(fine).sum() == pytest.approx(inside.size, rel=1e-3)
    assert Histogram.of(np.float32([1.0, 1.0, 2.0])).on(np.array([0.9, 1.1, 2.0])).tolist() == [2.0, 0.0, 1.0]


def test_bad_values_are_refused():
    for bad in ([np.nan], [np.inf], [1e39]):
        with np.errstate(over="ignore"), pytest.raises(LutcError, match="finite"):
            Histogram.of(bad)
    h = Histogram.of(BODY)
    for changed in (
        (h.codes[::-1], h.counts, h.residues),
        (h.codes, -h.counts, h.residues),
        (h.codes, h.counts, h.counts * 70_000),
    ):
        with pytest.raises(LutcError):
            Histogram(*changed, h.low, h.high)
    with pytest.raises(LutcError, match="nothing was observed"):
        Histogram.of([]).quantile(0.5)
