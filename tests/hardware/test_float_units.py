"""Floating-point units against `lutc.certify.arithmetic`: hand-made tables of every addressing and prologue on chosen
codes, a shipped one on all 65,536.
"""

from importlib import resources

import numpy as np
import pytest

from lutc.errors import LutcError
from lutc.formats.float16 import bits_of, float16_add, float16_mul, value_of
from lutc.functions import Line
from lutc.hardware import handover, tools
from lutc.hardware.handover import Options
from lutc.hardware.hls import bench as hls_bench
from lutc.hardware.hls import floats
from lutc.hardware.rtl import bench, float_arithmetic, floating
from lutc.hardware.rtl.verilog import Ports
from lutc.hardware.simulate import simulate
from lutc.hardware.streams import Stream
from lutc.table.bodies import Cells, Direct, Exponents, Lines
from lutc.table.domain import Domain
from lutc.table.library import load
from lutc.table.prologues import AbsPrologue, ExponentPrologue, PeriodPrologue
from lutc.table.table import Table

compiler = pytest.mark.skipif(not tools.installed("g++"), reason="needs apt-get install g++")
icarus = pytest.mark.skipif(not tools.installed("iverilog"), reason="needs apt-get install iverilog")
verilator = pytest.mark.skipif(not tools.installed("verilator"), reason="needs apt-get install verilator")


def cells(f, cuts, pieces, *rest, **named) -> Table:
    edges = Cells(cuts, pieces, np.zeros(sum(pieces) + 1)).edges
    return Table(Cells(cuts, pieces, value_of(bits_of(f(edges)))), *rest, **named)


def exponents(f, bits: dict[int, int], fmt: str = "fp16", **named) -> Table:
    """bits: mantissa bits by place in mantissa_bits; the others hold no piece."""
    mantissa = [bits.get(i, -2) for i in range({"fp16": 62, "bf16": 510}[fmt])]
    edges = Exponents(fmt, mantissa, np.zeros(_edges(mantissa))).edges
    return Table(Exponents(fmt, mantissa, f(edges)), **named)


def _edges(mantissa) -> int:
    return 1 + sum(1 << b for b in mantissa if b >= 0)


# binades of bf16 outward from zero: one piece up to 2^-6, then eight each up to 8
_OUTWARD = {0: 0, **dict.fromkeys(range(1, 121), -1), **dict.fromkeys(range(121, 130), 3)}
BOTH_SIDES = {254 - field: bits for field, bits in _OUTWARD.items()} | {255 + f: bits for f, bits in _OUTWARD.items()}
CUTS, PIECES = (-4.0, -1.5, -0.3, 0.125, 2.0, 6.0), (1, 8, 4, 16, 1)
THIRDS = Lines([1.25, 1.5], [-0.7, -0.5, -0.4], [1.7, 1.45, 1.3])
TABLES = {
    "lines": Table(Lines([-2.0, 0.0, 3.0], [0.0, 0.37, -0.8, 1.0], [-1.5, -0.76, -0.1, -5.5])),
    "one line": Table(Lines([], [0.5], [-0.25])),
    "cells": cells(np.tanh, CUTS, PIECES),
    "cells, tails": cells(np.tanh, CUTS, PIECES, left=Line(0.01, -1), right=Line(0, 1)),
    "whole cells": cells(np.square, (0.0, 1.0, 3.0), (1, 1), right=Line(4.0, -3.0)),
    "one interval": cells(np.sqrt, (0.0, 2.0), (32,)),
    "steep, beyond fp16": cells(np.sin, (0.0, 1e-5, 6e4), (16, 1024)),
    "odd": cells(np.tanh, (0.0, 1.0, 4.0), (8, 4), AbsPrologue((1, 0, 0), (-1, 0, 0)), right=Line(0, 1)),
    "identity": cells(np.tanh, (0.0, 1.0, 4.0), (8, 4), AbsPrologue((0.5, 1, 0.5), (0, 0.25, -1))),
    "reciprocal": Table(THIRDS, ExponentPrologue(1, -1, 0, True)),
    "square": Table(THIRDS, ExponentPrologue(1, 2, even=True)),
    "logarithm": cells(np.log, (1.0, 2.0), (16,), ExponentPrologue(1, 0, 0.6931471805599453)),
    "root": cells(np.sqrt, (1.0, 2.0, 4.0), (8, 8), ExponentPrologue(2, 1)),
    "period": cells(np.sin, (0.0, 3.0, 6.5), (16, 8), PeriodPrologue(6.283185307179586)),
    "period of a half": cells(np.cos, (0.0, 0.5), (4,), PeriodPrologue(0.5)),
    "growth": cells(np.exp, (0.0, 0.75), (16,), PeriodPrologue(0.6931471805599453, 1)),
    "domain": cells(np.log, (0.001, 0.1, 1.0), (8, 4), domain=Domain(0.0, 1.0, -1, 1)),
    "exponents": exponents(np.tanh, dict.fromkeys(range(13, 49), 3), left=Line(0, -1), right=Line(0, 1)),
    "exponents, joined": exponents(
        np.cos, {29: -1, 30: 0, 31: 0, **dict.fromkeys(range(32, 40), -1), **dict.fromkeys(range(40, 48), 4)}
    ),
    "exponents of bf16": exponents(np.tanh, BOTH_SIDES, "bf16", left=Line(0, -1), right=Line(0, 1)),
    "exponents of bf16, reduced": exponents(
        lambda m: 1 / m, {382: 4}, "bf16", prologue=ExponentPrologue(1, -1, 0, True)
    ),
}


