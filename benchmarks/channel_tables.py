"""Quantised tables with a scale for every channel on the CPU, beside one scale for all and a copy, in one run.

    python benchmarks/channel_tables.py [--millions 4]

first: channels along dimension 1 of (N, C, L), each with a run of 1,024 side by side; last: of (N, L, C). A step is a
forward and a backward pass. The calls of a row go in turn, and of each the fastest counts.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable

import torch
from code_tables import best, keep_memory

from lutc.errors import ScaleWarning
from lutc.nn import FakeQuantize, QuantLUT

_RUN = 1024
_SCALE = 2.0**-4


def scales_of(channels: int) -> list[float]:
    """Between half of one scale and twice it, all different."""
    return [_SCALE * 2.0 ** (2 * c / channels - 1) for c in range(channels)]


def shaped(n: int, channels: int, last: bool) -> tuple[tuple[int, ...], int]:
    """Shape of some n elements, and the axis of the channels."""
    run = min(_RUN, n // channels)
    outer = n // (channels * run)
    return ((outer, run, channels), 2) if last else ((outer, channels, run), 1)


def step(module: Callable, x: torch.Tensor, *given: torch.Tensor) -> Callable:
    leaf, gradient = x.clone().requires_grad_(), torch.randn_like(x)

    def call():
        leaf.grad = None
        with torch.enable_grad():
            module(leaf, *given).backward(gradient)

    return call


def started(module: torch.nn.Module, x: torch.Tensor) -> torch.nn.Module:
    """With learned scales found on x."""
    module(x)
    return module.eval()


def rows_of(n: int, channels: int, last: bool) -> list[tuple[str, Callable, Callable, Callable]]:
    """(what, for every channel, with one scale, copy)"""
    shape, axis = shaped(n, channels, last)
    x = torch.randn(shape) * 2
    q = (x / _SCALE).round().clamp(-128, 127).to(torch.int8)
    scales, out = scales_of(channels), {"out_scale": _SCALE}
    given, alone = torch.tensor(scales), torch.tensor(_SCALE)
    to8, one8 = QuantLUT("gelu_8", scales, axis=axis, **out), QuantLUT("gelu_8", _SCALE, **out)
    to32, one32 = QuantLUT("gelu_8", scales, axis=axis), QuantLUT("gelu_8", _SCALE)
    call8, call32 = QuantLUT("gelu_8", axis=axis, **out), QuantLUT("gelu_8", axis=axis)
    every8, every32 = QuantLUT("gelu_8", **out), QuantLUT("gelu_8")
    learned = started(QuantLUT("gelu_8", "learned", axis=axis, channels=channels), x)
    one_learned = started(QuantLUT("gelu_8", "learned"), x)
    rounded, one_rounded = FakeQuantize(scales, axis=axis), FakeQuantize(_SCALE)
    rounds = started(FakeQuantize("learned", axis=axis, channels=channels), x)
    one_rounds = started(FakeQuantize("learned"), x)
    copy8, copy32, widen = (lambda: q.clone()), (lambda: x.clone()), (lambda: q.float())
    exact = step(torch.nn.functional.gelu, x)
    return [
        ("int8 -> int8", lambda: to8(q), lambda: one8(q), copy8),
        ("int8 -> int8, scales per call", lambda: call8(q, given), lambda: every8(q, alone), copy8),
        ("int8 -> float32", lambda: to32(q), lambda: one32(q), widen),
        ("float32", lambda: to32(x), lambda: one32(x), copy32),
        ("float32, scales per call", lambda: call32(x, given), lambda: every32(x, alone), copy32),
        ("float32, learned scales", lambda: learned(x), lambda: one_learned(x), copy32),
        ("FakeQuantize", lambda: rounded(x), lambda: one_rounded(x), copy32),
        ("step, fixed scales", step(to32, x), step(one32, x), exact),
        ("step, learned scales", step(learned, x), step(one_learned, x), exact),
        ("step, FakeQuantize, learned", step(rounds, x), step(one_rounds, x), exact),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=int, default=4, help="Elements, in 2^20.")
    parser.add_argument("--repeats", type=int, default=7, help="Calls of each, of which the fastest counts.")
    arguments = parser.parse_args()
    n = arguments.millions << 20
    keep_memory()
    warnings.simplefilter("ignore", ScaleWarning)  # that scales between powers of two take the nearest table
    torch.manual_seed(0)
    print(
        f"{arguments.millions} M elements, {torch.get_num_threads()} threads, torch {torch.__version__}; milliseconds"
    )
    print("of a step beside the exact step of F.gelu instead of a copy")
    for channels in (64, 4096):
        for last in (False, True):
            shape, axis = shaped(n, channels, last)
            print(f"\n{str(shape):20s}axis {axis:<7d}{'channels':>10s}{'one scale':>11s}{'copy':>8s}{'ratio':>8s}")
            for name, ours, one, copy in rows_of(n, channels, last):
                a, b, c = best((ours, one, copy), arguments.repeats)
                print(f"{name:32s}{a:10.2f}{b:11.2f}{c:8.2f}{a / b:8.2f}")


if __name__ == "__main__":
    with torch.no_grad():
        main()
