"""`patch(quantise=...)`: from exact functions on quantised inputs to tables behind the same quantisers, in models of
every shape.
"""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lutc
from lutc.calibration import calibrate, read
from lutc.calibration.scales import LayerScales
from lutc.errors import LutcError
from lutc.nn import LUT, FakeQuantize, QuantActivation, QuantLUT
from tests.helpers.handmade import float_tables, int_tables

GELU, SILU = int_tables("gelu"), int_tables("silu")


pytestmark = pytest.mark.filterwarnings("ignore::lutc.errors.ScaleWarning")  # scales without a table, on purpose


class Called(nn.Module):
    """GELU called in a forward, SiLU held as a function, another GELU as a module."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.held, self.module = F.silu, nn.GELU()

    def forward(self, x):
        return self.module(self.c(self.held(self.b(F.gelu(self.a(x))))))


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second = Called(), Called()

    def forward(self, x):
        return self.second(self.first(x))


PATHS = [f"{part}{site}" for part in ("first", "second") for site in (".module", ".held", " (gelu)")]


def places(model):
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(getattr(module, "quantise", None), FakeQuantize)
    }


def by_hand(model, x, scales, functions):
    """The model's own formula with a function at each site, quantised by hand."""
    at = iter(scales)

    def site(function, x):
        return functions[function](torch.round(x / (s := next(at))).clamp(-128, 127) * s)

    for part in (model.first, model.second):
        x = site("gelu", part.c(site("silu", part.b(site("gelu", part.a(x))))))
    return x


def test_exact_then_trained_then_tables_then_back():
    model, x = Whole(), torch.randn(32, 6)
    exact = model(x)
    report = lutc.patch(model, quantise="learned")
    assert sorted(r.path for r in report.replaced) == sorted(PATHS) and not report.left
    assert {r.by for r in report.replaced} == {
        "exact gelu on 8 bits, learned scale",
        "exact silu on 8 bits, learned scale",
    }
    assert len(places(model)) == 6 and all(type(m) is QuantActivation for m in places(model).values())
    model(x)
    order = [p for part in ("first", "second") for p in (f"{part}.lutc_gelu", f"{part}.held", f"{part}.module")]
    scales = [places(model)[path].quantise.scale for path in order]
    want = by_hand(model, x, scales, {"gelu": F.gelu, "silu": F.silu})
    assert torch.allclose(model(x), want, atol=1e-6) and not torch.allclose(want, exact, atol=1e-6)

    optimiser = torch.optim.Adam(model.parameters(), 0.1)
    for _ in range(4):
        optimiser.zero_grad()
        model(x).square().mean().backward()
        optimiser.step()
    learned = [m.quantise.log2_scale for m in places(model).values()]
    assert len({p.item() for p in learned} - {float(round(p.item())) for p in learned}) == 6  # all moved

    report = lutc.patch(model, activation=[GELU, SILU])
    assert sorted(r.path for r in report.replaced) == sorted(PATHS) and {r.by for r in report.replaced} == {
        "gelu",
        "silu",
    }
    assert all(type(m) is QuantLUT for m in places(model).values())
    assert [
        m.quantise.log2_scale for m in places(model).values()
    ] == learned  # the very parameters, so an optimiser goes on
    scales = [places(model)[path].quantise.scale for path in order]
    tables = {name: (lambda v, t=t: t(v)) for name, t in (("gelu", F.gelu), ("silu", F.silu))}
    got, near = model(x), by_hand(model, x, scales, tables)
    assert 1e-4 < (got - near).abs().max() < 0.5
    loss = got.square().mean()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())

    again = copy.deepcopy(model)
    assert torch.equal(again(x), model(x))
    assert torch.equal(lutc.unpatch(again)(x), lutc.unpatch(model)(x))
    assert not places(model) and model.first.held is F.silu and type(model.first.module) is nn.GELU


def test_tables_at_once_and_one_function_alone():
    model, x = Whole(), torch.randn(8, 6)
    report = lutc.patch(model, activation=GELU, quantise=2.0**-4)
    assert {r.by for r in report.replaced} == {"gelu on 8 bits, scale 0.0625"} and {e.what for e in report.left} == {
        "silu"
    }
    other = Whole()
    lutc.patch(other, activation=QuantLUT(GELU, 2.0**-4))
    assert torch.equal(model(x), other(x))
    model = Whole()
    lutc.patch(model, activation="swish", quantise="dynamic")
    assert {m.function for m in places(model).values()} == {"silu"} and len(places(model)) == 2
    lutc.patch(model, activation="gelu", quantise=FakeQuantize("observed", bits=4))
    assert {(m.function, m.quantise.bits) for m in places(model).values()} == {("silu", 8), ("gelu", 4)}
    lutc.patch(model, activation=[float_tables("gelu", -4, 4), SILU])
    kinds = {type(m) if isinstance(m, QuantLUT) else type(m.function) for m in places(model).values()}
    assert kinds == {QuantLUT, LUT}
    model(x)


