"""Shipped tables by name, files by path."""

import numpy as np
import pytest

import lutc
from lutc import certify, functions
from lutc.compiler import pipeline
from lutc.errors import LutcError
from lutc.table import library, table_set

NAMES = library.names()


def test_names_are_files():
    assert NAMES == sorted(NAMES) and "gelu_8" in NAMES and len(NAMES) >= 3


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_file_loads_and_round_trips(name):
    tables = library.load(name)
    assert tables.dumps() == library.resources.files("lutc.pretrained").joinpath(f"{name}.json").read_text(
        encoding="utf-8"
    )
    assert tables.function is not None and set(tables.meta["certificate"]) == set(tables)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name.rsplit("_", 1)[-1] in ("8", "16", "32") and "nnlut" not in name]
)
def test_shipped_int8_tables_have_no_gap(name):
    record = library.load(name).meta["search"]
    assert set(record["gap"].values()) == {0.0}
    for key, cost in record["cost"].items():
        assert cost <= record["optimum"][key] * (1 + 1e-5)


@pytest.mark.parametrize("name", ["gelu_8", "exp_16"])
def test_shipped_certificates_hold(name):
    tables = library.load(name)
    assert certify.check(tables.meta["certificate"], certify.certify(tables)) == []


def test_the_same_command_gives_the_shipped_bytes():
    assert pipeline.compile("gelu", 8, promises=("through-zero",)).dumps() == library.load("gelu_8").dumps()


def test_paths(tmp_path):
    shipped = library.load("gelu_8")
    path = tmp_path / "mine.json"
    shipped.save(path)
    plain = tmp_path / "mine"
    shipped.save(plain)
    assert (
        library.load(path).dumps() == library.load(str(path)).dumps() == library.load(plain).dumps() == shipped.dumps()
    )
    assert lutc.load("gelu_8").dumps() == shipped.dumps()


@pytest.mark.parametrize(
    ("typed", "name"),
    [("rsqrt_8", "sqrt_reci_8"), ("divide_16", "reci_16"), ("swish_8", "silu_8"), ("hswish_fplut", "hardswish_fplut")],
)
def test_other_names_of_a_function(typed, name):
    assert library.load(typed).dumps() == library.load(name).dumps()


def test_what_is_not_there(tmp_path):
    with pytest.raises(LutcError, match="gelu_8/16/32/fplut/nnlut_16/nnlut_32, gelu_tanh_8/16/32/fplut, ") as error:
        library.load("relu_8")
    assert all(name.rsplit("_", 1)[-1] in str(error.value) for name in NAMES) and len(str(error.value)) < 900
    with pytest.raises(LutcError, match="no shipped table 'gelv_8'; did you mean 'gelu_8'\\?"):
        library.load("gelv_8")
    with pytest.raises(LutcError, match="ending in .json"):
        library.load("zzzzzz")
    with pytest.raises(LutcError, match="cannot read"):
        library.load(tmp_path / "none.json")


@pytest.mark.parametrize("name", [3, None, b"gelu_8"])
def test_neither_name_nor_path(name):
    with pytest.raises(LutcError, match="by name or path, not by"):
        library.load(name)


def test_a_shipped_name_is_not_a_path(tmp_path, monkeypatch):
    """A file of one's own beside the working directory is found by its path, a shipped one by its name."""
    monkeypatch.chdir(tmp_path)
    own = table_set.loads('{"relu": {"0": {"breakpoints": [0], "slopes": [0, 1], "intercepts": [0, 0]}}}')
    own.save("gelu_8.json")
    assert library.load("gelu_8").name == "gelu" and library.load("gelu_8.json").name == "relu"


@pytest.mark.parametrize(
    "name, limits", [("gelu_8", (2.7e-4, 1.1e-4, 4e-5, 3.1e-5)), ("gelu_16", (2.7e-4, 2.3e-5, 1.15e-5, 3.6e-6))]
)
def test_tables_of_few_codes_serve_floats_too(name, limits):
    """Mean squared error of float inputs in [-4, 4], by the tables of 2^0 to 2^-3: breakpoints on codes alone gave
    4.9e-4 at 2^-1.
    """
    tables, x = library.load(name), np.linspace(-4, 4, 20_001)
    for key, limit in enumerate(limits):
        assert np.mean((tables[str(key)](x) - functions.get("gelu")(x)) ** 2) <= limit


ALIASES = {"hardswish_8": "hswish", "hswish_fplut": "hardswish", "rsqrt_16": "sqrt_reci", "SiLU_8": "silu"}
ALIASES |= {"swish_32": "silu", "logit_fplut": "inverse_sigmoid"}


@pytest.mark.parametrize("alias, own", ALIASES.items())
def test_every_alias_names_the_shipped_table(alias, own):
    assert library.load(alias).name == own


def test_dir_shows_the_public_names_and_nothing_else():
    import lutc.nn

    assert dir(lutc) == sorted(lutc.__all__) and dir(lutc.nn) == sorted(lutc.nn.__all__)
