"""`lutc calibrate` as a user types it."""

import json

import pytest
from click.testing import CliRunner

from lutc.calibration import read
from lutc.cli import main

MODEL = """
import torch
torch.manual_seed(0)
def model():
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.SiLU(), torch.nn.LayerNorm(6), torch.nn.Softmax(-1))
def batches():
    return [torch.randn(30, 4), torch.randn(10, 4)]
"""


def run(*arguments, code=0):
    result = CliRunner().invoke(main, ["calibrate", *map(str, arguments)])
    assert result.exit_code == code, result.output + result.stderr
    if code:
        assert result.stderr.startswith("lutc: ") and result.stderr.count("\n") == 1
    return result.output if code == 0 else result.stderr


@pytest.fixture
def model(tmp_path):
    file = tmp_path / "net.py"
    file.write_text(MODEL)
    return file


def test_a_model_in_a_python_file(model, tmp_path):
    out, picture = tmp_path / "c.json", tmp_path / "c.png"
    said = run(model, "-o", out, "--plot", picture)
    assert "net.py: 40 examples, 3 layers in" in said and "MiB above the model" in said and "least squares" in said
    assert picture.stat().st_size > 10_000
    found = read(out)
    assert {name: layer.function for name, layer in found.layers.items()} == {"1": "silu", "2": "rsqrt", "3": "exp"}
    assert [layer.histogram.count for layer in found.layers.values()] == [240, 40, 240]
    row = next(line for line in said.splitlines() if line.startswith("1 "))
    assert "silu" in row and "2^-" in row
    run(model, "-o", tmp_path / "d.json", "--merge", out)
    assert read(tmp_path / "d.json").layers["1"].histogram.count == 480
    data = json.loads(run(model, "-o", out, "--only", "1", "--json"))
    assert list(data["layers"]) == ["1"] and data["layers"]["1"]["count"] == 240 and data["seconds"] > 0


IMAGES = """
import torch
torch.manual_seed(0)
def model():
    return torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.GELU())
def batches():
    return [torch.randn(4, 2, 5, 5), torch.randn(4, 2, 7, 5)]
"""


def test_ranges_of_channels(tmp_path):
    file, out = tmp_path / "image.py", tmp_path / "c.json"
    file.write_text(IMAGES)
    said = run(file, "-o", out, "--axis", 1)
    assert "channels along axis 1: 3, in 1 layers; the widest of a layer has up to" in said
    layer = read(out).layers["1"]
    assert layer.channel_axis == 1 and layer.channel_low.shape == layer.channel_high.shape == (3,)
    assert run(file, "-o", out, "--axis", -3).startswith("layer") and read(out).layers["1"].channel_axis == -3
    for axis in (4, -5):
        line = run(file, "-o", tmp_path / "never.json", "--axis", axis, code=2)
        assert f"the input of '1' has shape (4, 3, 3, 3), without the axis {axis} of channels" in line
    line = run(file, "-o", tmp_path / "never.json", "--axis", 2, code=2)
    assert "has 3 channels along axis 2 in one batch and 5 in another" in line
    assert not (tmp_path / "never.json").exists()
    scales = [str(out), "--per-channel"]
    evaluated = CliRunner().invoke(main, ["evaluate", str(file), "--tables", "gelu_8", "--int8", *scales, "--json"])
    assert evaluated.exit_code == 0 and "exact on int8 inputs" in evaluated.output, evaluated.output + evaluated.stderr
    run(file, "-o", out)  # along the last dimension, which varies not, but the one before it does
    for arguments, line in (
        (["--int8", "2^-4", "--per-channel"], "--per-channel takes scales from the .json file"),
        (["--per-channel"], "--per-channel goes with --int8"),
    ):
        evaluated = CliRunner().invoke(main, ["evaluate", str(file), "--tables", "gelu_8", *arguments])
        assert evaluated.exit_code == 2 and line in evaluated.stderr and evaluated.stderr.count("\n") == 1


def test_bad_input_is_one_line_and_writes_nothing(model, tmp_path):
    (tmp_path / "linear.py").write_text(
        "import torch\ndef model(): return torch.nn.Linear(2, 2)\ndef batches(): return [torch.ones(1, 2)]\n"
    )
    nan = MODEL.replace("torch.randn(10, 4)", "torch.full((2, 4), float('nan'))")
    (tmp_path / "nan.py").write_text(nan)
    (tmp_path / "other.json").write_text("{}")
    before = sorted(tmp_path.iterdir())
    out = tmp_path / "never.json"
    for arguments, line in (
        ([tmp_path / "linear.py"], "Linear has no activation, softmax or norm that is known; found: nothing"),
        ([tmp_path / "nan.py"], "NaN among the inputs of 1 (silu, x)"),
        ([tmp_path / "missing"], "there is no"),
        ([model, "--device", "cuda:99"], "cuda:99"),
        ([model, "--only", "9"], "no module is called '9'"),
        ([model, "--merge", tmp_path / "other.json"], "is no calibration"),
        ([model, "--text", tmp_path / "other.json"], "leave --text out"),
    ):
        assert line in run(*arguments, "-o", out, code=2)
    assert "json file" in run(model, "-o", tmp_path / "c.txt", code=2)
    assert "no folder" in run(model, "-o", tmp_path / "none/c.json", code=2)
    assert sorted(p for p in tmp_path.iterdir() if p.name != "__pycache__") == before
