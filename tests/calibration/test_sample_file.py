"""Weights from a file of values or of counts."""

import numpy as np
import pytest

import lutc
from lutc.calibration.histogram import Histogram
from lutc.calibration.sample_file import read_samples
from lutc.errors import LutcError
from lutc.formats.codes import Inputs

INPUTS = Inputs(8, 2.0**-4)


def test_values_and_their_counts_are_one_histogram(tmp_path):
    values = np.random.default_rng(0).normal(0, 1, 500).astype(np.float32).round(2)
    x, counts = np.unique(values, return_counts=True)
    np.save(tmp_path / "values.npy", values.reshape(5, 100))
    np.save(tmp_path / "pairs.npy", np.stack([x, counts], 1))
    (tmp_path / "values.txt").write_text("\n".join(map(str, values)))
    (tmp_path / "pairs.csv").write_text("".join(f"{v},{n}\n" for v, n in zip(x, counts)))
    want = Histogram.of(values + 0.0)
    for name in ("values.npy", "pairs.npy", "values.txt", "pairs.csv"):
        histogram, record = read_samples(str(tmp_path / name))
        assert histogram == want and record["file"] == name and len(record["sha256"]) == 64


def test_frequencies(tmp_path):
    (tmp_path / "f.csv").write_text("-1,0.25\n0,0.5\n2,0.25\n")
    histogram, _ = read_samples(str(tmp_path / "f.csv"))
    assert histogram.points[0].tolist() == [-1.0, 0.0, 2.0]
    assert histogram.points[1].tolist() == [250000, 500000, 250000]


def test_tables_follow_the_samples(tmp_path):
    """What counts is the error where the samples lie, and a table for them has less of it there."""
    values = np.random.default_rng(1).normal(-1.5, 0.3, 4000)
    np.save(tmp_path / "v.npy", values)
    told = lutc.compile("gelu", 8, inputs=INPUTS, weights=str(tmp_path / "v.npy"))
    even = lutc.compile("gelu", 8, inputs=INPUTS, range=told.range)
    x = INPUTS.x()[INPUTS.quantise(values) - INPUTS.minimum]
    error = [float(np.mean((tables["4"](x) - lutc.functions.get("gelu")(x)) ** 2)) for tables in (told, even)]
    assert error[0] < 0.5 * error[1]
    assert told.meta["weights"]["file"] == "v.npy"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"one\ntwo\n", "no numbers that can be read"),
        ("a.npy", b"nothing", "no numbers that can be read"),
        ("a.txt", b"1\nnan\n", "finite"),
        ("a.csv", b"1,-2\n", "counts not negative"),
        ("a.csv", b"", "."),
    ],
)
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_bad_files(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(LutcError, match=said):
        lutc.compile("gelu", 8, inputs=INPUTS, weights=str(path))
    with pytest.raises(LutcError, match="cannot read"):
        lutc.compile("gelu", 8, inputs=INPUTS, weights=str(tmp_path / "none.npy"))


def test_a_gaussian_with_a_mean():
    tables = lutc.compile("gelu", 8, inputs=INPUTS, weights="gauss:-1.5:0.3")
    x = INPUTS.x()
    weight = np.exp(-0.5 * ((x + 1.5) / 0.3) ** 2)
    own = weight @ (tables["4"](x) - lutc.functions.get("gelu")(x)) ** 2
    even = weight @ (lutc.compile("gelu", 8, inputs=INPUTS)["4"](x) - lutc.functions.get("gelu")(x)) ** 2
    assert own < 0.5 * even
    for wrong in ("gauss:1:2:3", "gauss:0", "gauss:a"):
        with pytest.raises(LutcError, match="gauss:SIGMA"):
            lutc.compile("gelu", 8, inputs=INPUTS, weights=wrong)
