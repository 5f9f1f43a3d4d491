"""Tables weighed by a calibration: the weights, the error that the model sees, and the command line."""

import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

import lutc
from lutc.calibration import Calibration, Histogram, Layer, read
from lutc.calibration.scales import for_layer
from lutc.calibration.weights import EVEN, is_calibration, measured
from lutc.cli import main
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.functions import FUNCTIONS
from lutc.samples.samples import code_samples

RNG = np.random.default_rng(8)
FED = {
    "a.act": RNG.normal(-0.4, 0.6, 20_000).astype(np.float32),
    "b.act": RNG.normal(2.0, 1.5, 9_000).astype(np.float32),
}
SCORES = -RNG.exponential(2.0, 5_000).astype(np.float32)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("calibration") / "c.json"
    layers = {f"model.{name}": Layer("silu", "activation", "x", Histogram.of(x)) for name, x in FED.items()}
    layers["model.attention"] = Layer("exp", "softmax", "x - max(x)", Histogram.of(SCORES))
    layers["model.idle"] = Layer("tanh", "activation", "x", Histogram.of([]))
    layers["model.elu"] = Layer("elu", "activation", "x", Histogram.of(FED["a.act"]))
    Calibration({"name": "toy", "class": "Toy", "digest": "0" * 64}, {"tokens": 5, "batches": 1}, layers).save(path)
    return path


def silu(x):
    return x / (1 + np.exp(-x))


def test_weights_of_codes_are_how_often_they_occur(path):
    weights, inputs, x = measured(f"{path}:a.act", "silu"), Inputs(8, 2.0**-5, 3), FED["a.act"].astype(np.float64)
    counts = np.bincount(np.clip(np.rint(x * 32) + 3, -128, 127).astype(int) + 128, minlength=256)
    assert np.allclose(weights.of_codes(inputs), (1 - EVEN) * counts / counts.sum() + EVEN / 256)
    samples = code_samples(FUNCTIONS["silu"], inputs, -1, 1, weights)
    assert np.allclose(samples.weight, weights.of_codes(inputs)[(inputs.x() >= -1) & (inputs.x() <= 1)])
    pooled = measured(str(path), "swish")
    assert pooled.histogram.count == 29_000 and pooled.record["layers"] == 2 and "layer" not in pooled.record


@pytest.mark.parametrize("name", FED)
def test_the_model_sees_less_error(path, name):
    x = FED[name].astype(np.float64)
    inputs = (Inputs(8, 2.0**-4), Inputs(8, 2.0**-3))
    weighted = lutc.compile("silu", 8, inputs=inputs, weights=f"{path}:{name}")
    even = lutc.compile("silu", 8, inputs=inputs, range=weighted.range)
    for key, codes in weighted.inputs.items():
        fed = codes.scale * np.clip(np.rint(x / codes.scale), -128, 127)
        on_codes = [np.mean((tables[key](fed) - silu(fed)) ** 2) for tables in (weighted, even)]
        direct = np.mean((weighted[key](fed) - silu(x)) ** 2)
        assert weighted.meta["weights"]["mean_squared"][key] == pytest.approx(
            direct, rel=1e-2
        )  # bins are a bf16 value wide
        assert on_codes[0] < 0.7 * on_codes[1] and weighted.meta["search"]["gap"][key] == 0
    assert weighted.range[0] <= -4 and weighted.range[1] >= 4
    record = weighted.meta["weights"]
    assert (
        record["layer"] == f"model.{name}"
        and record["model"] == "toy"
        and record["file"] == "c.json"
        and record["values"] == x.size
    )
    assert record["sha256"] == json.loads(path.read_text())["sha256"]


def test_clamped_codes_stand_for_all_beyond(path):
    """At 2^-5 codes end at 3.97, a twelfth of the inputs lies beyond: the last code gives the mean of their silu, and
    no code in between moves.
    """
    x, inputs = FED["b.act"].astype(np.float64), Inputs(8, 2.0**-5)
    codes = np.clip(np.rint(x * 32), -128, 127)
    beyond = silu(x[codes == 127])
    weights = measured(f"{path}:b.act", "silu")
    targets = weights.targets(FUNCTIONS["silu"], inputs)
    assert (x > 127.5 / 32).mean() > 0.05 and x.min() > -127 / 32
    few = EVEN / (1 - EVEN) * x.size / 256  # inputs at the code itself
    wanted = (beyond.sum() + few * silu(127 / 32)) / (beyond.size + few)
    assert targets[-1] == pytest.approx(wanted, rel=1e-5) and targets[0] == pytest.approx(silu(-4.0))
    assert np.allclose(targets[1:-1], silu(inputs.x()[1:-1]), rtol=1e-12)
    table = lutc.compile("silu", 8, inputs=(inputs,), weights=f"{path}:b.act")["5"]
    assert table([127 / 32])[0] == pytest.approx(beyond.mean(), abs=0.01) and table([126 / 32])[0] == pytest.approx(
        silu(126 / 32), abs=0.05
    )
    error, exact = (np.mean((f(codes / 32) - silu(x)) ** 2) for f in (table, silu))
    assert error < 0.7 * exact and weights.mean_squared(silu, silu, inputs) == pytest.approx(exact, rel=1e-3)
    # what does not ask for means, or for one table a scale, or is for all layers, of which others may end elsewhere
    for options in ({"objective": "absolute"}, {"share": "all"}, {"weights": str(path)}):
        other = next(
            iter(lutc.compile("silu", 8, inputs=(inputs,), **{"weights": f"{path}:b.act", **options}).values())
        )
        assert other([127 / 32])[0] == pytest.approx(silu(127 / 32), abs=0.1)


