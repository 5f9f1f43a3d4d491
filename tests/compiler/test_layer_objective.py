"""From layer errors in a calibration to tables, and both commands."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import lutc
from lutc import functions
from lutc.calibration import calibrate, read
from lutc.calibration.layer_error import LayerErrors, errors_of
from lutc.cli import main
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.observe.next_layer import layer_errors, with_layer_errors
from tests.helpers.layer_models import Gated, Plain


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.slow
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
    assert felt == pytest.approx(told["added"], rel=1e-5) and told["exact_on_codes"] == pytest.approx(
        direct[0].floor, rel=1e-5
    )
    assert (
        told["sha256"] == direct[0].record["sha256"]
        and told["norm"] == "end.norm"
        and tables.meta["weights"]["layer"] == "act_fn"
    )
    with pytest.raises(LutcError, match="calibrated for 8 bits at scale 2\\^-4, .* given 8 bits at scale 2\\^-5"):
        lutc.compile(
            "silu", 8, weights=f"{tmp_path / 'c.json'}:act_fn", objective="layer", inputs=(Inputs(8, 2.0**-5),)
        )
    with pytest.raises(LutcError, match="name it"):
        lutc.compile("silu", 8, weights=str(tmp_path / "c.json"), objective="layer")


def test_calibrations_with_layer_errors_add_up():
    model, x = Plain().eval().double(), torch.randn(40, 5, dtype=torch.float64)
    whole, first, second = (
        with_layer_errors(calibrate(model, [part]), model, [part], [Inputs(8, 2.0**-4)]) for part in (x, x[:15], x[15:])
    )
    one, two = (errors_of("act", c.layers["act"]).errors[0] for c in (whole, first + second))
    assert one.tokens == two.tokens == 40 and one.facts == two.facts
    np.testing.assert_allclose(one.form, two.form, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"weights": None}, "`weights` calibration.json:LAYER"),
        ({"weights": "gauss"}, "needs a layer of a calibration"),
        ({"search": "exact"}, "which belongs to genetic"),
        ({"symmetry": True}, "no symmetry"),
        ({"inputs": "fp16"}, "takes input codes"),
        ({"share": "all"}, "squared objective"),
        ({"coefficients": "fp16"}, "fixed-point"),
    ],
)
def test_requests_that_have_no_layer_objective(options, message):
    (errors,) = layer_errors(Plain().eval(), [torch.randn(9, 5)], [Inputs(8, 2.0**-4)]).values()
    with pytest.raises(LutcError, match=message):
        lutc.compile("gelu", 8, **{"objective": "layer", "weights": LayerErrors("act", tuple(errors)), **options})


def test_both_commands(tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\ntorch.manual_seed(0)\n"
        "def model(): return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.SiLU(), torch.nn.Linear(6, 4), "
        "torch.nn.LayerNorm(4))\n"
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
    refused = run(
        "compile",
        "silu",
        "--weights",
        f"{calibration}:1",
        "--objective",
        "layer",
        "--scale",
        "2^-1",
        "-o",
        never,
        code=2,
    )
    assert refused.count("\n") == 1 and "given 8 bits at scale 2^-1" in refused and not never.exists()
    refused = run("calibrate", tmp_path / "net.py", "-o", calibration, "--layer-error", "half", code=2)
    assert "write 0.0625, 2^-4, 2**-4 or 1/16" in refused


def test_the_whole_error_makes_up_for_clipped_inputs():
    """Inputs far beyond the codes: the exact function on codes is far off, a table may say at the last code what they
    were on average.
    """
    model, x, codes = Plain().eval(), [torch.randn(200, 5) * 20], Inputs(8, 2.0**-5)
    (errors,) = layer_errors(model, x, [codes], token_weights=False).values()
    made = {
        o: lutc.compile("gelu", 8, objective=o, weights=LayerErrors("act", tuple(errors)))
        for o in ("layer", "layer-total")
    }
    exact = functions.get("gelu")(codes.x())
    added, whole = (errors[0].total(tables["5"](codes.x()), exact) for tables in made.values())
    assert whole < 0.5 * errors[0].floor < added < 1.1 * errors[0].floor
    told = made["layer-total"].meta
    assert told["objective"] == "layer-total" and told["layer_error"]["5"]["mean_squared"] == pytest.approx(
        whole, rel=1e-5
    )
