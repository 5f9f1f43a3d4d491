"""Count the instructions that a GPU would issue per element, from Triton's disassembly; no GPU is needed.

    python benchmarks/kernel_instructions.py

Compiles the elementwise kernels and those that look codes up ahead of time for sm_80, sm_90 and sm_100 with the
assembler that Triton brings, disassembles them with its nvdisasm, and counts the instructions on the path of a full
block: all from the entry to the EXIT of the unmasked branch. The figure is instructions of one thread / elements of one
thread (lane-instructions per element).
"""

from __future__ import annotations

import collections
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import triton
from lutc.kernels import channels, codes, pwl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lutc.lower.lowering import lower
from lutc.table import library

TARGETS = (80, 90, 100)
POINTERS = {"fp32": "*fp32", "fp16": "*fp16", "bf16": "*bf16", "int8": "*i8"}
CODES = (("i8", "i8"), ("i8", "fp32"), ("i16", "i16"))
CHANNELS = {"runs": channels.RUNS, "side by side": channels.SIDE, "short runs": channels.SHORT}
PLANS = {"uniform": 1, "cells": 2, "search": 3, "direct": 4, "reduced": 6}


@dataclass(frozen=True)
class Count:
    """`per_element`: instructions on a full block's path per element; `opcodes`: how often each occurs there; `all`:
    the whole kernel.
    """

    per_element: float
    opcodes: collections.Counter
    everything: collections.Counter


def compile_kernel(kind: str, dtype: str, capability: int, flags: int = 1, mode: str = "value") -> bytes:
    """The cubin of the elementwise kernel as a launch on aligned tensors would compile it."""
    pointers = {
        "x_ptr": POINTERS[dtype],
        "y_ptr": POINTERS[dtype],
        "out_ptr": POINTERS["fp32" if dtype == "int8" else dtype],
        "words": "*i32",
    }
    constants = {
        "KIND": PLANS[kind],
        "FLAGS": flags,
        "MODE": mode,
        "ROWS": False,
        "BLOCK": pwl.BLOCK,
        "x_stride": 1,
        "y_stride": 1,
    }
    numbers = {"scale": "fp32", "zero_point": "fp32"}
    return cubin(pwl.elementwise, pointers, numbers, constants, capability, pwl.OPTIONS)


def cubin(kernel, pointers: dict, numbers: dict, constants: dict, capability: int, options: dict) -> bytes:
    """A kernel compiled for aligned pointers; arguments that are named nowhere are int32."""
    signature = {
        name: "constexpr" if name in constants else pointers.get(name) or numbers.get(name, "i32")
        for name in kernel.arg_names
    }
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names) if signature[name].startswith("*")
    }
    source = ASTSource(kernel, signature, constants, aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["cubin"]


def compile_codes(given: str, found: str, capability: int) -> bytes:
    """The cubin of the kernel that looks codes up; `given`, `found`: as Triton names them ("i8", "fp32")."""
    pointers = {"q": f"*{given}", "table": f"*{found}", "out": f"*{found}"}
    constants = {"MASK": 255 if given == "i8" else 65535, "BLOCK": codes.BLOCK}
    return cubin(codes.codes_kernel, pointers, {}, constants, capability, {"num_warps": codes.WARPS})


def compile_gradients(name: str, element: str, capability: int) -> bytes:
    """The cubin of a kernel of `lutc.kernels.codes` that takes floats through codes, or gradients back."""
    kernel = getattr(codes, name)
    pointers = {name: f"*{element}" for name in ("x", "out", "values", "gradient")}
    pointers |= {"scale": "*fp32", "sums": "*fp32", "slopes": "*fp32", "bits": "*u8", "codes": "*u8"}
    every = {"CODES": True, "BITS": True, "SLOPES": True, "MASK": 255, "BLOCK": codes.NARROW}
    constants = {name: value for name, value in every.items() if name in kernel.arg_names}
    numbers = {"low": "fp32", "high": "fp32"}
    return cubin(kernel, pointers, numbers, constants, capability, {"num_warps": codes.MORE})


def compile_channels(
    name: str, element: str, found: str, layout: int, capability: int, keep: bool = True
) -> tuple[bytes, int]:
    """The cubin of a kernel of `lutc.kernels.channels`, and the elements of a thread. element: of what it reads; found:
    of what it writes; layout: as `lutc.kernels.channels.layout` names it; keep: for the backward pass.
    """
    kernel = getattr(channels, name)
    pointers = {given: f"*{element}" for given in ("q", "x", "gradient")}
    pointers |= {"out": f"*{found}", "tables": f"*{found}", "rows": "*i32", "zeros": "*i32", "bits": "*u8"}
    pointers |= {"codes": "*u8", "scales": "*fp32", "values": "*fp32", "slopes": "*fp32", "sums": "*fp32"}
    block = {"codes_kernel": channels.WIDE, "columns_kernel": channels.BLOCK}.get(name, channels.NARROW)
    warps = channels.WARPS if name in ("codes_kernel", "columns_kernel") else channels.MORE
    every = {"LAYOUT": layout, "FAR": False, "SIZE": 256, "MASK": 255, "VALUES": True, "CODES": keep, "BITS": keep}
    every |= {"SLOPES": True, "TALL": channels.TALL, "BLOCK": block}
    constants = {given: value for given, value in every.items() if given in kernel.arg_names}
    built = cubin(kernel, pointers, {}, constants, capability, {"num_warps": warps})
    return built, block // (32 * warps)


def disassemble(cubin: bytes) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, "-c", file.name], capture_output=True, text=True, check=True).stdout