@pytest.mark.parametrize("inputs", ["fp16", "bf16"])
def test_float_inputs(path, inputs):
    x = FED["a.act"].astype(np.float64)
    weighted = lutc.compile("silu", 8, inputs=inputs, weights=f"{path}:a.act")
    even = lutc.compile("silu", 8, inputs=inputs, range=weighted.range)
    seen = [np.mean((next(iter(tables.values()))(x) - silu(x)) ** 2) for tables in (weighted, even)]
    assert seen[0] < 0.8 * seen[1]
    assert next(iter(weighted.meta["weights"]["mean_squared"].values())) == pytest.approx(seen[0], rel=0.05)


def test_a_softmax_layer_weighs_exp(path):
    weighted = lutc.compile("exp", 8, inputs=(Inputs(8, 2.0**-4),), weights=f"{path}:attention")
    rounding = measured(f"{path}:attention", "exp").mean_squared(np.exp, np.exp, Inputs(8, 2.0**-4))
    assert weighted.range == (-8.0, 0.0) and 0 < weighted.meta["weights"]["mean_squared"]["4"] - rounding < 5e-5
    assert measured(f"{path}:elu", "celu").record["layer"] == "model.elu"


def test_what_cannot_be_weighed(path):
    for source, function, said in (
        (f"{path}:attention", "silu", "a layer of exp, not of silu; its layers of silu are model.a.act, model.b.act"),
        (f"{path}:c.act", "silu", "no layer 'c.act'; there are 5, such as"),
        (f"{path}:act", "silu", "the end of 2 layers"),
        (str(path), "gelu", "no layer of gelu"),
        (f"{path}:idle", "tanh", "never reached"),
        ("missing.json:a", "silu", "cannot read missing.json"),
    ):
        with pytest.raises(LutcError, match=said):
            measured(source, function)
    with pytest.raises(LutcError, match="holds at every input alike"):
        lutc.compile("silu", search="greedy", max_error="0.01", weights=f"{path}:a.act")
    assert (
        is_calibration("c.json")
        and is_calibration("x/c.json:layer")
        and not is_calibration("gauss:2")
        and not is_calibration(None)
    )


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output + result.stderr
    return result.output if code == 0 else result.stderr


def test_compile_takes_weights_and_scale(path, tmp_path):
    out = tmp_path / "t.json"
    said = run("compile", "silu", "--weights", f"{path}:b.act", "--calibrated-scale", "-o", out)
    assert (
        "mean squared error that toy sees, by 9,000 inputs of model.b.act" in said
        and "equal weights" in said
        and "%" in said
    )
    tables, layer = lutc.load(out), read(path).layer("b.act")[1]
    assert list(tables.inputs.values()) == [for_layer(layer)]
    run("compile", "silu", "--weights", f"{path}:b.act", "--calibrated-scale", "least-squares", "--bits", 6, "-o", out)
    assert next(iter(lutc.load(out).inputs.values())) == for_layer(layer, "least-squares", 6)
    assert "certificate holds" in run("certify", out)
    run("compile", "silu", "--weights", f"{path}:b.act", "--calibrated-scale", "--asymmetric", "-o", out)
    assert next(iter(lutc.load(out).inputs.values())) == for_layer(layer, symmetric=False) != for_layer(layer)
    assert "certificate holds" in run("certify", out)
    assert "pooled" in run("compile", "silu", "--weights", path, "--scale", "2^-4", "-o", out)
    for options, line in (
        (["--calibrated-scale"], "needs a calibration"),
        (["--asymmetric"], "goes with --calibrated-scale"),
        (["--calibrated-scale", "--scale", "2^-4", "--weights", path], "leave out --scale"),
        (["--weights", f"{path}:b.act", "--search", "cutpoints"], "does not apply"),
        (["--weights", tmp_path / "no.json"], "cannot read"),
    ):
        assert line in run("compile", "silu", *options, "-o", tmp_path / "never.json", code=2)
    assert not (tmp_path / "never.json").exists()


def test_compiling_with_weights_imports_no_torch(path, tmp_path):
    arguments = ["compile", "silu", "--weights", f"{path}:a.act", "--scale", "2^-4", "-o", str(tmp_path / "t.json")]
    code = (
        f"import sys; from lutc.cli import main; main({arguments!r}, standalone_mode=False); sys.exit('torch' in "
        "sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
