"""All that is said of a GPU, in one run of at most eight minutes: the tests, then times beside a copy and torch's own.

    python benchmarks/gpu.py [--quick] [--markdown FILE]

Times are medians over replays of a CUDA graph, so that launching from Python does not count; ratios within this run.
Elementwise rows move as many bytes as a copy, which is what they are held against.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
import triton.testing

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lutc.nn import LUT, IntegerRMSNorm, IntegerSoftmax, LUTRMSNorm, LUTSoftmax, QuantLUT  # noqa: E402

N = 1 << 24
TABLES = ("gelu_8", "gelu_32", "silu_fplut", "gelu_fplut", "exp_fplut", "rsqrt_fplut", "silu_nnlut_16")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
Row = tuple[str, float, str, float]


def median(call: Callable[..., object], *arguments: object) -> float:
    """Milliseconds of call(*arguments) on the card: replayed from a CUDA graph, without what Python takes to launch."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        return triton.testing.do_bench_cudagraph(lambda: call(*arguments), rep=60, return_mode="median")


def launched(call: Callable[..., object], *arguments: object) -> float:
    """Milliseconds of call(*arguments) as a program calls it, launches included."""
    return triton.testing.do_bench(lambda: call(*arguments), warmup=30, rep=100, return_mode="median")


def elementwise() -> Iterator[Row]:
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


def codes() -> Iterator[Row]:
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


def rows() -> Iterator[Row]:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="Leave the tests out.")
    parser.add_argument("--markdown", type=Path, help="Write the table to this file too.")
    arguments = parser.parse_args()
    card = torch.cuda.get_device_name()
    lines = [f"{card}, torch {torch.__version__}, triton {triton.__version__}, {N >> 20} M elements", ""]
    lines += ["| | ms | beside | ms | ratio |", "|---|---|---|---|---|"]
    print(lines[0], flush=True)
    for section in (elementwise, codes, rows):
        try:
            for name, ours, other, theirs in section():
                lines.append(f"| {name} | {ours:.4f} | {other} | {theirs:.4f} | {ours / theirs:.2f} |")
                print(lines[-1], flush=True)
        except Exception as error:  # noqa: BLE001 - one kind of kernel that fails must not hide the others' figures
            print(f"{section.__name__}: {type(error).__name__}: {error}"[:2000], flush=True)
    if arguments.markdown:
        arguments.markdown.write_text("\n".join(lines) + "\n")
    if not arguments.quick:
        subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"], check=False)


if __name__ == "__main__":
    main()
