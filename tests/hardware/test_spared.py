"""Units without comparators or multiplier: the integer model's words on every code, and fewer gates."""

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from lutc.cli import main
from lutc.compiler import pipeline
from lutc.compiler.proof import reproved
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.functions import get
from lutc.hardware import handover, tools
from lutc.hardware.options import Options
from lutc.hardware.rtl.spared import powers
from lutc.hardware.simulate import simulate
from lutc.hardware.synth import synthesise
from lutc.table.bodies import Lines
from lutc.table.integer import evaluate
from lutc.table.library import load
from lutc.table.table import Table
from lutc.table.table_set import TableSet

icarus = pytest.mark.skipif(not tools.installed("iverilog"), reason="needs apt-get install iverilog")
verilator = pytest.mark.skipif(not tools.installed("verilator"), reason="needs apt-get install verilator")
OUT, SCALES = Inputs(8, 2.0**-4), (Inputs(8, 0.05, 3), Inputs(8, 2.0**-4))


def compiled(inputs=SCALES, **options) -> TableSet:
    return pipeline.compile("gelu", 8, search="exact", inputs=inputs, **options)


def shifted(cuts) -> TableSet:
    """Cuts that lie at a step, but not at its multiples."""
    body = Lines([c / 16 for c in cuts], [0.0, 0.5, -0.25, 1.0], [0.0, 0.25, 0.5, -1.0])
    return TableSet("t", {"a": Table(body, coefficients="q1.6")}, {"a": Inputs(8, 2.0**-4)})


CASES = {
    "powers of two": (lambda: compiled(SCALES[1:], slopes="pot"), Options(out=OUT, multiplier=False, latency=0)),
    "sums of two, scales together": (
        lambda: compiled(slopes="apot:2"),
        Options(out=OUT, multiplier=False, together=True, latency=4),
    ),
    "any slopes": (lambda: load("gelu_8"), Options(out=OUT, multiplier=False, latency=2)),
    "equal steps": (lambda: compiled(cut_step=8), Options(out=OUT, comparators=False, latency=0)),
    "equal steps, scales together": (
        lambda: compiled(cut_step=4),
        Options(out=OUT, comparators=False, together=True, latency=3),
    ),
    "steps beside multiples": (lambda: shifted([-44, -12, 36]), Options(out=OUT, comparators=False)),
    "neither": (
        lambda: compiled(SCALES[1:], cut_step=8, slopes="pot"),
        Options(out=OUT, comparators=False, multiplier=False, latency=1),
    ),
    "one line": (
        lambda: TableSet("t", {"a": Table(Lines([], [1.5], [-0.25]), coefficients="q1.6")}, {"a": Inputs(4, 8.0)}),
        Options(comparators=False, multiplier=False),
    ),
}


@icarus
@pytest.mark.parametrize("case", CASES)
def test_every_code(case, tmp_path):
    make, options = CASES[case]
    tables = make()
    made = handover.write(tmp_path / "rtl", "sv", "t", tables, options)
    assert options.multiplier or not any(" * " in text.partition("acc = ")[0] for text in made.sources.values())
    assert options.comparators or not any("if (in_data >" in text for text in made.sources.values())
    if options.out is not None:
        wanted = [evaluate(t, tables.inputs[k].codes(), tables.inputs[k], options.out) for k, t in tables.items()]
        np.testing.assert_array_equal(np.concatenate([s.expected for s in made.streams]), np.concatenate(wanted))
    assert simulate(tmp_path / "rtl", "iverilog")["passed"]


@verilator
@pytest.mark.parametrize("case", CASES)
def test_lint(case, tmp_path):
    make, options = CASES[case]
    made = handover.write(tmp_path / "rtl", "sv", "t", make(), options)
    for stream in made.streams:
        command = ["verilator", "--lint-only", "-Wall", "-Wno-DECLFILENAME", "--top", stream.module, *made.sources]
        assert "%" not in tools.run(command, tmp_path / "rtl")


@pytest.mark.skipif(not tools.installed("yosys"), reason="needs apt-get install yosys")
def test_they_are_smaller(tmp_path):
    gates = {}
    for name, options in (("lines", Options(out=OUT, latency=0)), ("neither", CASES["neither"][1])):
        handover.write(tmp_path / name, "sv", "t", CASES["neither"][0](), options)
        gates[name] = synthesise(tmp_path / name, ("gates",))[0].gates
    assert gates["neither"] < gates["lines"]


@given(st.integers(-(1 << 20), 1 << 20))
def test_powers_add_up_and_no_two_are_neighbours(value):
    found = powers(value)
    assert sum((-1) ** negative * 2**place for place, negative in found) == value
    places = [place for place, _ in found]
    assert all(b - a > 1 for a, b in zip(places, places[1:]))


@pytest.mark.parametrize("zero_point", [0, 5])
def test_compile_with_a_step_finds_the_best_table_of_such_cuts(zero_point):
    inputs = Inputs(4, 0.5, zero_point)
    tables = pipeline.compile("silu", 4, search="exact", inputs=inputs, cut_step=4, range=(-3.0, 3.0))
    (table,) = tables.values()
    free = pipeline.compile("silu", 4, search="exact", inputs=inputs, range=(-3.0, 3.0))
    cuts = np.floor(table.body.breakpoints / 0.5).astype(int) + zero_point
    inner = cuts[(cuts >= inputs.minimum) & (cuts < inputs.maximum)]
    assert ((inner + 1) % 4 == 0).all()
    (cost,), (least,) = (t.meta["search"]["cost"].values() for t in (tables, free))
    assert cost >= least and tables.meta["cut_step"] == 4
    assert reproved(tables, get("silu")) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cut_step": 3}, "power of two"),
        ({"cut_step": 4, "promises": ("bounded",)}, "no promises"),
        ({"cut_step": 4, "inputs": "fp16", "search": "exact"}, "input codes"),
    ],
)
def test_compile_refuses(options, said):
    with pytest.raises(LutcError, match=said):
        pipeline.compile("gelu", 8, **{"search": "exact", **options})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gelu_8", "--format", "sv", "--no-comparators"], "compile it with --cut-step"),
        (["gelu_8", "--format", "sv", "--no-comparators", "--loadable"], "constants alone"),
        (["gelu_8", "--format", "vhdl", "--no-multiplier"], "written in SystemVerilog"),
        (["silu_fplut", "--format", "sv", "--no-multiplier"], "of float inputs has"),
        (["gelu_8", "--format", "c", "--no-multiplier"], "--no-multiplier is for sv"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_bad_input_writes_nothing(tmp_path, arguments, said):
    result = CliRunner().invoke(main, ["export", *arguments, "-o", str(tmp_path / "rtl")])
    assert result.exit_code == 2 and said in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "rtl").exists()
