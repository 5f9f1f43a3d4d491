"""The LUT module: what it computes, and how it lives in torch."""

import copy
import io
import pickle

import numpy as np
import pytest

from tests.helpers import plan_tables
from tests.helpers.plan_tables import TABLES, same, table_set

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from lutc.errors import LutcError, ScaleWarning  # noqa: E402
from lutc.formats.codes import Inputs  # noqa: E402
from lutc.lower import plans  # noqa: E402
from lutc.nn import LUT, QuantLUT  # noqa: E402
from lutc.table.bodies import Lines  # noqa: E402
from lutc.table.table import Table  # noqa: E402
from lutc.table.table_set import TableSet  # noqa: E402

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}


def tensor(x):
    if x.dtype.itemsize == 2:
        return torch.from_numpy(x.view(np.int16)).view(torch.float16 if x.dtype == np.float16 else torch.bfloat16)
    return torch.from_numpy(x)


@pytest.fixture
def gelu():
    """A set over three scales, named after a function that torch knows."""
    tables = {
        key: Table(Lines([-0.5, int(key) + 1.0], [0, 0.5, 1], [-0.25, 0, 0]), coefficients="q1.6") for key in "012"
    }
    return TableSet("gelu", tables, {key: Inputs(8, 2.0 ** -int(key)) for key in tables}, "gelu")


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_table_in_every_dtype(name, dtype):
    table = TABLES[name]
    x = plan_tables.inputs(table, dtype)
    module = LUT(table_set(name))
    got = module(tensor(x))
    assert got.dtype == DTYPES[dtype]
    got, want = plans.widened(got.double().numpy()), table(plans.widened(x))
    if dtype in ("fp16", "bf16"):
        assert same(got, plans.round_to(want, dtype)).all()
        return
    assert (np.isnan(got) == np.isnan(want)).all()
    with np.errstate(over="ignore"):
        want = want if dtype == "fp64" else want.astype(np.float32).astype(float)
    tolerance = 1e-12 if dtype == "fp64" else 1e-6
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * 8)


def layouts():
    base = torch.randn(6, 10, 4, 8)
    return {
        "contiguous": base,
        "empty": base[:0],
        "zero-dimensional": base[0, 0, 0, 0],
        "one": base[0, 0, 0, :1],
        "channels last": base.to(memory_format=torch.channels_last),
        "transposed": base.transpose(0, 3),
        "halves": base.chunk(2, -1)[1],
        "strided": base[::2, ::3, :, ::2],
        "expanded": torch.randn(5, 1).expand(5, 9),
        "flipped": base.flip(1),
        "offset": torch.randn(4097)[1:],
        "large": torch.randn(300001),
    }


@pytest.mark.parametrize("layout", layouts())
@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes_and_strides(layout, dtype):
    x = layouts()[layout].to(DTYPES[dtype])
    module = LUT(TABLES["grid"])
    got = module(x)
    assert got.shape == x.shape and got.dtype == x.dtype and got.stride() == torch.empty_like(x).stride()
    want = TABLES["grid"](x.double().numpy())
    assert same(got.double().numpy(), plans.round_to(want, dtype)).all() or np.allclose(
        got.double().numpy(), want, rtol=1e-6, atol=1e-7
    )
    assert torch.equal(module.gated(x, x), got * x)


def test_a_view_of_memory_elsewhere_is_left_alone():
    memory = torch.full((100,), float("nan"))
    memory[10:20] = 1.0
    got = LUT(TABLES["grid"])(memory[10:20])
    assert not got.isnan().any() and memory[:10].isnan().all() and memory[20:].isnan().all()


def test_scale_chooses_the_table(gelu):
    x = torch.tensor([0.0, 1.5, 2.5])
    assert LUT(gelu, scale=1.0)(x).tolist() == [0.0, 1.5, 2.5]
    assert LUT(gelu, scale=0.25)(x).tolist() == [0.0, 0.75, 1.25]
    with pytest.warns(ScaleWarning, match="no table for the scale 1e-09; '2', of 2\\^-2, is taken"):
        clipped = LUT(gelu, scale=1e-9)
    assert clipped(x).tolist() == LUT(gelu, scale=0.25)(x).tolist()  # clips to the nearest key
    with pytest.warns(ScaleWarning, match="'1', of 2\\^-1"):
        near = LUT(gelu, scale=0.6)
    assert LUT(gelu, key="1")(x).tolist() == LUT(gelu, scale=0.5)(x).tolist() == near(x).tolist()
    for module in (LUT, QuantLUT):
        with pytest.raises(LutcError, match=r"there are 2\^0 \('0'\).*compile one, or leave strict out"):
            module(gelu, scale=0.6, strict=True)
    with pytest.warns(ScaleWarning, match=r"is taken, whose worst error on floats is 0\.\d+"):
        QuantLUT("gelu_8", scale=0.3)
    assert LUT(gelu).tables.default_key == "2"  # the finest whose codes cover gelu's range, +-4


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_scales(gelu, scale):
    with pytest.raises(LutcError, match="positive finite number"):
        LUT(gelu, scale=scale)


