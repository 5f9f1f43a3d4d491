"""A folder's tables as files for other flows, held to the tables' own integers."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

import lutc
from lutc.cli import main
from lutc.folder import manifest
from lutc.formats.codes import Inputs
from lutc.hardware.export import units
from lutc.table.integer import evaluate
from tests.helpers import tiny_models


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    ids = torch.randint(0, 50, (2, 1, 24), generator=torch.Generator().manual_seed(1))
    path = tmp_path_factory.mktemp("exported") / "tables"
    batches = [{"input_ids": i} for i in ids]
    lutc.compile_model(tiny_models.llama(), batches, path, norms="exact", measure=False, workers=1)
    return path


def run(*words, code=0):
    done = CliRunner().invoke(main, ["model", "export", *map(str, words)])
    assert done.exit_code == code, done.output
    return done.output


def test_every_place_has_its_files(folder, tmp_path):
    out = run(folder, "--format", "c,memh", "--format", "sv", "-o", tmp_path)
    assert "for 6 of 6 places" in out and "'fp16' of 'exp' is one of float inputs" in out
    index, tables = json.loads((tmp_path / "index.json").read_text()), manifest.read(folder).tables
    for place in index["places"]:
        if place["function"] == "exp":
            assert set(place["files"]) == {"sv"} and set(place["left"]) == {"c", "memh"}
            assert any(name.endswith("lutc_fp16.sv") for name in place["files"]["sv"])
            continue
        assert all((tmp_path / name).exists() for files in place["files"].values() for name in files)
        (unit,) = units(tables[place["table"]])
        (image,) = [name for name in place["files"]["memh"] if name.endswith("_acc.memh")]
        lines = (tmp_path / image).read_text().splitlines()
        words = np.array([int(line, 16) for line in lines if not line.startswith("//")])
        assert np.array_equal(words[unit.inputs.codes() % 256], unit.acc % (1 << unit.acc_bits))


@pytest.mark.slow
def test_onnx_of_every_table(folder, tmp_path):
    out = run(folder, "--format", "onnx", "--out-scale", "2^-4", "-o", tmp_path)
    assert "for 6 of 6 places" in out
    index, tables = json.loads((tmp_path / "index.json").read_text()), manifest.read(folder).tables
    for place in index["places"]:
        (file,) = place["files"]["onnx"]
        session = onnxruntime.InferenceSession(str(tmp_path / file), providers=["CPUExecutionProvider"])
        held = tables[place["table"]]
        for key, inputs in held.inputs.items():
            q = inputs.codes()
            (found,) = session.run(None, {session.get_inputs()[0].name: q.astype(np.int8)})
            np.testing.assert_array_equal(found, evaluate(held[key], q, inputs, Inputs(8, 2.0**-4)))


def test_bad_formats(folder, tmp_path):
    assert "--format to export is one of sv" in run(folder, "--format", "elf", "-o", tmp_path, code=2).replace("a ", "")
    assert not any(tmp_path.iterdir())
