"""Dynamic programming against the enumeration of every table."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lutc import formats
from lutc.costs.points import Points
from lutc.costs.segments import SegmentCosts, squared_costs
from lutc.functions import Line
from lutc.search.exact import exact
from tests.helpers.oracles import best_table, int8_costs, random_samples

TAILS = (None, Line(0.0, 0.25), Line(-0.5, 0.0))


def matrix_costs(cells: np.ndarray, tails, combine) -> SegmentCosts:
    """Costs from any upper triangle of numbers: the search may not lean on what costs of lines look like."""
    size = cells.shape[0] - 1
    matrix = np.full((size + 1, size + 1), np.inf)
    upper = np.triu_indices(size + 1, 1)
    matrix[upper] = cells[upper]
    np.fill_diagonal(matrix, 0.0)
    left, right = np.full(size + 1, np.inf), np.full(size + 1, np.inf)
    left[0] = right[-1] = 0.0
    if tails[0]:
        left = np.cumsum(cells[0]) / 8
    if tails[1]:
        right = np.cumsum(cells[-1])[::-1] / 8
    return SegmentCosts(matrix, left, right, None, True, tails, combine)


@st.composite
def any_costs(draw):
    size = draw(st.integers(1, 7))
    cells = np.array(
        draw(st.lists(st.integers(0, 20), min_size=(size + 1) ** 2, max_size=(size + 1) ** 2)), np.float64
    ).reshape(size + 1, size + 1)
    return matrix_costs(cells, (draw(st.booleans()), draw(st.booleans())), draw(st.sampled_from((np.add, np.maximum))))


@given(any_costs(), st.integers(1, 5))
def test_any_costs_against_enumeration(costs, segments):
    result = exact(costs, segments + sum(costs.tails))
    assert result.cost == pytest.approx(best_table(costs, segments), rel=1e-12, abs=1e-15)
    assert result.cuts.size == segments + 1 and (np.diff(result.cuts) >= 0).all()
    assert costs.total(result.cuts) == pytest.approx(result.cost, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("seed", range(6))
def test_lines_against_enumeration(seed):
    rng = np.random.default_rng(seed)
    left, right = (TAILS[i] for i in rng.integers(0, 3, 2))
    costs = squared_costs(Points.of(random_samples(rng, 9)), formats.get("q1.6"), left, right)
    for segments in (1, 2, 3, 4):
        assert exact(costs, segments + sum(costs.tails)).cost == pytest.approx(
            best_table(costs, segments), rel=1e-12, abs=1e-15
        )


def test_the_smallest_gain_counts():
    """Five segments are better than one by a ten-thousandth."""
    cells = np.full((6, 6), 10.0)
    cells[0, 5], cells[np.arange(5), np.arange(1, 6)] = 1.0, 0.2 - 2e-5
    costs = matrix_costs(cells, (False, False), np.add)
    for segments in (4, 5):
        assert exact(costs, segments).cost == pytest.approx(best_table(costs, segments), rel=1e-12)


def test_tails_alone():
    """Two entries, two tails: nothing but the place of the one breakpoint is left to choose."""
    costs = int8_costs("gelu", 3)
    result = exact(costs, 2)
    assert result.cuts.shape == (1,)
    assert result.cost == (costs.left + costs.right).min() == costs.total(result.cuts)


def test_more_segments_than_samples():
    costs = int8_costs("gelu", 0)
    result = exact(costs, 30)
    assert result.cuts.size == 29 and costs.total(result.cuts) == result.cost
    assert result.cost == exact(costs, costs.size + 2).cost


@pytest.mark.parametrize("name", ["gelu", "reciprocal"])
def test_more_entries_never_cost_more(name):
    costs = int8_costs(name, 4)
    found = [exact(costs, entries).cost for entries in range(2, 20)]
    assert (np.diff(found) <= 0).all()
