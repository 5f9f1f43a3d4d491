"""Layer errors against what a model's next layer really gives, token by token."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.nn import functional as F

import lutc
from lutc import functions
from lutc.calibration import calibrate, read
from lutc.calibration.layer import layer_errors, with_layer_errors
from lutc.calibration.layer_error import LayerErrors, errors_of
from lutc.cli import main
from lutc.errors import LutcError
from lutc.samples import Inputs


class Norm(nn.Module):
    """A block with a residual and a norm behind it, before (plain) or after (gated) the next block."""

    def __init__(self, width, kind):
        super().__init__()
        self.norm = nn.LayerNorm(width) if kind == "layer_norm" else nn.RMSNorm(width, 1e-5)
        nn.init.uniform_(self.norm.weight, 0.5, 2.0)

    def forward(self, x):
        return self.norm(x)


class Plain(nn.Module):
    def __init__(self, kind="layer_norm"):
        super().__init__()
        self.up, self.act, self.drop, self.down, self.end = nn.Linear(5, 12), nn.GELU(), nn.Dropout(0.5), nn.Linear(12, 5), Norm(5, kind)

    def forward(self, x):
        return self.end(x + self.down(self.drop(self.act(self.up(x)))))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down, self.act_fn, self.end = nn.Linear(5, 12), nn.Linear(5, 12), nn.Linear(12, 5), nn.SiLU(), Norm(5, "rms_norm")

    def forward(self, x):
        return self.end(x + self.down(self.act_fn(self.gate(x)) * self.up(x)))


class Called(nn.Module):
    """Functional, with a product before a matrix product of its own and a scalar on the way."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(12, 5) * 0.5), nn.Parameter(torch.randn(12, 5) * 0.5)

    def forward(self, x):
        return torch.addmm(torch.zeros(5), 0.5 * F.gelu(F.linear(x, self.first)).reshape(-1, 12), self.second)


class WithTable(nn.Module):
    """f on the codes plus e there."""

    def __init__(self, inputs, values):
        super().__init__()
        self.inputs, self.values = inputs, torch.as_tensor(values)

    def forward(self, x):
        return self.values[torch.as_tensor(self.inputs.quantise(x.detach().numpy()) - self.inputs.minimum)]


@pytest.fixture(autouse=True)
def double():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def squares(a, b, weights=1.0):
    return float(((a - b).detach() ** 2).sum(-1).mul(weights).mean())


@pytest.mark.parametrize("inputs", [Inputs(8, 2.0**-4), Inputs(6, 0.11, 3)])
@pytest.mark.parametrize("make, name", [(Plain, "act"), (Gated, "act_fn")])
def test_the_form_is_the_squared_error_of_the_next_layer(make, name, inputs):
    model, x = make().eval(), torch.randn(40, 5) * 3
    (error,) = layer_errors(model, [x[:24], x[24:]], [inputs], tokens=1000, token_weights=False)[name]
    seen = {}
    model.down.register_forward_hook(lambda module, args, y: seen.update(y=y))
    exact = functions.get(error.function)(inputs.x())
    table = exact + np.random.default_rng(0).normal(size=exact.size) * 0.1

    def output(values):
        kept = getattr(model, name)
        setattr(model, name, kept if values is None else WithTable(inputs, values))
        model(x)
        setattr(model, name, kept)
        return seen["y"]

    with torch.no_grad():
        real, on_codes, with_table = output(None), output(exact), output(table)
    assert error.tokens == 40 and error.facts == {"linear": "down", "norm": None}
    assert error.error(table, exact) == pytest.approx(squares(with_table, on_codes), rel=1e-9)
    assert error.total(table, exact) == pytest.approx(squares(with_table, real), rel=1e-9)
    assert error.floor == pytest.approx(squares(on_codes, real), rel=1e-9)


@pytest.mark.parametrize("make, name", [(Plain, "act"), (lambda: Plain("rms_norm"), "act"), (Gated, "act_fn")])
def test_the_norm_that_follows_weighs_tokens_and_outputs(make, name):
    model, x, inputs = make().eval(), torch.randn(30, 5) * 2, Inputs(8, 2.0**-4)
    (error,) = layer_errors(model, [x], [inputs])[name]
    seen = {}
    model.end.norm.register_forward_pre_hook(lambda module, args: seen.update(x=args[0]))
    model.down.register_forward_hook(lambda module, args, y: seen.update(y=y))
    exact = functions.get(error.function)(inputs.x())
    with torch.no_grad():
        model(x)
        real, entering = seen["y"], seen["x"]
        setattr(model, name, WithTable(inputs, exact))
        model(x)
        change = seen["y"] - real
    norm = model.end.norm
    if isinstance(norm, nn.LayerNorm):
        spread, change = entering.var(-1, unbiased=False) + norm.eps, change - change.mean(-1, keepdim=True)
    else:
        spread = entering.square().mean(-1) + norm.eps
    assert error.facts == {"linear": "down", "norm": "end.norm"}
    assert error.floor == pytest.approx(squares(norm.weight * change, 0.0, 1 / spread), rel=1e-6)


