"""Domains: NaN outside, infinities at poles, as numpy's float64 functions have them."""

import numpy as np
import pytest

from lutc import functions
from lutc.compiler import pipeline
from lutc.errors import LutcError
from lutc.fplut.pipeline import compile_fplut
from lutc.table import library, table_set
from lutc.table.bodies import Lines
from lutc.table.domain import Domain
from lutc.table.prologues import ExponentPrologue
from lutc.table.table import Table

EDGES = np.array([-np.inf, -1e30, -1.0, -1e-300, -0.0, 0.0, 1.0, 1.0 + 2.0**-52, 1e30, np.inf, np.nan])


@pytest.mark.parametrize("name", functions.FUNCTIONS)
def test_domain_of_a_function(name):
    """Put over any values, it gives NaN where the function does, and its infinities."""
    fn = functions.get(name)
    domain = Domain.of(fn)
    if domain is None:
        assert fn.domain == (-np.inf, np.inf)
        return
    want = fn(EDGES)
    got = domain.restrict(np.zeros(EDGES.size), EDGES)
    assert (np.isnan(got) == np.isnan(want)).all()
    at_bound = np.isin(EDGES, [bound for bound in (domain.low, domain.high) if bound is not None])
    infinite = (
        np.isinf(want) & at_bound & ~((EDGES == 0) & np.signbit(EDGES))
    )  # 1/sqrt(-0) is -inf, which range reduction minds
    assert (got[infinite] == want[infinite]).all() and (got[~np.isnan(want) & ~np.isinf(want)] == 0).all()


def test_inverse_sigmoid_as_shipped():
    for table in library.load("inverse_sigmoid_fplut").values():
        got = table(EDGES)
        assert np.isnan(got[[0, 1, 2, 3, 7, 8, 9, 10]]).all() and got[4:7].tolist() == [-np.inf, -np.inf, np.inf]


@pytest.mark.parametrize("name", ["inverse_sigmoid", "log", "rsqrt", "sqrt", "reciprocal", "square", "exp"])
def test_shipped_tables_answer_as_the_function_where_it_is_not_finite(name):
    for certificate in library.load(f"{name}_fplut").meta["certificate"].values():
        for figures in certificate.values():
            for kind in ("undefined", "overflow"):
                assert figures[kind]["agree"] == figures[kind]["inputs"]


def test_plain_tables_have_the_functions_domain():
    plain = compile_fplut("log", prologue="none", range=(0.25, 4.0), n_cut_points=5, pieces=4, formats=("fp32",))
    lines = pipeline.compile("sqrt", 4, inputs="bf16", coefficients="fp32")
    assert plain["fp32"].domain == Domain(0.0, None, -1) and lines["fp32"].domain == Domain(0.0)
    assert np.isnan(plain["fp32"](-1.0)) and plain["fp32"](0.0) == -np.inf and np.isnan(lines["fp32"](-1.0))
    assert pipeline.compile("sqrt", 8, search="exact")["4"].domain is None  # integer arithmetic has no NaN
    for tables in (plain, lines):
        text = tables.dumps()
        assert table_set.loads(text).dumps() == text and table_set.loads(text)["fp32"].domain == tables["fp32"].domain


def test_signs_of_exponent_prologues():
    body = Lines([], [0.0], [1.0])
    positive, odd, even = (
        Table(body, ExponentPrologue(1, -1, odd=o, even=e)) for o, e in ((False, False), (True, False), (False, True))
    )
    x = np.array([-2.0, -0.0, 0.0, 2.0, -np.inf, np.nan])
    np.testing.assert_array_equal(positive(x), [np.nan, -np.inf, np.inf, 0.5, np.nan, np.nan])
    np.testing.assert_array_equal(odd(x), [-0.5, -np.inf, np.inf, 0.5, -0.0, np.nan])
    np.testing.assert_array_equal(even(x), [0.5, np.inf, np.inf, 0.5, 0.0, np.nan])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Domain(1.0, 0.0), "the bounds of a domain increase; given 1 and 0"),
        (lambda: Domain(np.nan), "finite bounds or null"),
        (lambda: Domain(0.0, None, 0, 1), "a pole of the domain stands at its bound"),
        (lambda: Domain(0.0, None, 2), "poles -1, 0 or 1"),
        (lambda: ExponentPrologue(1, 1, 0.0, True, True), "odd or even, not both"),
        (
            lambda: Table(Lines([], [1.0], [0.0]), ExponentPrologue(1, 1), domain=Domain(0.0)),
            "range reduction by exponent has a domain of its own",
        ),
    ],
)
def test_errors(make, message):
    with pytest.raises(LutcError, match=message):
        make()


def test_a_broken_domain_in_a_file():
    text = library.load("inverse_sigmoid_fplut").dumps()
    with pytest.raises(LutcError, match="domain"):
        table_set.loads(text.replace('"low_pole": -1', '"low_pole": "minus"'))
    with pytest.raises(LutcError, match="domain"):
        table_set.loads(text.replace('"low_pole"', '"lowest_pole"'))
