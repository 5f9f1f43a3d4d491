"""External tools: found by name, run in a folder, and what is said where they are missing or fail."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lutc.errors import LutcError

# program -> Debian's package that brings it
PACKAGES = {
    "verilator": "verilator",
    "iverilog": "iverilog",
    "vvp": "iverilog",
    "yosys": "yosys",
    "ghdl": "ghdl",
    "g++": "g++",
    "clang++": "clang",
    "make": "make",
    "nextpnr-ice40": "nextpnr-ice40",
}


def installed(program: str) -> bool:
    return shutil.which(program) is not None


def need(*programs: str) -> str:
    """The first of them that is installed; LutcError names the packages where none is."""
    for program in programs:
        if installed(program):
            return program
    packages = list(dict.fromkeys(PACKAGES[program] for program in programs))
    raise LutcError(f"this needs {' or '.join(programs)}: apt-get install {' or '.join(packages)}")


def run(command: Sequence[str], folder: Path, timeout: float = 3600.0) -> str:
    """What the command writes to stdout and stderr; LutcError with its first complaint where it fails."""
    try:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=timeout,
        )
    except subprocess.TimeoutExpired as error:
        raise LutcError(f"{command[0]} did not end within {timeout:g} s") from error
    if done.returncode:
        raise LutcError(f"{command[0]} failed: {_complaint(done.stdout) or f'exit code {done.returncode}'}")
    return done.stdout


def _complaint(text: str) -> str:
    """The first line that speaks of an error, else the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower() or line.startswith("%")]
    return (errors or lines[-1:] or [""])[0][:300]


def version(program: str) -> str:
    """Name and version as the program says them; the name alone where it is missing or says nothing."""
    if not installed(program):
        return program
    flag = {"iverilog": "-V", "vvp": "-V", "yosys": "-V"}.get(program, "--version")
    text = subprocess.run([program, flag], capture_output=True, text=True, errors="replace").stdout
    return text.splitlines()[0].strip() if text.strip() else program