def test_functions_called_in_a_forward_and_constant_gates():
    model, x, inputs = Called(), torch.randn(4, 3, 5), Inputs(8, 2.0**-3)
    ((path, (error,)),) = layer_errors(model, [x], [inputs]).items()
    assert path == "(gelu)" and error.facts == {"linear": "second", "norm": None} and error.tokens == 12
    exact = functions.get("gelu")(inputs.x())
    with torch.no_grad():
        hidden = F.linear(x, model.first).reshape(-1, 12)
        change = 0.5 * (torch.as_tensor(exact[inputs.quantise(hidden.numpy()) + 128]) - F.gelu(hidden)) @ model.second
    assert error.floor == pytest.approx(squares(change, 0.0), rel=1e-9)


def test_padding_is_left_out_and_tokens_are_drawn_from_all_batches():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Plain()

        def forward(self, input_ids, attention_mask):
            return self.block(input_ids)

    model, inputs = Masked().eval(), [Inputs(8, 2.0**-4)]
    x, mask = torch.randn(2, 6, 5), torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    (padded,) = layer_errors(model, [{"input_ids": x, "attention_mask": mask}], inputs)["block.act"]
    (plain,) = layer_errors(model.block, [x[mask.bool()]], inputs)["act"]
    assert padded.tokens == plain.tokens == 10
    np.testing.assert_allclose(padded.form, plain.form, rtol=1e-9, atol=1e-12)
    assert layer_errors(model.block, [x, x, x], inputs, tokens=9)["act"][0].tokens == 9


def test_float32_and_chunks_agree_with_float64(monkeypatch):
    import lutc.calibration.layer_sums as sums

    model, x, inputs = Gated().eval(), torch.randn(50, 5) * 2, [Inputs(8, 2.0**-4), Inputs(8, 2.0**-2)]
    wide = layer_errors(model, [x], inputs)["act_fn"]
    monkeypatch.setattr(sums, "_CHUNK", 2000)
    narrow = layer_errors(model.float(), [x.float()], inputs)["act_fn"]
    for a, b in zip(wide, narrow, strict=True):
        assert a.inputs == b.inputs
        np.testing.assert_allclose(a.matrix, b.matrix, rtol=1e-3, atol=1e-4 * a.matrix.max())


def test_the_model_is_as_it_was():
    model, x = Plain().train(), torch.randn(8, 5)
    before = dict(model.named_modules())
    layer_errors(model, [x], [Inputs(8, 2.0**-4)])
    assert dict(model.named_modules()) == before and model.training and not model.end.norm._forward_pre_hooks


def test_a_model_without_a_linear_layer_behind_is_an_error():
    for model in (nn.Sequential(nn.Linear(5, 5), nn.GELU(), nn.LayerNorm(5)), nn.Linear(5, 5)):
        with pytest.raises(LutcError, match="no linear layer follows"):
            layer_errors(model, [torch.randn(4, 5)], [Inputs()])


def test_other_bad_input():
    with pytest.raises(LutcError, match="at least one batch"):
        layer_errors(Plain(), [], [Inputs()])
    with pytest.raises(LutcError, match="no module is called 'nothing'"):
        layer_errors(Plain(), [torch.randn(4, 5)], [Inputs()], only="nothing")


def test_a_calibration_carries_layer_errors_to_the_compiler(tmp_path):
    model, x = Gated().eval(), [torch.randn(60, 5) * 3, torch.randn(60, 5) * 3]
    calibration = with_layer_errors(calibrate(model, x), model, x, [Inputs(8, 2.0**-4), Inputs(8, 2.0**-3)], tokens=500)
    calibration.save(tmp_path / "c.json")
    (direct,) = layer_errors(model, x, [Inputs(8, 2.0**-4)], tokens=500).values()
    found = errors_of("act_fn", read(tmp_path / "c.json").layers["act_fn"])
    assert [e.inputs.scale for e in found.errors] == [2.0**-4, 2.0**-3]
    np.testing.assert_array_equal(found.errors[0].form, direct[0].form)
    tables = lutc.compile("silu", 8, weights=f"{tmp_path / 'c.json'}:act_fn", objective="layer")
    assert list(tables) == ["4", "3"]
    plain = lutc.compile("silu", 8, inputs=(Inputs(8, 2.0**-4),))
    exact = functions.get("silu")(direct[0].inputs.x())
    felt, told = direct[0].error(tables["4"](direct[0].inputs.x()), exact), tables.meta["layer_error"]["4"]
    assert felt < 0.8 * direct[0].error(plain["4"](direct[0].inputs.x()), exact)
    assert felt == pytest.approx(told["added"], rel=1e-5) and told["exact_on_codes"] == pytest.approx(direct[0].floor, rel=1e-5)
    assert told["sha256"] == direct[0].record["sha256"] and told["norm"] == "end.norm" and tables.meta["weights"]["layer"] == "act_fn"
    with pytest.raises(LutcError, match="calibrated for 8 bits at scale 2\\^-4, .* given 8 bits at scale 2\\^-5"):
        lutc.compile("silu", 8, weights=f"{tmp_path / 'c.json'}:act_fn", objective="layer", inputs=(Inputs(8, 2.0**-5),))
    with pytest.raises(LutcError, match="name it"):
        lutc.compile("silu", 8, weights=str(tmp_path / "c.json"), objective="layer")


