"""Quantised tables on the CPU against copies: each row beside what moves the same bytes, in one run.

    python benchmarks/code_tables.py [--millions 16]

into: the operator alone, into memory that is there (`lutc.nn.cpu`); module: `QuantLUT`, which allocates; lines: where
the processor has AVX-512. A step is a forward and a backward pass. The two of a row are called in turn, and of each the
fastest call counts. Memory that is freed stays with the process, for fresh pages cost the system more than all that is
timed here.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from lutc.nn import FakeQuantize, QuantActivation, QuantLUT
from lutc.nn.cpu import code_lines, codes, through_codes


def best(calls: Sequence[Callable[[], object]], repeats: int = 15) -> list[float]:
    """Milliseconds of the fastest of some calls of each, in turn, after two that warm up."""
    found = [float("inf")] * len(calls)
    for repeat in range(repeats + 2):
        for i, call in enumerate(calls):
            start = time.perf_counter()
            call()
            if repeat > 1:
                found[i] = min(found[i], 1e3 * (time.perf_counter() - start))
    return found


def keep_memory() -> None:
    """Have glibc hold freed memory instead of returning it; other systems keep their ways."""
    trim_threshold, mmap_max = -1, -4  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)


def steps(x: torch.Tensor) -> list[tuple[str, Callable, str, Callable]]:
    """Training steps beside that of the exact function."""
    leaf, gradient = x.clone().requires_grad_(), torch.randn_like(x)
    modules = {
        "gelu_8, learned scale": QuantLUT("gelu_8", "learned"),
        "gelu_8, fixed scale": QuantLUT("gelu_8", 2.0**-4),
        "exact gelu, learned scale": QuantActivation("gelu", "learned"),
    }

    def step(forward):
        def call():
            leaf.grad = None
            with torch.enable_grad():
                forward(leaf).backward(gradient)

        return call

    return [(f"step: {name}", step(module), "step: F.gelu", step(F.gelu)) for name, module in modules.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=int, default=16, help="Elements, in 2^20.")
    n, threads = parser.parse_args().millions << 20, torch.get_num_threads()
    keep_memory()
    torch.manual_seed(0)
    x = torch.randn(n) * 2
    q8, q16 = (x * 16).round().clamp(-128, 127).to(torch.int8), (x * 4096).round().clamp(-32768, 32767).to(torch.int16)
    out8, out16, out32 = torch.empty_like(q8), torch.empty_like(q16), torch.empty_like(x)
    to8, to32 = QuantLUT("gelu_8", scale=2.0**-4, out_scale=2.0**-4), QuantLUT("gelu_8", scale=2.0**-4)
    table8, table32 = to8.all_outputs, to32.all_outputs
    to16 = QuantLUT("gelu_8", scale=2.0**-6, out_scale=2.0**-6, bits=16)
    table16, lines16 = to16.all_outputs, to16.all_lines.data_ptr()
    values = torch.randn(257)

    def into(q, out, table):
        widths = (q.itemsize, out.itemsize)
        return lambda: codes.look_up(q.data_ptr(), out.data_ptr(), n, table.data_ptr(), widths, threads)

    def by_lines():
        code_lines.through_lines(q16.data_ptr(), out16.data_ptr(), n, lines16, threads)

    def through(x, out, values, form):
        step, limits = np.float32(2.0**-4), (-128, 127, 0)
        addresses = x.data_ptr(), out.data_ptr(), n, values.data_ptr()
        return lambda: through_codes.through_codes(*addresses, step, limits, threads, form)

    dynamic, quantise = QuantLUT("gelu_8", scale="dynamic"), FakeQuantize(2.0**-4)
    gelu_into = torch.ops.aten.gelu.out
    rows = [
        ("int8 -> int8, into", into(q8, out8, table8), "copy", lambda: out8.copy_(q8)),
        ("int8 -> int8, module", lambda: to8(q8), "clone", lambda: q8.clone()),
        ("int8 -> float32, into", into(q8, out32, table32), "writing the floats", lambda: out32.fill_(1.0)),
        ("int8 -> float32, module", lambda: to32(q8), "q.float()", lambda: q8.float()),
        *[("int16 -> int16, lines, into", by_lines, "copy", lambda: out16.copy_(q16))] * code_lines.permutes_halves(),
        ("int16 -> int16, table, into", into(q16, out16, table16), "copy", lambda: out16.copy_(q16)),
        ("float32, dynamic scale, module", lambda: dynamic(x), "clone", lambda: x.clone()),
        ("FakeQuantize", lambda: quantise(x), "clone", lambda: x.clone()),
    ]
    for form, dtype in (("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16)):
        given, out, few_values = x.to(dtype), torch.empty_like(x, dtype=dtype), values.to(dtype)
        name, call = f"{form} through codes, into", through(given, out, few_values, form)
        rows += [
            (name, call, "copy", lambda given=given, out=out: out.copy_(given)),
            (name, call, "F.gelu, into", lambda given=given, out=out: gelu_into(given, out=out)),
        ]
    rows += steps(x[: n // 2])
    few = q8[:4096].clone()
    print(f"{n >> 20} M elements, {threads} threads, torch {torch.__version__}")
    print(f"{'':34s}{'ms':>9s}{'beside':>22s}{'ms':>9s}{'ratio':>8s}")
    for name, ours, other, theirs in rows:
        a, b = best((ours, theirs))
        print(f"{name:34s}{a:9.2f}{other:>22s}{b:9.2f}{a / b:8.2f}")
    print(f"QuantLUT on 4,096 codes: {1e3 * best([lambda: to8(few)], 200)[0]:.1f} microseconds")


if __name__ == "__main__":
    with torch.no_grad():
        main()
