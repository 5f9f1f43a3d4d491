"""Sets of numbers for slopes and intercepts, against lists written out and counted."""

import itertools

import numpy as np
import pytest

from lutc import formats
from lutc.errors import LutcError
from lutc.formats.numbers import holder, numbers

Q16 = formats.get("q1.6")


def test_powers_of_two():
    chosen = numbers("pot", Q16)
    powers = [2.0**-e for e in range(7)]
    assert chosen.values.tolist() == sorted([-p for p in powers] + [0.0] + powers)
    assert chosen.bits == 4 and chosen.shifts and chosen.terms == 1


def test_sums_of_two():
    chosen = numbers("apot:2", Q16)
    single = numbers("pot", Q16).values
    every = {a + b for a, b in itertools.product(single, single) if Q16.min <= a + b <= Q16.max}
    assert chosen.values.tolist() == sorted(every)
    assert 0.75 in chosen.values and 0.6875 not in chosen.values and chosen.bits == 8


@pytest.mark.parametrize(("name", "low", "high", "bits"), [("q1.4", -2.0, 1.9375, 6), ("uq0.8", 0.0, 255 / 256, 8)])
def test_fixed_point(name, low, high, bits):
    chosen = numbers(name, Q16)
    assert (chosen.values[0], chosen.values[-1], chosen.bits, chosen.values.size) == (low, high, bits, 1 << bits)
    assert not chosen.shifts and np.all(chosen.format.holds(chosen.values))


def test_the_holder_holds_both():
    sets = numbers("q1.4", Q16), numbers("uq2.8", Q16)
    fmt = holder(*sets)
    assert fmt.name == "q2.8" and all(fmt.holds(s.values).all() for s in sets)


@pytest.mark.parametrize("name", ["q9.9", "uq0.1", "apot:9", "apot", "fp16", "2"])
def test_bad_names(name):
    with pytest.raises(LutcError, match="allowed are"):
        numbers(name, Q16)


def test_powers_need_a_grid():
    with pytest.raises(LutcError, match="fixed-point grid"):
        numbers("pot", formats.get("fp16"))
