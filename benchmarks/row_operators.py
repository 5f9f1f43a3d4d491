"""Softmax and norms with tables, float and integer, against torch's own, on the CPU and, where there is one, on a GPU:
times and ratios of one run. The integer ones take codes of 8 and 16 bits and stand beside torch's float32. Freed memory
stays with the process, as in code_tables.py.

    python benchmarks/row_operators.py [--integers]
"""

from __future__ import annotations

import sys
import time

import torch
import torch.nn.functional as F
from code_tables import keep_memory

from lutc.nn import IntegerLayerNorm, IntegerRMSNorm, IntegerSoftmax, LUTLayerNorm, LUTRMSNorm, LUTSoftmax

SHAPES = ((16384, 128), (4096, 512), (1024, 4096), (256, 16384), (128, 32768), (32, 131072))
LONGEST_OF_BYTES = 33025  # of an integer norm


def in_turn(calls, device: str, repeats: int = 20) -> list[float]:
    """Milliseconds of each call, best of `repeats` taken in turn, after two calls that compile and warm up."""
    best = [float("inf")] * len(calls)
    for repeat in range(repeats + 2):
        for i, call in enumerate(calls):
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            if repeat >= 2:
                best[i] = min(best[i], (time.perf_counter() - start) * 1e3)
    return best


def floats(device: str, rows: int, n: int, dtype: torch.dtype):
    """(name, ours, torch's)."""
    x, weight = torch.randn(rows, n, device=device, dtype=dtype), torch.ones(n, device=device, dtype=dtype)
    for name, tables in {"exp_8, reci_8": ("exp_8", "reci_8"), "exp_fplut": ("exp_fplut",)}.items():
        module = LUTSoftmax(*tables).to(device)
        yield f"softmax {name}", lambda module=module: module(x), lambda: torch.softmax(x, -1)
    layer, rms = LUTLayerNorm(n, dtype=dtype).to(device), LUTRMSNorm(n, dtype=dtype).to(device)
    yield "layer norm rsqrt_fplut", lambda: layer(x), lambda: F.layer_norm(x, (n,), weight, weight)
    yield "RMS norm rsqrt_fplut", lambda: rms(x), lambda: F.rms_norm(x, (n,), weight)


def integers(device: str, rows: int, n: int, dtype: torch.dtype):
    bits = torch.iinfo(dtype).bits
    x, weight, bias = torch.randn(rows, n, device=device), torch.ones(n, device=device), torch.zeros(n, device=device)
    scale, wide = 2.0 ** (4 - bits), bits == 16
    q = (x / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).to(dtype)
    outputs = (
        {", to uint16": {"out_dtype": torch.uint16}} if wide else {"": {}, ", out scale 0.0043": {"out_scale": 0.0043}}
    )
    for name, options in outputs.items():
        module = IntegerSoftmax(scale=scale, bits=bits, **options).to(device)
        yield f"integer softmax{name}", lambda module=module: module(q), lambda: torch.softmax(x, -1)
    if wide or n <= LONGEST_OF_BYTES:
        given = {"scale": scale, "out_scale": scale, "bits": bits, "out_dtype": dtype}
        rms = IntegerRMSNorm(weight, **given).to(device)
        yield "integer RMS norm", lambda: rms(q), lambda: F.rms_norm(x, (n,), weight)
        layer = IntegerLayerNorm(weight, bias, **given).to(device)
        yield "integer layer norm", lambda: layer(q), lambda: F.layer_norm(x, (n,), weight, bias)


def main() -> None:
    keep_memory()
    print(f"{'device':8s}{'dtype':10s}{'rows x n':>15s}{'operator':>36s}{'ms':>10s}{'torch ms':>10s}{'ratio':>8s}")
    dtypes = () if "--integers" in sys.argv[1:] else (torch.float32, torch.float16, torch.bfloat16)
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for dtype in (torch.int8, torch.int16, *dtypes):
            for rows, n in SHAPES:
                operators = (floats if dtype in dtypes else integers)(device, rows, n, dtype)
                with torch.inference_mode():
                    for name, ours, theirs in operators:
                        ours, theirs = in_turn((ours, theirs), device)
                        kind = str(dtype).removeprefix("torch.")
                        print(
                            f"{device:8s}{kind:10s}{f'{rows} x {n}':>15s}{name:>36s}"
                            f"{ours:10.3f}{theirs:10.3f}{ours / theirs:8.2f}",
                            flush=True,
                        )


if __name__ == "__main__":
    main()
