"""Attention with a table's exponential: instructions by the disassembly (no GPU needed), and time and memory on a CPU.

    python benchmarks/attention.py instructions       ahead of time for sm_80, sm_90, sm_100
    python benchmarks/attention.py cpu                against the materialising softmax: time and peak memory

On a card `python benchmarks/gpu.py attention` times it beside the same kernel with exp2 and torch's own.
`instructions` counts what the loop over whole blocks of keys issues for each score: instructions of a thread in the
loop without masks, over the scores of a block that fall to a thread. Registers, bytes of shared memory and spills are
the assembler's.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

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
    return opcode.startswith(("HMMA", "HGMMA", "IMMA", "IGMMA", "UTCHMMA", "UTCIMMA"))


def _main_loop(cubin: bytes, scores: float) -> list[str]:
    """Opcodes of the loop over whole blocks: the shortest with matrix products that packs the weights of its scores for
    the second of them; loops over blocks at an edge compare positions too. Without such a one (float32, integers), the
    longest loop.
    """

    def packs(loop):
        return sum(opcode.startswith("F2FP") for opcode in loop) >= scores / 2

    found = loops(_disassembled(cubin))
    return min((one for one in found if packs(one) and any(map(_is_product, one))), key=len, default=None) or max(
        found, key=len, default=[]
    )


def forward_constants(size: int, exp: str) -> dict:
    """exp: "exp2", "cubic", "even" (16 bits), or "table" behind a period by its plan (float32)."""
    from lutc.kernels import attention as kernels

    block = kernels.blocks_of(size)
    return {
        "E_KIND": 2, "E_FLAGS": 0, "PERIOD": exp != "even", "R_KIND": 0, "R_FLAGS": 0, "T_KIND": 0, "T_FLAGS": 0,
        "EXP": exp, "RESCALE": "exact", "MASK": 0, "SINKS": False, "ALIBI": False, "LENGTHS": False, "CAUSAL": False,
        "WINDOW": False, "SOFTCAP": False, "PLAIN": True, "SIZE": size, "V_SIZE": size, "BLOCK_D": block,
        "BLOCK_V": block, "PRECISION": "tf32",
    }  # fmt: skip


def forward_count(capability: int, size: int, exp: str, dtype: str = "fp16") -> Count:
    """Of the forward kernel without masks, as a launch on aligned tensors compiles it."""
    from lutc.kernels import attention as kernels

    tile = kernels.tile(size, 4 if dtype == "fp32" else 2)
    constants = forward_constants(size, exp)
    if dtype == "fp32":
        constants["PRECISION"] = "ieee"
    kinds = {**_FLOATS, "": f"*{dtype}"}
    return _count(_compiled(kernels.forward_kernel, capability, constants, kinds, tile), tile)


def _count(built, tile: dict) -> Count:
    registers, spills = _resources(built.asm["cubin"])
    scores = tile["BLOCK_M"] * tile["BLOCK_N"] / (32 * tile["num_warps"])
    return Count(registers, built.metadata.shared, spills, len(_main_loop(built.asm["cubin"], scores)) / scores)


def integer_count(capability: int, size: int, block: int = 64) -> Count:
    """Of the kernel in integers, one pass without masks."""
    from lutc.kernels import integer_attention as kernels

    tile = {"BLOCK": block, **kernels.options(block)}
    constants = {
        **dict.fromkeys(("RECIPROCAL", "SINKS", "ALIBI", "LENGTHS", "CAUSAL", "WINDOW"), False), "ONE_PASS": True,
        "MASK": 0, "SIZE": size, "V_SIZE": size, "BLOCK_D": size, "BLOCK_V": size,
    }  # fmt: skip
    built = _compiled(kernels.forward_kernel, capability, constants, _CODES, tile)
    return _count(built, {**tile, "BLOCK_M": block, "BLOCK_N": block})


def backward_count(capability: int, size: int, of_keys: bool, dtype: str = "fp16") -> Count:
    from lutc.kernels import attention, attention_backward

    kernel = attention_backward.keys_kernel if of_keys else attention_backward.queries_kernel
    tile = attention.tile(size, 4 if dtype == "fp32" else 2, backward=True)
    constants = {
        name: value for name, value in forward_constants(size, "table").items() if name in set(kernel.arg_names)
    }
    built = _compiled(kernel, capability, constants, {**_FLOATS, "": f"*{dtype}"}, tile)
    registers, spills = _resources(built.asm["cubin"])
    return Count(registers, built.metadata.shared, spills, float("nan"))


def instructions() -> None:
    print("| | head | exponential | registers | shared | spills | instructions a score | to exp2 |")
    print("|---|---|---|---|---|---|---|---|")
    for capability in (90, 80, 100):
        for size in (128, 64, 256):
            base = None
            for name, exp in (("`tl.exp2`", "exp2"), ("cubic", "cubic"), ("table", "even")):
                found = forward_count(capability, size, exp)
                base = base or found.per_score
                print(f"| sm_{capability} | {size} | {name} | {found.registers} | {found.shared} | {found.spills} "
                      f"| {found.per_score:.1f} | {found.per_score / base:.2f} |", flush=True)  # fmt: skip
    print("\n| | head | float32 | registers | shared | spills | instructions a score |\n|---|---|---|---|---|---|---|")
    for capability in (90, 80, 100):
        found = forward_count(capability, 64, "table", "fp32")
        print(f"| sm_{capability} | 64 | table behind the period | {found.registers} | {found.shared} | {found.spills} "
              f"| {found.per_score:.1f} |", flush=True)  # fmt: skip
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
from lutc.nn import IntegerAttention, LUTSoftmax
from lutc.nn.attention import attention
from lutc.nn.patching.attention import attend
form, n = sys.argv[1], int(sys.argv[2])
softmax, integer = LUTSoftmax("exp_fplut"), IntegerAttention("exp_fplut")
def call(n):
    q, k, v = torch.randn(1, 9, n, 64), torch.randn(1, 3, n, 64), torch.randn(1, 3, n, 64)
    start = time.perf_counter()
    with torch.no_grad():
        if form == "torch":
            torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        elif form == "materialised":
            attend(softmax, q, k, v, is_causal=True, enable_gqa=True)
        elif form == "integer":
            integer(q, k, v, causal=True)
        else:
            attention(softmax, q, k, v, causal=True, rescale=form)
    return time.perf_counter() - start
call(64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
seconds = call(n)
print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


_NAMES = {
    "torch": "torch's, exact",
    "none": "table, two passes",
    "exact": "table, one pass",
    "table": "table, one pass, rescaled by it",
    "integer": "in integers, one pass",
}


def cpu() -> None:
    print("SmolLM2-135M's attention of one layer (9 heads, 3 of keys, size 64), causal, float32; a process for each")
    print("| tokens | form | time, of torch's | MiB more at the peak |\n|---|---|---|---|")
    for n in LENGTHS:
        torch_seconds = None
        for form in ("torch", "exact", "table", "none", "integer", "materialised"):
            if form == "materialised" and 2 * 9 * n * n * 4 > 16 << 30:
                print(f"| {n} | materialised | - | more than {2 * 9 * n * n * 4 >> 20} (not run) |", flush=True)
                continue
            run = subprocess.run(
                [sys.executable, "-c", _PEAK, form, str(n)], capture_output=True, text=True, check=True
            )
            seconds, peak = map(float, run.stdout.split())
            torch_seconds = torch_seconds or seconds
            name = _NAMES.get(form, form)
            print(f"| {n} | {name} | {seconds / torch_seconds:.1f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    sections = {"instructions": instructions, "cpu": cpu}
    if len(sys.argv) != 2 or sys.argv[1] not in sections:
        raise SystemExit(__doc__)
    sections[sys.argv[1]]()