_INSTRUCTION = re.compile(r"^\s*(?:/\*[0-9a-f]+\*/)?\s*(?:@!?U?P\d+\s+)?([A-Z][A-Z0-9_.]*)\b")


def _reads_and_writes(block) -> bool:
    """Whether a block loads, and stores without masks."""
    stores = [line for op, line in block if op.startswith("STG")]
    return bool(stores) and not any("@" in line for line in stores) and any(op.startswith("LDG") for op, _ in block)


def count(sass: str, elements: int) -> Count:
    """Count a full block's path: the entry, and the one block of the listing (cut at labels, branches and EXITs)
    without masked stores.
    """
    lines = [line for line in sass.splitlines() if line.strip()]
    blocks, current = [], []
    for line in lines:
        label = re.match(r"^\.L_", line.strip())
        match = None if label else _INSTRUCTION.match(line)
        if label:
            blocks.append(current)
            current = []
        elif match:
            current.append((match.group(1), line))
            if match.group(1).startswith(("EXIT", "BRA")):
                blocks.append(current)
                current = []
    blocks.append(current)
    everything = collections.Counter(op for block in blocks for op, _ in block)
    full = [block for block in blocks[1:] if _reads_and_writes(block)]
    if len(full) != 1:
        raise ValueError(f"expected one block that reads and writes without masks; found {len(full)} of {len(blocks)}")
    opcodes = collections.Counter(op for op, _ in blocks[0] + full[0] if op != "NOP")
    return Count(sum(opcodes.values()) / elements, opcodes, everything)


def main() -> None:
    elements = pwl.BLOCK // (32 * pwl.WARPS)
    print(f"{'plan':8} {'dtype':6} {'mode':9}" + "".join(f"  sm_{c:<5}" for c in TARGETS) + "accesses (sm_90)")
    for kind, dtypes in (
        ("uniform", ("fp16", "bf16", "fp32", "int8")),
        ("cells", ("fp16", "bf16", "fp32")),
        ("direct", ("fp16", "bf16")),
    ):
        for dtype in dtypes:
            for mode in ("value",) if dtype == "int8" else ("value", "product", "gradient"):
                row, shown = "", ""
                for capability in TARGETS:
                    found = count(disassemble(compile_kernel(kind, dtype, capability, mode=mode)), elements)
                    row += f"  {found.per_element:8.2f}"
                    if capability == 90:
                        shown = ", ".join(
                            f"{n} {op}"
                            for op, n in sorted(found.opcodes.items())
                            if op.startswith(("LDG", "STG", "LDL", "STL"))
                        )
                print(f"{kind:8} {dtype:6} {mode:9}{row}  {shown}")
    print("\ncodes through a table")
    for given, found in CODES:
        elements_here = codes.BLOCK // (32 * codes.WARPS)
        row = [count(disassemble(compile_codes(given, found, c)), elements_here).per_element for c in TARGETS]
        print(f"{given + ' to ' + found:25}" + "".join(f"  {value:8.2f}" for value in row))
    print("\ncodes through the tables of channels")
    for layout, number in CHANNELS.items():
        for given, found in CODES[:2]:
            row = []
            for capability in TARGETS:
                built, elements_here = compile_channels("codes_kernel", given, found, number, capability)
                row.append(count(disassemble(built), elements_here).per_element)
            print(f"{given + ' to ' + found + ', ' + layout:25}" + "".join(f"  {value:8.2f}" for value in row))
    print("\nbehind range reduction, float32")
    for name in ("exp", "sin", "log", "reciprocal", "rsqrt", "square"):
        flags = pwl.arguments(lower(library.load(f"{name}_fplut")["fp32"], "fp32", ("reduced",)).meta)["FLAGS"]
        found = [
            count(disassemble(compile_kernel("reduced", "fp32", capability, flags)), elements) for capability in TARGETS
        ]
        print(f"{name:25}" + "".join(f"  {f.per_element:8.2f}" for f in found))


if __name__ == "__main__":
    main()
