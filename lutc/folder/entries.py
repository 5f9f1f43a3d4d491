"""What the manifest says of every place: its table, the error there, its share of the whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lutc.calibration.file import Calibration
from lutc.evaluation.storage import table_bytes
from lutc.folder.jobs import Job, errors, key_of
from lutc.folder.manifest import Entry
from lutc.table.table_set import read as read_tables


def entries_of(calibration: Calibration, jobs: Mapping[str, Job], folder: Path) -> list[Entry]:
    """What the manifest says of every place, in the order in which they run."""
    tables = {job.file: read_tables(folder / job.file) for job in jobs.values()}
    found = {}
    for path, job in jobs.items():
        key = key_of(tables[job.file], job)
        found[path] = key, errors(calibration.layers[path], tables[job.file], key)
    whole = sum(figures["relative"] or 0.0 for _, figures in found.values()) or 1.0
    entries = []
    for path, (key, figures) in found.items():
        job, layer = jobs[path], calibration.layers[path]
        table = tables[job.file][key]
        entries.append(
            Entry(
                path, layer.operator, layer.function, job.kind, job.file, key, job.bits, job.scale, job.zero_point,
                table.entries, table_bytes(table, job.inputs), short(figures["mean_squared"]),
                short(figures["exact_on_codes"]),
                rounded((figures["relative"] or 0.0) / whole), rounded(figures["outside"] or 0.0),
                layer.histogram.count,
            )
        )  # fmt: skip
    return entries


def short(value: float | None) -> float | None:
    """To 6 digits."""
    return None if value is None else rounded(value)


def rounded(value: float) -> float:
    return float(f"{value:.6g}")
