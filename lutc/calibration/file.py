"""What a calibration holds, and its files: NAME.json with everything a person reads, and NAME.npz beside it with the
histograms and other arrays.

Importing this imports no torch. Reading checks both files against the digests they carry: one that was altered, cut off
or put beside another's is an error, never a wrong number.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import lutc
from lutc.calibration.histogram import Histogram
from lutc.calibration.statistics import statistics
from lutc.errors import LutcError
from lutc.files import atomic_write

SCHEMA = 1
_OWN = (
    "codes",
    "counts",
    "residues",
    "range",
    "channel_low",
    "channel_high",
)  # arrays that every layer has, or may have


@dataclass(frozen=True, eq=False)
class Layer:
    """What one site of a model was fed with.

    function: the registry's name of the function that a table would stand for there ("silu"; "exp" of a softmax;
    "rsqrt" of a norm). operator: "activation", "softmax", "layer_norm" or "rms_norm". quantity: what the histogram is
    of, the very number that a table sees: "x", "x - max(x)", "mean(x^2) + eps" or "variance(x) + eps". masked,
    infinite: inputs left out of the histogram (-inf or finfo.min from an attention mask; infinite). channel_low,
    channel_high: float32 (channels,), range of each channel of an activation's input, else None. channel_axis: the
    dimension whose indices these channels are, as `calibrate` was given it (-1 is the last); None where there are none,
    and in files that do not say.
    arrays: further sums over what was observed, any shape, so that merging adds them; facts: JSON values that say what
    they are, equal in all that merge.
    """

    function: str
    operator: str
    quantity: str
    histogram: Histogram
    masked: int = 0
    infinite: int = 0
    channel_low: np.ndarray | None = None
    channel_high: np.ndarray | None = None
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    facts: Mapping = field(default_factory=dict)
    channel_axis: int | None = None

    def __post_init__(self) -> None:
        low, high, axis = self.channel_low, self.channel_high, self.channel_axis
        if isinstance(axis, bool) or not (axis is None or isinstance(axis, int)):
            raise LutcError(f"the axis of channels is a whole number; given {axis!r:.40}")
        if low is None and high is None:
            return
        ends = [np.asarray(end, np.float64) for end in (low, high) if end is not None]
        if len(ends) < 2 or ends[0].ndim != 1 or ends[0].shape != ends[1].shape or not ends[0].size:
            raise LutcError(
                "the range of channels is two vectors of one length, `channel_low` and `channel_high`; given shapes "
                + " and ".join(str(end.shape) for end in ends)
            )
        wrong = np.flatnonzero(~(np.isfinite(ends[0]) & np.isfinite(ends[1]) & (ends[0] <= ends[1])))
        if wrong.size:
            c = int(wrong[0])
            raise LutcError(f"the range of channel {c} is {ends[0][c]:g} to {ends[1][c]:g}; it has two finite ends")

    def __add__(self, other: Layer) -> Layer:
        """Of both sets of inputs; LutcError where they are of different sites."""
        kinds = [
            (a.function, a.operator, a.quantity, dict(a.facts), {k: v.shape for k, v in a.arrays.items()})
            for a in (self, other)
        ]
        if kinds[0] != kinds[1]:
            raise LutcError(
                f"calibrations of one site merge; given {kinds[0][:3]} and {kinds[1][:3]}, or arrays of different "
                "settings"
            )
        parts = [
            (low, high, layer.channel_axis)
            for layer in (self, other)
            if (low := layer.channel_low) is not None and (high := layer.channel_high) is not None
        ]
        if len({(axis, low.shape) for low, _, axis in parts}) > 1:
            told = " and ".join(f"{low.size} of dimension {axis}" for low, _, axis in parts)
            raise LutcError(f"calibrations of the same channels merge; given {told}")
        return replace(
            self,
            histogram=self.histogram + other.histogram,
            masked=self.masked + other.masked,
            infinite=self.infinite + other.infinite,
            channel_low=np.minimum.reduce([low for low, _, _ in parts]) if parts else None,
            channel_high=np.maximum.reduce([high for _, high, _ in parts]) if parts else None,
            channel_axis=parts[0][2] if parts else None,
            arrays={key: value + other.arrays[key] for key, value in self.arrays.items()},
        )


@dataclass(frozen=True, eq=False)
class Calibration:
    """layers by the dotted name that `lutc.patch` reports, in the order in which the model runs them. model: {"name",
    "class", "digest"}; data: {"tokens", "batches", ...}, JSON values; the sums of whole numbers in it add up when
    calibrations merge.
    """

    model: Mapping
    data: Mapping
    layers: Mapping[str, Layer]
    digest: str = ""  # of the file it was read from
    left: tuple[str, ...] = ()  # what was found in the model and not observed, and why

    def layer(self, name: str) -> tuple[str, Layer]:
        """(full name, layer) by name or by its unmistakable end: `layers.3.mlp.act_fn` finds
        `model.layers.3.mlp.act_fn`.
        """
        if name in self.layers:
            return name, self.layers[name]
        found = [full for full in self.layers if full.endswith(f".{name}")]
        if len(found) == 1:
            return found[0], self.layers[found[0]]
        if found:
            raise LutcError(
                f"'{name}' is the end of {len(found)} layers: {', '.join(found[:4])}; give more of the name"
            )
        near = difflib.get_close_matches(name, self.layers, 3, 0.3) or list(self.layers)[:3]
        raise LutcError(
            f"the calibration has no layer '{name}'; there are {len(self.layers)}, such as {', '.join(near)}"
        )

    def of_function(self, function: str) -> dict[str, Layer]:
        """The layers of one function by name; LutcError where there is none."""
        found = {name: layer for name, layer in self.layers.items() if layer.function == function}
        if not found:
            known = ", ".join(sorted({layer.function for layer in self.layers.values()}))
            raise LutcError(f"the calibration has no layer of {function}; it has layers of {known or 'nothing'}")
        return found

    def __add__(self, other: Calibration) -> Calibration:
        """Of the data of both, exactly as if all had been observed in one pass."""
        if self.model["digest"] != other.model["digest"]:
            names = [f"{c.model['name']} ({c.model['digest'][:12]})" for c in (self, other)]
            raise LutcError(f"calibrations of one model merge; given {' and '.join(names)}")
        if set(self.layers) != set(other.layers):
            raise LutcError(
                f"calibrations of the same layers merge; {sorted(set(self.layers) ^ set(other.layers))[0]} is in one "
                "only"
            )
        whole = {key: value + other.data.get(key, 0) for key, value in self.data.items() if isinstance(value, int)}
        data = {key: value for key, value in self.data.items() if other.data.get(key) == value} | whole
        return Calibration(
            self.model, data, {name: layer + other.layers[name] for name, layer in self.layers.items()}, left=self.left
        )

    def save(self, path: str | os.PathLike) -> None:
        """Write NAME.json and NAME.npz, each in one step, the arrays first. The same calibration gives
        the same bytes.
        """
        path = Path(path)
        if path.suffix != ".json":
            raise LutcError(
                f"a calibration is written to a .json file (arrays go to the .npz beside it); given {path.name}"
            )
        arrays: dict[str, Any] = {}
        layers: dict[str, dict] = {}
        for index, (name, layer) in enumerate(self.layers.items()):
            own = _arrays_of(layer)
            arrays |= {f"{index}/{key}": value for key, value in own.items()}
            layers[name] = {
                "function": layer.function,
                "operator": layer.operator,
                "quantity": layer.quantity,
                **statistics(layer),
            }
            layers[name] |= {
                "masked": layer.masked,
                "infinite": layer.infinite,
                "arrays": sorted(layer.arrays),
                "facts": dict(layer.facts),
            }
            if layer.channel_axis is not None:
                layers[name]["channel_axis"] = layer.channel_axis
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)
        packed = file.getvalue()
        data = {
            "schema": SCHEMA,
            "kind": "calibration",
            "model": dict(self.model),
            "data": dict(self.data),
            "left": list(self.left),
        }
        data["layers"] = layers
        data |= {
            "arrays": {"file": path.with_suffix(".npz").name, "sha256": hashlib.sha256(packed).hexdigest()},
            "version": lutc.__version__,
        }
        try:
            data["sha256"] = _digest(data)
            text = json.dumps(data, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
        except (TypeError, ValueError) as error:
            raise LutcError(f"a calibration holds finite numbers, text, lists and objects ({error})") from error
        atomic_write(path.with_suffix(".npz"), packed)
        atomic_write(path, text)


def _arrays_of(layer: Layer) -> dict[str, np.ndarray]:
    h = layer.histogram
    own = {"codes": h.codes, "counts": h.counts, "residues": h.residues, "range": np.array([h.low, h.high])}
    if layer.channel_low is not None and layer.channel_high is not None:
        own |= {"channel_low": layer.channel_low, "channel_high": layer.channel_high}
    clash = set(_OWN) & set(layer.arrays)
    if clash:
        raise LutcError(f"a layer's own arrays are {', '.join(_OWN)}; another cannot be called {clash.pop()}")
    return own | dict(layer.arrays)


def _digest(data: Mapping) -> str:
    """Of everything in the JSON file but the digest itself."""
    plain = json.dumps({key: value for key, value in data.items() if key != "sha256"}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(plain.encode()).hexdigest()


def read(path: str | os.PathLike) -> Calibration:
    """Load and validate both files; LutcError names the file and what is wrong with it."""
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LutcError(
            f"cannot read {path}: {error.strerror or error}; give the JSON file that `lutc calibrate` wrote"
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise LutcError(f"{path} is no calibration: not valid JSON; it is broken or cut off") from error
    if not isinstance(data, dict) or data.get("kind") != "calibration":
        raise LutcError(f"{path} is no calibration; `lutc calibrate MODEL --text FILE -o calibration.json` writes one")
    if data.get("schema") != SCHEMA:
        raise LutcError(
            f"{path}: schema {data.get('schema')!r} is not known here; this version reads {SCHEMA}: update lutc or "
            "calibrate again"
        )
    try:
        if data["sha256"] != _digest(data):
            raise LutcError(f"{path} was altered after it was written: its digest does not hold; calibrate again")
        beside = path.with_name(Path(data["arrays"]["file"]).name)
        packed = _bytes(beside, path)
        if hashlib.sha256(packed).hexdigest() != data["arrays"]["sha256"]:
            raise LutcError(
                f"{beside} is not the one that was written with {path.name}: the digests differ; calibrate again"
            )
        with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
            layers = {name: _layer(entry, index, arrays) for index, (name, entry) in enumerate(data["layers"].items())}
        return Calibration(data["model"], data["data"], layers, data["sha256"], tuple(data.get("left", ())))
    except (KeyError, TypeError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        if isinstance(error, LutcError):
            raise
        raise LutcError(f"{path} is no whole calibration ({type(error).__name__}: {error}); calibrate again") from error


def _bytes(beside: Path, path: Path) -> bytes:
    try:
        return beside.read_bytes()
    except OSError as error:
        raise LutcError(
            f"{path.name} needs its arrays: cannot read {beside} ({error.strerror or error}); move both files together"
        ) from error


def _layer(entry: dict, index: int, arrays) -> Layer:
    get = {key: arrays[f"{index}/{key}"] for key in _OWN if f"{index}/{key}" in arrays}
    histogram = Histogram(get["codes"], get["counts"], get["residues"], *map(float, get["range"]))
    further = {key: arrays[f"{index}/{key}"] for key in entry["arrays"]}
    return Layer(
        entry["function"], entry["operator"], entry["quantity"], histogram, entry["masked"], entry["infinite"],
        get.get("channel_low"), get.get("channel_high"), further, entry["facts"], entry.get("channel_axis"),
    )  # fmt: skip
