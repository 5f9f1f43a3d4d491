"""The Triton kernels of integer softmax and norms: in Triton's interpreter where there is no GPU against the CPU's
codes, bit for bit, and compiled ahead of time.
"""

import os
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported: its own functions are interpreted too
pytest.importorskip("triton")

from lutc.kernels import integer_rows as kernels  # noqa: E402

from lutc.nn import IntegerLayerNorm, IntegerRMSNorm, IntegerSoftmax  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::lutc.errors.ScaleWarning")
KINDS = {8: torch.int8, 16: torch.int16}
SCALES = {8: 2.0**-4, 16: 0.0005}


def codes(bits, n):
    rng, half = np.random.default_rng(n), 1 << (bits - 1)
    q = rng.integers(-half, half, (6, n))
    q[0] = half - 1
    q[1, 1:] = -half
    q[2] = np.clip(rng.normal(half // 3, half // 20, n).round(), -half, half - 1)
    q[3] = -half
    q[4] = np.arange(n) % 2
    return torch.from_numpy(q).to(KINDS[bits])


def on_device(*tensors):
    return [None if t is None else t.to(DEVICE) for t in tensors]


@pytest.mark.parametrize("n", [1, 64, 129, pytest.param(20000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("dtype", "out_scale"), [(torch.uint8, 2.0**-8), (torch.int8, 1 / 200), (torch.uint16, 2.0**-16)]
)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("masked", [False, True])
def test_softmax(bits, dtype, out_scale, n, masked):
    if (n == 20000 and (masked != (bits == 16) or dtype == torch.int8)) or (n == 64 and masked):
        pytest.skip("fewer of the long rows and of the masked ones")
    module, q = IntegerSoftmax(scale=SCALES[bits], bits=bits, out_dtype=dtype, out_scale=out_scale), codes(bits, n)
    mask = torch.from_numpy(np.random.default_rng(1).random((6, n)) < 0.4) if masked else None
    lines = module.reciprocal
    found = torch.full((6 * n + 8,), 77, dtype=torch.int32).to(dtype).to(DEVICE)
    given = on_device(q, mask, module.weights)
    roots = on_device(lines.cuts, lines.slopes, lines.intercepts)
    kernels.softmax(*given, found[: 6 * n].view(6, n), roots, module.numbers)
    found = found.cpu().to(torch.int32)
    assert torch.equal(found[: 6 * n].view(6, n), module(q, mask).to(torch.int32)) and (found[6 * n :] == 77).all()


@pytest.mark.parametrize("n", [1, 129, pytest.param(20000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["layer", "rms", "plain"])
@pytest.mark.parametrize("bits", [8, 16])
def test_norm(bits, kind, n):
    generator = torch.Generator().manual_seed(n)
    weight, bias = torch.randn(n, generator=generator) + 1, torch.randn(n, generator=generator)
    options = {"scale": SCALES[bits], "zero_point": 3, "bits": bits, "out_dtype": KINDS[bits]}
    options["out_scale"] = 4.1 / torch.iinfo(KINDS[bits]).max
    if kind == "rms":
        module = IntegerRMSNorm(weight, **options)
    else:
        affine = (weight, bias) if kind == "layer" else (None, None)
        module = IntegerLayerNorm(*affine, n=n, **options)
    q, lines = codes(bits, n), module.rsqrt
    found = torch.full((6 * n + 8,), 77, dtype=KINDS[bits], device=DEVICE)
    given, roots = on_device(q, module.weight, module.bias), on_device(lines.cuts, lines.slopes, lines.intercepts)
    kernels.norm(*given, found[: 6 * n].view(6, n), roots, module.numbers)
    assert torch.equal(found[: 6 * n].view(6, n).cpu(), module(q)) and (found[6 * n :] == 77).all()


AHEAD = """
import re, subprocess, sys, tempfile
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lutc.kernels import integer_rows as kernels, softmax

CODES = {"q_ptr": 0, "out_ptr": 1, "keep_ptr": 2}
WORDS = {"cuts", "slopes", "intercepts", "weight_ptr", "bias_ptr"}
tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def build(kernel, n, capability, dtypes, constants):
    constants = {**constants, **softmax.tile(n)}
    warps = constants.pop("num_warps")

    def kind(name):
        if name in constants:
            return "constexpr"
        if name in CODES:
            return dtypes[CODES[name]]
        if name in WORDS:
            return "*i32"
        return "*i16" if name == "w_ptr" else "i64" if name == "epsilon" else "i32"

    names = kernel.arg_names
    multiples = [i for i, name in enumerate(names) if name in CODES or name in WORDS or name in ("n", "w_ptr")]
    aligned = {(i,): [["tt.divisibility", 16]] for i in multiples}
    signature = {name: kind(name) for name in names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        return subprocess.run([tools / "nvdisasm", file.name], capture_output=True, text=True, check=True).stdout


capability = int(sys.argv[1])
power = {"LOWEST": -128, "MASK": False, "POWER": True}
affine = {"CENTRED": True, "DROPPED": 0, "WEIGHT": True, "BIAS": True}
bytes_, halves = ("*i8", "*u8", "*i8"), ("*i16", "*u16", "*i8")
cases = [
    (kernels.softmax_rows, 4096, bytes_, power),
    (kernels.norm_rows, 4096, ("*i8", "*i8"), affine),
    (kernels.softmax_long_rows, 131072, halves, {"LOWEST": -32768, "MASK": True, "POWER": False}),
    (kernels.norm_long_rows, 131072, ("*i16", "*i16"), {**affine, "DROPPED": 7, "CENTRED": False}),
]
for kernel, n, dtypes, constants in cases:
    text = build(kernel, n, capability, dtypes, constants)
    patterns = (r"LDG\\.E\\S*(64|128)", r"STG\\.E\\S*(64|128)", r"\\bSTL\\b")
    loads, stores, spills = (len(re.findall(p, text)) for p in patterns)
    print(kernel.fn.__name__, n, loads, stores, spills)
"""


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_compiles_ahead_of_time(capability):
    """Wide loads and stores and no spills, in a process of its own, since the interpreter is chosen at import."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", AHEAD, str(capability)], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 0, run.stderr[-2000:]
    lines = [line.split() for line in run.stdout.splitlines()]
    assert len(lines) == 4
    for kernel, n, loads, stores, spills in lines:
        few = 1 if kernel == "norm_long_rows" else 0  # on sm_90 one word of the sums in int64, outside the loops
        assert int(loads) > 0 and int(stores) > 0 and int(spills) <= few, (kernel, n, loads, stores, spills)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("bits", [8, 16])
def test_modules_on_a_card_give_what_the_cpu_gives(bits):
    q = codes(bits, 1000)
    softmax = IntegerSoftmax(scale=SCALES[bits], bits=bits, out_dtype=torch.int16)
    norm = IntegerRMSNorm(torch.ones(1000), scale=SCALES[bits], bits=bits, out_scale=0.05)
    for module in (softmax, norm):
        want = module(q)
        assert torch.equal(module.cuda()(q.cuda()).cpu(), want)
