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
