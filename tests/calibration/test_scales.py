"""Scales against brute force on the raw values."""

import numpy as np
import pytest

from lutc.calibration import Histogram, Layer
from lutc.calibration.scales import METHODS, choose, for_layer, from_range, loss, per_channel, quantise, restore
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.functions import FUNCTIONS

RNG = np.random.default_rng(11)
DATA = {
    "normal": RNG.normal(size=6_000),
    "heavy": RNG.standard_t(3, size=6_000) * 0.2,
    "skewed": RNG.gamma(2.0, 1.0, size=6_000) - 1.0,
    "negative": -RNG.exponential(3.0, size=6_000),
    "positive": RNG.exponential(1e-3, size=6_000) + 1e-4,
}
DATA = {name: x.astype(np.float32).astype(np.float64) for name, x in DATA.items()}


def lost(x, inputs):
    """Mean squared difference to what comes back, from the definition."""
    half = 2 ** (inputs.bits - 1)
    y = np.clip(np.round(x / inputs.scale + inputs.zero_point), -half, half - 1)
    return float(np.mean(((y - inputs.zero_point) * inputs.scale - x) ** 2))


def zero_points(bits, symmetric):
    return [0] if symmetric else range(-(2 ** (bits - 1)), 2 ** (bits - 1))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("name", DATA)
def test_least_squares_is_as_good_as_trying_everything(name, bits, symmetric):
    x = DATA[name][:1500]
    chosen = choose(Histogram.of(x), "least-squares", bits, symmetric)
    widest = np.abs(x).max() / 2 ** (bits - 1) if symmetric else np.ptp(np.append(x, 0)) / (2**bits - 1)
    scales = np.geomspace(widest / (64 if bits < 8 else 8), 2 * widest, 150 if symmetric else 30)
    points = zero_points(bits, symmetric) if bits < 8 else zero_points(bits, symmetric)[::8] if not symmetric else [0]
    brute = min(lost(x, Inputs(bits, float(s), z)) for s in scales for z in points)
    assert lost(x, chosen) <= 1.01 * brute


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 5, 8, 10])
@pytest.mark.parametrize("name", DATA)
def test_the_power_of_two_is_the_best_one(name, bits, symmetric):
    x = DATA[name][:1500]
    chosen = choose(Histogram.of(x), "power-of-two", bits, symmetric)
    points = [0] if symmetric else [*range(-(2 ** (bits - 1)), 2 ** (bits - 1), 1 if bits < 8 else 2 ** (bits - 5))]
    brute = {b: min(lost(x, Inputs(bits, 2.0**-b, z)) for z in points) for b in range(-6, 22)}
    best = min(brute.values())
    assert chosen.power is not None and lost(x, chosen) <= best * (1 + 1e-6)
    assert chosen.power == min(brute, key=brute.get) or not symmetric


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("function", ["silu", "exp", "gelu"])
@pytest.mark.parametrize("name", ["heavy", "negative", "skewed"])
def test_behind_a_function_the_best_scale_is_that_of_its_values(name, function, symmetric):
    x, f = 3 * DATA[name][:1500], FUNCTIONS[function]
    layer = Layer(function, "activation", "x", Histogram.of(x))

    def lost_behind(inputs):
        return np.mean((f(restore(quantise(x, inputs), inputs)) - f(x)) ** 2)

    for bits in (4, 6) if symmetric else (4,):
        candidates = [Inputs(bits, 2.0**-b, z) for b in range(-4, 12) for z in zero_points(bits, symmetric)]
        best = min(map(lost_behind, candidates))
        assert lost_behind(for_layer(layer, "power-of-two", bits, symmetric)) <= best * 1.001
        assert lost_behind(for_layer(layer, "least-squares", bits, symmetric)) <= best * 1.02
        found = loss(layer.histogram, candidates[0], f)
        assert found.mean_squared == pytest.approx(lost_behind(candidates[0]), rel=0.03)
    plain = choose(layer.histogram, "power-of-two", 6, symmetric)
    assert lost_behind(for_layer(layer, "power-of-two", 6, symmetric)) <= lost_behind(plain)


def test_a_function_without_a_value_at_zero_falls_back_to_the_inputs():
    layer = Layer("rsqrt", "rms_norm", "mean(x^2) + eps", Histogram.of(np.geomspace(1e-9, 1e3, 500)))
    assert for_layer(layer) == choose(layer.histogram)