def test_errors(gelu):
    module = LUT(gelu)
    for bad, text in [
        (torch.zeros(2, dtype=torch.int8), "given int8: QuantLUT takes integer codes"),
        (torch.zeros(2, dtype=torch.bool), "given bool"),
        (torch.zeros(2, dtype=torch.complex64), "given complex64: convert it first"),
        (torch.zeros(2).to(torch.float8_e4m3fn), "given float8_e4m3fn: convert it first"),
        ([1.0], "given list"),
    ]:
        with pytest.raises(LutcError, match=f"takes float32, float16, bfloat16 and float64 tensors; {text}"):
            module(bad)
    with pytest.raises(LutcError, match="no table 'fp16' in 'gelu'; there are 0, 1, 2"):
        LUT(gelu, key="fp16")
    with pytest.raises(LutcError, match="a scale or a key, not both"):
        LUT(gelu, 0.5, key="1")
    with pytest.raises(LutcError, match="grad must be 'function'"):
        LUT(gelu, grad="exact")
    with pytest.raises(LutcError, match="no shipped table 'no_such_table'"):
        LUT("no_such_table")
    with pytest.raises(LutcError, match="cannot read missing.json"):
        LUT("missing.json")
    with pytest.raises(LutcError, match="given int"):
        LUT(7)
    with pytest.raises(LutcError, match="float tables .* have no input scale"):
        LUT(TABLES["floats"], scale=0.5)
    for other in (torch.zeros(4), torch.zeros(3, device="meta"), torch.zeros(3).double(), 1.0):
        with pytest.raises(
            LutcError, match=r"two tensors of one shape, dtype and device; given \(3,\) torch.float32 on cpu and "
        ):
            module.gated(torch.zeros(3), other)
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    for bad in (torch.eye(3).to_sparse(), nested):
        with pytest.raises(
            LutcError, match=r"takes .* tensors; given a (sparse_coo|jagged) layout: evaluate its values"
        ):
            module(bad)


def test_a_file_by_path(gelu, tmp_path):
    gelu.save(tmp_path / "mine.json")
    x = torch.randn(50)
    assert torch.equal(LUT(tmp_path / "mine.json")(x), LUT(gelu)(x))
    assert torch.equal(LUT(str(tmp_path / "mine.json"), 0.25)(x), LUT(gelu, 0.25)(x))


def test_gqa_lut_file(anchors):
    x = torch.linspace(-4, 4, 513)
    module = LUT(anchors / "gqa_lut" / "gelu_pwl_7.json", scale=2.0**-5)
    assert (module(x) - torch.nn.functional.gelu(x)).abs().max() < 0.05


