"""Quantised tables on the CPU against copies: each row beside what moves the same bytes, in one run.

    python benchmarks/code_tables.py [--millions 16]

into: the operator alone, into memory that is there (`lutc.nn.cpu.codes`); module: `QuantLUT`, its result in new memory.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from lutc.nn import QuantLUT
from lutc.nn.cpu import codes


def best(call: Callable[[], object], repeats: int = 9) -> float:
    """Milliseconds of the fastest of some calls, after two that warm up."""
    times = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return min(times[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=int, default=16, help="Elements, in 2^20.")
    n, threads = parser.parse_args().millions << 20, torch.get_num_threads()
    torch.manual_seed(0)
    x = torch.randn(n) * 2
    q8, q16 = (x * 16).round().clamp(-128, 127).to(torch.int8), (x * 4096).round().clamp(-32768, 32767).to(torch.int16)
    out8, out16, out32 = torch.empty_like(q8), torch.empty_like(q16), torch.empty_like(x)
    to8, to32 = QuantLUT("gelu_8", scale=2.0**-4, out_scale=2.0**-4), QuantLUT("gelu_8", scale=2.0**-4)
    table8, table32 = to8.all_outputs, to32.all_outputs
    table16 = torch.arange(1 << 16).to(torch.int16)
    values = torch.randn(257)

    def into(q, out, table):
        widths = (q.itemsize, out.itemsize)
        return lambda: codes.look_up(q.data_ptr(), out.data_ptr(), n, table.data_ptr(), widths, threads)

    def through():
        step, limits = np.float32(2.0**-4), (-128, 127, 0)
        codes.through_codes(x.data_ptr(), out32.data_ptr(), n, values.data_ptr(), step, limits, threads)

    rows = [
        ("int8 -> int8, into", into(q8, out8, table8), "copy", lambda: out8.copy_(q8)),
        ("int8 -> int8, module", lambda: to8(q8), "clone", lambda: q8.clone()),
        ("int8 -> float32, into", into(q8, out32, table32), "writing the floats", lambda: out32.fill_(1.0)),
        ("int8 -> float32, module", lambda: to32(q8), "q.float()", lambda: q8.float()),
        ("int16 -> int16, into", into(q16, out16, table16), "copy", lambda: out16.copy_(q16)),
        ("float32 through codes, into", through, "copy", lambda: out32.copy_(x)),
        ("float32 through codes, module", lambda: to32(x), "F.gelu", lambda: F.gelu(x)),
    ]
    few = q8[:4096].clone()
    print(f"{n >> 20} M elements, {threads} threads, torch {torch.__version__}")
    print(f"{'':32s}{'ms':>9s}{'beside':>22s}{'ms':>9s}{'ratio':>8s}")
    for name, ours, other, theirs in rows:
        a, b = best(ours), best(theirs)
        print(f"{name:32s}{a:9.2f}{other:>22s}{b:9.2f}{a / b:8.2f}")
    print(f"QuantLUT on 4,096 codes: {1e3 * best(lambda: to8(few), 200):.1f} microseconds")


if __name__ == "__main__":
    with torch.no_grad():
        main()
