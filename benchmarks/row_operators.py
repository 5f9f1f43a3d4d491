"""Softmax and LayerNorm with tables against torch's own, on the CPU and, where there is one, on a GPU: times and ratios
of one run.

python benchmarks/row_operators.py
"""

from __future__ import annotations

import time

import torch

from lutc.nn import LUTLayerNorm, LUTSoftmax

SHAPES = ((16384, 128), (4096, 512), (1024, 4096), (256, 16384), (32, 131072))


def milliseconds(call, device: str, repeats: int = 20) -> float:
    """Best of `repeats`, after two calls that compile and warm up."""
    best = float("inf")
    for repeat in range(repeats + 2):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        if repeat >= 2:
            best = min(best, time.perf_counter() - start)
    return best * 1e3


def main() -> None:
    print(f"{'device':8s}{'dtype':10s}{'rows x n':>15s}{'operator':>30s}{'ms':>10s}{'torch ms':>10s}{'ratio':>8s}")
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            for rows, n in SHAPES:
                x = torch.randn(rows, n, device=device, dtype=dtype)
                operators = {
                    "softmax exp_8, reci_8": (LUTSoftmax("exp_8", "reci_8"), lambda x=x: torch.softmax(x, -1)),
                    "softmax exp_fplut": (LUTSoftmax("exp_fplut"), lambda x=x: torch.softmax(x, -1)),
                    "layer norm rsqrt_fplut": (
                        LUTLayerNorm(n, rsqrt="rsqrt_fplut", dtype=dtype),
                        lambda x=x, n=n: torch.layer_norm(x, (n,)),
                    ),
                }
                with torch.inference_mode():
                    for name, (module, plain) in operators.items():
                        module = module.to(device)
                        ours, theirs = (milliseconds(call, device) for call in (lambda m=module, x=x: m(x), plain))
                        kind = str(dtype).removeprefix("torch.")
                        print(
                            f"{device:8s}{kind:10s}{f'{rows} x {n}':>15s}{name:>30s}"
                            f"{ours:10.3f}{theirs:10.3f}{ours / theirs:8.2f}",
                            flush=True,
                        )


if __name__ == "__main__":
    main()
