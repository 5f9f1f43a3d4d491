"""activation="auto": whatever elementwise function is found has a table compiled on the spot."""

import copy
import time

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lutc
from lutc.errors import LutcError
from lutc.nn import LUT, ChannelLUT, QuantLUT
from lutc.nn.patching import automatic

X = torch.linspace(-6.0, 6.0, 480).reshape(-1, 4)


class Own(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x) ** 2


class Fast(nn.Module):
    def forward(self, x):
        return torch.sin(20.0 * x)


class Cube(nn.Module):
    def forward(self, x):
        return x**3


class Shift(nn.Module):
    def forward(self, x):
        return 2.0 * x + 1.0


class Mixes(nn.Module):
    def forward(self, x):
        return x - x.mean()


class Calls(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.slope, self.soft = nn.Linear(4, 4), 0.3, F.softsign

    def forward(self, x):
        return F.leaky_relu(self.linear(x), self.slope) + self.soft(x)


def found(report):
    return {one.path: (one.what, one.by, one.note) for one in report.replaced}


def error_of(note):
    return float(note.split("error at most ")[1].split(" ")[0])


@pytest.mark.parametrize("kind", ["auto", pytest.param("auto-fplut", marks=pytest.mark.slow)])
def test_known_and_unknown_functions_are_served_within_what_the_report_says(kind):
    torch.manual_seed(0)
    parts = [nn.SiLU(), nn.ELU(0.5), nn.Softplus(5), Own(), nn.PReLU(), nn.Threshold(1.0, 2.0), nn.Hardshrink(0.3)]
    model = nn.Sequential(*parts, Calls())
    report = lutc.patch(model, activation=kind)
    told = found(report)
    assert [what for what, *_ in told.values()] == [
        "silu", "elu(alpha=0.5)", "softplus(beta=5)", "Own", "prelu", "Threshold", "hardshrink(lambd=0.3)", "softsign",
        "leaky_relu(negative_slope=0.3)",
    ]  # fmt: skip
    assert not report.left
    for i, exact in enumerate(parts[:5]):
        worst = (model[i](X) - exact(X)).abs().max().item()
        assert worst <= error_of(told[str(i)][2]) * 1.05 + 1e-6, (i, worst, told[str(i)])
    lutc.unpatch(model)
    assert [type(module) for module in model[:7]] == [type(part) for part in parts]


def test_the_same_function_is_compiled_once(monkeypatch):
    monkeypatch.setattr(automatic, "_MADE", {})
    calls = []
    compiled = automatic.compile
    monkeypatch.setattr(automatic, "compile", lambda *a, **k: calls.append(a) or compiled(*a, **k))
    model = nn.Sequential(nn.ELU(0.5), nn.ELU(0.5), Own(), Own(), nn.ELU(0.25))
    lutc.patch(model, activation="auto", entries=6)
    assert len(calls) == 3 and {len(one["5"].body.slopes) for one in (model[0].tables, model[4].tables)} == {6}
    begun = time.perf_counter()
    lutc.patch(nn.Sequential(nn.ELU(0.5), Own()), activation="auto", entries=6)
    assert len(calls) == 3 and time.perf_counter() - begun < 5.0
    lutc.patch(nn.Sequential(nn.ELU(0.5)), activation="auto", entries=7)
    assert len(calls) == 4


def test_what_cannot_be_served_is_left_with_its_error():
    model = nn.Sequential(Fast(), nn.SiLU(), Shift(), Mixes(), nn.GLU())
    exact = copy.deepcopy(model)
    report = lutc.patch(model, activation="auto", entries=8)
    why = {one.path: one.why for one in report.left}
    assert set(why) == {"0", "4"} and set(found(report)) == {"1"}
    assert (
        "8 entries cannot serve it: error at most 1." in why["0"] and "root mean square of a spread of 0.71" in why["0"]
    )
    assert why["4"] == "not elementwise: for shape (258,) it gives shape (129,)"
    assert isinstance(model[0], Fast) and torch.equal(model[0](X), exact[0](X))


def test_tails_that_are_no_lines_run_the_function_itself():
    model = nn.Sequential(Cube(), nn.ReLU())
    exact = copy.deepcopy(model)
    report = lutc.patch(model, activation="auto", entries=16)
    assert "beyond -8 and 8 the exact function runs" in found(report)["0"][2]
    x = torch.tensor([-1e3, 50.0, 464.0])
    assert torch.equal(model[0](x), exact[0](x))
    lines = copy.deepcopy(exact)
    with pytest.warns(lutc.errors.RangeWarning, match="goes on as a line; outside='exact'"):
        report = lutc.patch(lines, activation="auto", entries=16, outside="table")
    assert "its last segment goes on as a line" in str(report) and lines[0](x)[0] > -1e6


def test_channels_of_a_prelu():
    model = nn.Sequential(nn.PReLU(4))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([0.1, 0.25, -0.5, 0.25]))
    exact = copy.deepcopy(model)
    report = lutc.patch(model, activation="auto")
    assert isinstance(model[0], ChannelLUT) and len(model[0].luts) == 3
    assert found(report)["0"][1:] == ("auto (2 entries a channel)", "slopes off by at most 0.0063")
    assert (model(X) - exact(X)).abs().max() <= 0.0063 * 6


