"""Kernels compiled ahead of time in a process of their own, and what is counted of their instructions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def counted(script: str, timeout: float = 600, given: str = "") -> dict:
    """What a script beside benchmarks/kernel_instructions.py prints as JSON, `given` at its standard input.
    In a process of its own: the interpreter's flag is read when a kernel is defined.
    """
    import triton

    if not (Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm").exists():
        pytest.skip("this Triton brings no nvdisasm")
    run = subprocess.run(
        [sys.executable, "-c", script],
        input=given,
        cwd=Path(__file__).resolve().parents[2] / "benchmarks",
        env={name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


def assert_wide_without_spills(counts: dict) -> None:
    """Every kernel reads and writes 16 bytes at once, and none spills; each value of `counts` ends with all
    instructions by name.
    """
    for name, (_, _, everything) in counts.items():
        assert everything.get("LDG.E.128") and everything.get("STG.E.128"), name
        assert not [op for op in everything if op.startswith(("LDL", "STL"))], name
