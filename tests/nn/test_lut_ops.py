"""The operators in torch's machinery: schemas, fake tensors, autograd, compile, export, vmap; devices without a kernel
of their own.
"""

import numpy as np
import pytest

from tests.helpers import plan_tables
from tests.helpers.plan_tables import TABLES, table_set

torch = pytest.importorskip("torch")

from lutc.errors import LutcError  # noqa: E402
from lutc.lower import plans  # noqa: E402
from lutc.lower.lowering import lower  # noqa: E402
from lutc.nn import LUT, lowered, ops  # noqa: E402
from lutc.table.table_set import TableSet  # noqa: E402

NAMES = ("grid", "floats", "cells", "reciprocal")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def plan_of(name, dtype):
    module = LUT(table_set(name))
    return getattr(module, f"plan_{lowered.DTYPES[dtype]}"), module._plans[dtype].meta


@pytest.mark.parametrize(
    "name, dtype", [("grid", torch.float32), ("floats", torch.float16), ("reciprocal", torch.float32)]
)
def test_opcheck(name, dtype):
    words, meta = plan_of(name, dtype)
    x, y = (torch.rand(6, 4) + 0.5).to(dtype), torch.rand(6, 4).to(dtype)
    torch.library.opcheck(torch.ops.lutc.lut.default, (x.t().requires_grad_(), words, meta, "silu"))
    torch.library.opcheck(torch.ops.lutc.lut.default, (x.requires_grad_(), words, meta, "table"))
    torch.library.opcheck(torch.ops.lutc.lut_mul.default, (x, y.requires_grad_(), words, meta, "table"))
    torch.library.opcheck(torch.ops.lutc.lut_backward.default, (y.detach(), x.detach(), words, meta))


@pytest.mark.parametrize("shape", [(0,), (), (3, 1)])
def test_opcheck_of_odd_shapes(shape):
    words, meta = plan_of("grid", torch.float32)
    torch.library.opcheck(
        torch.ops.lutc.lut.default,
        (torch.rand(shape), words, meta, "table"),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # inductor itself
@pytest.mark.parametrize("grad", ["function", "table"])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compile_without_graph_breaks(grad, backend):
    module = LUT(TableSet("silu", {"fp32": TABLES["cells with tails"]}, {}, "silu"), grad=grad)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), module)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for x in (torch.randn(5, 8), torch.randn(9, 8)):  # a second shape makes the first dimension dynamic
        torch.testing.assert_close(compiled(x), model(x))
        compiled(x).sum().backward()
        found = model[0].weight.grad.clone()
        model.zero_grad()
        model(x).sum().backward()
        torch.testing.assert_close(found, model[0].weight.grad)
        model.zero_grad()
    gated = torch.compile(lambda x: module.gated(x, x), fullgraph=True, backend=backend)
    torch.testing.assert_close(gated(x), module.gated(x, x))


@pytest.mark.parametrize("name", NAMES)
def test_export(name):
    module = LUT(table_set(name))
    x = torch.rand(7, 3) + 0.5
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
    y = torch.rand(11, 3) + 0.5
    assert torch.equal(program.module()(y), module(y))
    assert "plan_fp32" in program.constants  # the plan itself, not zeros in its place
    assert torch.equal(program.constants["plan_fp32"], module.plan_fp32) and list(program.state_dict) == ["table"]


def test_vmap():
    module = LUT(TABLES["grid"], grad="table")
    x = torch.randn(4, 3, 5)
    for dim in (0, 1, 2):
        assert torch.equal(torch.vmap(module, in_dims=dim, out_dims=dim)(x), module(x))
    y = torch.randn(3, 5)
    assert torch.equal(torch.vmap(module.gated, in_dims=(0, None))(x, y), module(x) * y)


def test_fake_tensors_carry_strides():
    from torch._subclasses.fake_tensor import FakeTensorMode

    module = LUT(TABLES["grid"])
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last)
        assert module(x).stride() == x.stride()


def test_tables_in_a_functional_setting():
    """functional_call swaps the buffers and nothing else."""
    module = LUT(TABLES["grid"])
    x = torch.randn(10)
    assert torch.equal(torch.func.functional_call(module, {}, (x,)), module(x))


@pytest.mark.parametrize("name", ["grid", "floats", "reciprocal", "codes"])
def test_a_gpu_without_triton_takes_plain_torch(name, monkeypatch):
    """The plans chosen for such a device, run by the fallback, hold the table."""
    monkeypatch.setattr(lowered, "has_triton", lambda: False)
    for dtype in ("fp16", "bf16", "fp32", "fp64"):
        plan = lower(TABLES[name], dtype, lowered.plan_kinds("cuda", dtype))
        x = plan_tables.inputs(TABLES[name], dtype)
        half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(dtype)
        tensor = torch.from_numpy(x) if half is None else torch.from_numpy(x.view(np.int16)).view(half)
        got = ops._run_plain(tensor, torch.from_numpy(plan.words().copy()), plan.meta, False)
        want = plans.widened(plan(x))
        np.testing.assert_allclose(plans.widened(got.double().numpy()), want, rtol=3e-7, atol=1e-6)


def test_plans_for_triton():
    assert lowered.plan_kinds("cuda", "fp16")[-1] == "direct" or not lowered.has_triton()
    assert lowered.plan_kinds("mps", "fp32") == ("search", "reference")


@pytest.mark.parametrize("kind", ["uniform", "cells", "search"])
def test_a_plan_for_16_bits_of_a_gpu_runs_on_a_cpu(kind):
    """As in a program that was exported there: the kernels' float32 is not read from 16-bit memory."""
    plan, x = lower(TABLES["grid"], "fp16", (kind,)), torch.randn(301).half()
    words, want = torch.from_numpy(plan.words().copy()), LUT(table_set("grid"))(x)
    assert torch.equal(torch.ops.lutc.lut(x, words, plan.meta, "table"), want)
    assert torch.equal(torch.ops.lutc.lut_mul(x, x, words, plan.meta, "table"), want * x)


def test_a_plan_of_another_dtype_is_said():
    for kind, dtype, of in (
        ("direct", torch.float32, "fp16"),
        ("search", torch.float64, "fp32"),
        ("direct", torch.float64, "bf16"),
    ):
        plan = lower(TABLES["grid"], of, (kind,))
        with pytest.raises(LutcError, match=rf"this plan \({kind}\) does not serve {dtype}"):
            torch.ops.lutc.lut(torch.zeros(4, dtype=dtype), torch.from_numpy(plan.words().copy()), plan.meta, "table")


def test_another_device_is_said():
    module = LUT(TABLES["grid"])
    with pytest.raises(LutcError, match=r"input is on cpu and the table on meta; move the module with .to\('cpu'\)"):
        ops._check(torch.zeros(1), module.plan_fp32.to("meta"), module._plans[torch.float32].meta)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_graph_replays():
    module = LUT(TABLES["grid"]).cuda()
    x = torch.randn(10000, device="cuda")
    module(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = module(x)
    x.copy_(torch.randn_like(x))
    graph.replay()
    torch.testing.assert_close(y, module(x))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_cuda_equals_the_cpu(name, dtype):
    module = LUT(table_set(name), grad="table")
    x = (torch.rand(10001) * 8 + 0.1).to(dtype)
    other = LUT(table_set(name), grad="table").cuda()
    a, b = x.clone().requires_grad_(), x.cuda().requires_grad_()
    torch.testing.assert_close(other(b).cpu(), module(a), rtol=1e-6, atol=1e-6)
    module(a).sum().backward()
    other(b).sum().backward()
    torch.testing.assert_close(b.grad.cpu(), a.grad)
