"""Promises through the whole chain: kept on every input by the stored table, priced, refused where they cannot be."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

import lutc
from lutc import formats, functions
from lutc.certify.certificate import certify
from lutc.certify.promises import broken
from lutc.certify.proof import contradictions
from lutc.cli import main
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.functions import shape
from lutc.table.table_set import loads


@pytest.mark.parametrize(
    ("name", "promises"),
    [
        ("sigmoid", ("monotone", "bounded")),
        ("tanh", ("monotone", "through-zero", "bounded", "continuous")),
        ("gelu", ("through-zero", "bounded")),
        ("softplus", ("convex", "monotone")),
        ("reciprocal", ("monotone", "convex")),
        ("sqrt", ("convex",)),
    ],
)
def test_kept_on_every_code(name, promises):
    tables = lutc.compile(name, 16, promises=promises, search="exact")
    fn = functions.get(name)
    plain = lutc.compile(name, 16, search="exact")
    low, high = shape.extent(fn, *fn.range)
    for key, table in tables.items():
        x = tables.inputs[key].x()
        inside = (x >= fn.range[0]) & (x <= fn.range[1])
        x, y = x[inside], table(x[inside])
        if "monotone" in promises:
            assert (np.diff(y) * (-1 if name == "reciprocal" else 1) >= 0).all()
        if "through-zero" in promises:
            assert table(0.0) == 0.0
        if "bounded" in promises and name == "gelu":
            assert y.min() >= low
        if "bounded" in promises and name in ("sigmoid", "tanh"):
            assert np.abs(y).max() <= 1.0 and (name == "tanh" or y.min() >= 0.0)
        if "convex" in promises:
            assert ((-1 if name == "sqrt" else 1) * np.diff(y, 2) >= -1e-12).all()
        if "continuous" in promises:
            b, k, t = table.body.breakpoints, table.body.slopes, table.body.intercepts
            jumps = np.abs(k[:-1] * b + t[:-1] - k[1:] * b - t[1:])[(b >= x[0]) & (b < x[-1])]
            assert jumps.max(initial=0.0) <= formats.get(table.coefficients).step / 2
        search = tables.meta["search"]
        assert search["optimum"][key] >= plain.meta["search"]["optimum"][key] * (1 - 1e-9)
        assert search["without_promises"][key] == pytest.approx(plain.meta["search"]["optimum"][key], rel=1e-6)
    again = loads(tables.dumps())
    assert not broken(certify(again)) and certify(again) == tables.meta["certificate"]


@pytest.mark.parametrize("objective", ["absolute", "maximum", "codes"])
def test_other_objectives_keep_bounds_and_zero(objective):
    out = Inputs(8, 2.0**-6) if objective == "codes" else None
    options = {"inputs": Inputs(6, 2.0**-3), "search": "exact", "objective": objective, "out": out}
    table = lutc.compile("gelu", 5, promises=("through-zero", "bounded"), **options)["3"]
    x = Inputs(6, 2.0**-3).x()
    assert table(0.0) == 0.0 and table(x).min() >= shape.extent(functions.get("gelu"), -4, 4)[0]


@pytest.mark.parametrize("coefficients", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", ["gelu", "erf"])
def test_floats_keep_bounds_and_zero(name, coefficients):
    tables = lutc.compile(name, 8, inputs="bf16", coefficients=coefficients, promises=("through-zero", "bounded"))
    (table,) = tables.values()
    x, low = formats.get("bf16").values(), -1.0 if name == "erf" else shape.extent(functions.get("gelu"), -4, 4)[0]
    assert table(0.0) == 0.0 and table(x).min() >= low
    assert name == "gelu" or table(x).max() <= 1.0
    assert not broken(tables.meta["certificate"])


@pytest.mark.parametrize(
    ("name", "promise", "inputs", "coefficients", "gap"),
    [
        ("sigmoid", "monotone", "fp16", "fp32", 0.002),
        ("reciprocal", "monotone", "bf16", "bf16", 1.0),
        ("erf", "monotone", "grid", "fp32", 0.01),
        ("softplus", "convex", "bf16", "fp32", 0.03),
        ("gelu", "continuous", "bf16", "fp16", 0.02),
        ("tanh", "monotone", Inputs(16, 2.0**-12), "q2.13", 0.02),
        ("tanh", "continuous", Inputs(16, 2.0**-12), "q2.13", 0.3),
        ("tanh", "monotone", Inputs(8, 2.0**-5), "q2.10", 0.0),
        ("gelu", "continuous", Inputs(8, 2.0**-5), "q2.8", 0.0),
    ],
)
def test_kept_on_every_value(name, promise, inputs, coefficients, gap):
    """Wide formats and floats: every value of both 16-bit formats or every code, in float64 and in float32."""
    tables = lutc.compile(name, 12, inputs=inputs, coefficients=coefficients, promises=(promise,))
    ((key, table),) = tables.items()
    lo, hi = functions.get(name).range
    assert tables.meta["search"]["gap"][key] <= gap
    dtypes = ["fp16", "bf16"] if isinstance(inputs, str) else [None]
    for dtype in dtypes:
        x = formats.get(dtype).values() if dtype else inputs.x()
        x = x[((x >= lo) | (table.left is not None)) & ((x <= hi) | (table.right is not None))]
        i = table.body.segment(x)
        k, t = table.body.slopes[i], table.body.intercepts[i]
        if promise == "monotone":
            sign = -1 if name == "reciprocal" else 1
            assert (sign * np.diff(k * x + t) >= 0.0).all()
            single = [v.astype(np.float32) for v in (k, x, t)]
            assert dtype is None or (sign * np.diff(single[0] * single[1] + single[2]) >= 0.0).all()
        elif promise == "convex":
            b, k, t = table.body.breakpoints, table.body.slopes, table.body.intercepts
            assert (np.diff(k) > 0.0).all()
            meet = -np.diff(t) / np.diff(k)  # lines cross between the inputs to both sides of the breakpoint
            before, after = x[np.searchsorted(x, b, side="right") - 1], x[np.searchsorted(x, b, side="right")]
            assert (meet >= before).all() and (meet <= after).all()
        else:
            b, k, t = table.body.breakpoints, table.body.slopes, table.body.intercepts
            left, right = k[:-1] * b + t[:-1], k[1:] * b + t[1:]
            size = np.abs([left, right, t[:-1], t[1:]]).max(axis=0)
            assert (np.abs(left - right) <= formats.get(coefficients).ulp(size) / 2 * (1 + 1e-9)).all()
    again = loads(tables.dumps())
    assert not broken(certify(again)) and certify(again) == tables.meta["certificate"]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("gelu", {"promises": ("monotone",)}, r"gelu is not monotone .* turns at x = -0\.7517"),
        ("square", {"promises": ("monotone",), "range": (-1.0, 4.0)}, r"square is not monotone .* turns at x = 0;"),
        ("sigmoid", {"promises": ("convex",)}, "sigmoid is neither convex nor concave"),
        ("sigmoid", {"promises": ("through-zero",)}, r"sigmoid\(0\) is 0\.5"),
        ("sqrt", {"promises": ("through-zero",)}, "x = 0 lies outside"),
        ("tanh", {"promises": ("even",)}, "unknown promise 'even'"),
        ("tanh", {"promises": ("monotone",), "symmetry": True}, "whole functions"),
        ("tanh", {"promises": ("monotone",), "share": "all"}, "one scale at a time"),
        ("tanh", {"promises": ("monotone",), "max_error": "0.1", "search": "greedy"}, "promises"),
        ("leaky_relu", {"promises": ("bounded",)}, "no bounds"),
    ],
)
def test_what_cannot_be_promised(name, options, said):
    with pytest.raises(LutcError, match=said):
        lutc.compile(name, 8, **options)


def test_no_table_with_so_few_entries():
    with pytest.raises(LutcError, match="no table of 2 entries keeps"):
        lutc.compile("sigmoid", 2, inputs=Inputs(8, 2.0**-3), promises=("continuous",))  # two tails, 1 apart


def test_a_broken_promise_is_named(tmp_path):
    """A table altered after it was compiled, its certificate forged to match: certify names the promise."""
    runner, path = CliRunner(), tmp_path / "t.json"
    command = ["compile", "sigmoid", "--scale", "2^-3", "--monotone", "--bounded", "-o", str(path)]
    assert runner.invoke(main, command).exit_code == 0
    done = runner.invoke(main, ["certify", str(path)])
    assert done.exit_code == 0 and "promises kept: monotone, bounded" in done.output
    data = json.loads(path.read_text())
    entry = data["sigmoid"]["3"]
    entry["intercepts"][2] += 0.25
    path.write_text(json.dumps(data))
    data["lutc"]["certificate"] = certify(loads(json.dumps(data)))
    path.write_text(json.dumps(data))
    done = runner.invoke(main, ["certify", str(path)])
    assert done.exit_code == 1 and "3.promises.monotone: broken at" in done.output


@pytest.mark.parametrize(
    ("name", "inputs", "promises"),
    [
        ("tanh", "bf16", ("monotone", "through-zero", "bounded")),
        ("tanh", "grid", ("monotone", "through-zero", "continuous")),
        ("exp", "bf16", ("monotone", "bounded", "continuous", "convex")),
        ("relu", "bf16", ("monotone", "continuous")),
    ],
)
def test_several_at_once(name, inputs, promises):
    """Conditions that leave single numbers: an intercept of exactly 0, lines that cross where they may not fall."""
    tables = lutc.compile(name, 8, inputs=inputs, coefficients="fp32", promises=promises)
    assert not broken(certify(tables)) and tables.meta["search"]["gap"]["fp32"] <= 0.1
    ((_, table),) = tables.items()
    x = formats.get("fp16").values()
    x = x[(x >= -4.0) & (x <= 0.0)]
    assert (np.diff(table(x)) >= 0.0).all() and (name == "exp" or table(0.0) == 0.0)


@pytest.mark.parametrize("objective", ["absolute", "maximum", "codes"])
@pytest.mark.parametrize(
    ("name", "promise", "coefficients"),
    [("tanh", "monotone", "q1.6"), ("softplus", "convex", "q2.9"), ("gelu", "continuous", "q2.5")],
)
def test_other_objectives_keep_joins(objective, name, promise, coefficients):
    """Kept on every code, never better than the optimum without, its cost that of the table itself."""
    inputs, out = Inputs(7, 2.0**-4), Inputs(8, 2.0**-5) if objective == "codes" else None
    options = {"inputs": inputs, "coefficients": coefficients, "objective": objective, "out": out, "search": "exact"}
    tables = lutc.compile(name, 8, promises=(promise,), **options)
    plain, search = lutc.compile(name, 8, **options).meta["search"], tables.meta["search"]
    ((key, table),) = tables.items()
    x = inputs.x()
    x = x[(x >= tables.range[0]) & (x <= tables.range[1])]
    y, f = table(x), functions.get(name)(x)
    if promise == "monotone":
        assert (np.diff(y) >= 0.0).all()
    elif promise == "convex":
        assert (np.diff(y, 2) >= -1e-14).all()
    assert search["cost"][key] >= plain["optimum"][key] * (1 - 1e-5)
    assert search["gap"][key] <= 0.35
    cost = {"absolute": np.abs(y - f).mean(), "maximum": np.abs(y - f).max()}
    assert objective == "codes" or search["cost"][key] == pytest.approx(cost[objective], rel=1e-5)
    assert not broken(certify(tables)) and not contradictions(tables, certify(tables))
