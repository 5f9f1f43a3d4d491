"""The Triton float16 operations against numpy's on bits, in Triton's interpreter where there is no GPU."""

import os
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton")

from lutc.formats.float16 import float16_add, float16_mul  # noqa: E402

EVERY = np.arange(1 << 16).astype(np.uint16)


def run(a, b, truncate):
    from lutc.kernels import float16

    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.from_numpy(v.view(np.float16)).to(device) for v in (a, b))
    sums, products = torch.full_like(a, float("nan")), torch.full_like(a, float("nan"))
    float16.launch(a, b, sums, products, truncate, block=1 << 15)
    return sums.cpu().numpy().view(np.uint16), products.cpu().numpy().view(np.uint16)


@pytest.mark.parametrize("rounding", ["rne", "trunc"])
def test_equal_numpy_on_bits(rounding):
    """Every code with codes near it, far from it, with boundary codes, and a size that fills no whole block."""
    rng = np.random.default_rng(0)
    others = [rng.permutation(EVERY), EVERY ^ 0x8000, EVERY ^ 0x8001, EVERY + np.uint16(1024)]
    others += [
        np.full(1 << 16, code, np.uint16)
        for code in (0, 1, 0x8000, 0x3FF, 0x400, 0x3C01, 0x7BFF, 0xFBFF, 0x7C00, 0x7E00)
    ]
    a, b = np.tile(EVERY, len(others))[:-5], np.concatenate(others)[:-5]
    sums, products = run(a, b, rounding == "trunc")
    np.testing.assert_array_equal(sums, float16_add(a, b, rounding))
    np.testing.assert_array_equal(products, float16_mul(a, b, rounding))


def test_nothing_to_do():
    empty = np.zeros(0, np.uint16)
    sums, products = run(empty, empty, False)
    assert sums.size == products.size == 0


@pytest.mark.parametrize("truncate", [False, True])
def test_compiles_for_a_gpu(truncate):
    """Ahead of time, where there is no GPU too: in a process of its own, since the interpreter is chosen at import."""
    script = f"""
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lutc.kernels.float16 import arithmetic_kernel
pointers = dict.fromkeys(("a", "b", "sums", "products"), "*fp16")
constants = {{"TRUNCATE": {truncate}, "BLOCK": 1024}}
signature = {{**pointers, "n_elements": "i32", **dict.fromkeys(constants, "constexpr")}}
source = ASTSource(fn=arithmetic_kernel, signature=signature, constexprs=constants)
print(len(triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]))
"""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 1000
