import os
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

from lutc.commands.taylor import taylor
from lutc.errors import LutcError
from lutc.taylor.sweeping import sweep
from tests.helpers.imports import ROOT

BUILD = """
import torch
from torch import nn

class Dead(nn.Module):
    def forward(self, x):
        return x * (torch.arange(8) < 7)  # one feature is always 0, as after relu

def model():
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 3))
    return nn.Sequential(nn.Sequential(nn.Linear(4, 8), Dead()), mlp)

def batches():
    torch.manual_seed(1)
    return [torch.randn(100, 4) for _ in range(20)]
"""


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "build.py"
    path.write_text(BUILD)
    return str(path)


def run(*arguments):
    result = CliRunner().invoke(taylor, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_from_collecting_to_evaluating(source, tmp_path):
    folder, name = tmp_path / "inputs", tmp_path / "head"
    assert "2000 samples of 2000 documents for 1 blocks" in run("collect", source, folder, "--modules", "1")
    out = run("fit", source, folder, "-o", name, "-k", 8, "--format", "int8", "--fallback", "0.1")
    assert "head-0: relative error" in out
    out = run("show", f"{name}-0", "--centres")
    assert "8 -> 3, k=8, order 1, int8" in out
    assert "centre 7:" in out
    run("fit", source, folder, "-o", tmp_path / "kept", "-k", 2, "--neurons", 3)
    assert "k=2, order 1, 3 neurons (gelu), fp32" in run("show", tmp_path / "kept-0")
    assert "mean 0.9" in run("evaluate", source, tmp_path / "kept-0")
    run("fit", source, folder, "-o", tmp_path / "local", "-k", 2, "--neurons", 3, "--local", "--rank", 2)
    assert "k=2, order 1, 3 neurons to each centre (gelu), rank 2, fp32" in run("show", tmp_path / "local-0")
    assert "mean 0.9" in run("evaluate", source, tmp_path / "local-0")
    out = run("evaluate", source, f"{name}-0")
    cosine = float(out.split("mean ")[1].split(",")[0])
    fallback = float(out.split("fallback: ")[1].split()[0])
    assert cosine > 0.95
    assert 0.05 < fallback < 0.2
    out = run(
        "sweep",
        source,
        folder,
        "-k",
        2,
        "-k",
        8,
        "--order",
        1,
        "--order",
        2,
        "--format",
        "fp32",
        "--plot",
        tmp_path / "front.png",
    )
    lines = [line.split("  ")[0] for line in out.splitlines()[1:]]
    assert {"exact", "linear", "4 neurons + linear", "k=2 order=1 fp32", "k=8 order=2 fp32"} <= set(lines)
    assert (tmp_path / "front.png").read_bytes()[:4] == b"\x89PNG"


def test_sequential_needs_no_collecting(source, tmp_path):
    assert "s-0: relative error" in run(
        "fit", source, tmp_path / "work", "-o", tmp_path / "s", "-k", 2, "--sequential", "--modules", "1"
    )


def test_help_needs_no_torch():
    code = """import sys, click.testing, lutc.commands.taylor as c
assert '--fallback' in click.testing.CliRunner().invoke(c.taylor, ['fit', '--help']).output
assert 'torch' not in sys.modules"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_command_and_option_has_help():
    for name, command in taylor.commands.items():
        assert command.help, name
        for parameter in command.params:
            assert parameter.param_type_name == "argument" or parameter.help, (name, parameter.name)


def test_errors(source, tmp_path):
    (tmp_path / "bad.py").write_text("raise KeyError('x')")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "folder").mkdir()
    cases = [
        (("collect", tmp_path / "bad.py", tmp_path / "o"), "bad.py fails: KeyError"),
        (("collect", tmp_path / "empty.py", tmp_path / "o"), "defines no function model"),
        (("collect", tmp_path / "folder", tmp_path / "o"), "no config.json"),
        (("collect", source, tmp_path / "o", "--text", source), "leave `text` out"),
        (("fit", source, tmp_path / "o", "-o", "t"), "no inputs.json"),
        (("show", tmp_path / "t"), "no table"),
        (("evaluate", source, tmp_path / "t"), "no table"),
        (("export", tmp_path / "t", "--format", "c"), "no table"),
    ]
    for arguments, words in cases:
        with pytest.raises(LutcError, match=words):
            run(*arguments)


def test_competitors_and_front(block):
    x = 2 * torch.randn(3000, 6, generator=torch.Generator().manual_seed(0))
    points = {
        point.name: point for point in sweep(block, x, ks=(1, 20), formats=("fp32",), neurons=(6, 24), batches=(1,))
    }
    # All neurons kept: nothing is left for the linear map. A linear map is what k = 1 fits too.
    assert points["24 neurons + linear"].error < 1e-9
    assert points["6 neurons + linear"].error < points["linear"].error
    assert points["k=1 order=1 fp32"].error == pytest.approx(points["linear"].error, rel=0.02)
    assert points["6 neurons + linear"].multiply_adds == 6 * 6 + 6 * 5 + 6 * 5
    assert points["k=20 order=1 fp32"].bytes == 4 * 20 * (6 * 5 + 6 + 5)
    assert points["exact"].on_front
    for point in points.values():
        of = lambda p: (p.error, p.multiply_adds, p.bytes)  # noqa: E731
        others = [other for other in points.values() if of(other) != of(point)]
        better = [
            p
            for p in others
            if p.error <= point.error and p.multiply_adds <= point.multiply_adds and p.bytes <= point.bytes
        ]
        assert point.on_front == (not better)


@pytest.mark.parametrize("d", [384, 768])
def test_accounting_of_deit(d):
    from lutc.taylor.accounting import account

    first, second, full, _ = account(d, 100, 12)
    assert first.per_centre == second.per_centre == 4 * d * d
    assert full.total == 4 * d**3 * 1200
    if d == 768:
        found = (first.per_centre, first.total, full.per_centre, full.total)
        assert [f"{value:.3g}" for value in found] == ["2.36e+06", "2.83e+09", "1.81e+09", "2.17e+12"]


@pytest.mark.slow  # starts processes
def test_ranks_share_the_blocks(source, tmp_path):
    """Two processes write the bytes of one."""
    run("collect", source, tmp_path / "inputs", "--modules", "0", "--modules", "1")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for ranks in (1, 2):
        started = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
        command = ["-m", "lutc", "taylor", "fit", source, tmp_path / "inputs", "-o", tmp_path / f"of_{ranks}", "-k", 2]
        done = subprocess.run(
            [sys.executable, *started, *map(str, command)], env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-2000:]
    for number in (0, 1):
        for suffix in (".json", ".safetensors"):
            one, two = ((tmp_path / f"of_{ranks}-{number}{suffix}").read_bytes() for ranks in (1, 2))
            assert one.replace(b"of_1", b"of_2") == two