def test_scales_per_layer_and_of_a_calibration(tmp_path):
    model, x = Whole(), torch.randn(64, 6)
    scales = {path: 2.0 ** -(i % 5) for i, path in enumerate(PATHS)}
    lutc.patch(model, quantise=scales)
    got = {name.replace(".lutc_gelu", " (gelu)"): m.quantise.scale for name, m in places(model).items()}
    assert got == scales
    model = Whole()
    calibration = calibrate(model, [x])
    assert set(calibration.layers) == set(PATHS)
    calibration.save(tmp_path / "c.json")
    other = copy.deepcopy(model)
    lutc.patch(model, activation=[GELU, SILU], quantise=calibration)
    lutc.patch(other, activation=[GELU, SILU], quantise=tmp_path / "c.json")
    assert torch.equal(model(x), other(x))
    seen = []
    model.first.module.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model(x)
    learned = FakeQuantize("learned")  # starts at least squared error too
    learned(seen[0])
    quantise = model.first.module.quantise
    assert quantise.kind == "fixed" and quantise.scale in (learned.scale / 2, learned.scale, learned.scale * 2)


@pytest.mark.parametrize("signed", [True, False], ids=["int8", "uint8"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("per_channel", [False, True])
def test_layer_scales_of_a_calibration(per_channel, symmetric, signed):
    """Each site gets what the calibration says of it; unsigned codes compute the same, and learn the same gradients."""
    model, x = Whole(), torch.randn(64, 6) * 3
    calibration, exact = calibrate(model, [x]), copy.deepcopy(model)
    choice = LayerScales(calibration, "min-max", 8, symmetric, signed, per_channel)
    report = lutc.patch(model, activation=[GELU, SILU], quantise=choice)
    found = {name.replace(".lutc_gelu", " (gelu)"): m for name, m in places(model).items()}
    assert set(found) == set(PATHS) and len(report.replaced) == len(PATHS)
    for path, module in found.items():
        inputs, quantise = choice.of(path), module.quantise
        assert quantise.signed is signed and module.dtype == (torch.int8 if signed else torch.uint8)
        moved = 0 if signed else 128
        if per_channel:
            assert quantise.scale == tuple(i.scale for i in inputs) and quantise.axis == -1 and len(inputs) == 6
            assert quantise.zero_point == tuple(i.zero_point + moved for i in inputs)
        else:
            assert (quantise.scale, quantise.zero_point) == (inputs.scale, inputs.zero_point + moved)
    y = model(x)
    assert (y - exact(x)).abs().max() < 0.5 and not torch.equal(y, exact(x))
    other = copy.deepcopy(exact)
    lutc.patch(
        other, activation=[GELU, SILU], quantise=LayerScales(calibration, "min-max", 8, symmetric, True, per_channel)
    )
    assert torch.equal(other(x), y)
    for each in (model, other):
        each(x).square().mean().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), other.parameters()))
    # functions first, tables behind their quantisers then
    lutc.unpatch(model)
    lutc.patch(model, quantise=choice)
    assert all(isinstance(m, QuantActivation) and m.quantise.signed is signed for m in places(model).values())
    lutc.patch(model, activation=[GELU, SILU])
    assert torch.equal(model(x), y)


