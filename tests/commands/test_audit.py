"""`lutc audit` prints what runs, and what stays exact behind tables."""

import json

import pytest
from click.testing import CliRunner

import lutc
from lutc.cli import main

pytest.importorskip("transformers")
from tests.helpers import tiny_models  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("audit")
    tiny_models.save(tiny_models.llama(), path / "model")
    (path / "text.txt").write_text(tiny_models.text())
    return path


def run(folder, *options):
    arguments = ["audit", str(folder / "model"), "--text", str(folder / "text.txt"), "--seqlen", "16", *options]
    return CliRunner().invoke(main, arguments)


def test_before_tables(folder):
    found = run(folder)
    assert found.exit_code == 0, found.output
    silu = next(line.split() for line in found.output.splitlines() if line.startswith("silu"))
    assert silu[1:4] == ["model.layers.*.mlp.act_fn", "3", "3"] and silu[-1] == "exact"
    assert silu[4].startswith("transformers/activations.py:")
    assert found.output.splitlines()[-1] == "15 calls are exact"  # 7 norms, 3 softmaxes, 3 SiLU, sin, cos


def test_behind_tables(folder, tmp_path):
    found = run(folder, "--tables", "silu_fplut,exp_fplut,rsqrt_fplut")
    assert found.output.splitlines()[-1] == "5 calls are exact of 15 without tables"  # sin, cos, 3 divisions
    model = tiny_models.llama()
    lutc.compile_model(
        model, [{"input_ids": tiny_models.torch.randint(0, 50, (1, 16))}], tmp_path / "tables", measure=False, workers=1
    )
    found = run(folder, "--folder", str(tmp_path / "tables"), "--json")
    assert found.exit_code == 0, found.output
    told = json.loads(found.output)
    assert len(told["before"]) == 15 and {one["what"] for one in told["after"] if one["table"] is None} == {
        "sin",
        "cos",
        "division",
    }


def test_tables_or_a_folder(folder):
    assert "not both" in run(folder, "--tables", "silu_fplut", "--folder", "x").output
