"""A table as a LiteRT model: every code in the runtime gives the integer model's answer."""

import importlib.util

import numpy as np
import pytest
from click.testing import CliRunner

from lutc import litert
from lutc.cli import main
from lutc.errors import LutcError
from lutc.formats.codes import Inputs, Outputs
from lutc.table.integer import evaluate
from lutc.table.library import load

installed = pytest.mark.skipif(
    importlib.util.find_spec("ai_edge_litert") is None, reason="needs pip install 'lutc[litert]'"
)


@installed
@pytest.mark.parametrize(
    ("name", "out"),
    [
        ("gelu_8", Inputs(8, 2.0**-4)),
        ("exp_16", Outputs(8, 0.0043, -128, "half_away")),
        ("sigmoid_8", Outputs(16, 2.0**-15, 0, "half_even")),
    ],
)
def test_every_code(name, out, tmp_path):
    tables = load(name)
    assert litert.export(tables, "4", out, tmp_path / "m.tflite") == 256
    model, q = (tmp_path / "m.tflite").read_bytes(), tables.inputs["4"].codes()
    np.testing.assert_array_equal(
        litert.run(model, q.astype(np.int8)), evaluate(tables["4"], q, tables.inputs["4"], out)
    )
    some = np.array([[5, -128, 127], [0, 1, -1]], np.int8)
    assert litert.run(model, some[0]).tolist() == evaluate(tables["4"], some[0], tables.inputs["4"], out).tolist()


@installed
def test_the_quantisation_is_that_of_the_codes(tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    done = CliRunner().invoke(
        main, ["export", "gelu_8", "--format", "tflite", "--key", "4", "--out-scale", "0.05", "-o", str(tmp_path / "m")]
    )
    assert done.exit_code == 0 and "256" in done.output, done.output
    interpreter = Interpreter(model_path=str(tmp_path / "m" / "gelu_8_4.tflite"))
    (given,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert given["quantization"] == (2.0**-4, 0) and answer["quantization"] == (pytest.approx(0.05), 0)
    assert given["dtype"] == answer["dtype"] == np.int8 and list(given["shape_signature"]) == [-1]


@installed
def test_a_wrong_answer_is_refused_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(litert, "run", lambda model, codes: np.zeros(256, np.int64))
    with pytest.raises(LutcError, match="of 256 codes otherwise"):
        litert.export(load("gelu_8"), "4", Inputs(8, 2.0**-4), tmp_path / "m.tflite")
    arguments = ["export", "gelu_8", "--format", "tflite", "--out-scale", "1", "-o", str(tmp_path / "new")]
    assert CliRunner().invoke(main, arguments).exit_code == 2
    assert not list(tmp_path.iterdir())


@installed
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gelu_8"], "give --out-scale"),
        (["silu_fplut", "--out-scale", "1"], "one of float inputs"),
        (["gelu_8", "--out-scale", "1", "--out-bits", "12"], "codes of 8 or 16 bits"),
        (["gelu_8", "--out-scale", "1", "--latency", "1"], "--latency is not for tflite"),
    ],
)
def test_bad_input(arguments, said, tmp_path):
    result = CliRunner().invoke(main, ["export", *arguments, "--format", "tflite", "-o", str(tmp_path / "m")])
    assert result.exit_code == 2 and said in result.stderr and not (tmp_path / "m").exists()


def test_without_litert(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LutcError, match="pip install 'lutc\\[litert\\]'"):
        litert.export(load("gelu_8"), "4", Inputs(8, 1.0), tmp_path / "m.tflite")
