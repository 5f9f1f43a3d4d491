"""Files of calibrations: what is written is read, and nothing else is."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from lutc.calibration import Calibration, Histogram, Layer, read
from lutc.calibration.file import _digest
from lutc.calibration.statistics import statistics
from lutc.errors import LutcError

MODEL = {"name": "m", "class": "M", "digest": "ab" * 32}


def made(seed, model=MODEL, facts=None):
    x = np.random.default_rng(seed).normal(size=(64, 5)).astype(np.float32)
    act = Layer(
        "silu",
        "activation",
        "x",
        Histogram.of(x),
        channel_low=x.min(0),
        channel_high=x.max(0),
        arrays={"layer_objective": np.full((4, 4), float(seed)), "tokens": np.array(64)},
        facts=facts or {"scale": 0.25},
        channel_axis=1,
    )
    softmax = Layer("exp", "softmax", "x - max(x)", Histogram.of(-np.abs(x)), masked=3)
    return Calibration(
        model,
        {"tokens": 64, "batches": 1, "text": "t"},
        {"model.layers.0.mlp.act_fn": act, "model.layers.0.self_attn": softmax},
    )


def same(a, b):
    assert a.model == b.model and a.data == b.data and list(a.layers) == list(b.layers)
    for x, y in zip(a.layers.values(), b.layers.values(), strict=True):
        assert x.histogram == y.histogram and (x.function, x.operator, x.quantity, x.masked) == (
            y.function,
            y.operator,
            y.quantity,
            y.masked,
        )
        assert (
            np.array_equal(x.channel_low, y.channel_low)
            and x.channel_axis == y.channel_axis
            and x.arrays.keys() == y.arrays.keys()
            and x.facts == y.facts
        )
        assert all(np.array_equal(x.arrays[key], y.arrays[key]) for key in x.arrays)


def test_what_is_written_is_read_and_the_same_bytes_come_again(tmp_path):
    made(1).save(tmp_path / "c.json")
    back = read(tmp_path / "c.json")
    same(back, made(1))
    (tmp_path / "again").mkdir()
    back.save(tmp_path / "again/c.json")
    for name in ("c.json", "c.npz"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    told = json.loads((tmp_path / "c.json").read_text())["layers"]["model.layers.0.mlp.act_fn"]
    assert (
        told["count"] == 320
        and told["outside"] == {"range": [-4.0, 4.0], "share": 0.0}
        and len(told["outliers"]["channels"]) == 3
    )
    assert set(told["quantiles"]) == {"0.0001", "0.001", "0.01", "0.1", "0.5", "0.9", "0.99", "0.999", "0.9999"}


def test_merging_adds_everything():
    both = made(1) + made(2)
    layer = both.layer("mlp.act_fn")[1]
    assert (
        both.data == {"tokens": 128, "batches": 2, "text": "t"}
        and layer.histogram.count == 640
        and both.layer("self_attn")[1].masked == 6
    )
    assert (layer.arrays["layer_objective"] == 3).all() and layer.arrays["tokens"] == 128
    lows = [c.layer("act_fn")[1].channel_low for c in (made(1), made(2))]
    assert np.array_equal(layer.channel_low, np.minimum(*lows))
    with pytest.raises(LutcError, match="one model"):
        made(1) + made(1, {**MODEL, "digest": "cd" * 32})
    with pytest.raises(LutcError, match="different settings"):
        made(1) + made(1, facts={"scale": 0.5})


def test_the_axis_of_channels():
    layer = made(1).layer("act_fn")[1]
    low, high = layer.channel_low, layer.channel_high
    without = replace(layer, channel_low=None, channel_high=None, channel_axis=None)
    for both in (layer + without, without + layer, layer + layer):
        assert both.channel_axis == 1 and np.array_equal(both.channel_low, low)
    assert (without + without).channel_axis is None
    for other in ({"channel_axis": -1}, {"channel_low": low[:3], "channel_high": high[:3]}):
        with pytest.raises(LutcError, match="of the same channels merge; given 5 of dimension 1 and"):
            layer + replace(layer, **other)
    for wrong, said in (
        ({"channel_axis": 1.5}, "the axis of channels is a whole number; given 1.5"),
        ({"channel_axis": True}, "a whole number; given True"),
        ({"channel_low": low[:3]}, r"two vectors of one length, .*; given shapes \(3,\) and \(5,\)"),
        ({"channel_low": None}, r"given shapes \(5,\)"),
        ({"channel_low": high, "channel_high": low}, "the range of channel 0 is"),
        ({"channel_high": high * np.nan}, "to nan; it has two finite ends"),
    ):
        with pytest.raises(LutcError, match=said):
            replace(layer, **wrong)


def test_a_file_is_asked_for_the_axis(tmp_path):
    made(1).save(tmp_path / "c.json")
    data = json.loads((tmp_path / "c.json").read_text())
    entry = data["layers"]["model.layers.0.mlp.act_fn"]
    assert entry["channel_axis"] == 1 and "channel_axis" not in data["layers"]["model.layers.0.self_attn"]
    for given, said in (("one", "a whole number; given 'one'"), (None, None)):
        entry["channel_axis"] = given
        if given is None:
            del entry["channel_axis"]
        data["sha256"] = _digest(data)
        (tmp_path / "c.json").write_text(json.dumps(data))
        if said is None:
            assert read(tmp_path / "c.json").layer("act_fn")[1].channel_axis is None
            continue
        with pytest.raises(LutcError, match=said):
            read(tmp_path / "c.json")


def test_layers_are_found_by_the_end_of_their_name():
    c = made(1)
    assert c.layer("layers.0.mlp.act_fn")[0] == "model.layers.0.mlp.act_fn" == next(iter(c.of_function("silu")))
    with pytest.raises(LutcError, match="such as model.layers.0.mlp.act_fn"):
        c.layer("layers.7.mlp.act_fn")
    with pytest.raises(LutcError, match="no layer of gelu; it has layers of exp, silu"):
        c.of_function("gelu")


def test_altered_broken_and_foreign_files_are_one_line(tmp_path):
    path = tmp_path / "c.json"
    made(1).save(path)
    whole, arrays = path.read_text(), path.with_suffix(".npz").read_bytes()
    cases = {
        "was altered": whole.replace('"masked": 3', '"masked": 4'),
        "not valid JSON": whole[:200],
        "no calibration": json.dumps({"gelu": {}}),
        "schema 9": whole.replace('"schema": 1', '"schema": 9'),
        "no whole calibration": json.dumps({"schema": 1, "kind": "calibration"}),
    }
    for said, text in cases.items():
        path.write_text(text)
        with pytest.raises(LutcError, match=said):
            read(path)
    path.write_text(whole)
    for bad in (arrays[:-20], b"", arrays.replace(b"counts", b"c0unts")):
        path.with_suffix(".npz").write_bytes(bad)
        with pytest.raises(LutcError, match="digests differ"):
            read(path)
    path.with_suffix(".npz").unlink()
    with pytest.raises(LutcError, match="needs its arrays"):
        read(path)
    with pytest.raises(LutcError, match="cannot read"):
        read(tmp_path / "none.json")
    with pytest.raises(LutcError, match="json file"):
        made(1).save(tmp_path / "c.npz")
    with pytest.raises(LutcError, match="finite numbers"):
        made(1, facts={"scale": float("nan")}).save(tmp_path / "n.json")
    assert not (tmp_path / "n.npz").exists()


def test_reading_imports_no_torch(tmp_path):
    made(1).save(tmp_path / "c.json")
    code = (
        f"import sys; from lutc.calibration import read; read({str(tmp_path / 'c.json')!r}); sys.exit('torch' in "
        "sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_no_input_of_a_norm_is_outside_its_table():
    torch = pytest.importorskip("torch")
    from lutc.calibration import calibrate

    found = calibrate(torch.nn.Sequential(torch.nn.LayerNorm(8), torch.nn.GELU()), [torch.randn(50, 8) * 100])
    norm, gelu = (statistics(layer) for layer in found.layers.values())
    assert norm["low"] > 4 and "outside" not in norm and "outside" in gelu
