"""Tables and options of units of codes that every hardware language is tried on."""

from __future__ import annotations

from lutc.compiler import pipeline
from lutc.formats.codes import Inputs, Outputs
from lutc.hardware.options import Options
from lutc.table.bodies import Lines
from lutc.table.library import load
from lutc.table.table import Table
from lutc.table.table_set import TableSet

OUT = Inputs(8, 2.0**-4)


def one(body: Lines, inputs: Inputs) -> TableSet:
    return TableSet("one", {"a": Table(body, coefficients="q1.6")}, {"a": inputs})


def any_scale() -> TableSet:
    return pipeline.compile("silu", 8, search="exact", inputs=(Inputs(8, 0.05, 3), Inputs(8, 0.013, -100)))


CASES = {
    "powers of two": (lambda: load("gelu_8"), Options(out=OUT)),
    "no output scale": (lambda: load("exp_8"), Options(latency=2)),
    "any scale, any zero point": (any_scale, Options(out=Inputs(7, 0.03, 9), latency=3)),
    "combinational": (any_scale, Options(out=Inputs(7, 0.03, 9), latency=0)),
    "seven scales in one, 16 bits out": (
        lambda: load("reci_8"),
        Options(out=Inputs(16, 2.0**-13, -5), latency=4, together=True),
    ),
    "scales of one unit, by multipliers": (any_scale, Options(out=OUT, latency=2, together=True)),
    "loadable": (lambda: load("gelu_8"), Options(("4",), OUT, loadable=True, latency=2)),
    "loadable, any scales together": (any_scale, Options(out=OUT, latency=0, together=True, loadable=True)),
    "loadable, accumulators": (lambda: load("exp_16"), Options(("3", "4"), latency=1, loadable=True)),
    "loadable, one line": (lambda: one(Lines([], [1.5], [-0.25]), Inputs(4, 8.0)), Options(out=OUT, loadable=True)),
    "11 bits in": (
        lambda: pipeline.compile("exp", 6, search="exact", inputs=(Inputs(11, 2.0**-7),)),
        Options(out=Inputs(8, 2.0**-7)),
    ),
    "products narrower than slopes": (lambda: load("erf_16"), Options(("0",), OUT)),
    "one line": (lambda: one(Lines([], [1.5], [-0.25]), Inputs(4, 8.0)), Options(out=OUT)),
    "outputs are all one code": (
        lambda: one(Lines([0.0], [0.0, 1.0], [0.0, 0.0]), Inputs(8, 2.0**-40)),
        Options(out=OUT),
    ),
    "halves away from zero": (lambda: load("silu_8"), Options(out=Outputs(8, 2.0**-3, 0, "half_away"), latency=2)),
    "halves to even": (lambda: load("silu_8"), Options(("4", "5"), Outputs(8, 2.0**-3, 5, "half_even"), together=True)),
    "halves to even, any scale": (any_scale, Options(out=Outputs(7, 0.03, 9, "half_even"))),
    "direct": (lambda: load("gelu_8"), Options(("4", "5"), OUT, "direct", latency=2)),
    "direct, 11 bits in, from a file": (
        lambda: pipeline.compile("exp", 6, search="exact", inputs=(Inputs(11, 2.0**-7),)),
        Options(out=Inputs(8, 2.0**-7), unit="direct", latency=1),
    ),
}
