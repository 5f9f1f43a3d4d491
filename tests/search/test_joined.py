"""Tables whose lines must join: against every table there is, over a format of eight numbers."""

import itertools

import numpy as np
import pytest

from lutc import formats
from lutc.costs.points import Points
from lutc.costs.rules import FORBIDDEN, Rules
from lutc.costs.segments import real_costs, ruled_costs
from lutc.errors import LutcError
from lutc.functions import Line
from lutc.search.exact import exact
from lutc.search.joined import Joins, joined, joined_below
from tests.helpers.oracles import random_samples

TINY = formats.get("q1.1")
VALUES = TINY.values()
PAIRS = np.array([(k, t) for k in VALUES for t in VALUES])


def brute_force(samples, entries, rules, joins, left, right):
    """The least cost over all cuts and all lines, the conditions checked on the values themselves."""
    x, y, w = samples.x, samples.y, samples.weight / samples.weight.sum()
    n, best = len(x), np.inf
    edge = np.concatenate([[2 * x[0] - x[1]], x, [2 * x[-1] - x[-2]]])
    inner = entries - (left is not None) - (right is not None)
    for m in range(inner + 1):
        for cuts in itertools.combinations(range(n + 1), m + 1):
            if (left is None and cuts[0] > 0) or (right is None and cuts[-1] < n):
                continue
            spans = (
                [(0, cuts[0])] * (left is not None) + list(zip(cuts, cuts[1:])) + [(cuts[-1], n)] * (right is not None)
            )
            choices = [[(tail.slope, tail.intercept)] for tail in (left,) if tail] + [PAIRS] * m
            choices += [[(tail.slope, tail.intercept)] for tail in (right,) if tail]
            best = min(best, chain(x, y, w, edge, spans, choices, rules, joins))
    return best


def chain(x, y, w, edge, spans, choices, rules, joins):
    """Over all lines of given spans, span by span: cost by line of the last span."""
    costs, lines = None, None
    for (i, j), options in zip(spans, choices):
        options = np.asarray(options, float)
        k, t = options[:, :1], options[:, 1:]
        value = k * x[i:j] + t
        own = (w[i:j] * (value - y[i:j]) ** 2).sum(axis=1)
        broken = ((value < rules.low) | (value > rules.high)).any(axis=1)
        if rules.zero:
            broken |= ((x[i:j] == 0.0) & (value != 0.0)).any(axis=1)
        if len(options) > 1 and joins.rise:
            broken |= (joins.rise * k[:, 0]) < 0
        own = np.where(broken, np.inf, own)
        if costs is None:
            costs, lines = own, options
            continue
        before, at = edge[i], edge[i + 1]
        v1, u1 = (lines[:, 0] * p + lines[:, 1] for p in (before, at))
        w2, v2 = (options[:, 0] * p + options[:, 1] for p in (before, at))
        good = np.ones((len(lines), len(options)), bool)
        if joins.rise:
            good &= joins.rise * (v2[None] - v1[:, None]) >= 0
        if joins.bend:
            good &= joins.bend * (v2[None] - u1[:, None]) >= -1e-12
            good &= joins.bend * (v1[:, None] - w2[None]) >= -1e-12
        if joins.meet >= 0:
            good &= np.abs(w2[None] - v1[:, None]) <= joins.meet + 1e-12
        costs = np.where(good, costs[:, None], np.inf).min(axis=0) + own
        lines = options
    return costs.min() if costs is not None else np.inf


