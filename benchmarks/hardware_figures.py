"""Exported units as docs/hardware.md gives them: every shipped int8 table simulated on every code, float tables on
all 65,536, row units on 10,000 rows, times, and cells by Yosys.

    python benchmarks/hardware_figures.py                 all parts
    python benchmarks/hardware_figures.py simulate|languages|floats|rows|times|cells|speeds

Needs apt-get install iverilog verilator yosys ghdl g++, and nextpnr-ice40 for frequencies. Cells are of combinational
units (latency 0), with output codes at 2^-4, of gelu tables; those for wider inputs are compiled here by the exact
search.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from lutc.compiler import pipeline
from lutc.formats.codes import Inputs
from lutc.fplut.pipeline import compile_fplut
from lutc.hardware import handover
from lutc.hardware.handover import Options
from lutc.hardware.place import DEVICES
from lutc.hardware.row_units import RowOptions
from lutc.hardware.rtl.floating import ARITHMETICS
from lutc.hardware.simulate import simulate
from lutc.hardware.synth import TARGETS, CellCounts, synthesise
from lutc.table.library import load, names

OUT = Inputs(8, 2.0**-4)


def simulated() -> None:
    total = wrong = tables = 0
    start = time.perf_counter()
    for name in names():
        held = load(name)
        if not held.inputs:
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rtl"
            handover.write(path, "sv", name, held, Options(out=OUT, latency=tables % 5))
            verdict = simulate(path, "iverilog")
        tables, total, wrong = tables + 1, total + verdict["words"], wrong + verdict["wrong"]
        if not verdict["passed"]:
            print(f"{name}: {verdict['wrong']} wrong")
    seconds = time.perf_counter() - start
    print(f"{tables} tables, {total} codes, {wrong} wrong, by Icarus, {seconds / tables:.2f} s a table\n")


def languages() -> None:
    """The same tables in VHDL and C++, and float tables in C++ in both arithmetics."""
    coded = [name for name in names() if load(name).inputs]
    floating = [name for name in names() if name.endswith("_fplut") or "_nnlut_" in name]
    runs = [("vhdl", "VHDL by GHDL", coded, [Options(out=OUT, latency=2)]), ("hls", "C++", coded, [Options(out=OUT)])]
    runs.append(("hls", "C++, floats", floating, [Options(arithmetic=arithmetic) for arithmetic in ARITHMETICS]))
    for language, what, tables, choices in runs:
        total = wrong = 0
        for name in tables:
            for options in choices:
                with tempfile.TemporaryDirectory() as folder:
                    handover.write(Path(folder) / "unit", language, name, load(name), options)
                    verdict = simulate(Path(folder) / "unit")
                total, wrong = total + verdict["words"], wrong + verdict["wrong"] + (not verdict["passed"])
        print(f"{what}: {len(tables)} tables, {total} codes, {wrong} wrong", flush=True)
    print()


def floats() -> None:
    total = wrong = tables = 0
    start = time.perf_counter()
    for name in (name for name in names() if name.endswith("_fplut") or "_nnlut_" in name):
        for arithmetic in ARITHMETICS:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "rtl"
                handover.write(path, "sv", name, load(name), Options(arithmetic=arithmetic, latency=tables % 5))
                verdict = simulate(path, "verilator")
            total, wrong = total + verdict["words"], wrong + verdict["wrong"]
            if not verdict["passed"]:
                print(f"{name} in {arithmetic}: {verdict['wrong']} wrong")
        tables += 1
    seconds = time.perf_counter() - start
    print(f"{tables} float tables, {total} codes, {wrong} wrong, by Verilator, {seconds / tables:.1f} s a table\n")


def rows() -> None:
    for operator, table in (("softmax", "exp_8"), ("layernorm", "sqrt_reci_8"), ("rmsnorm", "sqrt_reci_8")):
        options = Options(out=Inputs(8, 2.0**-7), unit=operator, row=RowOptions(40, 2.0**-4))
        with tempfile.TemporaryDirectory() as folder:
            handover.write(Path(folder) / "rtl", "sv", operator, load(table), options)
            start = time.perf_counter()
            verdict = simulate(Path(folder) / "rtl", "verilator")
            seconds = time.perf_counter() - start
            (unit,) = handover.read(Path(folder) / "rtl")["units"]
        words, wrong = verdict["words"], verdict["wrong"]
        print(f"{operator}: {unit['rows_tried']} rows, {words} codes, {wrong} wrong, by Verilator, {seconds:.1f} s")
    print()


def times() -> None:
    """Of `lutc simulate` with one table, by Verilator, building and running: the first run, which compiles Verilator's
    runtime, and the median of five with the runtime kept; processor time of the last.
    """
    before = os.environ.get("LUTC_CACHE")
    for name, options in (("gelu_8", Options(("4",), OUT, latency=2)), ("silu_fplut", Options(("fp16",), latency=2))):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["LUTC_CACHE"] = folder
            path, seconds = Path(folder) / "rtl", []
            handover.write(path, "sv", name, load(name), options)
            for _ in range(6):
                start, used = time.perf_counter(), os.times()
                words = simulate(path, "verilator")["words"]
                seconds.append(time.perf_counter() - start)
            spent = sum(os.times()[:4]) - sum(used[:4])
        first, later = seconds[0], statistics.median(seconds[1:])
        print(f"{name}: {words} codes, first {first:.1f} s, then {later:.1f} s, of which the processors {spent:.1f} s")
    os.environ.pop("LUTC_CACHE") if before is None else os.environ.update(LUTC_CACHE=before)
    print()


def designs():
    """(what, table set, options)"""
    for entries in (8, 16):
        yield f"{entries} entries", load(f"gelu_{entries}"), Options(("4",), OUT, latency=0)
        loadable = Options(("4",), OUT, latency=0, loadable=True)
        yield f"{entries} entries, loadable", load(f"gelu_{entries}"), loadable
    yield "256 codes, direct", load("gelu_8"), Options(("4",), OUT, "direct", latency=0)
    for what, settings, spared in (
        ("8 entries, slopes by shifts", {"slopes": "pot"}, {"multiplier": False}),
        ("8 entries, cuts at every 8th code", {"cut_step": 8}, {"comparators": False}),
        ("8 entries, both", {"slopes": "pot", "cut_step": 8}, {"comparators": False, "multiplier": False}),
    ):
        tables = pipeline.compile("gelu", 8, search="exact", inputs=(Inputs(8, 2.0**-4),), **settings)
        yield what, tables, Options((), OUT, latency=0, **spared)
    yield "8 entries, seven scales in one unit", load("gelu_8"), Options((), OUT, latency=0, together=True)
    for arithmetic in ARITHMETICS:
        options = Options(("fp16",), latency=0, arithmetic=arithmetic)
        yield f"FPLUT of silu, 259 values, {arithmetic}", load("silu_fplut"), options
    addressed = compile_fplut("silu", addressing="exponent", budget=257, formats=("fp16",))
    yield "silu by exponent, 257 values, fp16_trunc", addressed, Options((), latency=0, arithmetic="fp16_trunc")
    for bits, scale in ((10, 2.0**-6), (12, 2.0**-8)):
        tables = pipeline.compile("gelu", 8, search="exact", inputs=(Inputs(bits, scale),))
        wide = Inputs(bits, 2.0 ** -(bits - 4))
        yield f"8 entries, {bits} bits in and out", tables, Options((), wide, latency=0)
        yield f"{1 << bits} codes, direct, {bits} bits in and out", tables, Options((), wide, "direct", latency=0)


def _mhz(found: CellCounts) -> str:
    return "-" if found.mhz is None else f"{found.mhz:.0f}"


def speeds() -> None:
    """MHz of gelu_8's unit on an iCE40 by registers."""
    print("target | latency 0 | 1 | 2 | 3 | 4")
    for target in DEVICES:
        found = []
        for latency in range(5):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "rtl"
                handover.write(path, "sv", "gelu_8", load("gelu_8"), Options(("4",), OUT, latency=latency))
                found += synthesise(path, (target,))
        print(f"{target} | {' | '.join(map(_mhz, found))}", flush=True)
    print()


def cells() -> None:
    print("unit | target | LUTs | carries | DSPs | memories | gates | depth | MHz")
    for what, tables, options in designs():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rtl"
            handover.write(path, "sv", "gelu", tables, options)
            for target in TARGETS:
                (found,) = synthesise(path, (target,))
                numbers = found.luts, found.carries, found.dsps, found.memories, found.gates, found.depth, _mhz(found)
                print(f"{what} | {target} | {' | '.join(map(str, numbers))}", flush=True)


if __name__ == "__main__":
    parts = sys.argv[1:] or ["simulate", "languages", "floats", "rows", "times", "cells", "speeds"]
    if "simulate" in parts:
        simulated()
    if "languages" in parts:
        languages()
    if "floats" in parts:
        floats()
    if "rows" in parts:
        rows()
    if "times" in parts:
        times()
    if "cells" in parts:
        cells()
    if "speeds" in parts:
        speeds()
