"""All that is said of a GPU, in runs of at most eight minutes: times beside a copy and torch's own, and the tests.

    python benchmarks/gpu.py [SECTION ...] [--csv FILE] [--markdown FILE] [--minutes 8]

Sections: elementwise, codes, rows, products, attention, mlp, tests. Each is appended to the CSV file when it is
complete, with the card's name; a section that stands there for this card and these versions is not run again, so that a
run that was cut short, or whose time is up, goes on where it stopped. The table printed in the end holds all of them.

Times are medians over replays of a CUDA graph, so that launching from Python does not count; ratios within one run.
Elementwise rows move as many bytes as a copy, which is what they are held against.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
import triton.testing

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lutc.kernels import attention as attention_kernels  # noqa: E402
from lutc.kernels.matmul import linear_lut  # noqa: E402

import lutc  # noqa: E402
from lutc.nn import (  # noqa: E402
    LUT,
    IntegerAttention,
    IntegerRMSNorm,
    IntegerSoftmax,
    LUTAttention,
    LUTRMSNorm,
    LUTSoftmax,
    QuantLUT,
)
from lutc.nn.attention_blocks import Form, Operands  # noqa: E402
from lutc.nn.row_tables import plans_of  # noqa: E402
from lutc.taylor.module import TaylorMLP  # noqa: E402
from lutc.taylor.table import TaylorTable  # noqa: E402

N = 1 << 24
TABLES = ("gelu_8", "gelu_32", "silu_fplut", "gelu_fplut", "exp_fplut", "rsqrt_fplut", "silu_nnlut_16")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
Times = tuple[str, float, str, float]  # what, milliseconds, beside what, its milliseconds


@dataclass(frozen=True)
class Machine:
    card: str
    torch: str
    triton: str
    lutc: str

    @classmethod
    def here(cls) -> Machine:
        return cls(torch.cuda.get_device_name(), torch.__version__, triton.__version__, lutc.__version__)


@dataclass(frozen=True)
class Row:
    """A line of the CSV file."""

    card: str
    torch: str
    triton: str
    lutc: str
    date: str
    section: str
    what: str
    ms: float
    beside: str
    beside_ms: float

    @property
    def ratio(self) -> float:
        return self.ms / self.beside_ms if self.beside_ms else float("nan")


def median(call: Callable[..., object], *arguments: object) -> float:
    """Milliseconds of call(*arguments) on the card: replayed from a CUDA graph, without what Python takes to launch."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        return triton.testing.do_bench_cudagraph(lambda: call(*arguments), rep=60, return_mode="median")


def launched(call: Callable[..., object], *arguments: object) -> float:
    """Milliseconds of call(*arguments) as a program calls it, launches included."""
    return triton.testing.do_bench(lambda: call(*arguments), warmup=30, rep=100, return_mode="median")


def elementwise() -> Iterator[Times]:
    """Tables of lines and cells in every dtype, beside a copy; the exact function beside it once."""
    for dtype, kind in DTYPES.items():
        x = (torch.randn(N, device="cuda") * 2).abs().add(0.1).to(kind)
        copy = median(torch.clone, x)
        for name in TABLES:
            table = LUT(name).cuda()
            yield f"{name}, {dtype}, {table.plan_kind(kind)} plan", median(table, x), "copy", copy
        yield f"F.gelu, {dtype}", median(F.gelu, x), "copy", copy
        few = x[:4096]
        ours = launched(LUT("silu_fplut").cuda(), few)
        yield f"silu_fplut, {dtype}, 4,096, launched", ours, "F.silu", launched(F.silu, few)
        gate, value = LUT("silu_fplut").cuda(), torch.randn_like(x)
        exact = median(lambda x, y: F.silu(x) * y, x, value)
        yield f"silu_fplut gated, {dtype}", median(gate.gated, x, value), "F.silu(x) * y", exact


def codes() -> Iterator[Times]:
    """Quantised tables."""
    x = torch.randn(N, device="cuda") * 2
    q = (x * 16).round().clamp(-128, 127).to(torch.int8)
    copies = {"codes": median(torch.clone, q), "floats": median(torch.clone, x)}
    to_codes = QuantLUT("gelu_8", scale=2.0**-4, out_scale=2.0**-4).cuda()
    to_floats = QuantLUT("gelu_8", scale=2.0**-4).cuda()
    yield "QuantLUT int8 to int8", median(to_codes, q), "copy", copies["codes"]
    yield "QuantLUT int8 to fp32", median(to_floats, q), "q.float()", median(q.float)
    few = q[:4096]
    yield "QuantLUT int8 to int8, 4,096, launched", launched(to_codes, few), "clone", launched(torch.clone, few)
    yield "QuantLUT fp32 to fp32", median(to_floats, x), "copy", copies["floats"]
    gradient, slopes, scale = torch.randn_like(x), torch.randn(257, device="cuda"), torch.tensor(2.0**-4, device="cuda")
    limits, operators = (-128, 127, 0), torch.ops.lutc
    exact = median(torch.ops.aten.gelu_backward, gradient, x)
    learned = median(operators.through_codes_backward_with_scale, gradient, x, scale, slopes, *limits)
    yield "gradients through codes, learned scale, fp32", learned, "gelu_backward", exact
    _, places, within = operators.through_codes_kept(x, scale, slopes, *limits, True)
    kept = median(operators.through_codes_backward, gradient, places, within, slopes)
    yield "gradients through codes, fixed scale, fp32", kept, "gelu_backward", exact


