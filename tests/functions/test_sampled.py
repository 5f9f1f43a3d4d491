"""Any callable compiles, and its table's file carries enough of it to be judged by."""

import functools
import json

import numpy as np
import pytest

import lutc
from lutc import certify, functions
from lutc.errors import LutcError
from lutc.functions import sampled


def leaky(x, slope):
    return np.where(x > 0, x, slope * x)


def test_a_callable_of_any_kind_gives_the_same_table():
    torch = pytest.importorskip("torch")
    partial = functools.partial(leaky, slope=0.25)
    kinds = (partial, torch.nn.LeakyReLU(0.25), lambda x: x if x > 0 else 0.25 * x)
    tables = [lutc.compile(kind, 4, range=(-4.0, 4.0), search="exact") for kind in kinds]
    assert [one.function for one in tables] == ["leaky(slope=0.25)", "LeakyReLU", "function"]
    for one in tables[1:]:
        for key, table in one.items():
            np.testing.assert_allclose(table(np.linspace(-4, 4, 99)), tables[0][key](np.linspace(-4, 4, 99)))


def test_the_file_is_judged_by_its_sample():
    exact = functions.load(np.sinh, (-2.0, 2.0))
    tables = lutc.compile(np.sinh, 8, range=(-2.0, 2.0), search="exact")
    loaded = lutc.table.loads(tables.dumps())
    assert certify.check(loaded.meta["certificate"], certify.certify(loaded)) == []
    found = certify.function_of(loaded)
    for inputs in loaded.inputs.values():  # every code, to the last bit
        x = inputs.x()
        np.testing.assert_array_equal(found(x), exact(x))
    x = np.linspace(-2.0, 2.0, 1001)
    np.testing.assert_allclose(found(x), np.sinh(x), atol=1e-6)
    assert np.isnan(found(1e9)) and np.isnan(found(np.nan))


def test_a_float_table_carries_a_sample_too():
    tables = lutc.compile(np.cbrt, 8, range=(-4.0, 4.0), inputs="grid", search="exact", name="cbrt_8")
    loaded = lutc.table.loads(tables.dumps())
    assert certify.check(loaded.meta["certificate"], certify.certify(loaded)) == []
    found = certify.function_of(loaded)
    np.testing.assert_allclose(found(np.array([-60000.0, 0.0, 3.3])), np.cbrt([-60000.0, 0.0, 3.3]), atol=1e-5)


def test_a_damaged_sample_is_refused():
    tables = lutc.compile(np.sinh, 4, range=(-1.0, 1.0), search="exact", name="sinh_4")
    data = json.loads(tables.dumps())
    for change in ({"y": [0.0]}, {"sha256": "0"}, {"y": "AAAA"}, {"y": "~"}):
        broken = {**data, "lutc": {**data["lutc"], "function_sample": {**data["lutc"]["function_sample"], **change}}}
        with pytest.raises(LutcError, match="damaged"):
            certify.certify(lutc.table.loads(json.dumps(broken)))
    with pytest.raises(LutcError, match="damaged"):
        sampled.from_record("f", 3, (0.0, 1.0))


def test_a_callable_without_a_range_is_one_clear_error():
    with pytest.raises(LutcError, match="sinh has no default range"):
        lutc.compile(np.sinh, 8)


def test_a_mistyped_option_names_the_nearest():
    with pytest.raises(LutcError, match="no option 'entires'; did you mean 'entries'"):
        lutc.compile("gelu", entires=8)
