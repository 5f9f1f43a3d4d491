"""A bench under Verilator: lint, translation to C++, compilation, run.

Most of a compilation is Verilator's own runtime, which is the same for every bench. Its objects stay in the user's
cache folder (`lutc.files.cache_folder`), by the very commands that compile them, and are copied into later builds.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from lutc.errors import LutcError
from lutc.files import cache_folder
from lutc.hardware import tools

# Compiling takes longer than running: little is optimised.
_SETTINGS = ("OPT_FAST=-O1", "OPT_GLOBAL=-O0", "OPT_SLOW=-O0")


def run(work: Path, manifest: dict) -> str:
    """What the bench of a hand-over says; work: a copy of its files. LutcError where a unit lints with a warning."""
    tools.need("make")
    own = [name for name in manifest["sources"] if name.endswith(".sv")]
    for unit in dict.fromkeys(unit["module"] for unit in manifest["units"]):
        tools.run(["verilator", "--lint-only", "-Wall", "-Wno-DECLFILENAME", "--top", unit, *own], work)
    top, sources = manifest["top"], [*own, *(name for name in manifest["bench"] if name.endswith(".sv"))]
    quiet = ["-Wno-fatal", "-Wno-lint", "-CFLAGS", "-O0"]
    tools.run(
        ["verilator", "--cc", "--exe", "--main", "--timing", *quiet, "--top", top, *sources, "-o", "simulation"], work
    )
    _build(work / "obj_dir", ["make", "-f", f"V{top}.mk", *_SETTINGS])
    return tools.run([str(work / "obj_dir" / "simulation")], work)


def _build(build: Path, make: list[str]) -> None:
    """Make the program, with the runtime's objects from the cache where they are there, else keep those it makes."""
    kept = _runtime(build, make)
    known = kept.is_dir()
    if known:
        for file in kept.iterdir():
            shutil.copyfile(file, build / file.name)  # newer than the makefile, or make would compile them again
    parallel = [*make, f"-j{os.cpu_count() or 1}"]
    try:
        tools.run(parallel, build)
    except LutcError:
        if not known:
            raise
        shutil.rmtree(kept, ignore_errors=True)  # perhaps its objects are at fault: once without them
        for file in build.glob("verilated*.o"):
            file.unlink()
        tools.run(parallel, build)
    if not kept.is_dir():
        _keep(build, kept)


def _runtime(build: Path, make: list[str]) -> Path:
    """The folder of the runtime's objects: one for each Verilator, compiler and command."""
    commands = [line for line in tools.run([*make, "-n"], build).splitlines() if "/verilated" in line]
    compilers = sorted({line.split()[0] for line in commands})
    names = [tools.version("verilator"), *map(tools.version, compilers), *commands]
    return cache_folder() / f"verilator-{hashlib.sha256(chr(10).join(names).encode()).hexdigest()[:16]}"


def _keep(build: Path, kept: Path) -> None:
    """Appears whole or not at all; a cache that can't be written is none."""
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{kept.name}.", dir=kept.parent) as temporary:
            new = Path(temporary) / "objects"
            new.mkdir()
            for file in build.glob("verilated*.o"):
                shutil.copyfile(file, new / file.name)
            new.rename(kept)
    except OSError:
        pass