@pytest.mark.parametrize("bits", [2, 4, 8, 12])
@pytest.mark.parametrize("name", DATA)
def test_min_max_clips_nothing_and_no_finer_scale_does(name, bits):
    x = DATA[name]
    for symmetric in (True, False):
        inputs = choose(Histogram.of(x), "min-max", bits, symmetric)
        assert (
            np.abs(restore(quantise(x, inputs), inputs) - x)
            <= inputs.scale * 0.501 + 0.5 * inputs.scale * (not symmetric)
        ).all()
        assert restore(quantise(0.0, inputs), inputs) == 0.0
    inputs = choose(Histogram.of(x), "min-max", bits, True)
    finer = Inputs(bits, inputs.scale * 0.95)
    ends = restore([finer.minimum, finer.maximum], finer)
    assert x.min() < ends[0] or x.max() > ends[1]


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_percentile_clips_its_share(symmetric):
    x = DATA["heavy"]
    for percentile in (95.0, 99.0):
        inputs = choose(Histogram.of(x), "percentile", 8, symmetric, percentile)
        ends = restore([inputs.minimum, inputs.maximum], inputs)
        share = np.mean((x < ends[0]) | (x > ends[1]))
        assert share == pytest.approx(1 - percentile / 100, rel=0.25)
    whole = choose(Histogram.of(x), "percentile", 8, symmetric, 100)
    assert whole == choose(Histogram.of(x), "min-max", 8, symmetric)


@pytest.mark.parametrize("inputs", [Inputs(8, 2.0**-5), Inputs(4, 0.3, 2), Inputs(2, 1.0), Inputs(8, 0.011, -90)])
@pytest.mark.parametrize("name", ["normal", "heavy", "skewed"])
def test_the_loss_is_that_of_the_values(name, inputs):
    x = DATA[name]
    found = loss(Histogram.of(x), inputs)
    beyond = np.abs(restore(quantise(x, inputs), inputs) - x) > inputs.scale * 0.5 * (1 + 1e-9)
    error = (restore(quantise(x, inputs), inputs) - x) ** 2
    assert found.mean_squared == pytest.approx(lost(x, inputs), rel=0.02) == pytest.approx(error.mean(), rel=0.02)
    assert found.clipped == pytest.approx(beyond.mean(), abs=2e-3)
    assert found.rounding == pytest.approx(error[~beyond].sum() / x.size, rel=0.05)
    assert found.signal_to_noise == pytest.approx(10 * np.log10(np.mean(x**2) / error.mean()), abs=0.1)


def test_mapping_and_inverse():
    inputs = Inputs(4, 0.5, 3)
    assert quantise([-100, -5.5, -0.25, 0.25, 0.74, 0.75, 100, np.nan], inputs).tolist() == [-8, -8, 3, 3, 4, 5, 7, 3]
    assert restore([-8, 3, 7], inputs).tolist() == [-5.5, 0.0, 2.0]
    assert (
        loss(Histogram.of([0.5, -1.0]), inputs).signal_to_noise is None
        and loss(Histogram.of([0.5, -1.0]), inputs).mean_squared == 0
    )


def test_channels():
    low, high = np.float32([-1, 0, 0, -3]), np.float32([1, 0, 5, -1])
    plain = per_channel(low, high)
    assert [i.scale for i in plain] == [pytest.approx(1 / 127), 1.0, pytest.approx(5 / 127), pytest.approx(3 / 128)]
    for symmetric in (True, False):
        powers = per_channel(low, high, "power-of-two", 8, symmetric)
        assert all(i.power is not None for i in powers)
        for i, lo, hi in zip(powers, low, high, strict=True):
            assert restore(i.minimum, i) <= lo and hi <= restore(i.maximum, i) + (not symmetric) * i.scale
            if symmetric and lo != hi:
                half = Inputs(8, i.scale / 2)
                assert restore(half.minimum, half) > lo or restore(half.maximum, half) < hi
    with pytest.raises(LutcError, match="choose min-max or power-of-two"):
        per_channel(low, high, "percentile")


def test_bad_requests():
    h = Histogram.of(DATA["normal"])
    for arguments, said in (
        ((h, "average"), "unknown method 'average'"),
        ((h, "min-max", 1), "2 to 16 bits"),
        ((h, "percentile", 8, True, 10), "percentile"),
        ((Histogram.of([0.0, 0.0]), "least-squares"), "not all 0"),
        ((Histogram.of([]), "min-max"), "not all 0"),
    ):
        with pytest.raises(LutcError, match=said):
            choose(*arguments)
    with pytest.raises(LutcError, match="not all 0"):
        from_range(0.0, 0.0)
    assert all(choose(Histogram.of([-2.0]), method).scale > 0 for method in METHODS)
    assert choose(Histogram.of([1e-30, 3e-30]), "least-squares").scale >= 2.0**-64