def chosen(table: Table) -> np.ndarray:
    """Codes that tell: every 613th, ends of fp16, those beside every edge and cut."""
    edges = [-1.0, 1.0, 0.0, *getattr(table.body, "edges", getattr(table.body, "breakpoints", []))[::9]]
    near = bits_of(edges).astype(np.int64)[:, None] + np.arange(-2, 3)
    special = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7C01, 0x7E00, 0xFE00]
    return np.unique(np.concatenate([np.arange(0, 1 << 16, 613), near.ravel() & 0xFFFF, special]))


@icarus
@pytest.mark.parametrize("arithmetic", ["fp16_rne", pytest.param("fp16_trunc", marks=pytest.mark.slow)])
def test_every_kind_of_table(arithmetic, tmp_path):
    streams, wanted = [], []
    (tmp_path / float_arithmetic.FILE).write_text(float_arithmetic.modules(arithmetic.removeprefix("fp16_")))
    for i, table in enumerate(TABLES.values()):
        text, ports, words = floating.module(f"t{i}", table, arithmetic, latency=i % 5)
        (tmp_path / f"t{i}.sv").write_text(text)
        codes = chosen(table)
        stream = Stream(f"t{i}", ports, codes, words[codes])
        for name, content in bench.files(stream).items():
            (tmp_path / name).write_text(content)
        streams.append(stream)
        wanted.append(words[codes])
    (tmp_path / "tb.sv").write_text(bench.top("t", streams))
    sources = sorted(path.name for path in tmp_path.glob("*.sv"))
    tools.run(["iverilog", "-g2012", "-s", "t_tb", "-o", "simulation", *sources], tmp_path)
    said = tools.run(["vvp", "-n", "simulation"], tmp_path)
    assert f"PASS {sum(w.size for w in wanted)} words twice" in said, said
    for i, words in enumerate(wanted):
        written = [int(line, 16) for line in (tmp_path / f"t{i}_out.txt").read_text().split()]
        np.testing.assert_array_equal(written, words & 0xFFFF)


@compiler
@pytest.mark.parametrize("arithmetic", floating.ARITHMETICS)
@pytest.mark.parametrize("port", floating.PORTS)
def test_every_kind_of_table_in_cpp(arithmetic, port, tmp_path):
    """All 65,536 codes of every kind of table, compiled without a warning."""
    texts, streams = {}, []
    for i, table in enumerate(TABLES.values()):
        text, words = floats.function(f"t{i}", table, arithmetic, port)
        np.testing.assert_array_equal(words, floating.FloatWords.of(table, arithmetic).at(port))
        texts[f"t{i}.hpp"] = f'#include "lutc_units.hpp"\n{text}\n'
        streams.append(Stream(f"t{i}", Ports(16, 16, 0), floating.CODES, words))
        texts |= streams[-1].images()
    texts["t_tb.cpp"] = hls_bench.program(streams, Options())
    texts["lutc_units.hpp"] = resources.files("lutc.hardware.hls").joinpath("lutc_units.hpp").read_text()
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    tools.run(["g++", "-std=c++11", "-Wall", "-Wextra", "-Werror", "-O1", "-o", "t", "t_tb.cpp"], tmp_path)
    assert f"PASS {len(TABLES) << 16} words" in tools.run([str(tmp_path / "t")], tmp_path)


