import json

import pytest
import torch

from lutc.errors import LutcError
from lutc.taylor.fitting import TaylorSettings, fit
from lutc.taylor.module import TaylorMLP
from lutc.taylor.reading import load
from lutc.taylor.table import FORMATS, TaylorTable


@pytest.fixture
def table(block):
    return fit(
        block, torch.randn(2000, 6, generator=torch.Generator().manual_seed(0)), TaylorSettings(k=3, fallback=0.1)
    )


@pytest.mark.parametrize("format", FORMATS)
def test_round_trip_is_bit_exact_and_the_bytes_are_the_same(table, tmp_path, format):
    table = table.stored(format)
    table.save(tmp_path / "layer.0")
    found = load(tmp_path / "layer.0")
    for name in ("centres", "values", "slopes", "counts", "scales", "radii"):
        a, b = getattr(table, name), getattr(found, name)
        assert (a is None and b is None) or (a.dtype == b.dtype and torch.equal(a, b))
    assert found.info == table.info
    first = [(tmp_path / f"layer.0.{kind}").read_bytes() for kind in ("json", "safetensors")]
    found.save(tmp_path / "again")
    assert first == [(tmp_path / f"again.{kind}").read_bytes() for kind in ("json", "safetensors")]
    assert torch.equal(load(tmp_path / "again.json").slopes, load(str(tmp_path / "again.safetensors")).slopes)


def test_json_tells_what_it_is(table, tmp_path):
    table.save(tmp_path / "t")
    header = json.loads((tmp_path / "t.json").read_text(), parse_constant=pytest.fail)
    assert (header["kind"], header["k"], header["order"], header["in_features"], header["out_features"]) == (
        "taylor",
        3,
        1,
        6,
        5,
    )
    assert header["data"]["samples"] == 1800
    assert header["data"]["held_out"] == 200
    assert len(header["certificate"]["centres"]["relative_error"]) == 3
    assert header["certificate"]["exact_multiply_adds"] == 264


def test_damage_and_mismatch(table, tmp_path):
    table.save(tmp_path / "t")
    tensors, text = (tmp_path / "t.safetensors").read_bytes(), (tmp_path / "t.json").read_text()

    def broken(words, data=tensors, header=text):
        (tmp_path / "t.safetensors").write_bytes(data)
        (tmp_path / "t.json").write_text(header)
        with pytest.raises(LutcError, match=words):
            load(tmp_path / "t")

    broken("truncated, altered", data=tensors[:-1])
    broken("truncated, altered", data=tensors[:-1] + bytes([tensors[-1] ^ 1]))
    broken("says k = 4", header=text.replace('"k": 3', '"k": 4', 1))
    broken("schema 99", header=text.replace('"schema": 1', '"schema": 99'))
    broken("lacks order", header=text.replace('"order"', '"border"', 1))
    broken("not a Taylor table", header='{"gelu": {}}')
    broken("cannot be read as JSON", header=text[: len(text) // 2])
    (tmp_path / "t.json").write_text(text)
    (tmp_path / "t.safetensors").unlink()
    with pytest.raises(LutcError, match="both files"):
        load(tmp_path / "t")
    with pytest.raises(LutcError, match="no table"):
        load(tmp_path / "absent")
    # The tensors of another table of the same shape.
    table.stored("fp16").stored("fp32").save(tmp_path / "u")
    (tmp_path / "t.safetensors").write_bytes((tmp_path / "u.safetensors").read_bytes())
    with pytest.raises(LutcError, match="another table"):
        load(tmp_path / "t")


def test_tables_validate_themselves():
    good = {
        "centres": torch.zeros(2, 3),
        "values": torch.zeros(2, 4),
        "slopes": torch.zeros(2, 4, 3),
        "counts": torch.zeros(2, dtype=torch.int64),
    }
    TaylorTable(**good)
    bad = [
        ({"slopes": torch.zeros(2, 4, 5)}, "do not fit"),
        ({"values": torch.zeros(3, 4)}, "do not fit|must be"),
        ({"format": "fp8"}, "fp32, fp16"),
        ({"format": "fp16"}, "wants torch.float16"),
        ({"scales": torch.ones(2, 4)}, "int8"),
        ({"radii": torch.ones(3)}, "radii of shape"),
        ({"slopes": torch.full((2, 4, 3), torch.nan)}, "NaN"),
    ]
    for change, words in bad:
        with pytest.raises(LutcError, match=words):
            TaylorTable(**{**good, **change})
    with pytest.raises(LutcError, match="wider format than fp16"):
        TaylorTable(**{**good, "slopes": torch.full((2, 4, 3), 1e6)}).stored("fp16")


def test_rounded_centres_move_their_values_along():
    """fp16 rounds the centres; about the rounded ones the same polynomials have other values, and only their own
    rounding is lost.
    """
    g = torch.Generator().manual_seed(0)
    slopes = torch.randn(5, 3, 16, generator=g) / 8
    table = TaylorTable(
        10 * torch.randn(5, 8, generator=g), torch.randn(5, 3, generator=g), slopes, torch.ones(5, dtype=torch.int64)
    )
    x = table.centres + torch.randn(5, 8, generator=g)
    rounded = table.stored("fp16")
    naive = (rounded.values - table.values.half()).abs().max()
    assert naive > 1e-3
    torch.testing.assert_close(rounded(x), table(x), rtol=5e-3, atol=2e-2)


def test_an_input_that_hardly_varies_costs_int8_nothing(tmp_path):
    """Slopes of such an input, far above the others', set the scale of every row unless its column has its own."""
    generator = torch.Generator().manual_seed(0)
    quiet = torch.ones(32)
    quiet[:4] = 1e-3
    slopes = torch.randn(3, 10, 32, generator=generator) / quiet
    table = TaylorTable(torch.zeros(3, 32), torch.zeros(3, 10), slopes, torch.ones(3, dtype=torch.int64))
    stored = table.stored("int8")
    x = torch.randn(500, 32, generator=generator) * quiet
    error = (stored(x) - table(x)).square().sum() / table(x).square().sum()
    assert error < 1e-4
    rows_only = slopes.abs().amax(2, keepdim=True) / 127
    rounded = TaylorTable(table.centres, table.values, (slopes / rows_only).round() * rows_only, table.counts)
    assert (rounded(x) - table(x)).square().sum() / table(x).square().sum() > 1e-2  # what it would be
    stored.save(tmp_path / "t")
    again = load(tmp_path / "t")
    assert torch.equal(again.columns, stored.columns) and torch.equal(again(x), stored(x))
    with torch.no_grad():
        torch.testing.assert_close(TaylorMLP(again)(x), stored(x), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(TaylorMLP(again)(x[:5]), stored(x[:5]), rtol=1e-4, atol=1e-4)


def test_an_int8_table_without_scales_of_columns_still_serves(tmp_path):
    """As earlier versions wrote them."""
    codes = torch.randint(-127, 128, (2, 3, 4), dtype=torch.int8)
    centres, values = torch.randn(2, 4).half(), torch.randn(2, 3).half()
    TaylorTable(centres, values, codes, torch.ones(2, dtype=torch.int64), "int8", torch.rand(2, 3)).save(tmp_path / "t")
    table = load(tmp_path / "t")
    assert table.columns is None
    x = torch.randn(9, 4)
    with torch.no_grad():
        torch.testing.assert_close(TaylorMLP(table)(x), table(x), rtol=1e-4, atol=1e-3)
