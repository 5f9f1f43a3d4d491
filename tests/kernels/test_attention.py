"""The Triton kernels of attention against the oracle in float64: in Triton's interpreter where there is no GPU, and
compiled ahead of time.
"""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton")

from lutc.nn import LUTSoftmax, attention_ops  # noqa: E402
from lutc.nn.attention import Cap
from lutc.nn.attention_arguments import four  # noqa: E402
from lutc.nn.attention_blocks import Form, Operands  # noqa: E402
from lutc.nn.row_tables import plans_of  # noqa: E402
from lutc.table import library  # noqa: E402
from lutc.table.table import Table  # noqa: E402
from tests.helpers import attention_oracle as oracle  # noqa: E402
from tests.helpers.handmade import float_tables, int_tables  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FPLUT, NNLUT = library.load("exp_fplut")["fp32"], library.load("exp_nnlut_32")["fp32"]
RECI, TANH = float_tables("reciprocal", 1, 2, 500)["fp32"], float_tables("tanh", -8, 8, 1000)["fp32"]
BACKWARD = {
    "softcap",
    "sinks",
    "causal, cached keys",
    "sliding window",
    "window on both sides",
    "lengths, causal",
    "size 256",
    "one query",
}
BACKWARD |= {"values of another size", "all at once"}
# The interpreter takes seconds for each; the others are slow ones.
FEW = {"causal, cached keys", "sliding window", "added mask", "softcap", "sinks", "one query", "values of another size"}
ROUNDING = {torch.float16: 3e-3, torch.bfloat16: 2e-2}
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning")
]  # numpy's, of the interpreter, where a GPU is silent
pytestmark += [pytest.mark.gpu] if torch.cuda.is_available() else []


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch):
    """Several tiles in small calls."""
    from lutc.kernels import attention as kernels

    tile = {"BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 4, "num_stages": 1}
    monkeypatch.setattr(kernels, "tile", lambda size, itemsize, backward=False: tile)


def run(name, dtype, exp=FPLUT, reciprocal=RECI, tanh=TANH, rescale="none", backward=True, **changes):
    """(results and gradients by the kernels, those of the oracle) of a case, lists of tensors on the CPU."""
    from lutc.kernels import attention as kernels

    q, k, v, mask, options = oracle.arguments(name, dtype)
    options |= changes
    softmax, cap = LUTSoftmax(exp, reciprocal), Cap(tanh)
    wanted = [x.clone().requires_grad_() for x in (q, k, v)]
    sinks = options.pop("sinks", None)
    leaf = None if sinks is None else sinks.clone().requires_grad_()
    want = oracle.attention(exp, *wanted, mask, sinks=leaf, reciprocal=reciprocal, tanh=tanh, **options)
    upstream = torch.randn(want.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    tables = [softmax, cap] if options.get("softcap") else [softmax]
    words = [one.to(DEVICE) for table in tables for one in table.words]
    plans = plans_of(words, [number for table in tables for number in table.meta])
    offset = options.get("offset")
    form = Form(
        softmax.tables["exp"][1],
        reciprocal is not None,
        options.get("scale") or q.shape[-1] ** -0.5,
        options.get("causal", False),
        k.shape[2] - q.shape[2] if offset is None else offset,
        options.get("window") or 0,
        options.get("softcap") or 0.0,
        rescale,
    )
    alibi, lengths = options.get("alibi"), options.get("lengths")
    given = Operands(
        *(x.to(DEVICE) for x in (q, k, v)),
        None if mask is None else four(mask, q.shape[:1], q, k).to(DEVICE),
        None if sinks is None else sinks.to(DEVICE),
        None if alibi is None else alibi.reshape(-1, q.shape[1]).to(DEVICE),
        None if lengths is None else lengths.int().to(DEVICE),
    )
    out, top, total = kernels.forward(given, plans, form)
    found, right = [out], [want]
    if backward:
        gradients = attention_ops.fused_backward(upstream.to(DEVICE), given, out, top, total, plans, form)
        leaves = [*wanted, *([] if leaf is None else [leaf])]
        right += torch.autograd.grad(want, leaves, upstream.double())
        found += [gradients.q, gradients.k, gradients.v, *([] if leaf is None else [gradients.sinks])]
    return [x.detach().cpu() for x in found], [x.detach() for x in right]


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in oracle.CASES]
)
def test_equals_the_oracle(name):
    for one, other in zip(*run(name, torch.float32, backward=name in BACKWARD)):
        assert one.dtype == torch.float32
        assert (one.double() - other).abs().max() <= 5e-5 * max(1.0, other.abs().max().item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "name", ["causal, cached keys", "values of another size", pytest.param("all at once", marks=pytest.mark.slow)]
)
def test_16_bits(name, dtype):
    for one, other in zip(*run(name, dtype)):
        assert (one.double() - other).abs().max() <= 3 * ROUNDING[dtype] * max(1.0, other.abs().max().item())