@verilator
def test_lint(tmp_path):
    (tmp_path / float_arithmetic.FILE).write_text(float_arithmetic.modules("rne") + float_arithmetic.modules("trunc"))
    for i, table in enumerate(TABLES.values()):
        text, _, _ = floating.module(f"t{i}", table, floating.ARITHMETICS[i % 2], latency=i % 5)
        (tmp_path / f"t{i}.sv").write_text(text)
    sources = sorted(path.name for path in tmp_path.glob("*.sv"))
    said = tools.run(
        ["verilator", "--lint-only", "-Wall", "-Wno-DECLFILENAME", "-Wno-MULTITOP", *sources],
        tmp_path,
    )
    assert "%" not in said


@verilator
@pytest.mark.slow
@pytest.mark.parametrize("rounding", ["rne", "trunc"])
def test_addition_and_multiplication_of_any_bits(rounding, tmp_path):
    """A million random pairs and all pairs of special numbers; rne against numpy's own float16 too."""
    rng = np.random.default_rng(0)
    special = np.array([0, 1, 0x3FF, 0x400, 0x7BFF, 0x7C00, 0x7C01, 0x7E00, 0x3C00, 0x3BFF, 0x3C01, 0x0401, 0x6400])
    special = np.concatenate([special, special | 0x8000])
    near = rng.integers(0, 1 << 16, 100_000)
    a = np.concatenate([rng.integers(0, 1 << 16, 200_000), np.repeat(special, special.size), near])
    b = np.concatenate([rng.integers(0, 1 << 16, 200_000), np.tile(special, special.size)])
    b = np.concatenate([b, (near ^ 0x8000) + rng.integers(-40, 40, near.size) & 0xFFFF])
    (tmp_path / float_arithmetic.FILE).write_text(float_arithmetic.modules(rounding))
    ports, streams = Ports(32, 16, 0), []
    for name, model in (("add", float16_add), ("mul", float16_mul)):
        words = model(a, b, rounding)
        if rounding == "rne":
            with np.errstate(all="ignore"):
                x, y = a.astype(np.uint16).view(np.float16), b.astype(np.uint16).view(np.float16)
                own = (x + y if name == "add" else x * y).view(np.uint16)
            np.testing.assert_array_equal(np.where((words & 0x7FFF) > 0x7C00, 0x7E00, words), words)
            same = (own == words) | (((own & 0x7FFF) > 0x7C00) & (words == 0x7E00))
            assert same.all()
        unit = f"lutc_fp16_{name}_{rounding} u (.a(in_data[31:16]), .b(in_data[15:0]), .result(out_data));"
        wires = "assign in_ready = out_ready; assign out_valid = in_valid;"
        (tmp_path / f"{name}.sv").write_text(f"{ports.text(name)}\n{wires}\n{unit}\nendmodule\n")
        streams.append(Stream(name, ports, (a << 16) | b, words.astype(np.int64)))
        for file, content in bench.files(streams[-1]).items():
            (tmp_path / file).write_text(content)
    (tmp_path / "tb.sv").write_text(bench.top("t", streams).replace(".clk(clk), .rst", ".clk(clk), .rst"))
    sources = sorted(path.name for path in tmp_path.glob("*.sv"))
    tools.run(
        ["verilator", "--binary", "--timing", "-Wno-fatal", "-Wno-lint", "--top", "t_tb", *sources, "-o", "s"], tmp_path
    )
    assert "PASS" in tools.run([str(tmp_path / "obj_dir" / "s")], tmp_path)


