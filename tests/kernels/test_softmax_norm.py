"""The Triton kernels of softmax and norms against the torch form: in Triton's interpreter where there is no GPU, and
compiled ahead of time.
"""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.helpers.handmade import cell_tables, float_tables, int_tables

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton")

from lutc.functions import FUNCTIONS  # noqa: E402
from lutc.nn import LUTLayerNorm, LUTRMSNorm, LUTSoftmax, rows  # noqa: E402
from lutc.nn.row_tables import plans_of  # noqa: E402
from lutc.table.bodies import Cells  # noqa: E402
from lutc.table.prologues import PeriodPrologue  # noqa: E402
from lutc.table.table import Table  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EDGES = np.linspace(0, math.log(2), 65)
TABLES = {
    "cells, division": (float_tables("exp", -12, 0, 40), None),
    "cells": (float_tables("exp", -12, 0, 40), float_tables("reciprocal", 1, 2, 16)),
    "uniform": (int_tables("exp")["4"], int_tables("reciprocal", 8, range(3, 7))["6"]),
    "pieces": (
        cell_tables("exp", [-20, -8, -2, 0, 1], [8, 32, 32, 1], left=FUNCTIONS["exp"].left),
        cell_tables("reciprocal", [0.5, 1, 2, 4], [4, 32, 4]),
    ),
    "exp by its period": (
        Table(
            Cells(np.float32([0, math.log(2)]).astype(float), (64,), np.exp(EDGES).astype(np.float32)),
            PeriodPrologue(math.log(2), 1),
        ),
        None,
    ),
}
RSQRT = {"cells": float_tables("rsqrt", 1, 4, 40), "uniform": int_tables("rsqrt", 16, range(4, 7))}
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of the interpreter, where a GPU is silent


def close(got, want):
    tolerance = {torch.float32: 2e-6}.get(got.dtype, 2 * torch.finfo(got.dtype).eps)
    return torch.allclose(got.double(), want.double(), rtol=tolerance, atol=2e-7, equal_nan=True)


def inputs(n, dtype, count=6):
    x = torch.randn(count, n, generator=torch.Generator().manual_seed(n)) * 4
    if n > 4:
        x[1, 2:4] = -math.inf
        x[2, 1] = math.nan
        x[3] = -math.inf
        x[4, 3] = math.inf
        x[5, ::2] = torch.finfo(dtype).min
    return x.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 2, 7, 64, 129, 1000, 20000])
@pytest.mark.parametrize("name", TABLES)
def test_softmax(name, n, dtype):
    from lutc.kernels.softmax import softmax

    if n == 20000 and dtype != torch.float32 and name != "cells":
        pytest.skip("long rows once per dtype")
    module, x = LUTSoftmax(*TABLES[name]), inputs(n, dtype)
    plans = plans_of([w.to(DEVICE) for w in module.words], module.meta)
    out = torch.full_like(x, math.nan, device=DEVICE)
    softmax(x.to(DEVICE), out, plans[0].fast, plans[1].fast if len(plans) > 1 else None, module.tables["exp"][1])
    assert close(out.cpu(), module(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 2, 7, 64, 129, 1000, 20000])
