"""The Triton kernels against plain torch in Triton's interpreter, and compiled ahead of time. Each runs in a process of
its own, because Triton decides at import whether it interprets.
"""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

INTERPRETED = """
import itertools, sys
import torch
from lutc.kernels.taylor_route import route
from lutc.kernels.taylor_product import product, tiles, BLOCK_N

torch.manual_seed(0)
for n, k, d in [(1, 1, 5), (7, 3, 33), (65, 70, 40), (130, 129, 64)]:
    wide = torch.full((n, d + 3), torch.nan)
    x = wide[:, :d].copy_(torch.randn(n, d))            # rows are strided; what lies between them is poison
    c = torch.randn(k, d)
    half = c.square().sum(1) / 2
    found = route(x, c, half)
    brute = torch.cdist(x.double(), c.double()).argmin(1)
    assert torch.equal(found, brute), ("route", n, k, d)
c = torch.zeros(5, 4)
assert (route(torch.randn(9, 4), c, torch.zeros(5)) == 0).all(), "ties go to the first"
assert ((route(torch.full((3, 4), torch.nan), c, torch.zeros(5)) >= 0)).all(), "NaN gets a valid index"
assert route(torch.zeros(0, 4), c, torch.zeros(5)).shape == (0,)

shapes = [(1, 1, 3, 5), (40, 1, 70, 33), (100, 6, 65, 20), (33, 50, 17, 64)]
for (n, k, o, p), dtype in itertools.product(shapes, [torch.float32, torch.float16, torch.bfloat16, torch.int8]):
    z = torch.full((n, p + 1), torch.nan)[:, :p].copy_(torch.randn(n, p))
    owner = torch.randint(k, (n,)) // 2 * 2  # every other centre is empty
    slopes = (30 * torch.randn(k, o, p)).clamp(-127, 127).to(dtype)
    scales = torch.rand(k, o) / 30 if dtype == torch.int8 else None
    bias = torch.randn(k, o)
    real = slopes.double() if scales is None else slopes.double() * scales.double()[..., None]
    expected = bias[owner] + torch.einsum("nop,np->no", real[owner], z.double())
    found = product(z, owner, slopes, scales, bias).double()
    torch.testing.assert_close(found, expected.double(), rtol=1e-4, atol=1e-3)
    if scales is None:                                   # the transposed product of the backward pass: other strides
        g = torch.randn(n, o)
        expected = torch.einsum("nop,no->np", real[owner], g.double())
        found = product(g, owner, slopes.transpose(1, 2), None, torch.zeros(k, p)).double()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
nothing = torch.zeros(0, dtype=torch.int64)
assert product(torch.zeros(0, 4), nothing, torch.zeros(2, 3, 4), None, torch.zeros(2, 3)).shape == (0, 3)

owner = torch.randint(9, (500,)); owner[owner == 4] = 5
centre, first, end = tiles(owner, 9)
places = [(int(c), place) for c, a, b in zip(centre, first, end) for place in range(int(a), int(b))]
assert sorted(place for _, place in places) == list(range(500)) and (end - first <= BLOCK_N).all()
ordered = owner.sort().values
assert all(ordered[place] == c for c, place in places)
print("interpreted ok")
"""

COMPILED = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lutc.kernels import taylor_product, taylor_route

def sources():
    floats = ["x_ptr", "centres_ptr", "half_norms_ptr"]
    route = {**dict.fromkeys(floats, "*fp32"), "owner_ptr": "*i64", **dict.fromkeys(["n", "k", "d", "x_stride"], "i32")}
    blocks = {"BLOCK_N": taylor_route.BLOCK_N, "BLOCK_K": taylor_route.BLOCK_K, "BLOCK_D": taylor_route.BLOCK_D}
    yield taylor_route.taylor_route_kernel, route, blocks
    for slopes, scaled in [("*fp32", False), ("*fp16", False), ("*bf16", False), ("*i8", True)]:
        product = {**dict.fromkeys(["z_ptr", "scales_ptr", "bias_ptr", "y_ptr"], "*fp32"), "slopes_ptr": slopes}
        product |= dict.fromkeys(["sequence_ptr", "tile_centre_ptr", "tile_first_ptr", "tile_end_ptr"], "*i64")
        product |= dict.fromkeys(["o", "p", "z_stride", "slopes_stride_k", "slopes_stride_o", "slopes_stride_p"], "i32")
        sizes = ("BLOCK_N", "BLOCK_O", "BLOCK_P")
        blocks = {"SCALED": scaled, **{size: getattr(taylor_product, size) for size in sizes}}
        yield taylor_product.taylor_product_kernel, product, blocks

for kernel, types, blocks in sources():
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    for capability in (80, 90):
        source = ASTSource(kernel, signature, constexprs=blocks)
        binary = triton.compile(source, target=GPUTarget("cuda", capability, 32))
        assert f"sm_{capability}" in binary.asm["ptx"] and len(binary.asm["cubin"]) > 1000
        print(kernel.__name__, types.get("slopes_ptr", ""), capability, "shared", binary.metadata.shared)
"""


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=540
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_kernels_in_the_interpreter():
    assert "interpreted ok" in run(INTERPRETED, TRITON_INTERPRET="1")


@pytest.mark.slow
def test_kernels_compile_for_sm_80_and_sm_90(tmp_path):
    lines = run(COMPILED, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path)).splitlines()
    assert len(lines) == 10
