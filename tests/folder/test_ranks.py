"""Two ranks of torchrun (gloo) share one folder."""

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
    batches = [{"input_ids": i} for i in ids]
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
def test_a_rank_with_another_model_is_refused(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = run(script, tmp_path / "tables", "other", ranks=2)
    assert done.returncode != 0 and "rank 1 has another model than rank 0" in done.stdout + done.stderr
    assert not (tmp_path / "tables").exists()