@pytest.mark.parametrize("name", RSQRT)
@pytest.mark.parametrize("centred", [True, False])
def test_norm(name, n, dtype, centred):
    from lutc.kernels.norm import norm

    generator = torch.Generator().manual_seed(n)
    x = (torch.randn(7, n, generator=generator) * torch.logspace(-3, 3, 7)[:, None]).to(dtype)
    if n > 4:
        x[0, 1], x[1, 2] = math.nan, math.inf
        x[2] = 0.0
        x[3] = 2.0
    weight, bias = (torch.randn(n, generator=generator).to(dtype) for _ in range(2))
    module = (
        LUTLayerNorm(n, rsqrt=RSQRT[name], dtype=dtype)
        if centred
        else LUTRMSNorm(n, 1e-6, rsqrt=RSQRT[name], dtype=dtype)
    )
    module.weight.data = weight
    if centred:
        module.bias.data = bias
    plans = plans_of([w.to(DEVICE) for w in module.words], module.meta)
    out = torch.full_like(x, math.nan, device=DEVICE)
    mean, variance = (torch.full((7, 1), math.nan, device=DEVICE) for _ in range(2))
    norm(
        x.to(DEVICE),
        weight.to(DEVICE),
        bias.to(DEVICE) if centred else None,
        out,
        mean,
        variance,
        module.eps,
        centred,
        plans[0].fast,
    )
    want, want_mean, want_variance = rows.norm(
        x, weight, bias if centred else None, module.eps, centred, module.words, module.meta
    )
    # a sum in another order moves a variance by an ulp or two, which at a cut of the table is its step there
    got, want = out.double().cpu(), want.double().detach()
    step = {"cells": 5e-5, "uniform": 3e-2}[name]
    assert torch.allclose(
        got,
        want,
        rtol=step + 2 * torch.finfo(dtype).eps,
        atol=1e-3 * float(dtype == torch.float32) + 2e-2,
        equal_nan=True,
    )
    assert torch.allclose(
        got[3:],
        want[3:],
        rtol=step + 2 * torch.finfo(dtype).eps,
        atol=step + 4 * torch.finfo(dtype).eps,
        equal_nan=True,
    )
    assert torch.allclose(mean.cpu(), want_mean, rtol=1e-4, atol=1e-4, equal_nan=True)
    assert torch.allclose(variance.cpu(), want_variance, rtol=1e-4, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("square", [1e-45, 1e-44, 1.1e-38, 1.2e-38, 1e-20, 0.25, 1.0, 3.9999998, 4.0, 65504.0, 3.4e38])
def test_rsqrt_of_every_size(square):
    from lutc.kernels.norm import norm

    module = LUTRMSNorm(1, rsqrt=RSQRT["cells"], elementwise_affine=False)
    plans = plans_of([w.to(DEVICE) for w in module.words], module.meta)
    x, scratch = torch.zeros(1, 1, device=DEVICE), [torch.empty(1, 1, device=DEVICE) for _ in range(3)]
    # a row of 0 with eps = square: nothing but the root of eps, so x is 0 and a bias carries no root; use x with x^2 =
    # 0 beside eps
    x[0] = 1e-30
    norm(x, None, None, *scratch, square, False, plans[0].fast)
    want = 1e-30 / math.sqrt(float(np.float32(square)))
    assert scratch[0].item() == pytest.approx(want, rel=2e-3, abs=1e-44)


AHEAD = """
import re, subprocess, sys, tempfile
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lutc.kernels import norm, softmax

POINTERS = {"x_ptr", "out_ptr", "w_ptr", "b_ptr", "mean_ptr", "variance_ptr", "e_words", "r_words", "s_words"}
FLOATS = {"eps", "high", "low", "inverse", "last"}
tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def build(kernel, n, capability, dtype, constants):
    constants = {**constants, **softmax.tile(n)}
    warps = constants.pop("num_warps")

    def kind(name):
        if name in constants:
            return "constexpr"
        if name in POINTERS:
            return "*i32" if name.endswith("words") else "*fp32" if name in ("mean_ptr", "variance_ptr") else dtype
        return "fp32" if name in FLOATS else "i32"

    multiples = [i for i, name in enumerate(kernel.arg_names) if name in POINTERS or name == "n"]
    aligned = {(i,): [["tt.divisibility", 16]] for i in multiples}
    signature = {name: kind(name) for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": warps, "enable_fp_fusion": False}
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        return subprocess.run([tools / "nvdisasm", file.name], capture_output=True, text=True, check=True).stdout


capability = int(sys.argv[1])
exp = {"E_KIND": 1, "E_FLAGS": 1, "R_KIND": 2, "R_FLAGS": 0, "PERIOD": False}
root = {"S_KIND": 1, "S_FLAGS": 0, "CENTRED": True, "WEIGHT": True, "BIAS": True}
every = capability == 90
for n in (64, 4096, 16384, 131072) if every else (4096, 131072):
    long = n > softmax.LONGEST
    kernels = (softmax.softmax_long_rows, norm.norm_long_rows) if long else (softmax.softmax_rows, norm.norm_rows)
    for kernel, constants in zip(kernels, (exp, root)):
        for dtype in ("*fp16", "*fp32") if every else ("*fp16",):
            text = build(kernel, n, capability, dtype, constants)
            patterns = (r"LDG\\.E\\S*128", r"STG\\.E\\S*128", r"\\bSTL\\b")
            loads, stores, spills = (len(re.findall(p, text)) for p in patterns)
            print(kernel.fn.__name__, n, dtype, loads, stores, spills)
build(softmax.softmax_rows, 1024, capability, "*bf16", {**exp, "E_KIND": 3, "R_KIND": 0, "PERIOD": True})
"""


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_compiles_ahead_of_time(capability):
    """16-byte loads and stores and no spills, in a process of its own, since the interpreter is chosen at import."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", AHEAD, str(capability)], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 0, run.stderr[-2000:]
    lines = [line.split() for line in run.stdout.splitlines()]
    assert len(lines) == (16 if capability == 90 else 4)
    for kernel, n, dtype, loads, stores, spills in lines:
        assert int(loads) > 0 and int(stores) > 0 and int(spills) == 0, (kernel, n, dtype)
