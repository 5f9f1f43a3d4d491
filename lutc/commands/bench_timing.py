"""What every section of `lutc bench` shares: contenders timed in turn, the rows that come of it, and their file."""

from __future__ import annotations

import csv
import functools
import io
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import torch

import lutc
from lutc.errors import LutcError
from lutc.files import atomic_write

SHORTEST = 2e-4  # seconds: shorter calls are repeated within a sample


@dataclass(frozen=True)
class Contender:
    """What is timed beside others: its name, the table and plan that it runs, and the dtype of its input."""

    name: str
    dtype: str
    call: Callable[[], object]
    table: str = ""
    plan: str = ""


@dataclass(frozen=True)
class Row:
    """One contender: microseconds per call, 20th, 50th and 80th percentile, and the median against the copy's in the
    same run.
    """

    contender: str
    table: str
    plan: str
    version: str
    device: str
    dtype: str
    shape: str
    p20: float
    p50: float
    p80: float
    copies: float


def _percentiles(samples: Sequence[float]) -> tuple[float, float, float]:
    cuts = statistics.quantiles(samples, n=10, method="inclusive")
    return cuts[1], cuts[4], cuts[7]


def _time(calls: Sequence[Callable[[], object]], device: torch.device, seconds: float) -> list[list[float]]:
    """Seconds per call of each, sampled in turn so that all of them meet the same machine; at least 5 samples each."""
    synchronize = functools.partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None

    def sample(call, count: int) -> float:
        synchronize()
        start = time.perf_counter()
        for _ in range(count):
            call()
        synchronize()
        return (time.perf_counter() - start) / count

    counts = []
    for call in calls:
        sample(call, 3)  # compiles, and fills caches
        counts.append(max(1, int(SHORTEST / max(sample(call, 1), 1e-7))))
    found: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while len(found[0]) < 5 or time.perf_counter() < end:
        for samples, call, count in zip(found, calls, counts, strict=True):
            samples.append(sample(call, count))
    return found


def run(contenders: Sequence[Contender], shape: str, device: torch.device, seconds: float) -> list[Row]:
    """Time contenders in turn; the first of them is the copy that the others are held against."""
    found = _time([one.call for one in contenders], device, seconds)
    copy = _percentiles(found[0])[1]
    label = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu x{torch.get_num_threads()}"
    rows = []
    for one, samples in zip(contenders, found, strict=True):
        p20, p50, p80 = _percentiles(samples)
        name = one.name, one.table, one.plan, lutc.__version__, label, one.dtype, shape
        ratio = round(p50 / copy, 3)
        rows.append(Row(*name, round(1e6 * p20, 3), round(1e6 * p50, 3), round(1e6 * p80, 3), ratio))
    return rows


def device_named(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        there = "cpu and cuda" if torch.cuda.is_available() else "cpu"
        raise LutcError(f"no device {name!r} here ({str(error).splitlines()[0]}); there is {there}") from error
    return device


def append_rows(path: Path, rows: Sequence[Row]) -> None:
    """Add rows to a CSV file with the fixed columns of `Row`; a new file gets a header. The old content stays until the
    new is complete.
    """
    header = [field.name for field in fields(Row)]
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    if old and old.splitlines()[0] != ",".join(header):
        raise LutcError(f"{path} has other columns than {', '.join(header)}; give another file")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if not old:
        writer.writerow(header)
    writer.writerows(astuple(row) for row in rows)
    atomic_write(path, old + text.getvalue())
