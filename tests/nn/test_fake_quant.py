"""FakeQuantize, QuantActivation and QuantLUT with their scales: against brute force in float64, in every precision,
compiled, copied and stored.
"""

import copy
import itertools
import math
import pickle

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.functions import in_torch
from lutc.nn import LUT, FakeQuantize, QuantActivation, QuantLUT
from tests.helpers.handmade import float_tables, int_tables

pytestmark = pytest.mark.filterwarnings("ignore::lutc.errors.ScaleWarning")  # scales without a table, on purpose

GELU = int_tables("gelu")
compiled = pytest.mark.filterwarnings(
    "ignore:.*autograd.function.Function.*:DeprecationWarning"
)  # torch's own, while it traces
KINDS = ("learned", "observed", "dynamic", 2.0**-4)


def by_hand(x, scale, bits=8, zero_point=0):
    """One number, in Python: round half to even, clamp, and back."""
    code = min(max(round(x / scale) + zero_point, -(2 ** (bits - 1))), 2 ** (bits - 1) - 1)
    return scale * (code - zero_point)


def samples(count=4000, spread=2.0):
    return torch.randn(count // 40, 40, generator=torch.Generator().manual_seed(1)) * spread


# --- values and scales


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_values_of_every_width_and_dtype(bits, dtype):
    x = torch.cat([samples().flatten(), torch.arange(-40, 40) / 64]).to(dtype)  # the latter: many ties
    got = FakeQuantize(2.0**-4, bits=bits)(x)
    assert got.dtype == dtype
    assert got.tolist() == [by_hand(value, 2.0**-4, bits) for value in x.tolist()]


def test_any_fixed_scale_and_zero_point():
    x = samples().double()
    got = FakeQuantize(0.037, zero_point=-21)(x)
    assert got.flatten().tolist() == pytest.approx([by_hand(v, 0.037, 8, -21) for v in x.flatten().tolist()], abs=1e-12)


def test_values_that_are_not_finite():
    x = torch.tensor([math.nan, math.inf, -math.inf, 1.0])
    for kind in KINDS:
        got = FakeQuantize(kind)(x)
        assert got[0].isnan() and got[1:].isfinite().all() and got[3] == 1.0 and got[1] > 0 > got[2]


def best_power(x, bits):
    """The power of least squared error, by trying all in Python."""
    x = [value for value in x.double().flatten().tolist() if math.isfinite(value)]
    errors = {p: sum((by_hand(v, 2.0**p, bits) - v) ** 2 for v in x) for p in range(10, -21, -1)}
    return min(errors, key=errors.get)


@pytest.mark.parametrize(("bits", "spread"), list(itertools.product([2, 3, 4, 8], [1e-3, 1.0, 50.0])))
def test_scales_of_least_squared_error(bits, spread):
    x = samples(2000, spread)
    want = best_power(x, bits)
    x[0, :3] = torch.tensor([math.nan, math.inf, -math.inf])  # not looked at
    modules = {kind: FakeQuantize(kind, bits=bits) for kind in ("learned", "observed", "dynamic")}
    for kind, module in modules.items():
        assert torch.equal(module(x)[1:], FakeQuantize(2.0**want, bits=bits)(x)[1:])
        assert module.scale == (None if kind == "dynamic" else 2.0**want)
    modules["learned"](x * 100)  # later batches leave the start alone
    assert modules["learned"].scale == 2.0**want
    got = modules["dynamic"](x * 32)  # every call has its own
    assert torch.equal(got[1:], 32 * FakeQuantize(2.0**want, bits=bits)(x)[1:])


def test_far_and_no_values():
    module = FakeQuantize("dynamic")
    assert module(torch.tensor([1e30, -1e30])).tolist() == [127 * 2.0**15, -128 * 2.0**15]
    assert module(torch.tensor([2.0**-19, 1e-30])).tolist() == [2.0**-19, 0.0]
    for kind in KINDS:
        assert FakeQuantize(kind)(torch.zeros(7)).tolist() == [0.0] * 7
        module = FakeQuantize(kind)
        assert module(torch.zeros(0, 4)).shape == (0, 4)
        module(torch.ones(4))  # what was empty has not been a first batch
        assert module.scale != 1.0 or module.kind == "dynamic"


def test_large_batches_are_sampled():
    x = torch.randn(3000, 768, generator=torch.Generator().manual_seed(5)) * torch.linspace(0.1, 4, 768)
    module = FakeQuantize("observed")
    module(x)
    assert module.scale == 2.0 ** best_power(x[::50], 8)


def test_observed_is_a_moving_average_of_powers_and_rests_in_eval_mode():
    module, average = FakeQuantize("observed", momentum=0.25), None
    for spread in (1.0, 9.0, 0.1, 100.0):
        x = samples(2000, spread)
        module(x)
        power = best_power(x, 8)
        average = power if average is None else 0.75 * average + 0.25 * power
    assert module.log2_scale.item() == pytest.approx(average)
    assert module.scale == 2.0 ** round(average)
    module.eval()(samples(2000, 1e4))
    assert module.log2_scale.item() == pytest.approx(average)


@pytest.mark.parametrize("kind", ["learned", "observed"])
def test_a_scale_that_came_from_another_process(kind):
    """Written into the parameter or buffer, as a broadcast does: no first batch begins it anew."""
    x = samples(2000, 9.0)
    for training in (False, True):
        module = FakeQuantize(kind).train(training)
        assert module.scale is None
        with torch.no_grad():
            module.log2_scale.fill_(-6.0)
        assert module.scale == 2.0**-6
        got = module(x)
        average = -6.0 if kind == "learned" or not training else 0.9 * -6 + 0.1 * best_power(x, 8)
        assert module.log2_scale.item() == pytest.approx(average) and torch.equal(
            got, FakeQuantize(2.0 ** round(average))(x)
        )


# --- gradients


def test_gradients_are_those_of_lsq():
    x = samples(2000, 3.0).double().requires_grad_()
    weights = torch.linspace(-1, 2, x.numel(), dtype=torch.float64).view_as(x)
    module = FakeQuantize("learned", bits=4)
    module.log2_scale.data.fill_(-1.3)  # rounds to 2^-1
    (weights * module(x)).sum().backward()
    to_scale = 0.0
    for value, weight, got in zip(*(t.flatten().tolist() for t in (x, weights, x.grad)), strict=True):
        v = value / 0.5
        inside = -8.5 <= v <= 7.5
        assert got == (weight if inside else 0.0)
        to_scale += weight * (round(v) - v if inside else -8 if v < 0 else 7)
    want = to_scale * 0.5 * math.log(2) / math.sqrt(40 * 7)  # 40 elements in one example, largest code 7
    assert module.log2_scale.grad.item() == pytest.approx(want, rel=1e-5)


def test_learning_finds_the_best_power():
    x = samples(spread=1.0)
    module = FakeQuantize("learned", bits=4)
    module.log2_scale.data.fill_(1.4)
    optimiser = torch.optim.Adam(module.parameters(), 0.05)
    for _ in range(200):
        optimiser.zero_grad()
        (module(x) - x).square().mean().backward()
        optimiser.step()
    best = FakeQuantize("learned", bits=4)
    best(x)
    assert module.scale == best.scale


@pytest.mark.parametrize("function", in_torch.names())
def test_exact_values_and_gradients(function):
    x = torch.linspace(0.3, 0.7, 60, dtype=torch.float64, requires_grad=True)
    module = QuantActivation(function, 2.0**-8)
    y = module(x)
    quantised = (torch.round(x.detach() * 256).clamp(-128, 127) / 256).requires_grad_()
    assert torch.equal(y, in_torch.value(function, quantised))
    (got,) = torch.autograd.grad(y.sum(), x)
    want = in_torch.derivative(function, quantised.detach()) * (x.detach() * 256 <= 127.5)
    assert torch.allclose(got, want, rtol=1e-10)
    from lutc.functions import get

    assert torch.allclose(y, torch.from_numpy(get(function)(quantised.detach().numpy())), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("function", [*in_torch.names(), LUT("gelu_8"), LUT("silu_fplut", grad="table")])
def test_functions_looked_up_at_codes_are_those_behind_a_quantiser(function, dtype):
    """Values, against the two apart; both gradients, in float64; no floats but x are kept."""
    quantise = FakeQuantize("learned")
    x, weights = torch.linspace(0.05, 0.95, 500).to(dtype).requires_grad_(), torch.linspace(-1, 1, 500).to(dtype)
    quantise(x)
    wide, kept = x.detach().double().requires_grad_(), []
    apart, alike = (
        in_torch.value(function, y) if isinstance(function, str) else function(y) for y in (quantise(wide), quantise(x))
    )
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        joined = QuantActivation(function, quantise)(x)
    assert sum(t.nbytes for t in kept if t.numel() > 257) == x.nbytes
    near = {"rtol": 1e-5 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps, "atol": 1e-5, "equal_nan": True}
    assert torch.allclose(joined, alike, **near)
    to_x, to_scale = torch.autograd.grad(joined, (x, quantise.log2_scale), weights)
    wanted_x, wanted_scale = torch.autograd.grad(apart, (wide, quantise.log2_scale), weights.double())
    assert torch.allclose(to_x.double(), wanted_x, **near)
    assert torch.allclose(to_scale, wanted_scale, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_watched_functions_and_those_of_another_dtype_come_after_the_quantiser():
    module, x, seen = QuantActivation(LUT("gelu_8"), 2.0**-4), samples(), []
    want = module(x)
    handle = module.function.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    assert torch.equal(module(x), want) and seen == [x.shape]
    handle.remove()
    assert torch.equal(module(x), want) and len(seen) == 1
    module, mirror = (QuantActivation("exp", FakeQuantize("observed")) for _ in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert module(x.bfloat16()).dtype == torch.exp(x.bfloat16()).dtype
    mirror(x.bfloat16())
    assert module.quantise.log2_scale == mirror.quantise.log2_scale  # one batch was seen


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_sees_the_codes_and_gradients_of_its_quantiser(kind):
    quantise = FakeQuantize(kind)
    x = samples().requires_grad_()
    table = QuantLUT(GELU, quantise)
    got = table(x)
    scale = quantise.scale or 2.0 ** best_power(x.detach(), 8)
    assert torch.equal(got, QuantLUT(GELU, scale)(x))
    weights = torch.linspace(-1, 1, x.numel()).view_as(x)
    (weights * got).sum().backward()
    to_x, x.grad = x.grad, None
    gradients = [p.grad.clone() for p in quantise.parameters()]
    quantise.zero_grad()
    (weights * QuantActivation("gelu", quantise)(x)).sum().backward()
    assert torch.allclose(to_x, x.grad, atol=1e-6)
    assert all(torch.allclose(a, p.grad, rtol=1e-3) for a, p in zip(gradients, quantise.parameters(), strict=True))
    assert len(gradients) == (kind == "learned")


@pytest.mark.parametrize("out_scale", [None, 2.0**-5, 0.031, 1e-12, 3e4])
def test_a_scale_in_a_tensor_gives_the_responses_of_the_number(out_scale):
    dynamic = QuantLUT(GELU, out_scale=out_scale, out_zero_point=-5)
    for scale in [*(2.0**p for p in range(-12, 4)), 0.011, 0.37, 1.9]:
        given = torch.tensor([scale], dtype=torch.float64)
        try:
            fixed = QuantLUT(GELU, scale, out_scale=out_scale, out_zero_point=-5)
        except LutcError:
            _, values, _, held = dynamic._responses(given)
            assert values.isnan().all() and not held
            continue
        want = fixed._responses(fixed._checked(scale, "cpu").reshape(1))
        assert all(torch.equal(a, b) for a, b in zip(dynamic._responses(given)[::2], want[::2], strict=True))
        codes = torch.arange(-128, 128, dtype=torch.int8)
        assert torch.equal(dynamic(codes, given), fixed(codes))


def test_tables_of_unlike_lengths_and_steps_stand_side_by_side():
    mixed = type(GELU)(
        "gelu",
        {"2": int_tables("gelu", 5)["2"], "4": int_tables("gelu", 16)["4"]},
        {k: GELU.inputs[k] for k in "24"},
        "gelu",
    )
    codes = torch.arange(-128, 128, dtype=torch.int8)
    for scale, key in ((2.0**-2, "2"), (2.0**-4, "4"), (0.2, "2"), (0.07, "4")):
        alone = type(GELU)("gelu", {key: mixed[key]}, {key: mixed.inputs[key]}, "gelu")
        assert torch.equal(QuantLUT(mixed)(codes, scale), QuantLUT(alone, scale)(codes))


# --- precision, compilation, copies


def network(quantised, seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(8, 32), quantised, torch.nn.Linear(32, 1))


def train(model, dtype, steps=40):
    """Losses of a small regression under autocast; with a GradScaler in float16."""
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(2))
    target = F.gelu(x @ torch.linspace(-1, 1, 8))[:, None]
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            y = model(x)
        loss = F.mse_loss(y.float(), target)
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("kind", "table"), [*((kind, True) for kind in KINDS), ("learned", False)])
def test_training_under_autocast(dtype, kind, table):
    quantise = FakeQuantize(kind)
    model = network(QuantLUT(GELU, quantise) if table else QuantActivation("gelu", quantise))
    start = None if kind != "learned" else (model(torch.randn(4, 8)), quantise.log2_scale.item())[1]
    losses = train(model, dtype)
    assert losses[-1] < 0.3 * losses[0]
    if kind == "learned":
        assert math.isfinite(quantise.log2_scale.item()) and quantise.log2_scale.item() != start
        assert quantise.log2_scale.dtype == torch.float32


def test_an_overflow_in_float16_is_skipped_by_the_scaler():
    model = network(QuantLUT(GELU, "learned"))
    model(torch.randn(4, 8))
    before = model[1].quantise.log2_scale.item()
    optimiser, scaler = torch.optim.SGD(model.parameters(), 0.1), torch.amp.GradScaler("cpu", init_scale=2.0**30)
    with torch.autocast("cpu", dtype=torch.float16):
        loss = model(torch.randn(4, 8)).float().mean() * 1e4
    scaler.scale(loss).backward()
    scaler.step(optimiser)
    scaler.update()
    assert scaler.get_scale() == 2.0**29 and model[1].quantise.log2_scale.item() == before


class HostReads(TorchDispatchMode):
    """Fails where a tensor's value is asked for on the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default, "read on the host"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_read_on_the_host(kind):
    x = samples().requires_grad_()
    with HostReads():
        for module in (QuantLUT(GELU, kind, out_scale=2.0**-5), QuantActivation("gelu", kind)):
            for training in (True, True, False):
                module.train(training)(x).sum().backward()
    with HostReads(), pytest.raises(AssertionError, match="read on the host"):
        QuantLUT(GELU, torch.nn.Parameter(torch.tensor(0.1)))(x)  # on a CPU it is checked


@compiled
@pytest.mark.parametrize("kind", [*KINDS, torch.nn.Parameter(torch.tensor(0.07))])
def test_compiles_as_one_graph(kind):
    torch.compiler.reset()
    table = QuantLUT(GELU, copy.deepcopy(kind), out_scale=2.0**-5)
    modules = (
        [network(table)]
        if isinstance(kind, torch.nn.Parameter)
        else [network(table), network(QuantActivation("gelu", kind))]
    )
    for module in modules:
        x = torch.randn(16, 8)
        module(x)  # a first batch
        other = copy.deepcopy(module)
        fast = torch.compile(other, fullgraph=True, backend="aot_eager")
        for mode in (True, False):
            module.train(mode), other.train(mode)
            for _ in range(2):
                want, got = module(x), fast(x)
                assert torch.allclose(got, want, atol=1e-6)
        want.square().sum().backward(), got.square().sum().backward()
        for a, b in zip(module.parameters(), other.parameters(), strict=True):
            assert torch.allclose(a.grad, b.grad, atol=1e-4)


@compiled
def test_compiled_training_from_the_first_batch():
    torch.compiler.reset()
    module = network(QuantLUT(GELU, "learned"))
    losses = train(torch.compile(module, fullgraph=True, backend="aot_eager"), torch.float32)
    assert losses == pytest.approx(train(network(QuantLUT(GELU, "learned")), torch.float32), rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_copies_pickles_checkpoints(kind):
    for make in (
        lambda k: QuantLUT(GELU, k),
        lambda k: QuantActivation("gelu", k),
        lambda k: QuantActivation(LUT("gelu_fplut"), k),
        FakeQuantize,
    ):
        module, x = make(kind), samples()
        fresh = copy.deepcopy(module)
        module(x)
        module.eval()
        want = module(x)
        for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert torch.equal(other(x), want)
        fresh.load_state_dict(module.state_dict())
        assert torch.equal(fresh.eval()(x), want)
        half = copy.deepcopy(module).half()
        assert torch.equal(half(x.half()), module(x.half()))


def test_sharded_and_in_parallel():
    """A learned scale is a parameter that FSDP can shard (it takes none of 0 dimensions) and that DDP keeps alike."""
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model, x = network(QuantLUT(GELU, "learned")), torch.randn(16, 8)
    want = model(x)
    want.sum().backward()
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        for wrap in (
            lambda m: fully_shard(m, mesh=init_device_mesh("cpu", (1,))),
            torch.nn.parallel.DistributedDataParallel,
        ):
            other = copy.deepcopy(model)
            other.zero_grad()
            y = wrap(other)(x)
            y.sum().backward()
            gradient = other[1].quantise.log2_scale.grad
            gradient = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
            assert torch.equal(y, want) and torch.allclose(gradient, model[1].quantise.log2_scale.grad, rtol=1e-5)
    finally:
        distributed.destroy_process_group()


def test_a_checkpoint_of_exact_functions_serves_tables():
    first, second = network(QuantActivation("gelu")), network(QuantLUT(GELU, "learned"))
    first(torch.randn(4, 8))
    missing = second.load_state_dict(first.state_dict(), strict=False)
    assert second[1].quantise.scale == first[1].quantise.scale and not missing.unexpected_keys
    assert all("extra_state" in name for name in missing.missing_keys)


def test_checkpoints_before_the_first_batch_and_of_other_kinds():
    fresh, other = FakeQuantize(), FakeQuantize()
    other(samples())
    other.load_state_dict(fresh.state_dict())
    with pytest.raises(LutcError, match="this learned scale has seen no batch yet; run one in training mode"):
        other.eval()(samples())
    with pytest.raises(
        LutcError, match="the checkpoint's FakeQuantize has 8 bits and a fixed scale; this one is 'dynamic, bits=8"
    ):
        FakeQuantize("dynamic").load_state_dict(FakeQuantize(0.1).state_dict())
    with pytest.raises(LutcError, match="has 4 bits"):
        FakeQuantize("dynamic").load_state_dict(FakeQuantize("dynamic", bits=4).state_dict())
    module = FakeQuantize(0.5)
    module.load_state_dict(FakeQuantize(0.25, zero_point=3).state_dict())
    assert (module.scale, module.zero_point) == (0.25, 3)
    table, other = QuantLUT(GELU, FakeQuantize(0.25, zero_point=3)), QuantLUT(GELU, FakeQuantize(1.0))
    other.load_state_dict(table.state_dict())
    codes = torch.arange(-128, 128, dtype=torch.int8)
    assert torch.equal(other(codes), table(codes)) and torch.equal(other(samples()), table(samples()))


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu_without_waiting_for_it(kind):
    module, x = QuantLUT(GELU, kind), samples()
    module(x)
    want = module.eval()(x)
    module.cuda()
    x = x.cuda().requires_grad_()
    module(x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        y = module(x)
        y.sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(y.cpu(), want)


# --- bad input


def test_bad_input():
    with pytest.raises(LutcError, match="takes 2 to 8 bits; given 9"):
        FakeQuantize(bits=9)
    with pytest.raises(LutcError, match="takes 2 to 8 bits; given True"):
        FakeQuantize(bits=True)
    with pytest.raises(
        LutcError, match="scale is one positive finite number, or learned, observed, dynamic; given 'learnt'"
    ):
        FakeQuantize("learnt")
    with pytest.raises(LutcError, match="given -1"):
        FakeQuantize(-1)
    with pytest.raises(LutcError, match="a learned scale is symmetric, with zero point 0; given 3"):
        FakeQuantize(zero_point=3)
    with pytest.raises(LutcError, match="zero point of 8-bit codes lies in"):
        FakeQuantize(0.1, zero_point=300)
    with pytest.raises(LutcError, match="momentum is the share of the latest batch"):
        FakeQuantize("observed", momentum=0)
    with pytest.raises(LutcError, match="this observed scale has seen no batch yet"):
        FakeQuantize("observed").eval()(torch.zeros(1))
    with pytest.raises(LutcError, match="FakeQuantize takes float tensors, dense .*; given a tensor of torch.int8"):
        FakeQuantize()(torch.zeros(1, dtype=torch.int8))
    with pytest.raises(
        LutcError, match="function is a module, or the name of a function that torch knows: gelu, .*; given 'gelv'"
    ):
        QuantActivation("gelv")
    with pytest.raises(LutcError, match="QuantLUT takes tables over codes"):
        QuantLUT(float_tables("gelu", -4, 4), "learned")
    with pytest.raises(LutcError, match="this QuantLUT has no scale of its own"):
        QuantLUT(GELU, "dynamic")(torch.zeros(3, dtype=torch.int8))
    with pytest.raises(
        LutcError,
        match="axis are those of the FakeQuantize, dynamic, bits=4, zero_point=0; given 6, 0, True, None",
    ):
        QuantLUT(GELU, FakeQuantize("dynamic", bits=4), bits=6)
    with pytest.raises(LutcError, match="takes 2 to 8 bits; given 12"):
        QuantLUT(GELU, "learned", bits=12)
    assert QuantLUT(GELU, "learned", bits=5).quantise.bits == QuantLUT(GELU, FakeQuantize(bits=5), bits=5).bits == 5
    assert QuantActivation("gelu", Inputs(6, 0.2, 3)).quantise.limits == (-32, 31, 3)
