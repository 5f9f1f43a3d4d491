"""Values that a function was fed with, or counts of them, in a file of the user's own."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np

from lutc.calibration.histogram import Histogram
from lutc.errors import LutcError

SUFFIXES = (".npy", ".csv", ".txt")
_LARGEST = 1 << 30  # bytes


def is_sample_file(weights: object) -> bool:
    """Whether the text names such a file."""
    return isinstance(weights, str) and weights.lower().endswith(SUFFIXES)


def read_samples(source: str) -> tuple[Histogram, dict]:
    """(histogram, record for the table's file) of `source`: an .npy array of any shape, or text, a value a line; two
    columns, (n, 2) or `value,count`, are values with how often each occurs. LutcError for what is neither.
    """
    path = Path(source)
    try:
        if path.stat().st_size > _LARGEST:
            raise LutcError(f"{path} is larger than 1 GiB; give a sample of the values")
        content = path.read_bytes()
    except OSError as error:
        raise LutcError(f"cannot read {path}: {error.strerror or error}; give a file of values") from error
    try:
        if path.suffix.lower() == ".npy":
            values = np.load(io.BytesIO(content), allow_pickle=False)
        else:
            text = content.decode("utf-8-sig").replace(",", " ")
            values = np.loadtxt(io.StringIO(text), np.float64, ndmin=2)
        values = np.asarray(values, np.float64)
    except (ValueError, EOFError, UnicodeDecodeError) as error:
        raise LutcError(
            f"{path} holds no numbers that can be read ({str(error).splitlines()[0]:.80}); give an .npy array, or text "
            "with a value, or a value and its count, a line"
        ) from error
    pairs = values.ndim == 2 and values.shape[1] == 2
    x, counts = (values[:, 0], values[:, 1]) if pairs else (values.ravel(), np.ones(values.size))
    if not x.size or not np.isfinite(values).all() or (counts < 0).any() or not (counts > 0).any():
        raise LutcError(f"{path}: values are finite and at least one, counts not negative and positive somewhere")
    if not (counts == np.rint(counts)).all():  # frequencies: a millionth of the whole is the least that counts
        counts = np.rint(counts / counts.sum() * 1e6)
    histogram = Histogram.of(x + 0.0, counts)  # one zero
    record = {
        "file": path.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "model": "whoever feeds the function so",
        "layer": path.name,
    }
    return histogram, record
