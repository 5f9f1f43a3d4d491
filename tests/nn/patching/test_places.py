"""activation={path: table}: what stands at a path takes whatever is given."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lutc
from lutc.errors import LutcError, RangeWarning
from lutc.formats import Inputs
from lutc.nn import LUT, QuantLUT
from lutc.observe import calibrate

X = torch.linspace(-3.0, 3.0, 48).reshape(-1, 4)


class Wave(nn.Module):
    def forward(self, x):
        return x * torch.cos(x)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.act, self.wave, self.fn, self.slope = nn.Linear(4, 4), nn.ELU(0.5), Wave(), F.relu6, 0.2

    def forward(self, x):
        return F.leaky_relu(self.fn(self.wave(self.act(self.linear(x)))), self.slope)


def own_table():
    return lutc.compile(Wave(), 16, range=(-4.0, 4.0), search="exact", inputs=Inputs(8, 2.0**-5))


def two():
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block()).eval()


def test_paths_take_tables_and_modules_of_any_kind():
    model = two()
    exact, untouched = copy.deepcopy(model), model[1]
    own, quant = own_table(), QuantLUT("silu_8", 2**-4)
    given = {
        "0.wave": own,
        "0.act": quant,
        "0.fn": nn.Tanh(),
        "1 (leaky_relu)": "relu_fplut",
        "0.linear": nn.Identity(),
    }
    with pytest.warns(RangeWarning, match="'Wave': beyond -4 and 4"):
        report = lutc.patch(model, activation=given)
    assert {one.path for one in report.replaced} == set(given) and model[1] is untouched
    assert [one.what for one in report.replaced][0] == "Wave" and isinstance(model[0].wave, LUT)
    want = F.leaky_relu(torch.tanh(LUT(own)(quant(X))), 0.2)
    assert torch.equal(model[0](X), want)
    want = F.relu(exact[1].fn(exact[1].wave(exact[1].act(exact[1].linear(X)))))
    torch.testing.assert_close(model[1](X), want, atol=1e-6, rtol=1e-5)
    lutc.unpatch(model)
    assert torch.equal(model(X), exact(X)) and model[0].fn is F.relu6 and "fn" not in model[0]._modules


def test_the_exact_module_runs_beyond_a_table_of_ones_own():
    model = two()
    lutc.patch(model, activation={"0.wave": own_table()}, outside="exact")
    x = torch.tensor([-50.0, 7.0, 1.0])
    want = torch.where(x.abs() > 4, x * torch.cos(x), LUT(own_table())(x))
    assert torch.equal(model[0].wave(x), want)


def test_functions_and_paths_in_one_mapping():
    model = two()
    elu = lutc.compile("elu(alpha=0.5)", 8, search="exact", inputs=Inputs(8, 2.0**-5))
    report = lutc.patch(model, activation={"elu(alpha=0.5)": elu, "1.act": nn.Identity()})
    assert [(one.path, one.by) for one in report.replaced] == [("1.act", "Identity"), ("0.act", "elu(alpha=0.5)")]
    assert isinstance(model[1].act, nn.Identity)


def test_what_serves_nothing_is_one_clear_error():
    model = two()
    own = own_table()
    for activation, message in (
        (own, r"'Wave' is a table of 'Wave', no function of lutc's own: say where it goes, activation=\{'path"),
        ([nn.Tanh()], "'Tanh' does not say which function it is: say where it goes"),
        ({"0.wavy": own}, r"'0.wavy' is neither a function .* modules are called 0.wave"),
        ({"0.wave.inner": own}, "'0.wave.inner' is neither"),
        ({"1 (silu)": own}, r"'1 \(silu\)' is neither"),
        ({"gelv": own}, "unknown function 'gelv'; did you mean 'gelu'"),
        ({"elu(alpha=x)": own}, "'alpha=x' in .* is no parameter"),
        ({"": own}, "'' is neither"),
    ):
        with pytest.raises(LutcError, match=message):
            lutc.patch(model, activation=activation)
    assert not any(isinstance(module, LUT) for module in model.modules()) and model[0].fn is F.relu6


def test_calibrate_observes_the_same_places(tmp_path):
    model = two()
    by_default = calibrate(model, [X]).layers
    everywhere = calibrate(model, [X], places="auto").layers
    chosen = calibrate(model, [X], places=["0.wave", "1.linear"]).layers
    known = {"act": "elu(alpha=0.5)", "fn": "relu6", "(leaky_relu)": "leaky_relu(negative_slope=0.2)"}
    paths = {f"{i}{' ' if name.startswith('(') else '.'}{name}": what for i in (0, 1) for name, what in known.items()}
    told = [{path: layer.function for path, layer in layers.items()} for layers in (by_default, everywhere, chosen)]
    assert told[0] == paths
    assert told[1] == paths | {"0.wave": "Wave", "1.wave": "Wave"}
    assert told[2] == paths | {"0.wave": "Wave", "1.linear": "Linear"}
    inner = model[0].act(model[0].linear(X)).detach()
    assert everywhere["0.wave"].histogram.count == inner.numel()
    assert everywhere["0.wave"].histogram.high == pytest.approx(inner.max().item(), rel=1e-5)
    calibrate(model, [X], places="auto").save(tmp_path / "c.json")
    weights = f"{tmp_path / 'c.json'}:0.wave"
    seen = lutc.compile(Wave(), 8, range=(-4.0, 4.0), search="exact", inputs=Inputs(8, 2.0**-5), weights=weights)
    assert seen.meta["weights"]["layer"] == "0.wave"
    call = calibrate(model, [X], places="1 (leaky_relu)").layers["1 (leaky_relu)"]
    assert (
        call.function == "leaky_relu(negative_slope=0.2)" and call.histogram == by_default["1 (leaky_relu)"].histogram
    )
    with pytest.raises(LutcError, match="'0.wavy' is neither"):
        calibrate(model, [X], places="0.wavy")
