"""Timing tables against the exact functions, a plain copy, and bucketize + gather, all in one run on one device."""

from __future__ import annotations

import csv
import functools
import io
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import click
import torch

import lutc
from lutc.commands.options import echo_json, echo_table, json_option
from lutc.errors import LutcError
from lutc.files import atomic_write
from lutc.lower.lowering import lower
from lutc.lower.segments import segments
from lutc.nn import cpu
from lutc.nn.lowered import DTYPES, has_triton, plan_kinds
from lutc.nn.lut import LUT
from lutc.table.table_set import TableSet

SHORTEST = 2e-4  # seconds: shorter calls are repeated within a sample
SIZES = (4096, 1 << 24)
_DTYPES = {name: dtype for dtype, name in DTYPES.items() if name != "fp64"}
# numba computes in float32; at 16 bits a CPU runs the direct table alone
_LINEAR = ("chain", "uniform", "cells", "search")


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


def time_calls(calls: dict[str, Callable[[], object]], device: torch.device, seconds: float) -> dict[str, list[float]]:
    """Seconds per call of each contender, sampled in turn so that all of them meet the same machine; at least 5 samples
    each.
    """
    synchronize = functools.partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None

    def sample(call, count: int) -> float:
        synchronize()
        start = time.perf_counter()
        for _ in range(count):
            call()
        synchronize()
        return (time.perf_counter() - start) / count

    counts = {}
    for name, call in calls.items():
        sample(call, 3)  # compiles, and fills caches
        counts[name] = max(1, int(SHORTEST / max(sample(call, 1), 1e-7)))
    found = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while len(next(iter(found.values()))) < 5 or time.perf_counter() < end:
        for name, call in calls.items():
            found[name].append(sample(call, counts[name]))
    return found


def _into(x: torch.Tensor, out: torch.Tensor, words: torch.Tensor, meta) -> Callable[[], object]:
    """A call that evaluates a plan into a tensor that exists already."""
    if x.device.type == "cuda":
        from lutc.kernels import pwl  # brings triton

        return lambda: pwl.launch(x, None, out, words, meta, "value", 1, x.numel(), 0, 0)

    addresses = x.data_ptr(), out.data_ptr(), x.numel(), words.data_ptr()
    return lambda: (cpu.run(*addresses, meta, False, torch.get_num_threads(), dtype=DTYPES[x.dtype]), words, out)[
        -1
    ]  # keeps the memory alive


def _bucketize(table, x: torch.Tensor) -> Callable[[], object] | None:
    """The table in plain torch operations, as GQA-LUT's runtime evaluates one."""
    try:
        lines = segments(table)
    except LutcError:
        return None
    cuts, slopes, intercepts = (
        torch.tensor(v, dtype=torch.float32, device=x.device)
        for v in (lines.thresholds, lines.slopes, lines.intercepts)
    )

    def call():
        index = torch.bucketize(x.float(), cuts, right=True)
        return (slopes[index] * x.float() + intercepts[index]).to(x.dtype)

    return call


def _plans(table, dtype: str, device: torch.device):
    """Every plan that fits and that the device runs, by name."""
    for kind in dict.fromkeys(
        [*plan_kinds(device.type, dtype), *(_LINEAR if dtype == "fp32" or device.type == "cuda" else ())]
    ):
        try:
            if kind != "reference" and not (kind == "chain" and device.type == "cuda"):
                yield kind, lower(table, dtype, (kind,))
        except LutcError:
            continue


