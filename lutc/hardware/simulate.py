"""Running the test bench of a hand-over (`lutc.hardware.handover`) and holding every word that came out against the
integer model in numpy.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from lutc.errors import LutcError
from lutc.hardware import handover, tools, verilator
from lutc.hardware.handover import HandOver

SIMULATORS = {"sv": ("verilator", "iverilog"), "vhdl": ("ghdl",), "hls": ("g++", "clang++")}


def simulate(folder: Path, simulator: str | None = None) -> dict:
    """Run the bench on a copy of the folder, compare, and write the verdict into its manifest.

    simulator: one of those of the folder's language; by default the first that is installed. Returns the verdict:
    simulator, sha256 of the sources, words compared in all and by module, how many are wrong, and `passed`, which needs
    the bench's own PASS and every word of the model's. LutcError, and no verdict in the manifest, where nothing ran to
    its end.
    """
    manifest = handover.read(folder)
    manifest["verdict"] = None
    known = SIMULATORS[manifest["format"]]
    if simulator is not None and simulator not in known:
        raise LutcError(f"'{manifest['format']}' runs under {' or '.join(known)}; given {simulator!r}")
    program = tools.need(*([simulator] if simulator else known))
    design = handover.again(folder, manifest)
    handover.save(folder, manifest)  # a run that fails leaves no earlier verdict behind
    with tempfile.TemporaryDirectory(prefix="lutc-") as temporary:
        work = Path(temporary)
        for name in [*manifest["sources"], *manifest["bench"]]:
            try:
                shutil.copy(folder / name, work / name)
            except OSError as error:
                raise LutcError(
                    f"cannot read {folder / name}: {error.strerror}; write the folder again with lutc export"
                ) from error
        said = _RUNNERS[program](work, manifest)
        verdict = _verdict(folder, manifest, design, program, said, work)
    manifest["verdict"] = verdict
    handover.save(folder, manifest)
    return verdict


def _icarus(work: Path, manifest: dict) -> str:
    sources = [name for name in [*manifest["sources"], *manifest["bench"]] if name.endswith(".sv")]
    tools.need("vvp")
    tools.run(["iverilog", "-g2012", "-s", manifest["top"], "-o", "simulation", *sources], work)
    return tools.run(["vvp", "-n", "simulation"], work)


def _ghdl(work: Path, manifest: dict) -> str:
    sources = [name for name in [*manifest["sources"], *manifest["bench"]] if name.endswith(".vhd")]
    tools.run(["ghdl", "-a", "--std=08", *sources], work)
    tools.run(["ghdl", "-e", "--std=08", manifest["top"]], work)
    return tools.run(
        ["ghdl", "-r", "--std=08", manifest["top"], "--ieee-asserts=disable-at-0", "--max-stack-alloc=0"], work
    )


def _compiled(compiler: str, work: Path, manifest: dict) -> str:
    """As C++11, without a warning; undefined behaviour ends the program."""
    strict = ["-std=c++11", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
    tools.run([compiler, *strict, "-O1", "-o", "simulation", f"{manifest['top']}.cpp"], work)
    return tools.run([str(work / "simulation")], work)


_RUNNERS: dict[str, Callable[[Path, dict], str]] = {
    "verilator": verilator.run,
    "iverilog": _icarus,
    "ghdl": _ghdl,
    "g++": partial(_compiled, "g++"),
    "clang++": partial(_compiled, "clang++"),
}


def _verdict(folder: Path, manifest: dict, design: HandOver, program: str, said: str, work: Path) -> dict:
    results = [line for line in said.splitlines() if line.startswith(("PASS", "FAIL"))]
    if len(results) != 1:
        raise LutcError(
            f"{program} ran the bench to no verdict: {(said.strip().splitlines() or ['no output'])[-1]:.200}"
        )
    modules = {}
    for stream in design.streams:
        path = work / f"{stream.module}_out.txt"
        found = _words(path.read_text().lower().split() if path.exists() else [], stream.ports.out_bits)
        if results[0].startswith("PASS") and found.size != stream.expected.size:
            raise LutcError(f"{stream.module} wrote {found.size} words, not {stream.expected.size}")
        n = min(found.size, stream.expected.size)
        wrong = int((found[:n] != stream.expected[:n]).sum()) + stream.expected.size - n
        modules[stream.module] = {"words": int(stream.expected.size), "wrong": wrong}
    digest = hashlib.sha256(b"".join((folder / name).read_bytes() for name in manifest["sources"])).hexdigest()
    wrong = sum(module["wrong"] for module in modules.values())
    return {
        "passed": results[0].startswith("PASS") and wrong == 0,
        "simulator": tools.version(program),
        "words": sum(module["words"] for module in modules.values()),
        "wrong": wrong,
        "bench": results[0],
        "modules": modules,
        "sources_sha256": digest,
    }


def _words(texts: list[str], bits: int) -> np.ndarray:
    """Two's complement; what is unknown (x, z) equals no word."""
    values = np.array([int(t, 16) if all(c in "0123456789abcdef" for c in t) else 1 << 62 for t in texts], np.int64)
    return np.where((values < 1 << bits) & (values >> (bits - 1) != 0), values - (1 << bits), values)
