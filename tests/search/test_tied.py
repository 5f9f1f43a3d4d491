"""Tables whose lines must join, found near a known one: every join checked on values, costs held against brute force
and the optimum without joins.
"""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lutc import formats
from lutc.costs.points import Points
from lutc.costs.rules import Rules
from lutc.costs.segments import squared_tails
from lutc.errors import LutcError
from lutc.functions import Line
from lutc.search.joined import Joins
from lutc.search.segmentation import segmentation
from lutc.search.tied import TiedProblem, tied
from tests.helpers.oracles import random_samples
from tests.search.test_joined import PAIRS, TINY, chain


def free(points, segments, left=None, right=None):
    return segmentation(points, *squared_tails(points, left, right), segments)


def values_of(found, x, left=None, right=None):
    """Values and segment of every sample, tails included."""
    index = np.searchsorted(found.cuts, np.arange(x.size), side="right")
    k, t = (
        np.concatenate([[getattr(left, n, np.nan)], found.lines[c], [getattr(right, n, np.nan)]])
        for c, n in enumerate(("slope", "intercept"))
    )
    return k[index] * x + t[index]


@pytest.mark.parametrize("joins", [Joins(rise=1), Joins(bend=1), Joins(meet=0.25), Joins(rise=1, meet=0.25)])
@pytest.mark.parametrize("seed", range(4))
def test_beside_every_table_there_is(joins, seed):
    """Five samples, eight numbers: never below the best table of the same cuts, whose lines are tried one by one."""
    rng = np.random.default_rng(seed)
    samples = random_samples(rng, 6)
    x = np.array([-1.0, -0.5, 0.0, 0.5, 1.0, 1.5])
    samples = type(samples)(x, np.sort(rng.uniform(-1, 1, 6)), samples.weight)
    rules, points = Rules.of(TINY, sign=joins.rise), Points.of(samples)
    found = tied(TiedProblem(points, rules, joins, None, None), np.array([0, 3, 6]))
    edge = np.concatenate([[-1.5], x, [2.0]])
    w = samples.weight / samples.weight.sum()
    best = np.inf
    for cut in range(1, 6):
        spans = [(0, cut), (cut, 6)]
        best = min(best, chain(x, samples.y, w, edge, spans, [PAIRS] * 2, rules, joins))
    best = min(best, chain(x, samples.y, w, edge, [(0, 6)], [PAIRS], rules, joins))
    assert best * (1 - 1e-12) - 1e-15 <= found.cost <= 1.5 * best + 1e-3
    assert np.isin(np.concatenate(found.lines), TINY.values()).all()
    error = values_of(found, x) - samples.y
    assert found.cost == pytest.approx(w @ error**2, rel=1e-9)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    fmt=st.sampled_from(["q2.9", "q2.13", "fp16", "bf16", "fp32"]),
    segments=st.integers(2, 6),
    tails=st.booleans(),
)
def test_rising_over_random_functions(seed, fmt, segments, tails):
    rng = np.random.default_rng(seed)
    x = np.sort(rng.choice(np.arange(-512, 512), 80, replace=False)) / 256.0
    y = np.cumsum(rng.exponential(1.0, 80) ** 3)
    y = 1.9 * y / y[-1] - 0.95
    left, right = (Line(0.0, -1.0), Line(0.0, 1.0)) if tails else (None, None)
    points = Points(x, y, np.full(80, 1 / 80), np.arange(80), 80)
    rules, best = Rules.of(formats.get(fmt), sign=1), free(points, segments, left, right)
    found = tied(TiedProblem(points, rules, Joins(rise=1), left, right, floats=fmt != "q2.9"), best.cuts)
    assert found.cost >= best.bound * (1 - 1e-9)
    assert (np.diff(values_of(found, x, left, right)) >= 0.0).all()
    fmt = formats.get(fmt)
    assert (fmt.round(np.concatenate(found.lines)) == np.concatenate(found.lines)).all()


@pytest.mark.parametrize("fmt", ["q2.10", "fp32"])
@pytest.mark.parametrize("bend", [1, -1])
def test_bends_one_way(fmt, bend):
    x = np.arange(-128, 128) / 32.0
    y = bend * np.log1p(np.exp(x)) / 4
    points = Points(x, y, np.full(256, 1 / 256), np.arange(256), 256)
    best = free(points, 8)
    found = tied(TiedProblem(points, Rules.of(formats.get(fmt)), Joins(bend=bend), None, None), best.cuts)
    assert (bend * np.diff(values_of(found, x), 2) >= -1e-14).all()
    assert best.bound <= found.cost <= 1.3 * best.cost


def test_meets_within_half_a_step():
    x = np.arange(-128, 128) / 32.0
    points = Points(x, np.tanh(x), np.full(256, 1 / 256), np.arange(256), 256)
    step, tails = 2.0**-10, (Line(0.0, -1.0), Line(0.0, 1.0))
    best = free(points, 8, *tails)
    found = tied(TiedProblem(points, Rules.of(formats.get("q1.10")), Joins(meet=step / 2), *tails), best.cuts)
    k, t = (np.concatenate([[0.0], found.lines[c], [0.0]]) for c in range(2))
    t[0], t[-1] = -1.0, 1.0
    at = np.concatenate([[2 * x[0] - x[1]], x])[found.cuts]
    assert (np.abs(k[:-1] * at + t[:-1] - k[1:] * at - t[1:]) <= step / 2).all()
    assert best.bound <= found.cost <= 1.5 * best.cost


def test_one_line_where_none_joins():
    x = np.arange(16.0) / 16
    points = Points(x, x, np.full(16, 1 / 16), np.arange(16), 16)
    tails = Line(0.0, 0.0), Line(0.0, 1.0)
    with pytest.raises(LutcError, match="no table of"):  # bf16 lines between tails 1 apart, no slope but 0
        rules = Rules(*(Rules.of(TINY).slopes,) * 2, low=0.0, high=0.25)
        tied(TiedProblem(points, rules, Joins(meet=0.0), *tails), np.array([2, 8, 14]))


def test_all_cuts_of_small_tables():
    """Against dynamic programming by hand over all pairs of cuts, real numbers but for fp32: what rises already."""
    x = np.arange(12.0)
    y = np.sqrt(x)
    points = Points(x, y, np.full(12, 1 / 12), np.arange(12), 12)
    least = min(
        sum(np.linalg.lstsq(np.stack([x[i:j], np.ones(j - i)], 1), y[i:j], rcond=None)[1].sum() for i, j in spans)
        for a, b in itertools.combinations(range(2, 11), 2)
        for spans in [((0, a), (a, b), (b, 12))]
        if b - a > 1
    )
    found = tied(
        TiedProblem(points, Rules.of(formats.get("fp32"), sign=1), Joins(rise=1), None, None), np.array([0, 4, 8, 12])
    )
    assert found.cost * 12 >= least * (1 - 1e-9)
    assert found.cost * 12 <= 1.5 * least