# --- gradients


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_of_the_function(gelu, dtype):
    x = torch.randn(1000).to(DTYPES[dtype]).requires_grad_()
    exact = x.detach().clone().requires_grad_()
    LUT(gelu)(x).sum().backward()
    torch.nn.functional.gelu(exact).sum().backward()
    torch.testing.assert_close(x.grad, exact.grad, rtol=1e-2 if dtype in ("fp16", "bf16") else 1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["grid", "floats", "abs", "cells", "reciprocal"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_of_the_table(name, dtype):
    x = (torch.rand(500) * 8 + 0.1).to(DTYPES[dtype]).requires_grad_()
    upstream = torch.randn(500).to(DTYPES[dtype])
    module = LUT(table_set(name), grad="table")
    (found,) = torch.autograd.grad(module(x), x, upstream)
    from lutc.lower.segments import slope

    want = plans.round_to(slope(TABLES[name], x.detach().double().numpy()), dtype)
    want = torch.from_numpy(plans.widened(want)).to(DTYPES[dtype]) * upstream
    torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-6)


def test_a_function_that_torch_does_not_know_falls_to_the_table():
    module = LUT(TableSet("mine", {"fp32": TABLES["floats"]}, {}, "my.module:f"))
    assert (
        module.gradient == "table" and LUT(TableSet("silu", {"fp32": TABLES["floats"]}, {}, "silu")).gradient == "silu"
    )


def test_second_derivative_of_the_table_is_0(gelu):
    x = torch.randn(20, requires_grad=True)
    (first,) = torch.autograd.grad((LUT(gelu, grad="table")(x) * x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    slopes = torch.autograd.grad(LUT(gelu, grad="table")(x).sum(), x)[0]
    torch.testing.assert_close(second, 2 * slopes)


def test_no_graph_where_none_is_wanted(gelu):
    x = torch.randn(5, requires_grad=True)
    with torch.no_grad():
        assert not LUT(gelu)(x).requires_grad
    with torch.inference_mode():
        assert LUT(gelu)(x).shape == (5,)
    assert not LUT(gelu)(x.detach()).requires_grad


def test_gated_gradients(gelu):
    x, y = torch.randn(40, requires_grad=True), torch.randn(40, requires_grad=True)
    module = LUT(gelu, grad="table")
    fused = torch.autograd.grad(module.gated(x, y).square().sum(), (x, y))
    apart = torch.autograd.grad((module(x) * y).square().sum(), (x, y))
    for a, b in zip(fused, apart, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_trains_with_a_scaler(gelu, dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), LUT(gelu), nn.Linear(16, 1))
    optimiser = torch.optim.SGD(model.parameters(), 0.05)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)
    x = torch.randn(64, 8)
    y = x[:, :1].abs()
    losses = []
    for _ in range(60):
        with torch.autocast("cpu", dtype):
            loss = nn.functional.mse_loss(model(x).float(), y)
        optimiser.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


# --- life as a module


def test_half_keeps_the_table():
    x = torch.randn(1000)
    module = LUT(TABLES["floats"])
    want = module(x)
    for convert in (nn.Module.half, nn.Module.bfloat16, nn.Module.double, nn.Module.float):
        convert(module)
        assert torch.equal(module(x), want)


def test_plans_are_shared_and_not_saved(gelu):
    a, b = LUT(gelu), LUT(gelu)
    assert a.plan_fp16.data_ptr() == b.plan_fp16.data_ptr() != LUT(gelu, 1.0).plan_fp16.data_ptr()
    c = copy.deepcopy(a)
    assert c.plan_fp16.data_ptr() == a.plan_fp16.data_ptr()
    assert list(a.state_dict()) == ["table"] and a.state_dict()["table"].dtype == torch.uint8
    assert len(pickle.dumps(a)) < 4000
    assert not list(a.parameters())


def test_copies_and_pickles_compute_the_same(gelu):
    x = torch.randn(100)
    model = nn.Sequential(LUT(gelu, 0.25), LUT(TABLES["cells"]))
    for other in (copy.deepcopy(model), copy.copy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))
        assert other[0].gradient == "gelu" and repr(other[0]) == repr(model[0])
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(x), model(x))


def test_a_checkpoint_brings_its_table(gelu):
    x = torch.randn(100)
    source, target = nn.Sequential(LUT(gelu, 0.25)), nn.Sequential(LUT(TABLES["cells"]))
    target.load_state_dict(source.state_dict())
    assert torch.equal(target(x), source(x)) and target[0].gradient == "gelu"
    target.load_state_dict(nn.Sequential(LUT(TABLES["floats"])).state_dict(), assign=True)
    assert torch.equal(target(x), LUT(TABLES["floats"])(x))
    with pytest.raises(LutcError, match="entry '0.table' is no table"):
        target.load_state_dict({"0.table": torch.zeros(9, dtype=torch.uint8)})
    with pytest.raises(RuntimeError, match="Missing key"):
        target.load_state_dict({})


def test_meta_device(gelu):
    module = LUT(gelu).to("meta")
    with pytest.raises(LutcError, match="on the meta device"):
        module(torch.randn(3))
    module.to_empty(device="cpu")
    x = torch.randn(30)
    assert torch.equal(module(x), LUT(gelu)(x)) and torch.equal(module.table, LUT(gelu).table)


def test_nothing_is_allocated_but_the_output(gelu):
    module, x = LUT(gelu), torch.randn(1 << 16)
    module(x)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        module(x)
    allocated = sum(event.self_cpu_memory_usage for event in profile.key_averages() if event.self_cpu_memory_usage > 0)
    assert allocated == x.numel() * 4


def test_repr(gelu):
    where = "beyond -4 .. inf its last segment goes on"
    assert repr(LUT(gelu, 0.5)) == f"LUT(gelu, key=1, entries=3, grad=gelu, fp32 plan: chain, {where})"
    assert repr(LUT("gelu_8")) == "LUT(gelu, key=5, entries=8, grad=gelu, fp32 plan: chain)"