@pytest.mark.parametrize("exp", [FPLUT, library.load("exp_8")["4"]], ids=["period", "codes"])
@pytest.mark.parametrize("masked", [False, True])
def test_weights_in_16_bits_are_those_of_the_even_pieces(exp, masked):
    """Values are unit vectors: the result is the probabilities; with a mask scores are scaled first."""
    from lutc.kernels import attention as kernels

    from lutc.lower.even_plans import even_plan

    softmax, q = LUTSoftmax(exp), torch.randn(1, 1, 40, 16, generator=torch.Generator().manual_seed(0)).half() * 4
    k, v = (
        torch.randn(1, 1, 64, 16, generator=torch.Generator().manual_seed(1)).half(),
        torch.eye(64).half()[None, None],
    )
    plans = plans_of([w.to(DEVICE) for w in softmax.words], softmax.meta)
    assert plans[0].even[0].numel() == 4096
    period = softmax.tables["exp"][1]
    mask = torch.zeros(1, 1, 1, 64, device=DEVICE).half() if masked else None
    form = Form(period, False, 0.25, False, 0, 0, 0.0, "none")
    given = Operands(*(x.to(DEVICE) for x in (q, k, v)), mask, None, None, None)
    got, _, total = (x.double().cpu() for x in kernels.forward(given, plans, form))
    s = (q.double() @ k.double().transpose(-2, -1)) * 0.25
    d = (s - s.amax(-1, keepdim=True)).numpy()
    body = Table(exp.body, None, exp.left, exp.right, exp.coefficients) if period else exp
    want = torch.from_numpy(even_plan(body, period)(d / (period or 1.0)))
    assert (total / want.sum(-1) - 1).abs().max() < 1e-5
    assert (got * total[..., None] - want).abs().max() < 6e-4  # two roundings of fp16
    near = torch.from_numpy(np.maximum(exp(d), 0))
    assert (want - near).abs().max() < 2e-5


@pytest.mark.parametrize("rescale", ["exact", "table"])
@pytest.mark.parametrize("name", ["sliding window", "added mask"])
def test_one_pass(name, rescale):
    """A fine table's bound is 4e-4 to 2e-3 of the largest value."""
    for one, other in zip(*run(name, torch.float32, rescale=rescale, backward=False)):
        assert (one.double() - other).abs().max() <= 2e-3 * max(1.0, other.abs().max().item())


@pytest.mark.parametrize(
    "exp", [NNLUT, int_tables("exp")["4"], float_tables("exp", -12, 0, 40)["fp32"]], ids=["nnlut", "uniform", "cells"]
)
@pytest.mark.parametrize("name", ["plain", "bool mask"])
def test_plans_and_exact_division(exp, name):
    """Coarse tables: what lies at a cut may fall on its other side in float32: single weights may differ by a step."""
    for one, other in zip(*run(name, torch.float32, exp, None, backward=False)):
        error = (one.double() - other).abs()
        assert error.mean() <= 2e-5 and error.max() <= 2e-2


