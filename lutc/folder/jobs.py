"""From a calibration to the tables of a model: which table each place gets, how it is compiled, and its error there.

Norms look 1/sqrt(m) up for m in [1, 4) with the exponent set aside, so what is counted is folded into that interval
first; a softmax looks exp up at x - max(x).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from lutc import functions
from lutc.calibration.file import Calibration, Layer
from lutc.calibration.histogram import BINS, Histogram
from lutc.calibration.scales import choose, for_layer
from lutc.calibration.weights import Measured
from lutc.compiler.pipeline import compile
from lutc.errors import LutcError
from lutc.folder.manifest import TABLES
from lutc.formats.codes import Inputs
from lutc.fplut.pipeline import compile_fplut
from lutc.functions.spelling import file_name
from lutc.table.library import load, names
from lutc.table.table_set import TableSet
from lutc.table.table_set import read as read_tables

KINDS = {
    "activations": ("int8", "fplut", "exponent", "exact"),
    "softmax": ("int8", "fplut", "exact"),
    "norms": ("int8", "fplut", "exact"),
}
ROOM = {"activation": "activations", "softmax": "softmax", "layer_norm": "norms", "rms_norm": "norms"}
MANTISSA = Inputs(8, 2.0**-6, -128)  # codes of m in [1, 4): those of [0, 4)
_REACH = 8.0  # exp(-8) = 3e-4: codes of x - max(x) go at least so far, for rows that the text did not bring


@dataclass(frozen=True)
class TableChoice:
    """How tables are made. activations, softmax, norms: one of KINDS. entries: of a table over codes, at most; per
    layer where a path stands in `own`. bits: of codes of activations. max_kl: `own` is chosen by this budget.
    """

    activations: str = "int8"
    softmax: str = "fplut"
    norms: str = "fplut"
    entries: int = 16
    bits: int = 8
    own: Mapping[str, int] = field(default_factory=dict)
    max_kl: float | None = None

    def __post_init__(self) -> None:
        for name, allowed in KINDS.items():
            if getattr(self, name) not in allowed:
                raise LutcError(f"`{name}` is one of {', '.join(allowed)}; given {getattr(self, name)!r}")
        if not isinstance(self.entries, int) or not 2 <= self.entries <= 256:
            raise LutcError(f"`entries` of a table are 2 to 256; given {self.entries!r}")
        if not isinstance(self.bits, int) or not 4 <= self.bits <= 12:
            raise LutcError(f"`bits` of codes are 4 to 12; given {self.bits!r}")
        if self.max_kl is not None and not (isinstance(self.max_kl, (int, float)) and 0 < self.max_kl < float("inf")):
            raise LutcError(f"`max_kl` is a positive number of nats per token, as 1e-3; given {self.max_kl!r}")
        if all(getattr(self, name) == "exact" for name in KINDS):
            raise LutcError("everything is to stay exact: give a kind of table for `activations`, `softmax` or `norms`")

    def kind(self, layer: Layer) -> str:
        """What the layer's table is."""
        return getattr(self, ROOM[layer.operator])


@dataclass(frozen=True)
class Job:
    """A table to compile: for one place (`path`), or, where inputs are floats, for all of a function (`path` None)."""

    file: str
    function: str
    kind: str
    entries: int
    path: str | None
    bits: int | None = None
    scale: float | None = None
    zero_point: int | None = None

    @property
    def inputs(self) -> Inputs | None:
        return None if self.scale is None else Inputs(self.bits or 8, self.scale, self.zero_point or 0)


def jobs_of(calibration: Calibration, choice: TableChoice) -> dict[str, Job]:
    """The job of every place, by path; places whose function is to stay exact have none. A float table stands for every
    input, so its job is shared.
    """
    found = {}
    for index, (path, layer) in enumerate(calibration.layers.items()):
        kind = choice.kind(layer)
        if kind == "exact":
            continue
        if kind == "int8":
            inputs = codes(layer, choice.bits)
            file = f"{TABLES}/{index:04d}_{re.sub(r'[^A-Za-z0-9_.]+', '_', path)[-80:]}.json"
            entries = choice.own.get(path, choice.entries)
            own = inputs.bits, inputs.scale, inputs.zero_point
            found[path] = Job(file, layer.function, kind, entries, path, *own)
        else:
            found[path] = Job(f"{TABLES}/{file_name(layer.function)}_{kind}.json", layer.function, kind, 0, None)
    if unknown := [path for path in choice.own if path not in found or found[path].inputs is None]:
        over = [path for path, job in found.items() if job.inputs is not None]
        raise LutcError(
            f"`own` names {unknown[0]!r}, which has no table over codes; such have {', '.join(over[:3]) or 'none'}"
        )
    if not found:
        raise LutcError(
            "the model has nothing of the kinds that are to have tables; it has "
            + ", ".join(sorted({f"{layer.function} ({ROOM[layer.operator]})" for layer in calibration.layers.values()}))
        )
    return found