def test_calibrations_with_layer_errors_add_up():
    model, x = Plain().eval(), torch.randn(40, 5)
    whole, first, second = (with_layer_errors(calibrate(model, [part]), model, [part], [Inputs(8, 2.0**-4)]) for part in (x, x[:15], x[15:]))
    one, two = (errors_of("act", c.layers["act"]).errors[0] for c in (whole, first + second))
    assert one.tokens == two.tokens == 40 and one.facts == two.facts
    np.testing.assert_allclose(one.form, two.form, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"weights": None}, "--weights calibration.json:LAYER"),
        ({"weights": "gauss"}, "needs a layer of a calibration"),
        ({"search": "exact"}, "the genetic search"),
        ({"symmetry": True}, "no symmetry"),
        ({"inputs": "fp16"}, "takes input codes"),
        ({"share": "all"}, "no sharing"),
        ({"coefficients": "fp16"}, "fixed-point"),
    ],
)
def test_requests_that_have_no_layer_objective(options, message):
    (errors,) = layer_errors(Plain().eval(), [torch.randn(9, 5)], [Inputs(8, 2.0**-4)]).values()
    with pytest.raises(LutcError, match=message):
        lutc.compile("gelu", 8, **{"objective": "layer", "weights": LayerErrors("act", tuple(errors)), **options})


def test_what_cannot_be_calibrated():
    model, x = Plain().eval(), torch.randn(9, 5)
    with pytest.raises(LutcError, match="another model"):
        with_layer_errors(calibrate(Gated(), [x]), model, [x])
    with pytest.raises(LutcError, match="act .gelu. are not all finite"):
        layer_errors(model, [torch.full((3, 5), torch.nan)], [Inputs()])
    with pytest.raises(LutcError, match="up to 10 bits"):
        layer_errors(model, [x], [Inputs(16, 2.0**-8)])
    assert isinstance(model.act, nn.GELU)


def test_both_commands(tmp_path):
    torch.set_default_dtype(torch.float32)
    (tmp_path / "net.py").write_text(
        "import torch\ntorch.manual_seed(0)\n"
        "def model(): return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.SiLU(), torch.nn.Linear(6, 4), torch.nn.LayerNorm(4))\n"
        "def batches(): return [torch.randn(30, 4)]\n"
    )

    def run(*arguments, code=0):
        result = CliRunner().invoke(main, [str(a) for a in arguments])
        assert result.exit_code == code, result.output + result.stderr
        return result.output if code == 0 else result.stderr

    calibration, table = tmp_path / "c.json", tmp_path / "t.json"
    run("calibrate", tmp_path / "net.py", "-o", calibration, "--layer-error", "2^-5", "--layer-error", "auto")
    said = run("compile", "silu", "--weights", f"{calibration}:1", "--objective", "layer", "-o", table)
    assert "mean squared error of the output of 2, as 3 lets it through" in said
    assert lutc.load(str(table)).meta["layer_error"]["5"]["linear"] == "2"
    never = tmp_path / "never.json"
    refused = run("compile", "silu", "--weights", f"{calibration}:1", "--objective", "layer", "--scale", "2^-1", "-o", never, code=2)
    assert refused.count("\n") == 1 and "given 8 bits at scale 2^-1" in refused and not never.exists()
    refused = run("calibrate", tmp_path / "net.py", "-o", calibration, "--layer-error", "half", code=2)
    assert "write 0.0625, 2^-4 or 2**-4" in refused


def test_the_whole_error_makes_up_for_clipped_inputs():
    """Inputs far beyond the codes: the exact function on codes is far off, a table may say at the last code what they were on average."""
    model, x, codes = Plain().eval(), [torch.randn(200, 5) * 20], Inputs(8, 2.0**-5)
    (errors,) = layer_errors(model, x, [codes], token_weights=False).values()
    made = {o: lutc.compile("gelu", 8, objective=o, weights=LayerErrors("act", tuple(errors))) for o in ("layer", "layer-total")}
    exact = functions.get("gelu")(codes.x())
    added, whole = (errors[0].total(tables["5"](codes.x()), exact) for tables in made.values())
    assert whole < 0.5 * errors[0].floor < added < 1.1 * errors[0].floor
    told = made["layer-total"].meta
    assert told["objective"] == "layer-total" and told["layer_error"]["5"]["mean_squared"] == pytest.approx(whole, rel=1e-5)
