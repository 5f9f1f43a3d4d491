"""Tables whose slopes and intercepts are of sets of their own, through the whole chain."""

import itertools
import json

import numpy as np
import pytest

import lutc
from lutc import formats, functions, hardware
from lutc.compiler.proof import reproved
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.formats.numbers import numbers
from lutc.table.integer import integer_lines
from lutc.table.table_set import loads

SETS = [("pot", None), ("apot:2", None), ("q1.4", "q2.8"), ("uq1.3", "q1.6"), ("q1.1", "q1.4")]
INT6 = Inputs(6, 2.0**-3)


def optimum(name, slopes, intercepts, left, right):
    """One inner segment between the tails: every cut, every pair."""
    x = INT6.x()
    y, best = functions.get(name)(x), np.inf
    k, t = (v.reshape(-1, 1) for v in np.meshgrid(slopes, intercepts))
    errors = np.cumsum(np.pad((k * x + t - y) ** 2, ((0, 0), (1, 0))), axis=1)
    lefts = np.append(0.0, np.cumsum((left[0] * x + left[1] - y) ** 2))
    rights = np.append(np.cumsum(((right[0] * x + right[1] - y) ** 2)[::-1])[::-1], 0.0)
    for i, j in itertools.combinations_with_replacement(range(x.size + 1), 2):
        best = min(best, lefts[i] + rights[j] + (errors[:, j] - errors[:, i]).min())
    return best / x.size


@pytest.mark.parametrize(("slopes", "intercepts"), SETS)
def test_optimum_by_brute_force(slopes, intercepts):
    tables = lutc.compile("gelu", 3, inputs=INT6, slopes=slopes, intercepts=intercepts, search="exact")
    grid = formats.get("q1.6")
    first, second = (numbers(text or "q1.6", grid).values for text in (slopes, intercepts))
    want = optimum("gelu", first, second, (0.0, 0.0), (1.0, 0.0))
    assert tables.meta["search"]["optimum"]["3"] == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize(("slopes", "intercepts"), SETS)
def test_stored_numbers_and_integer_form(slopes, intercepts):
    tables = lutc.compile("silu", 8, inputs=INT6, slopes=slopes, intercepts=intercepts)
    (table,) = tables.values()
    grid = formats.get("q1.6")
    assert np.isin(table.body.slopes, numbers(slopes, grid).values).all()
    assert np.isin(table.body.intercepts, numbers(intercepts or "q1.6", grid).values).all()
    lines = integer_lines(table, INT6)
    assert (lines.accumulate(INT6.codes()) * lines.unit == table(INT6.x())).all()
    again = loads(tables.dumps())
    assert again.meta["slopes"] == slopes and reproved(again, functions.get("silu")) == []


def test_a_slope_that_is_none_of_them():
    tables = lutc.compile("gelu", 5, inputs=INT6, slopes="pot")
    data = json.loads(tables.dumps())
    data["gelu"]["3"]["slopes"][1] = 0.375
    with pytest.raises(LutcError, match="none of pot"):
        loads(json.dumps(data))


def test_promises_with_powers_of_two():
    promises = ("monotone", "through-zero", "bounded")
    (table,) = lutc.compile("tanh", 9, inputs=INT6, slopes="pot", promises=promises).values()
    y = table(INT6.x())
    assert (np.diff(y) >= 0).all() and np.abs(y).max() <= 1.0 and table(0.0) == 0.0


@pytest.mark.parametrize("objective", ["absolute", "maximum", "codes"])
def test_pairs_of_the_sets(objective):
    out = Inputs(8, 2.0**-5) if objective == "codes" else None
    options = {"inputs": INT6, "search": "exact", "objective": objective, "out": out}
    (table,) = lutc.compile("gelu", 5, slopes="apot:2", **options).values()
    assert np.isin(table.body.slopes, numbers("apot:2", formats.get("q1.6")).values).all()


def test_cost_without_a_multiplier():
    grid = formats.get("q1.6")
    whole = hardware.lines_cost(8, grid, INT6)
    shifts = hardware.lines_cost(8, grid, INT6, chosen=(numbers("pot", grid), numbers("q1.6", grid)))
    assert shifts.multiplier == (1, 6) and whole.multiplier == (8, 6)
    assert whole.stored_bits - shifts.stored_bits == 8 * (8 - 4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"slopes": "pot", "inputs": "fp16"}, "input codes"),
        ({"slopes": "pot", "share": "coefficients"}, "share coefficients"),
        ({"slopes": "pot", "coefficients": "fp16"}, "fixed point"),
        ({"slopes": "q2.20"}, "23 bits"),
        ({"intercepts": "uq1.7"}, "tail intercept -1 of tanh"),
    ],
)
def test_what_cannot_be(options, said):
    with pytest.raises(LutcError, match=said):
        lutc.compile("tanh", 8, **options)