def codes(layer: Layer, bits: int = 8) -> Inputs:
    """The quantised inputs of a place: an activation's power of two of least error behind the function; of a softmax
    zero point and scale for what lies below 0, at least down to -8; of a norm those of [1, 4).
    """
    if layer.operator in ("layer_norm", "rms_norm"):
        return MANTISSA
    if layer.operator == "softmax":
        steps = 255.0
        found = choose(layer.histogram, symmetric=False, function=np.exp) if layer.histogram.low < 0 else None
        scale = max(found.scale if found else 0.0, 2.0 ** np.ceil(np.log2(_REACH / steps)))
        return Inputs(8, float(scale), 127)
    if layer.histogram.low == layer.histogram.high == 0:  # never reached, or fed with 0 alone
        lo, hi = functions.get(layer.function).range
        return Inputs(bits, 2.0 ** np.ceil(np.log2(max(-lo, hi) / 2 ** (bits - 1))))
    return for_layer(layer, bits=bits)


def seen(layer: Layer) -> Histogram:
    """What the place's table is fed with: of norms the mantissas in [1, 4), exactly."""
    h = layer.histogram
    if layer.operator not in ("layer_norm", "rms_norm") or not h.count:
        return h
    bins = h.codes.astype(np.int64)
    exponent = bins >> 7
    if (bins >= 1 << 15).any() or (exponent == 0).any():
        raise LutcError(f"a mean of squares is a positive, normal number; given one of {h.low:g}")
    folded = (127 + (exponent - 127) % 2 << 7) | (bins & 0x7F)  # m in [1, 2) or [2, 4): the exponent's parity stays
    counts, residues = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
    np.add.at(counts, folded, h.counts)
    np.add.at(residues, folded, h.residues)
    points = Histogram.dense(counts, residues, 1.0, 4.0).points[0]
    return Histogram.dense(counts, residues, float(points[0]), float(points[-1]))


def compile_job(job: Job, calibration: Calibration) -> TableSet:
    """The table of a job. The same calibration gives the same bytes."""
    if job.kind == "fplut":
        return load(f"{job.function}_fplut") if f"{job.function}_fplut" in names() else compile_fplut(job.function)
    if job.kind == "exponent":
        return compile_fplut(job.function, addressing="exponent")
    layer = calibration.layers[job.path or ""]
    histogram = seen(layer)
    record = {"model": calibration.model["name"], "layer": job.path, "values": histogram.count}
    weights = Measured(histogram, record) if histogram.count else None
    reach = {"exp": (-_REACH, 0.0), "rsqrt": (1.0, 4.0)} if layer.operator != "activation" else {}
    return compile(
        job.function,
        job.entries,
        inputs=job.inputs or MANTISSA,
        weights=weights,
        search="exact",
        range=reach.get(job.function),
    )


def run(job: Job, calibration: Calibration, folder: Path) -> None:
    """Compile a job and write its file in one step; one that is there already, of this very job, stays."""
    target = folder / job.file
    if target.exists():
        try:
            read_tables(target)
            return
        except LutcError:  # of an interrupted machine: made again
            target.unlink()
    compile_job(job, calibration).save(target)


def key_of(tables: TableSet, job: Job) -> str:
    """Key of the table that serves: over codes the only one, else fp32."""
    return next(iter(tables)) if job.scale is not None else tables.default_key


def errors(layer: Layer, tables: TableSet, key: str) -> dict[str, float | None]:
    """mean_squared, exact_on_codes, outside, and `relative`, the error's power in parts of the function's."""
    histogram, inputs, fn = seen(layer), tables.inputs.get(key), functions.get(layer.function)
    if not histogram.count:
        return {"mean_squared": None, "exact_on_codes": None, "outside": 0.0, "relative": 0.0}
    measured = Measured(histogram, {})
    x, n = histogram.points
    y = np.asarray(fn(x), np.float64)
    use = np.isfinite(y)
    power = float(n[use] @ y[use] ** 2 / n[use].sum()) if use.any() else 0.0
    error = measured.mean_squared(tables[key], fn, inputs)
    beyond = 0.0  # a table of floats serves every input
    if inputs is not None:
        x = inputs.x()
        beyond = histogram.outside(x[0] - inputs.scale / 2, x[-1] + inputs.scale / 2)
    return {
        "mean_squared": error,
        "exact_on_codes": None if inputs is None else measured.mean_squared(fn, fn, inputs),
        "outside": beyond,
        "relative": error / power if power > 0 else 0.0,
    }


def dumps(jobs: list[Job]) -> str:
    """As JSON, for workers."""
    return json.dumps([asdict(job) for job in jobs], indent=1)


def loads(text: str) -> list[Job]:
    """Of `dumps`."""
    return [Job(**entry) for entry in json.loads(text)]