@pytest.mark.parametrize("tails", [(None, None), (Line(0.0, -1.0), Line(0.0, 1.0)), (None, Line(1.0, 0.0))])
@pytest.mark.parametrize(
    ("rules", "joins"),
    [
        ({}, Joins(rise=1)),
        ({"low": -0.75, "high": 1.0, "zero": True}, Joins(rise=1)),
        ({}, Joins(rise=-1)),
        ({}, Joins(bend=1)),
        ({"zero": True}, Joins(bend=-1)),
        ({}, Joins(meet=0.25)),
        ({"low": -1.0}, Joins(rise=1, bend=1, meet=0.25)),
        ({"zero": True}, Joins()),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_every_table_there_is(rules, joins, tails, seed):
    rng = np.random.default_rng(seed)
    samples = random_samples(rng, 5)
    steps = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    samples = type(samples)(steps, np.sort(rng.uniform(-1, 1, 5)) * rng.choice([-1, 1]), samples.weight)
    rules = Rules.of(TINY, **rules, sign=joins.rise)
    for entries in (2, 3, 4):
        want = brute_force(samples, entries, rules, joins, *tails)
        points = Points.of(samples)
        costs = ruled_costs(points, rules, *tails)
        if not np.isfinite(want):
            with pytest.raises(LutcError, match="no table of"):
                joined(points, costs, rules, joins, entries, *tails)
            continue
        if joins:
            found = joined(points, costs, rules, joins, entries, *tails)
            assert found.cost == pytest.approx(want, rel=1e-9, abs=1e-15)
        else:
            assert exact(costs, entries).cost == pytest.approx(want, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("seed", range(6))
def test_ruled_segments_by_brute_force(seed):
    """Every run of random samples, with every pair of coefficients."""
    rng = np.random.default_rng(seed)
    samples = random_samples(rng, 12)
    x = np.round(samples.x * 8) / 8 + np.arange(12) / 4 - 1.5
    samples = type(samples)(x, samples.y, samples.weight)
    low, high = np.quantile(samples.y, [0.2, 0.8])
    for rules in (Rules.of(formats.get("q1.3"), low=low, high=high), Rules.of(formats.get("q1.3"), zero=True, sign=1)):
        costs = ruled_costs(Points.of(samples), rules, None, None)
        values, w = formats.get("q1.3").values(), samples.weight / samples.weight.sum()
        k, t = (v.reshape(-1, 1) for v in np.meshgrid(values, values))
        for i, j in itertools.combinations(range(13), 2):
            line = k * x[i:j] + t
            error = (w[i:j] * (line - samples.y[i:j]) ** 2).sum(axis=1)
            broken = ((line < rules.low) | (line > rules.high)).any(axis=1) | (rules.sign * k[:, 0] < 0)
            before = x[i - 1] if i else -np.inf
            if rules.zero and before < 0.0 <= x[j - 1]:
                broken |= t[:, 0] != 0.0
            want = error[~broken].min(initial=np.inf)
            if np.isfinite(want):
                assert costs.matrix[i, j] == pytest.approx(want, rel=1e-9, abs=1e-15)
            else:
                assert costs.matrix[i, j] == FORBIDDEN


@pytest.mark.parametrize("joins", [Joins(rise=1), Joins(bend=1), Joins(meet=0.125)])
@pytest.mark.parametrize("seed", range(3))
def test_below_a_known_table(joins, seed, monkeypatch):
    """From a known cost the same optimum, and with too few lines tried a bound that is not above it."""
    rng = np.random.default_rng(seed)
    x = np.arange(-8, 8) / 8.0
    samples = type(random_samples(rng, 16))(x, np.sort(rng.uniform(-1, 1, 16)), rng.uniform(0.5, 1.0, 16))
    points, rules = Points.of(samples), Rules.of(formats.get("q1.2"), sign=joins.rise)
    costs = ruled_costs(points, rules, None, None)
    best = joined(points, costs, rules, joins, 4, None, None)
    known = (points, real_costs(points, None, None), rules, joins, 4, None, None, (True, True), 1.5 * best.cost)
    found, bound = joined_below(*known)
    assert found is not None and bound == found.cost == pytest.approx(best.cost, rel=1e-9)
    for budget in (0, 100, 1000, 10_000):
        monkeypatch.setattr("lutc.search.joined._BUDGET", budget)
        found, bound = joined_below(*known)
        assert bound <= best.cost * (1 + 1e-9) and (found is None or found.cost == pytest.approx(best.cost, rel=1e-9))