def measure(
    tables: TableSet, dtype: str, size: int, device: str = "cpu", seconds: float = 2.0, slow: bool = True
) -> list[Row]:
    """Time one table set (its default key) for one dtype ("fp32", "fp16", "bf16") and number of elements, normal
    inputs.

    Contenders: a copy, F.gelu and F.silu (all into existing memory), every plan that fits (likewise), the whole module
    call with its allocation, and with `slow` bucketize + gather. seconds: about how long to sample. Raises LutcError
    for a device that is not there.
    """
    place = _device(device)
    x = torch.randn(size, dtype=torch.float32).to(_DTYPES[dtype]).to(place)
    out = torch.empty_like(x)
    module = LUT(tables).to(place)
    table = tables[tables.default_key]
    calls = {
        ("copy", ""): lambda: out.copy_(x),
        ("F.gelu", ""): lambda: torch.ops.aten.gelu.out(x, out=out),
        ("F.silu", ""): lambda: torch.ops.aten.silu.out(x, out=out),
        ("module", module.plan_kind(x.dtype)): lambda: module(x),
    }
    if place.type == "cpu" or has_triton():
        for kind, plan in _plans(table, dtype, place):
            calls[("plan", kind)] = _into(x, out, torch.from_numpy(plan.words().copy()).to(place), plan.meta)
    plain = _bucketize(table, x) if slow else None
    if plain is not None:
        calls[("bucketize + gather", "")] = plain
    with torch.no_grad():
        found = time_calls(calls, place, seconds)
    copy = _percentiles(found[("copy", "")])[1]
    rows = []
    for (contender, plan), samples in found.items():
        p20, p50, p80 = (round(1e6 * v, 3) for v in _percentiles(samples))
        name = tables.name if contender not in ("copy", "F.gelu", "F.silu") else ""
        entries = f"{name}[{tables.default_key}] {table.entries}" if name else ""
        label = torch.cuda.get_device_name(place) if place.type == "cuda" else f"cpu x{torch.get_num_threads()}"
        rows.append(
            Row(
                contender,
                entries,
                plan,
                lutc.__version__,
                label,
                dtype,
                str(size),
                p20,
                p50,
                p80,
                round(p50 / (1e6 * copy), 3),
            )
        )
    return rows


def _device(name: str) -> torch.device:
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


@click.command()
@click.argument("tables", nargs=-1)
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    type=click.Choice(sorted(_DTYPES)),
    help="Inputs and outputs; repeat for several. All by default.",
)
@click.option(
    "--size",
    "sizes",
    multiple=True,
    type=click.IntRange(1),
    help="Elements; repeat for several. 4096 and 16777216 by default.",
)
@click.option("--device", "devices", multiple=True, help="cpu, cuda, cuda:1. The CPU, and a GPU where there is one.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads; torch's own number by default.")
@click.option(
    "--seconds",
    type=click.FloatRange(0.0),
    default=2.0,
    show_default=True,
    help="Sampling time for each table, dtype and size.",
)
@click.option("--csv", "path", type=click.Path(dir_okay=False, path_type=Path), help="Append the rows to this file.")
@json_option
def bench(
    tables: tuple[str, ...],
    dtypes: tuple[str, ...],
    sizes: tuple[int, ...],
    devices: tuple[str, ...],
    threads: int | None,
    seconds: float,
    path: Path | None,
    as_json: bool,
) -> None:
    """Time TABLES (names or files; gelu_8 by default) by plan, dtype and size.

    Beside them, in the same run: a plain copy, F.gelu, F.silu, and torch.bucketize + gather. "plan" rows write into
    existing memory, as do the copy and the exact functions; the "module" row is a whole call with its allocation.
    """
    loaded = [lutc.load(name) for name in tables or ("gelu_8",)]
    if threads is not None:
        torch.set_num_threads(threads)
    rows = []
    for device in devices or (["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]):
        for table in loaded:
            for dtype in dtypes or tuple(_DTYPES):
                for size in sizes or SIZES:
                    rows += measure(table, dtype, size, device, seconds)
    if path is not None:
        append_rows(path, rows)
    if as_json:
        echo_json([{field.name: getattr(row, field.name) for field in fields(Row)} for row in rows])
        return
    times = [[f"{time:.1f}" for time in (r.p20, r.p50, r.p80)] for r in rows]
    shown = [
        (r.contender, r.table, r.plan, r.device, r.dtype, r.shape, *t, f"{r.copies:.2f}")
        for r, t in zip(rows, times, strict=True)
    ]
    echo_table(
        ("contender", "table", "plan", "device", "dtype", "elements", "p20 us", "p50 us", "p80 us", "x copy"), shown
    )
