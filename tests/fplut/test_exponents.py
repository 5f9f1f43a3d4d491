"""The exponent-addressed body: edges, validation, files."""

import numpy as np
import pytest

from lutc import formats
from lutc.errors import LutcError
from lutc.functions import Line
from lutc.table import table_set
from lutc.table.bodies import Exponents, binades
from lutc.table.table import Table
from lutc.table.table_set import TableSet

OUT, JOINED = Exponents.OUTSIDE, Exponents.JOINED


def bits(negative=(), positive=(), fields=31):
    """Bits outward from zero on each side, the rest outside."""
    return tuple(
        [OUT] * (fields - len(negative)) + list(negative)[::-1] + list(positive) + [OUT] * (fields - len(positive))
    )


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_binades_are_where_the_exponent_field_changes(dtype):
    fmt = formats.get(dtype)
    codes = np.arange((1 << fmt.exponent_bits) - 1) << fmt.mantissa_bits
    starts = fmt.decode(codes)
    bounds = binades(dtype)
    middle = bounds.size // 2
    np.testing.assert_array_equal(bounds[middle:-1], starts)
    np.testing.assert_array_equal(bounds, -bounds[::-1])
    assert bounds[-1] == 2.0 ** (fmt.exponent_bias + 1)


def test_edges_of_both_sides():
    body = Exponents("fp16", bits([0, JOINED], [2, 0, JOINED, 1]), np.zeros(9))
    unit = 2.0**-14
    np.testing.assert_array_equal(body.edges / unit, [-2, 0, 0.25, 0.5, 0.75, 1, 4, 6, 8])


@pytest.mark.parametrize("side", ["negative", "positive"])
def test_one_side_alone(side):
    mine = bits(**{side: [OUT] * 15 + [1, 2]})  # the binades [1, 2) and [2, 4)
    body = Exponents("fp16", mine, np.arange(7.0))
    edges = np.array([1, 1.5, 2, 2.5, 3, 3.5, 4])
    np.testing.assert_array_equal(body.edges, edges if side == "positive" else -edges[::-1])
    np.testing.assert_array_equal(body(body.edges), np.arange(7.0))
    assert body.segment(np.nan) == 5 and np.isnan(body(np.nan))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("fp32", bits(positive=[0]), [0, 1]), "fp16 or bf16 address"),
        (("fp16", (0,) * 61, [0, 1]), "2 x 31 binades; given 61"),
        (("bf16", bits(positive=[0]), [0, 1]), "2 x 255"),
        (("fp16", bits(positive=[11]), np.zeros(2049)), "-2 to 10"),
        (("fp16", bits(), [0, 1]), "at least one"),
        (("fp16", bits(positive=[0, OUT, 0]), [0, 1, 2]), "without a gap"),
        (("fp16", bits(positive=[JOINED, 0]), [0, 1]), "joined"),
        (("fp16", bits(positive=[1, JOINED]), [0, 1, 2]), "joined"),
        (("fp16", bits(positive=[1]), [0, 1]), "2 pieces have 3 values; given 2"),
        (("fp16", bits(positive=[0.5]), [0, 1]), "mantissa bits"),
    ],
)
def test_validation(arguments, message):
    with pytest.raises(LutcError, match=message):
        Exponents(*arguments)


def test_the_file_keeps_it():
    body = Exponents("bf16", bits([0, JOINED], [2, 0], fields=255), np.arange(7.0))
    table = Table(body, None, Line(0.0, -1.0), Line(0.0, 1.0), "fp32")
    text = TableSet("f", {"fp32": table}).dumps()
    again = table_set.loads(text)
    assert again.dumps() == text and again["fp32"].body.input == "bf16"
    x = np.concatenate([np.linspace(-1e-37, 1e-37, 101), [-np.inf, np.inf, 1e30]])
    np.testing.assert_array_equal(again["fp32"](x), table(x))
    with pytest.raises(LutcError, match="fp16 or bf16"):
        table_set.loads(text.replace('"input": "bf16"', '"input": "bf17"'))