def test_given_tables_go_first_and_quantisers_before_automatic_ones():
    model = nn.Sequential(nn.SiLU(), nn.ELU(0.5))
    report = lutc.patch(model, activation=["silu_8", "auto"])
    assert [one.by for one in report.replaced] == ["silu_8", "auto (16 entries)"]
    model = nn.Sequential(nn.ELU(0.5), Own())
    report = lutc.patch(model, activation="auto", quantise=2**-5)
    assert all("on 8 bits, scale 0.03125" in one.by for one in report.replaced)
    codes = (X / 2**-5).round().clamp(-128, 127) * 2**-5
    assert (model[0](X) - F.elu(codes, 0.5)).abs().max() < 0.02


def test_automatic_tables_go_behind_quantisers_that_are_there():
    model = nn.Sequential(nn.ELU(0.5))
    lutc.patch(model, activation="elu(alpha=0.5)", quantise=2**-3)
    lutc.patch(model, activation="auto")
    codes = (X / 2**-3).round().clamp(-128, 127) * 2**-3
    assert isinstance(model[0], QuantLUT) and (model[0](X) - F.elu(codes, 0.5)).abs().max() < 0.02


def test_exact_functions_with_parameters_go_behind_quantisers():
    model = nn.Sequential(nn.ELU(0.5), nn.Softplus(5))
    report = lutc.patch(model, quantise=2**-4)
    assert [one.what for one in report.replaced] == ["elu(alpha=0.5)", "softplus(beta=5)"] and not report.left
    codes = (X / 2**-4).round().clamp(-128, 127) * 2**-4
    torch.testing.assert_close(model[0](X), F.elu(codes, 0.5))


def test_parameters_that_are_only_computed_are_told():
    class Computed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return F.elu(self.linear(x), float(x.shape[0]))

    model = nn.Sequential(Computed(), nn.SiLU())
    report = lutc.patch(model, activation="auto")
    assert [one.why for one in report.left] == ["its parameters are computed as it runs; give a table of it"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"activation": "silu_8", "entries": 8}, "entries= goes with activation='auto'"),
        ({"activation": "auto-fplut", "entries": 8}, "entries= goes with activation='auto'"),
        ({"activation": "auto", "entries": 1}, "nothing was replaced: 0: a table has at least 2 entries"),
        ({"activation": "auto", "outside": "clamp"}, "outside is 'table' or 'exact'; given 'clamp'"),
    ],
)
def test_bad_requests(arguments, message):
    model = nn.Sequential(nn.SiLU())
    with pytest.raises(LutcError, match=message):
        lutc.patch(model, **arguments)
    assert isinstance(model[0], nn.SiLU)


def test_transformers_activations():
    pytest.importorskip("transformers")
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    for activation in ("relu2", "gelu_10", "xielu", "laplace"):
        config = LlamaConfig(**sizes, vocab_size=64, hidden_act=activation, num_key_value_heads=2)
        model = LlamaForCausalLM(config).eval()
        ids = torch.arange(12)[None] % 64
        with torch.no_grad():
            want = model(ids).logits
            report = lutc.patch(model, activation="auto", entries=32)
            got = model(ids).logits
        assert len(report.replaced) == 2 and not report.left, activation
        assert isinstance(model.model.layers[0].mlp.act_fn, LUT)
        assert (got - want).norm() < 0.05 * want.norm(), activation


class Logs(nn.Module):
    """Finite for positive inputs alone."""

    def forward(self, x):
        return torch.log(x) * 2.0


def test_functions_that_are_not_known_have_tables_for_what_a_batch_gives_them():
    model = nn.Sequential(Logs())
    x = torch.linspace(0.3, 40.0, 300)
    exact = copy.deepcopy(model)
    report = lutc.patch(model, activation="auto-fplut", audit=x)
    assert found(report)["0"][2].split("; ")[0].endswith(", made for 0.25 to 64")
    assert (model(x) - exact(x)).abs().max() < 1e-3
    report = lutc.patch(nn.Sequential(Own()), activation="auto")
    assert "made for -8 to 8" in str(report)


def test_the_interval_of_what_was_seen():
    assert automatic.rounded_out(-3.0, 0.3) == (-4.0, 0.5) and automatic.rounded_out(0.3, 8.0) == (0.25, 8.0)
    assert automatic.rounded_out(0.0, 5.0) == (0.0, 8.0) and automatic.rounded_out(2.0, 2.0) == (1.0, 3.0)
    assert automatic.rounded_out(-5.0, -0.3) == (-8.0, -0.25)


class Snake(nn.Module):
    def __init__(self):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return x + torch.sin(self.alpha * x) ** 2 / self.alpha


def test_activations_with_parameters_of_their_own_are_told():
    model = nn.Sequential(Snake(), nn.SiLU())
    report = lutc.patch(model, activation="auto", entries=8)
    assert [(one.path, one.what) for one in report.left] == [("0", "Snake")] and "given by name" in report.left[0].why
    report = lutc.patch(model, activation="sin_fplut", audit=X)
    assert [one.what for one in report.replaced] == ["sin"] and not report.left
    assert {one.what for one in report.audits[1].exact} == {"division"}


def test_tables_on_the_spot_carry_no_proof():
    model = nn.Sequential(nn.Softplus(3))
    lutc.patch(model, activation="auto-fplut")
    assert "gap" not in str(model[0].tables.meta) and lutc.fplut.compile_fplut("softplus(beta=3)", proof=False)
