"""Two ranks of torchrun (gloo) share one task."""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers.imports import ROOT

SCRIPT = """
import os, sys, torch, lutc
from tests.helpers import tiny_models
torch.set_num_threads(1)
ids = torch.randint(0, 50, (4, 1, 24), generator=torch.Generator().manual_seed(1))
wide = {"hidden_size": 16} if os.environ.get("RANK") == "1" and "other" in sys.argv else {}
try:
    batches = [{"input_ids": i + ("text" in sys.argv and os.environ["RANK"] == "1")} for i in ids % 49]
    lutc.compile_model(tiny_models.llama(**wide), batches, sys.argv[1], measure=False, workers=1)
except lutc.LutcError as error:
    print(error)
    sys.exit(3)
"""


def run(script, *words, ranks):
    command = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command, script, *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def command(*words, ranks):
    """A command of lutc."""
    return run("-m", "lutc", *words, ranks=ranks)


@pytest.mark.slow  # starts processes
def test_two_ranks_give_the_bytes_of_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, ranks in ((one, 1), (two, 2)):
        done = run(script, folder, ranks=ranks)
        assert done.returncode == 0, done.stderr[-2000:]
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(two) for path in two.rglob("*") if path.is_file()) and len(files) > 5
    assert [name for name in files if (one / name).read_bytes() != (two / name).read_bytes()] == []


@pytest.mark.slow  # starts processes
@pytest.mark.parametrize("word, what", [("other", "model"), ("text", "text")])
def test_a_rank_with_another_model_or_text_is_refused(word, what, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = run(script, tmp_path / "tables", word, ranks=2)
    assert done.returncode != 0 and f"rank 1 has another {what} than rank 0" in done.stdout + done.stderr
    assert not (tmp_path / "tables").exists()


@pytest.mark.slow  # starts processes
def test_two_ranks_calibrate_to_the_bytes_of_one(folders, tmp_path):
    for name, ranks in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        arguments = ["calibrate", folders["llama"], "--text", folders["text"], "--seqlen", 16, "--max-tokens", 160]
        done = command(*arguments, "-o", tmp_path / name / "c.json", ranks=ranks)
        assert done.returncode == 0, done.stderr[-2000:]
    for file in ("c.json", "c.npz"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.slow  # starts processes
def test_two_ranks_evaluate_to_the_figures_of_one(folders):
    """Five windows: two for one rank and three for the other."""
    found = []
    for ranks in (1, 2):
        arguments = ["evaluate", folders["llama"], "--text", folders["text"], "--seqlen", 16, "--max-tokens", 80]
        done = command(*arguments, "--tables", "silu_8", "--each-layer", "--json", ranks=ranks)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(json.loads(done.stdout))
    one, two = found
    assert one["tokens"] == two["tokens"] == 75
    for a, b in zip(one["results"], two["results"], strict=True):
        for key in ("perplexity", "kl", "losses", "same"):
            assert a[key] == b[key], key
        for x, y in zip(a["layers"], b["layers"], strict=True):
            assert x["kl"] == y["kl"] and x["name"] == y["name"]
            assert (x["error"] is None) == (y["error"] is None)
            assert x["error"] is None or x["error"] == pytest.approx(y["error"], rel=1e-9)