def test_exact_cap():
    from lutc.kernels import attention as kernels

    q = torch.randn(1, 1, 20, 16, device=DEVICE)
    softmax = LUTSoftmax(FPLUT)
    plans = plans_of([w.to(DEVICE) for w in softmax.words], softmax.meta)
    form = Form(math.log(2), False, 0.5, False, 0, 0, 2.0, "exact")
    got, _, _ = kernels.forward(Operands(q, q, q, None, None, None, None), plans, form)
    want = oracle.attention(FPLUT, q.cpu(), q.cpu(), q.cpu(), scale=0.5, softcap=2.0)
    assert (got.cpu() - want).abs().max() < 1e-3


@pytest.mark.parametrize("exp", ["exp2", "cubic"])
def test_what_is_counted_beside_the_table_is_a_softmax(exp):
    from lutc.kernels import attention as kernels

    q, k, v, _, _ = oracle.arguments("causal")
    softmax = LUTSoftmax(FPLUT)
    plans = plans_of([w.to(DEVICE) for w in softmax.words], softmax.meta)
    form = Form(math.log(2), False, 0.25, True, 0, 0, 0.0, "exact")
    given = Operands(*(x.to(DEVICE) for x in (q, k, v)), None, None, None, None)
    got, _, _ = kernels.forward(given, plans, form, exp)
    want = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert (got.cpu() - want).abs().max() < (1e-5 if exp == "exp2" else 5e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rescale", ["exact", "table", "none"])
def test_special_values_as_torch(rescale, dtype):
    from lutc.kernels import attention as kernels

    q, k, v = (torch.randn(1, 1, n, 16).to(dtype) for n in (7, 50, 50))
    bias = torch.zeros(1, 1, 7, 50, dtype=dtype)
    bias[..., 0, 40], bias[..., 1, 3], bias[..., 2, :] = math.nan, math.inf, -math.inf
    bias[..., 3, :], bias[..., 4, 5:] = torch.finfo(dtype).min, -math.inf
    q[..., 5, 0] = math.nan
    softmax = LUTSoftmax(FPLUT)
    plans = plans_of([w.to(DEVICE) for w in softmax.words], softmax.meta)
    for mask in (bias, None):
        given = Operands(*(None if x is None else x.to(DEVICE) for x in (q, k, v, mask)), None, None, None)
        form = Form(math.log(2), False, 0.25, False, 43, 0, 0.0, rescale)
        got = kernels.forward(given, plans, form)[0].cpu()
        exact = (None if x is None else x.float() for x in (q, k, v, mask))
        want = torch.nn.functional.scaled_dot_product_attention(*exact)
        assert torch.equal(got.isnan(), want.isnan())
        assert torch.allclose(got.float(), want, atol=max(1e-3, 3 * ROUNDING.get(dtype, 0)), equal_nan=True)


AHEAD = """
import sys
from benchmarks import attention
capability = int(sys.argv[1])
exact, table = (attention.forward_count(capability, 128, exp) for exp in ("exp2", "even"))
print(table.spills if capability == 90 else 0, table.per_score)
assert table.per_score <= 1.3 * exact.per_score, (table, exact)
for of_keys in (True, False):
    print(0, attention.backward_count(capability, 64, of_keys).registers)  # these spill: registers alone
"""


FLOAT32 = """
from benchmarks import attention
found = attention.forward_count(90, 64, "table", "fp32")
print(found.spills, found.per_score)
"""


def _ahead(code: str, *arguments: str) -> str:
    """What it prints in a process of its own, since the interpreter is chosen at import."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout


@pytest.mark.parametrize(
    "capability", [pytest.param(80, marks=pytest.mark.slow), 90, pytest.param(100, marks=pytest.mark.slow)]
)
def test_compiles_ahead_of_time(capability):
    """At head size 128 a table takes at most 1.3 times the instructions of `tl.exp2`; no spills on sm_90
    (docs/attention.md has those elsewhere).
    """
    found = _ahead(AHEAD, str(capability))
    for line in found.splitlines():
        spills, per_score = map(float, line.split())
        assert spills == 0 and per_score > 0, found


@pytest.mark.slow
def test_float32_spills_nothing():
    spills, per_score = map(float, _ahead(FLOAT32).split())
    assert spills == 0 and per_score > 0