def rows() -> Iterator[Times]:
    """Softmax and norms, beside torch's own of the same dtype."""
    for shape in ((8192, 512), (4096, 4096), (512, 32768)):
        for dtype in ("fp32", "bf16"):
            x = torch.randn(shape, device="cuda").to(DTYPES[dtype])
            text, n = f"{shape[0]} x {shape[1]}, {dtype}", shape[1]
            softmax, norm = (
                LUTSoftmax("exp_fplut", "reciprocal_fplut").cuda(),
                LUTRMSNorm(n, rsqrt="rsqrt_fplut").cuda(),
            )
            norm, weight = norm.to(DTYPES[dtype]), torch.ones(n, device="cuda", dtype=DTYPES[dtype])
            yield f"softmax {text}", median(softmax, x), "F.softmax", median(F.softmax, x, -1)
            exact = median(F.rms_norm, x, (n,), weight)
            yield f"RMSNorm {text}", median(norm, x), "F.rms_norm", exact
        q = torch.randint(-128, 128, shape, device="cuda").to(torch.int8)
        x = torch.randn(shape, device="cuda")
        integer = IntegerSoftmax(scale=2.0**-4).cuda()
        theirs = median(F.softmax, x, -1)
        yield f"IntegerSoftmax {shape[0]} x {n}", median(integer, q), "F.softmax, fp32", theirs
        rms = IntegerRMSNorm(torch.ones(n), scale=2.0**-4, out_scale=2.0**-4).cuda()
        theirs = median(F.rms_norm, x, (n,))
        yield f"IntegerRMSNorm {shape[0]} x {n}", median(rms, q), "F.rms_norm, fp32", theirs


def products() -> Iterator[Times]:
    """A matrix product with a table in its epilogue, beside torch's product and exact function."""
    table = LUT("gelu_8").cuda()
    held = table._plans[torch.float32]
    for m, k, n in ((4096, 4096, 4096), (128, 4096, 11008)):
        for dtype in ("fp16", "bf16"):
            a, b = (torch.randn(shape, device="cuda").to(DTYPES[dtype]) / 8 for shape in ((m, k), (k, n)))
            bias = torch.zeros(n, device="cuda", dtype=DTYPES[dtype])
            exact = median(lambda a=a, b=b, bias=bias: F.gelu(torch.addmm(bias, a, b)))
            ours = median(linear_lut, a, b, bias, table.plan_fp32, held.meta)
            yield f"product with gelu_8, {m} x {k} x {n}, {dtype}", ours, "addmm, F.gelu", exact


def attention() -> Iterator[Times]:
    """Causal attention of 32 heads, 8 of keys, bfloat16, beside torch's own; forward, and with the backward."""
    codes, period, integer = (m.cuda() for m in (LUTAttention("exp_16"), LUTAttention("exp_fplut"), IntegerAttention()))
    plans = plans_of(period.softmax.words, period.softmax.meta)
    for batch, n, size in ((4, 2048, 128), (1, 16384, 128), (4, 4096, 64)):
        q = torch.randn(batch, 32, n, size, dtype=torch.bfloat16, device="cuda")
        k, v = (torch.randn(batch, 8, n, size, dtype=torch.bfloat16, device="cuda") for _ in "kv")
        text = f"attention {batch} x {n}, head {size}"
        theirs = partial(F.scaled_dot_product_attention, is_causal=True, enable_gqa=True)
        exact = median(theirs, q, k, v)
        form = Form(period.softmax.tables["exp"][1], False, size**-0.5, True, 0, 0, 0.0, "exact")
        given = Operands(q, k, v, None, None, None, None)
        for name, call in (
            ("exp_16", partial(codes, q, k, v, causal=True)),
            ("exp_fplut", partial(period, q, k, v, causal=True)),
            ("exp_fplut, two passes", partial(period, q, k, v, causal=True, rescale="none")),
            ("in integers", partial(integer, q, k, v, causal=True)),
            ("the kernel with exp2", partial(attention_kernels.forward, given, plans, form, "exp2")),
            ("the kernel with the cubic", partial(attention_kernels.forward, given, plans, form, "cubic")),
        ):
            yield f"{text}, {name}", median(call), "SDPA", exact
        leaves = [x.requires_grad_() for x in (q, k, v)]
        upstream = torch.randn_like(q)

        def both(call, leaves=leaves, upstream=upstream, **options):
            torch.autograd.grad(call(*leaves, **options), leaves, upstream)

        exact = launched(both, theirs)
        for name, module in (("exp_16", codes), ("exp_fplut", period)):
            yield f"{text}, {name}, with backward", launched(partial(both, module, causal=True)), "SDPA", exact