def test_channels_of_another_axis(tmp_path):
    class Image(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.act = nn.Conv2d(2, 3, 1), nn.GELU()

        def forward(self, x):
            return self.act(self.conv(x))

    torch.manual_seed(0)
    model, x = Image(), torch.randn(4, 2, 5, 6)
    calibration = calibrate(model, [x[:2], x[2:]], channel_axis=1)
    seen = model.conv(x)
    assert torch.equal(torch.from_numpy(calibration.layers["act"].channel_low), seen.amin((0, 2, 3)).detach())
    calibration.save(tmp_path / "c.json")
    calibration = read(tmp_path / "c.json")  # whose file knows the axis
    lutc.patch(model, activation=GELU, quantise=LayerScales(calibration, "min-max", per_channel=True))
    assert model.act.quantise.axis == 1
    want = torch.stack([QuantLUT(GELU, s)(seen[:, c]) for c, s in enumerate(model.act.quantise.scale)], 1)
    assert torch.equal(model(x), want)
    lutc.unpatch(model)
    with pytest.raises(LutcError, match="has the ranges of channels of 'act' along axis 1, not -1"):
        lutc.patch(model, activation=GELU, quantise=LayerScales(calibration, "min-max", per_channel=True, axis=-1))
    unsaid = replace(calibration.layers["act"], channel_axis=None)  # as files of before
    calibration = replace(calibration, layers={"act": unsaid})
    lutc.patch(model, activation=GELU, quantise=LayerScales(calibration, "min-max", per_channel=True))
    with pytest.raises(LutcError, match="3 channels along axis -1 take tensors with that many there; given shape"):
        model(x)
    lutc.unpatch(model)
    lutc.patch(model, activation=GELU, quantise=LayerScales(calibration, "min-max", per_channel=True, axis=1))
    assert torch.equal(model(x), want)


@pytest.mark.parametrize("kind", ["learned", "observed", "dynamic"])
def test_each_channel_finds_a_scale_of_its_own(kind):
    """A quantiser to copy, of channels: functions first, then tables behind the quantisers that are there."""
    model, x = Whole(), torch.randn(64, 6) * torch.tensor([0.1, 1.0, 3.0, 9.0, 0.5, 2.0])
    report = lutc.patch(model, quantise=FakeQuantize(kind, axis=-1, channels=6))
    assert f"{kind} scales of 6 channels" in str(report)
    exact = model(x)
    lutc.patch(model, activation=[GELU, SILU])
    assert all(m.quantise.kind == kind and m.quantise.axis == -1 for m in places(model).values())
    y = model(x)
    assert (y - exact).abs().max() < 0.5 and not torch.equal(y, exact)
    y.square().mean().backward()
    learned = [m.quantise.log2_scale.grad for m in places(model).values() if kind == "learned"]
    assert all(grad.shape == (6,) and grad.any() for grad in learned)


def test_channels_that_vary_have_no_ranges():
    """Of batches with other numbers of channels, in whatever order, there is none that ranges would be of."""
    batches = [torch.randn(4, n, 2) for n in (3, 5, 3)]
    layer = calibrate(nn.Sequential(nn.GELU()), batches, channel_axis=1).layers["0"]
    assert layer.channel_low is None and layer.channel_axis is None and layer.histogram.count == 4 * 11 * 2
    with pytest.raises(LutcError, match="a whole number; given 1.5"):
        calibrate(nn.Sequential(nn.GELU()), batches, channel_axis=1.5)


def test_layer_scales_that_are_not_there():
    model = nn.Sequential(nn.GELU())
    calibration = calibrate(model, [torch.randn(4, 3, 2)], channel_axis=5)
    with pytest.raises(LutcError, match="no ranges of the channels of '0'"):
        lutc.patch(model, activation=GELU, quantise=LayerScales(calibration, per_channel=True))
    with pytest.raises(LutcError, match="choose min-max or power-of-two, not 'percentile'"):
        choice = LayerScales(calibrate(model, [torch.randn(4, 3)]), "percentile", per_channel=True)
        lutc.patch(model, activation=GELU, quantise=choice)
    assert type(model[0]) is nn.GELU


def test_bad_input_leaves_the_model_alone():
    model, x = Whole(), torch.randn(4, 6)
    want = model(x)
    for arguments, message in (
        ({"quantise": "learnt"}, "quantise= is learned, observed, dynamic, a number, a calibration"),
        ({"quantise": -1.0}, "scale is one positive finite number"),
        (
            {"quantise": {"first.module": 0.1}},
            "quantise= says nothing of 'first.held'; it has first.module: add it, or leave it out by skip=",
        ),
        ({"quantise": "missing.json"}, "cannot read missing.json"),
        (
            {"activation": QuantLUT(GELU, 0.1), "quantise": 0.1},
            "quantise= goes with tables and names of functions; a QuantLUT",
        ),
        ({"activation": "gelv", "quantise": 0.1}, "no shipped table 'gelv'"),
        ({"activation": "tanh", "quantise": 0.1}, "nothing was replaced"),
        ({}, "nothing to patch: give activation=, softmax=, norm=, mlp= or quantise="),
    ):
        with pytest.raises(LutcError, match=message.replace("(", r"\(")):
            lutc.patch(model, **arguments)
        assert torch.equal(model(x), want) and not places(model)
