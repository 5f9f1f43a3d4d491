"""Timing tables, integer modules and training steps against torch's own and a plain copy, all in one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import click
import torch

import lutc
from lutc.commands import bench_modules
from lutc.commands.bench_timing import Contender, Row, append_rows, device_named, run
from lutc.commands.options import echo_json, echo_table, json_option
from lutc.errors import LutcError
from lutc.lower.lowering import lower
from lutc.lower.segments import segments
from lutc.nn import cpu
from lutc.nn.lowered import DTYPES, has_triton, plan_kinds
from lutc.nn.lut import LUT
from lutc.table.table_set import TableSet

SIZES = (4096, 1 << 24)
SECTIONS = ("elementwise", "codes", "rows", "training")
_DTYPES = {name: dtype for dtype, name in DTYPES.items() if name != "fp64"}
# numba computes in float32; at 16 bits a CPU runs the direct table alone
_LINEAR = ("chain", "uniform", "cells", "search")


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


def contenders(tables: TableSet, dtype: str, size: int, device: torch.device, slow: bool) -> list[Contender]:
    """A copy, F.gelu and F.silu, all into existing memory; the whole module call with its allocation; every plan that
    fits, into existing memory; with `slow` bucketize + gather. Inputs are normal.
    """
    x = torch.randn(size, dtype=torch.float32).to(_DTYPES[dtype]).to(device)
    out = torch.empty_like(x)
    module = LUT(tables).to(device)
    table = tables[tables.default_key]
    name = f"{tables.name}[{tables.default_key}] {table.entries}"
    found = [
        Contender("copy", dtype, lambda: out.copy_(x)),
        Contender("F.gelu", dtype, lambda: torch.ops.aten.gelu.out(x, out=out)),
        Contender("F.silu", dtype, lambda: torch.ops.aten.silu.out(x, out=out)),
        Contender("module", dtype, lambda: module(x), name, module.plan_kind(x.dtype)),
    ]
    if device.type == "cpu" or has_triton():
        for kind, plan in _plans(table, dtype, device):
            call = _into(x, out, torch.from_numpy(plan.words().copy()).to(device), plan.meta)
            found.append(Contender("plan", dtype, call, name, kind))
    plain = _bucketize(table, x) if slow else None
    return found if plain is None else [*found, Contender("bucketize + gather", dtype, plain, name)]


def measure(
    tables: TableSet, dtype: str, size: int, device: str = "cpu", seconds: float = 2.0, slow: bool = True
) -> list[Row]:
    """Time the `contenders` of one table set (its default key), one dtype ("fp32", "fp16", "bf16") and number of
    elements. seconds: about how long to sample. Raises LutcError for a device that is not there.
    """
    place = device_named(device)
    with torch.no_grad():
        return run(contenders(tables, dtype, size, place, slow), str(size), place, seconds)


def measure_modules(
    section: str, tables: TableSet | None, dtype: str, size: int, device: str = "cpu", seconds: float = 2.0
) -> list[Row]:
    """The same for a section of `lutc.commands.bench_modules`: "codes" or "training" of a table set, or "rows"; dtype
    may be "int8" but in training. Nothing for tables over floats.
    """
    place, rows = device_named(device), []
    for shape, found in bench_modules.contenders(section, tables, dtype, size, place):
        with torch.set_grad_enabled(section == "training"):
            rows += run(found, shape, place, seconds)
    return rows


@click.command()
@click.argument("tables", nargs=-1)
@click.option(
    "--only",
    "sections",
    multiple=True,
    type=click.Choice(SECTIONS),
    help="What to time; repeat for several. All by default.",
)
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
    sections: tuple[str, ...],
    dtypes: tuple[str, ...],
    sizes: tuple[int, ...],
    devices: tuple[str, ...],
    threads: int | None,
    seconds: float,
    path: Path | None,
    as_json: bool,
) -> None:
    """Time TABLES (names or files; gelu_8 by default) by plan, dtype and size, and integer modules.

    In four sections, each beside a plain copy in the same run. elementwise: every plan, F.gelu, F.silu, and
    torch.bucketize + gather; "plan" rows write into existing memory, as do the copy and the exact functions, the
    "module" row is a whole call with its allocation. codes: int8 codes to codes and floats, and floats through codes,
    beside the exact function and torch's quantised one. rows: softmax and norms of floats and of codes, beside torch's
    own. training: a forward and a backward pass through quantisers and tables, beside the exact function's.
    """
    loaded = [lutc.load(name) for name in tables or ("gelu_8",)]
    if threads is not None:
        torch.set_num_threads(threads)
    rows = []
    chosen, of_floats = sections or SECTIONS, dtypes or tuple(_DTYPES)
    for device in devices or (["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]):
        for size in sizes or SIZES:
            for table in loaded:
                for dtype in of_floats if "elementwise" in chosen else ():
                    rows += measure(table, dtype, size, device, seconds)
                for dtype in (bench_modules.INT8, *of_floats) if "codes" in chosen else ():
                    rows += measure_modules("codes", table, dtype, size, device, seconds)
                for dtype in of_floats if "training" in chosen else ():
                    rows += measure_modules("training", table, dtype, size, device, seconds)
            for dtype in (bench_modules.INT8, *of_floats) if "rows" in chosen else ():
                rows += measure_modules("rows", None, dtype, size, device, seconds)
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