def mlp() -> Iterator[Times]:
    """A Taylor table in the place of an MLP of 384-1536-384 (random centres), beside it."""
    exact = torch.nn.Sequential(torch.nn.Linear(384, 1536), torch.nn.GELU(), torch.nn.Linear(1536, 384)).cuda().eval()
    for k in (16, 100):
        table = TaylorTable(
            torch.randn(k, 384), torch.randn(k, 384), torch.randn(k, 384, 384) / 384, torch.ones(k, dtype=torch.int64)
        )
        for dtype in ("fp32", "fp16"):
            module = TaylorMLP(table.stored(dtype)).cuda()
            for rows_ in (32, 1024, 8192):
                x = torch.randn(rows_, 384, device="cuda").to(DTYPES[dtype])
                with torch.no_grad():
                    theirs = launched(exact.to(DTYPES[dtype]), x)
                    yield f"T-MLP k={k}, {dtype}, {rows_} rows", launched(module, x), "the MLP", theirs


def tests(end: float | None = None) -> Iterator[Times]:
    """The tests of kernels on the card; one row, with what pytest says in the end. They are stopped at `end`, a time of
    `time.perf_counter`, and are then still to do.
    """
    start = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-m", "gpu and not slow", "tests"],
        capture_output=True, text=True, check=False, cwd=Path(__file__).resolve().parents[1],
        timeout=None if end is None else max(1.0, end - start),
    )  # fmt: skip
    last = (run.stdout.strip().splitlines() or [run.stderr.strip()[-200:]])[-1]
    if run.returncode:
        print(run.stdout[-4000:], run.stderr[-2000:], sep="\n", flush=True)
    yield f"tests: {re.sub('=+', '', last).strip()}", (time.perf_counter() - start) * 1e3, "", 0.0


SECTIONS = {one.__name__: one for one in (elementwise, codes, rows, products, attention, mlp, tests)}


def read(path: Path, machine: Machine) -> list[Row]:
    """The rows of a CSV file of this card and these versions."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        found = [Row(**{**row, "ms": float(row["ms"]), "beside_ms": float(row["beside_ms"])})  # type: ignore[arg-type]
                 for row in csv.DictReader(file)]  # fmt: skip
    return [row for row in found if astuple(row)[:4] == astuple(machine)]


def append(path: Path, found: Sequence[Row]) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(field.name for field in fields(Row))
        writer.writerows(map(astuple, found))


def run(
    sections: dict[str, Callable[[], Iterator[Times]]], path: Path, machine: Machine, seconds: float
) -> tuple[list[Row], list[str]]:
    """(rows of all sections that are complete, names of those that are not): what is not in the file is measured until
    the seconds are over, and appended to it section by section.
    """
    end = time.perf_counter() + seconds
    done, left = read(path, machine), []
    for name, section in sections.items():
        if any(row.section == name for row in done):
            continue
        found, complete = [], time.perf_counter() < end
        try:
            for times in section() if complete else ():
                date = datetime.date.today().isoformat()
                found.append(Row(*astuple(machine), date, name, *times))
                print(line(found[-1]), flush=True)
                if time.perf_counter() >= end:
                    complete = False
                    break
        except Exception as error:  # noqa: BLE001 - one kind of kernel that fails must not hide the others' figures
            print(f"{name}: {type(error).__name__}: {error}"[:2000], flush=True)
            complete = False
        if complete:
            append(path, found)
            done += found
        else:
            left.append(name)
    return [row for row in done if row.section in sections], left


def line(row: Row) -> str:
    beside = f"{row.beside} | {row.beside_ms:.4f} | {row.ratio:.2f}" if row.beside else " | | "
    return f"| {row.what} | {row.ms:.4f} | {beside} |"


def markdown(found: Sequence[Row], machine: Machine) -> str:
    title = f"{machine.card}, torch {machine.torch}, triton {machine.triton}, {N >> 20} M elements"
    return "\n".join([title, "", "| | ms | beside | ms | ratio |", "|---|---|---|---|---|", *map(line, found)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", choices=[*SECTIONS, []], default=[], help=", ".join(SECTIONS)
    )
    parser.add_argument("--csv", type=Path, help="Rows are appended here; by default gpu_CARD.csv.")
    parser.add_argument("--markdown", type=Path, help="Write the table to this file too.")
    parser.add_argument("--minutes", type=float, default=8.0, help="Nothing is begun after these.")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device here")
    machine = Machine.here()
    path = arguments.csv or Path(f"gpu_{re.sub('[^A-Za-z0-9]+', '_', machine.card)}.csv")
    wanted = {name: SECTIONS[name] for name in arguments.sections or SECTIONS}
    if "tests" in wanted:
        wanted["tests"] = partial(tests, time.perf_counter() + 60 * arguments.minutes)
    found, left = run(wanted, path, machine, 60 * arguments.minutes)
    text = markdown(found, machine)
    print(f"\n{text}\n\nrows are in {path}" + (f"; still to do (run again): {', '.join(left)}" if left else ""))
    if arguments.markdown:
        arguments.markdown.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
