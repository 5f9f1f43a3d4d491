"""`lutc evaluate` as a user runs it."""

import csv
import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

import lutc
from lutc.cli import main
from lutc.evaluation.storage import table_bytes, used_bytes
from tests.helpers import tiny_models


def run(*arguments, code=0):
    result = CliRunner().invoke(main, ["evaluate", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def llama(folders):
    return [folders["llama"], "--text", folders["text"], "--seqlen", "32", "--max-tokens", "128"]


def test_one_set_of_tables(llama):
    out = run(
        *llama,
        "--activation",
        "silu_fplut",
        "--softmax",
        "exp_fplut,reciprocal_fplut",
        "--norm",
        "rsqrt_fplut",
        "--batch",
        "3",
    )
    assert "124 tokens of" in out and "replaced 7 rms_norm, 3 silu, 3 softmax" in out
    assert out.count("model.layers.") == 4  # one of them the worst


def test_comparison_with_files(llama, tmp_path):
    table, picture = tmp_path / "out.csv", tmp_path / "out.png"
    arguments = [
        *llama,
        "--tables",
        "silu_8",
        "--tables",
        "all=silu_fplut,exp_fplut,rsqrt_fplut",
        "--csv",
        table,
        "--plot",
        picture,
    ]
    found = json.loads(run(*arguments, "--json", "--each-layer"))
    assert picture.read_bytes()[:4] == b"\x89PNG"
    exact, coarse, fine = found["results"]
    assert (coarse["name"], fine["name"]) == ("silu_8", "all") and fine["bytes"] > coarse["bytes"] == 23
    assert abs(fine["change"]) < 1e-3 < exact["perplexity"]
    with open(table, newline="") as file:
        rows = {(row["tables"], row["layer"], row["measure"]): float(row["value"]) for row in csv.DictReader(file)}
    assert rows["all", "", "perplexity"] == fine["perplexity"]
    assert rows["silu_8", "model.layers.2", "change"] == coarse["layers"][2]["change"]
    out = run(*arguments, "--no-layers")
    assert "model.layers" not in out
    with open(table, newline="") as file:
        assert sum(line.startswith("model,") for line in file) == 1


def test_int8(llama):
    out = run(*llama, "--tables", "silu_16", "--int8", "2^-4")
    header = next(line for line in out.splitlines() if line.startswith("tables"))
    assert "to exact on int8" in header and any(line.startswith("exact on int8 inputs") for line in out.splitlines())


def test_encoder(folders):
    out = run(folders["bert"], "--text", folders["text"], "--tables", "gelu_8,exp_fplut")
    assert "cosine" in out and "perplexity" not in out and "encoder.layer.0" in out


def test_python_file(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(
        "import torch\ndef model():\n    torch.manual_seed(0)\n    return torch.nn.Sequential(torch.nn.Linear(4, 8), "
        "torch.nn.GELU())\n"
        "def batches():\n    return [torch.ones(3, 4)]\n"
    )
    assert "gelu_8: replaced 1 gelu" in run(path, "--tables", "gelu_8")


def test_errors_are_one_line(folders, llama, tmp_path):
    nothing = tiny_models.save(tiny_models.llama(hidden_act="gelu_10"), tmp_path / "clipped")
    bare = tiny_models.save(tiny_models.bert(), tmp_path / "bare", with_tokenizer=False)
    for arguments, words in [
        (llama, "no tables to try"),
        ([*llama, "--softmax", "silu_8"], "--softmax takes a table of exp and reciprocal; 'silu_8' is one of silu"),
        ([*llama, "--activation", "exp_8"], "--activation takes a table of an activation; 'exp_8' is one of exp"),
        ([*llama, "--tables", "gelu_8"], "nothing was replaced: model.layers.0.mlp.act_fn: no table of silu was given"),
        (
            [nothing, *llama[1:], "--tables", "silu_8"],
            "nothing was replaced: model.layers.0.mlp.act_fn: no function of the registry",
        ),
        ([*llama, "--seqlen", "4000", "--max-tokens", "8000", "--tables", "silu_8"], "less than one window of 4000"),
        ([*llama[:1], "--tables", "silu_8"], "give --text FILE"),
        ([*llama, "--tables", "silu_8", "--int8", tmp_path / "none.json"], "cannot read"),
        ([*llama, "--tables", "exp_8", "--int8", "2^-4"], "--int8 quantises the inputs of activations"),
        ([*llama, "--tables", "silu_8", "--plot", tmp_path / "out.txt"], ".png, .svg or .pdf"),
        ([bare, "--text", folders["text"], "--tables", "gelu_8"], "holds no tokenizer"),
        ([tmp_path / "none", "--tables", "silu_8"], "there is no"),
    ]:
        out = run(*arguments, code=2)
        assert out.startswith("lutc: ") and out.count("\n") == 1 and words in out, out


def test_help_needs_no_torch():
    code = (
        "import sys; from click.testing import CliRunner; from lutc.cli import main; CliRunner().invoke(main, "
        "['evaluate', '--help'])\n"
    )
    subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"], check=True)


def test_bytes():
    fplut, entries = lutc.load("silu_fplut")["fp32"], lutc.load("silu_8")
    assert table_bytes(fplut) == 259 * 4 + 11 * 2 + 10 + 2 * 2 * 4
    assert table_bytes(lutc.load("silu_nnlut_16")["fp32"]) == 4 * (16 + 16 + 15)
    assert table_bytes(entries["4"], entries.inputs["4"]) == 8 + 8 + 7
    assert used_bytes([(entries, "4"), (entries, "3"), (entries, "4")]) == 46
    shared = lutc.compile("silu", 8, share="all", search="exact")
    assert used_bytes([(shared, key) for key in shared]) == -(
        -(16 * 8 + 7 * 12) // 8
    )  # breakpoints in steps of 2^-8 within +-4