@verilator
@pytest.mark.slow
def test_a_shipped_table_on_all_codes(tmp_path):
    handover.write(tmp_path / "rtl", "sv", "silu", load("silu_fplut"), Options(("fp16",), latency=3))
    verdict = simulate(tmp_path / "rtl")
    assert verdict["passed"] and (verdict["words"], verdict["wrong"]) == (65536, 0)
    assert handover.read(tmp_path / "rtl")["units"][0]["arithmetic"] == "fp16_rne"


@icarus
@pytest.mark.parametrize("arithmetic", floating.ARITHMETICS)
def test_bf16_in_and_out(arithmetic, tmp_path):
    """The model is torch's conversions around that of the fp16 unit; every code in and out, three tables."""
    torch = pytest.importorskip("torch")
    x = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    half = x.to(torch.float16).view(torch.int16).numpy().astype(np.int64) & 0xFFFF
    streams = []
    sources = {float_arithmetic.FILE: float_arithmetic.modules(arithmetic.removeprefix("fp16_"))}
    sources[float_arithmetic.BFLOAT16_FILE] = float_arithmetic.conversions()
    for i, kind in enumerate(("cells, tails", "logarithm", "lines")):
        text, ports, words = floating.module(f"t{i}", TABLES[kind], arithmetic, latency=2 * i, port="bf16")
        answers = floating.FloatWords.of(TABLES[kind], arithmetic).words[half]
        wanted = torch.from_numpy(answers.astype(np.uint16).view(np.int16)).view(torch.float16).to(torch.bfloat16)
        bits = wanted.view(torch.int16).numpy().astype(np.int64)
        np.testing.assert_array_equal(words, np.where(wanted.isnan().numpy(), 0x7FC0, bits))
        sources[f"t{i}.sv"] = text
        codes = floating.CODES if i == 0 else floating.CODES[::7]
        streams.append(Stream(f"t{i}", ports, codes, words[codes]))
    for stream in streams:
        sources |= bench.files(stream)
    sources["tb.sv"] = bench.top("t", streams)
    for name, text in sources.items():
        (tmp_path / name).write_text(text)
    files = [name for name in sources if name.endswith(".sv")]
    tools.run(["iverilog", "-g2012", "-s", "t_tb", "-o", "simulation", *files], tmp_path)
    assert "PASS" in tools.run(["vvp", "-n", "simulation"], tmp_path)


@verilator
def test_lint_of_bf16_ports(tmp_path):
    made = handover.write(tmp_path / "rtl", "sv", "t", load("silu_fplut"), Options(("fp16",), port="bf16"))
    command = ["verilator", "--lint-only", "-Wall", "-Wno-DECLFILENAME", "--top", "t_fp16", *made.sources]
    assert "%" not in tools.run(command, tmp_path / "rtl")


def test_bad_input():
    with pytest.raises(LutcError, match="unknown arithmetic 'fp32'"):
        floating.module("t", TABLES["cells"], "fp32", 1)
    with pytest.raises(LutcError, match="latency of 0 to 4"):
        floating.module("t", TABLES["cells"], "fp16_rne", 5)
    with pytest.raises(LutcError, match="computes nothing"):
        floating.module("t", Table(Direct(np.zeros(256), 8, 1.0)), "fp16_rne", 1)
    outward, none = [0, *[-1] * 109, 0], [-2] * 255  # a piece up to 2^-17, and one to 2^-16
    for bits in ([*none, *outward, *none[111:]], [*none[111:], *outward[::-1], *none]):
        with pytest.raises(LutcError, match="several pieces there"):
            floating.module("t", Table(Exponents("bf16", bits, np.zeros(3))), "fp16_rne", 1)
    with pytest.raises(LutcError, match="fp16 or bf16; given 'fp8'"):
        floating.module("t", TABLES["cells"], "fp16_rne", 1, "fp8")
    with pytest.raises(LutcError, match="`port` is that of float tables"):
        handover.design("sv", "t", load("gelu_8"), Options(port="bf16"))
    with pytest.raises(LutcError, match="at most 1024 pieces"):
        floating.module("t", cells(np.sin, (0.0, 1.0), (2048,)), "fp16_rne", 1)
    with pytest.raises(LutcError, match="over input codes"):
        handover.design("sv", "t", load("gelu_8"), Options(arithmetic="fp16_rne"))
