"""Attention with a table's exponential: instructions by the disassembly (no GPU needed), and times and memory.

    python benchmarks/attention.py instructions       ahead of time for sm_80, sm_90, sm_100
    python benchmarks/attention.py cpu                against the materialising softmax: time and peak memory
    python benchmarks/attention.py gpu                on a card, against the same kernel with exp2 and torch's own

`instructions` counts what the loop over whole blocks of keys issues for each score: instructions of a thread in the
loop without masks, over the scores of a block that fall to a thread. Registers, bytes of shared memory and spills are
the assembler's.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

LENGTHS = (1024, 4096, 16384)


@dataclass(frozen=True)
class Count:
    """Of a kernel: registers of a thread, bytes of shared memory, of spills (loads and stores), and instructions for
    each score.
    """

    registers: int
    shared: int
    spills: int
    per_score: float


_FLOATS = dict.fromkeys(("scale", "c", "to_two", "floor", "last", "softcap"), "fp32")
_FLOATS |= dict.fromkeys((f"{n}_ptr" for n in ("top", "total", "share", "inner", "alibi", "sinks")), "*fp32")
_FLOATS |= dict.fromkeys(("lengths_ptr", "e_words", "r_words", "t_words"), "*i32")
_CODES = {f"{n}_ptr": "*i8" for n in ("q", "k", "v", "w", "mask")} | {"out_ptr": "*i16"}
_CODES |= dict.fromkeys(("q_numbers", "q_exponents", "k_numbers", "k_exponents"), "*i32")
_CODES |= dict.fromkeys(("sinks_ptr", "alibi_ptr", "lengths_ptr", "cuts", "slopes", "intercepts"), "*i32")


def _compiled(kernel, capability: int, constants: dict, kinds: dict, tile: dict):
    """kinds: of arguments by name, "" of other pointers; all else is an int32."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    tile = dict(tile)
    options = {"num_warps": tile.pop("num_warps"), "num_stages": tile.pop("num_stages"), "enable_fp_fusion": False}
    constants = {**constants, **tile}

    def kind(name):
        if name in constants:
            return "constexpr"
        return kinds.get(name) or (kinds[""] if name.endswith("_ptr") else "i32")

    names = kernel.arg_names
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if name not in constants and (kind(name).startswith("*") or name.endswith(("_batch", "_head", "_row")))
    }
    source = ASTSource(kernel, {name: kind(name) for name in names}, constants, aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def _tools() -> Path:
    import triton

    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def _resources(cubin: bytes) -> tuple[int, int]:
    """(registers, spilled bytes of a thread's stack)."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [_tools() / "cuobjdump", "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(re.search(r"REG:(\d+)", text).group(1)), int(re.search(r"STACK:(\d+)", text).group(1))


_INSTRUCTION = re.compile(r"^\s*(?:/\*[0-9a-f]+\*/)?\s*(?:@!?U?P\d+\s+)?([A-Z][A-Z0-9_.]*)\b(.*)$")


def loops(sass: str) -> list[list[str]]:
    """Opcodes of each loop: from a label to the branch back to it."""
    labels, listing = {}, []
    for line in sass.splitlines():
        label = re.match(r"^(\.L_\S+):", line.strip())
        match = None if label else _INSTRUCTION.match(line)
        if label:
            labels[label.group(1)] = len(listing)
        elif match and not match.group(1).startswith("NOP"):
            listing.append((match.group(1), match.group(2)))
    found = []
    for at, (opcode, rest) in enumerate(listing):
        target = re.search(r"(\.L_\w+)", rest)
        if opcode.startswith("BRA") and target and labels.get(target.group(1), at + 1) <= at:
            found.append([op for op, _ in listing[labels[target.group(1)] : at + 1]])
    return found


def _disassembled(cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [_tools() / "nvdisasm", "-c", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _is_product(opcode: str) -> bool:
    return opcode.startswith(("HMMA", "HGMMA", "IMMA", "IGMMA", "UTCHMMA", "UTCMMA", "UTC", "WARPGROUP"))


def _main_loop(cubin: bytes) -> list[str]:
    """Opcodes of the longest loop with matrix products."""
    return max((loop for loop in loops(_disassembled(cubin)) if any(map(_is_product, loop))), key=len, default=[])


PLANS = {
    "cells": {"E_KIND": 2, "E_FLAGS": 0, "PERIOD": True},
    "uniform": {"E_KIND": 1, "E_FLAGS": 1, "PERIOD": False},
}


def forward_constants(size: int, exp: str, plan: str = "cells") -> dict:
    from lutc.kernels import attention as kernels

    block = kernels.blocks_of(size)
    return {
        **PLANS[plan], "R_KIND": 0, "R_FLAGS": 0, "T_KIND": 0, "T_FLAGS": 0, "EXP": exp, "RESCALE": "exact", "MASK": 0,
        "SINKS": False, "ALIBI": False, "LENGTHS": False, "CAUSAL": False, "WINDOW": False, "SOFTCAP": False,
        "PLAIN": True, "SIZE": size, "V_SIZE": size, "BLOCK_D": block, "BLOCK_V": block, "PRECISION": "tf32",
    }  # fmt: skip


def forward_count(capability: int, size: int, exp: str, dtype: str = "fp16", plan: str = "cells") -> Count:
    """Of the forward kernel without masks, as a launch on aligned tensors compiles it."""
    from lutc.kernels import attention as kernels

    tile = kernels.tile(size, 4 if dtype == "fp32" else 2)
    constants = forward_constants(size, exp, plan)
    if dtype == "fp32":
        constants["PRECISION"] = "ieee"
    built = _compiled(kernels.forward_kernel, capability, constants, {**_FLOATS, "": f"*{dtype}"}, tile)
    registers, spills = _resources(built.asm["cubin"])
    scores = tile["BLOCK_M"] * tile["BLOCK_N"] / (32 * tile["num_warps"])
    return Count(registers, built.metadata.shared, spills, len(_main_loop(built.asm["cubin"])) / scores)


def integer_count(capability: int, size: int, block: int = 64) -> Count:
    """Of the kernel in integers, one pass without masks."""
    from lutc.kernels import integer_attention as kernels

    tile = {"BLOCK": block, **kernels.options(block)}
    constants = {
        **dict.fromkeys(("RECIPROCAL", "SINKS", "ALIBI", "LENGTHS", "CAUSAL", "WINDOW"), False), "ONE_PASS": True,
        "MASK": 0, "SIZE": size, "V_SIZE": size, "BLOCK_D": size, "BLOCK_V": size,
    }  # fmt: skip
    built = _compiled(kernels.forward_kernel, capability, constants, _CODES, tile)
    registers, spills = _resources(built.asm["cubin"])
    scores = block * block / (32 * tile["num_warps"])
    return Count(registers, built.metadata.shared, spills, len(_main_loop(built.asm["cubin"])) / scores)


def backward_count(capability: int, size: int, of_keys: bool, dtype: str = "fp16") -> Count:
    from lutc.kernels import attention as kernels

    tile = kernels.tile(size, 4 if dtype == "fp32" else 2, backward=True)
    constants = forward_constants(size, "table")
    names = set(kernels.backward_kernel.arg_names)
    constants = {name: value for name, value in constants.items() if name in names} | {"OF_KEYS": of_keys}
    built = _compiled(kernels.backward_kernel, capability, constants, {**_FLOATS, "": f"*{dtype}"}, tile)
    registers, spills = _resources(built.asm["cubin"])
    return Count(registers, built.metadata.shared, spills, float("nan"))


def instructions() -> None:
    print("| | head | exponential | registers | shared | spills | instructions a score | to exp2 |")
    print("|---|---|---|---|---|---|---|---|")
    for capability in (90, 80, 100):
        for size in (128, 64, 256):
            base = None
            for name, exp, plan in (
                ("`tl.exp2`", "exp2", "cells"),
                ("cubic", "cubic", "cells"),
                ("table of codes", "table", "uniform"),
                ("table behind the period", "table", "cells"),
            ):
                found = forward_count(capability, size, exp, plan=plan)
                base = base or found.per_score
                print(f"| sm_{capability} | {size} | {name} | {found.registers} | {found.shared} | {found.spills} "
                      f"| {found.per_score:.1f} | {found.per_score / base:.2f} |", flush=True)  # fmt: skip
    print("\n| | head | in integers, blocks of | registers | shared | spills | instructions a score |")
    print("|---|---|---|---|---|---|---|")
    for capability in (90, 80, 100):
        for size, block in ((64, 64), (128, 64), (64, 128)):
            found = integer_count(capability, size, block)
            print(f"| sm_{capability} | {size} | {block} | {found.registers} | {found.shared} | {found.spills} "
                  f"| {found.per_score:.1f} |", flush=True)  # fmt: skip
    print("\n| | head | backward | registers | shared | spills |\n|---|---|---|---|---|---|")
    for capability in (80, 90, 100):
        for size in (64, 128, 256):
            for of_keys in (True, False):
                found = backward_count(capability, size, of_keys)
                what = "of keys and values" if of_keys else "of queries"
                print(f"| sm_{capability} | {size} | {what} | {found.registers} | {found.shared} | {found.spills} |",
                      flush=True)  # fmt: skip


_PEAK = """
import resource, sys, time, torch
from lutc.nn import LUTSoftmax
from lutc.nn.attention import attention
from lutc.nn.patching.attention import attend
form, n = sys.argv[1], int(sys.argv[2])
softmax = LUTSoftmax("exp_fplut")
def call(n):
    q, k, v = torch.randn(1, 9, n, 64), torch.randn(1, 3, n, 64), torch.randn(1, 3, n, 64)
    start = time.perf_counter()
    with torch.no_grad():
        if form == "torch":
            torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        elif form == "materialised":
            attend(softmax, q, k, v, is_causal=True, enable_gqa=True)
        else:
            attention(softmax, q, k, v, causal=True, rescale=form)
    return time.perf_counter() - start
call(64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
seconds = call(n)
print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def cpu() -> None:
    print("SmolLM2-135M's attention of one layer (9 heads, 3 of keys, size 64), causal, float32; a process for each")
    print("| tokens | form | time, of torch's | MiB more at the peak |\n|---|---|---|---|")
    for n in LENGTHS:
        torch_seconds = None
        for form in ("torch", "exact", "table", "none", "materialised"):
            if form == "materialised" and 2 * 9 * n * n * 4 > 16 << 30:
                print(f"| {n} | materialised | - | more than {2 * 9 * n * n * 4 >> 20} (not run) |", flush=True)
                continue
            run = subprocess.run(
                [sys.executable, "-c", _PEAK, form, str(n)], capture_output=True, text=True, check=True
            )
            seconds, peak = map(float, run.stdout.split())
            torch_seconds = torch_seconds or seconds
            name = {"torch": "torch's, exact", "none": "table, two passes", "exact": "table, one pass",
                    "table": "table, one pass, rescaled by it"}.get(form, form)  # fmt: skip
            print(f"| {n} | {name} | {seconds / torch_seconds:.1f} | {peak:.0f} |", flush=True)


def gpu() -> None:
    """Rows of a Markdown table: milliseconds (median) of the forward, and of forward and backward."""
    from lutc.kernels import attention as kernels
    from torch.nn import functional as F

    from lutc.nn import LUTSoftmax
    from lutc.nn.attention import attention
    from lutc.nn.attention_blocks import Form, Operands
    from lutc.nn.row_tables import plans_of

    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; 32 heads, 8 of keys, bfloat16, causal")
    print("| batch x tokens | size | form | forward ms | TFLOP/s | with backward ms |\n|---|---|---|---|---|---|")
    codes, period = (LUTSoftmax(name).cuda() for name in ("exp_16", "exp_fplut"))
    for batch, n, size in ((4, 2048, 128), (1, 16384, 128), (4, 4096, 64)):
        q = torch.randn(batch, 32, n, size, dtype=torch.bfloat16, device="cuda", requires_grad=True)
        k, v = (torch.randn(batch, 8, n, size, dtype=torch.bfloat16, device="cuda", requires_grad=True) for _ in "kv")
        plans = [plan.fast for plan in plans_of(period.words, period.meta)]
        form = Form(period.tables["exp"][1], False, size**-0.5, True, 0, 0, 0.0, "exact")
        given = Operands(q.detach(), k.detach(), v.detach(), None, None, None, None)
        calls = {
            "torch's": partial(F.scaled_dot_product_attention, q, k, v, is_causal=True, enable_gqa=True),
            "exp_16": partial(attention, codes, q, k, v, causal=True),
            "exp_fplut": partial(attention, period, q, k, v, causal=True),
            "kernel with exp2": partial(kernels.forward, given, plans, form, "exp2"),
            "kernel with the cubic": partial(kernels.forward, given, plans, form, "cubic"),
        }
        upstream = torch.randn_like(q)
        for name, call in calls.items():
            with torch.no_grad():
                forward = _milliseconds(call)
            both = "-" if name.startswith("kernel") else f"{_milliseconds(partial(_both, call, upstream)):.3f}"
            rate = 4 * batch * 32 * n * n * size / 2 / forward / 1e9
            print(f"| {batch} x {n} | {size} | {name} | {forward:.3f} | {rate:.0f} | {both} |", flush=True)


def _both(call, upstream) -> None:
    call().backward(upstream)


def _milliseconds(call, seconds: float = 0.5) -> float:
    call()
    torch.cuda.synchronize()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop))
    return sorted(times)[len(times) // 2]


if __name__ == "__main__":
    sections = {"instructions": instructions, "cpu": cpu, "gpu": gpu}
    if len(sys.argv) != 2 or sys.argv[1] not in sections:
        raise SystemExit(__doc__)
    sections[sys.argv[1]]()
