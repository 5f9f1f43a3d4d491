"""The Triton kernels against the plans' numpy models, in Triton's interpreter where there is no GPU."""

import contextlib
import itertools
import json
import os

import numpy as np
import pytest

from tests.helpers import plan_tables
from tests.helpers.ahead import counted
from tests.helpers.plan_tables import TABLES, same

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton", reason="Triton is not installed here")

from lutc.errors import LutcError  # noqa: E402
from lutc.lower import plans  # noqa: E402
from lutc.lower.lowering import lower  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = DEVICE == "cpu"
# The interpreter computes in numpy, which warns where a GPU does not.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
KINDS = ("uniform", "cells", "search", "direct")
TORCH = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
NAMES = (
    "grid",
    "flat ends",
    "right of 0",
    "one line",
    "floats",
    "many floats",
    "close",
    "abs",
    "odd",
    "cells with tails",
    "codes",
    "reciprocal",
)


@pytest.fixture(scope="module")
def gpu():
    from lutc.nn import gpu

    return gpu


def tensor(x: np.ndarray) -> torch.Tensor:
    if x.dtype == np.float32:
        return torch.from_numpy(x).to(DEVICE)
    dtype = torch.float16 if x.dtype == np.float16 else torch.bfloat16
    return torch.from_numpy(x.view(np.int16)).view(dtype).to(DEVICE)


def array(x: torch.Tensor) -> np.ndarray:
    return plans.widened(x.double().cpu().numpy())


def words(plan) -> torch.Tensor:
    return torch.from_numpy(plan.words().copy()).to(DEVICE)


def fits(name: str, dtype: str, kind: str) -> bool:
    try:
        return lower(TABLES[name], dtype, (kind,)) is not None
    except LutcError:
        return False


CASES = [case for case in itertools.product(NAMES, ("fp32", "fp16"), KINDS) if fits(*case)]
BF16 = [case for case in itertools.product(("grid", "flat ends", "floats", "abs"), ("bf16",), KINDS) if fits(*case)]


def test_every_plan_is_tried():
    assert {(dtype, kind) for _, dtype, kind in CASES} == set(itertools.product(("fp32", "fp16"), KINDS)) - {
        ("fp32", "direct")
    }


@pytest.mark.parametrize("name, dtype, kind", CASES)
def test_values_and_slopes(gpu, name, dtype, kind):
    """All codes in fp16; every cut, its neighbours and special values in fp32. Bit for bit: fp16 always, fp32 fused or
    unfused.
    """
    plan = lower(TABLES[name], dtype, (kind,))
    x = plan_tables.inputs(TABLES[name], dtype)
    got = array(gpu.values(tensor(x), words(plan), plan.meta))
    either = [plan(x)] if kind == "direct" or not INTERPRETED else [plan(x), plan.unfused(x)]
    assert np.any([same(got, want) for want in either], axis=0).all()
    assert same(array(gpu.slopes(tensor(x), words(plan), plan.meta)), plan.slope(x)).all()


@pytest.mark.parametrize("name, dtype, kind", BF16)
def test_bf16(gpu, name, dtype, kind):
    """All codes, but for what the interpreter does itself: it flushes bf16 subnormals and truncates float32 to bf16."""
    plan = lower(TABLES[name], dtype, (kind,))
    x = plans.all_codes("bf16")
    if INTERPRETED and kind != "direct":
        x = x[~((np.abs(plans.widened(x)) < 2.0**-126) & (plans.widened(x) != 0))]
        plan32 = lower(TABLES[name], "fp32", (kind,))
        out = torch.full((x.size,), float("nan"), device=DEVICE)
        from lutc.kernels import pwl

        pwl.launch(tensor(x), None, out, words(plan32), plan32.meta, "value", 1, x.size, 0, 0)
        wide = plans.widened(x).astype(np.float32)
        assert (same(array(out), plan32(wide)) | same(array(out), plan32.unfused(wide))).all()
    else:
        assert same(array(gpu.values(tensor(x), words(plan), plan.meta)), plan(x)).all()


@pytest.mark.parametrize("size", [0, 1, 2, 2047, 2048, 2049, 6151])
def test_sizes_write_all_and_nothing_else(gpu, size):
    from lutc.kernels import pwl

    plan = lower(TABLES["grid"])
    memory = torch.full((size + 64,), float("nan"), device=DEVICE)
    x = torch.randn(size, device=DEVICE)
    if size:
        pwl.launch(x, None, memory[16 : 16 + size], words(plan), plan.meta, "value", 1, size, 0, 0)
    assert memory[:16].isnan().all() and memory[16 + size :].isnan().all()
    assert (
        same(array(memory[16 : 16 + size]), plan(x.cpu().numpy()))
        | same(array(memory[16 : 16 + size]), plan.unfused(x.cpu().numpy()))
    ).all()
    assert gpu.values(x, words(plan), plan.meta).shape == (size,)


def layouts():
    base = torch.randn(6, 10, 4, 8)
    yield "contiguous", base
    yield "zero-dimensional", base[0, 0, 0, 0]
    yield "channels last", base.to(memory_format=torch.channels_last)
    yield "transposed", base.transpose(0, 3)
    yield "halves", torch.randn(7, 3, 5000).chunk(2, -1)[1]
    yield "strided", base[::2, ::3, :, ::2]
    yield "expanded", torch.randn(5, 1).expand(5, 9)
    yield "flipped", base.flip(1)
    yield "offset by one", torch.randn(4097)[1:]


@pytest.mark.parametrize("name, x", list(layouts()), ids=[name for name, _ in layouts()])
def test_shapes_and_strides(gpu, name, x):
    plan = lower(TABLES["grid"])
    x = x.to(DEVICE)
    got = gpu.values(x, words(plan), plan.meta)
    assert got.shape == x.shape and got.stride() == torch.empty_like(x).stride()
    assert (same(array(got), plan(x.cpu().numpy())) | same(array(got), plan.unfused(x.cpu().numpy()))).all()
    y = torch.randn_like(x)
    assert torch.equal(gpu.products(x, y, words(plan), plan.meta), got * y)
    assert torch.equal(gpu.gradients(y, x, words(plan), plan.meta), gpu.slopes(x, words(plan), plan.meta) * y)


@pytest.mark.parametrize(
    "dtype, kind", [("fp32", "uniform"), ("fp32", "cells"), ("fp16", "uniform"), ("fp16", "direct")]
)
def test_products_equal_two_steps(gpu, dtype, kind):
    plan = lower(TABLES["grid"], dtype, (kind,))
    gate, value = torch.randn(33, 5002, dtype=TORCH[dtype], device=DEVICE).chunk(2, -1)
    got = gpu.products(gate, value, words(plan), plan.meta)
    assert torch.equal(got, gpu.values(gate, words(plan), plan.meta) * value)


@pytest.mark.parametrize("kind", ["uniform", "cells", "search"])
def test_codes_with_a_scale(gpu, kind):
    plan = lower(TABLES["grid"], "fp32", (kind,))
    codes = torch.arange(-128, 128, dtype=torch.int8, device=DEVICE)
    got = gpu.values_of_codes(codes, words(plan), plan.meta, 2.0**-5, 3)
    assert same(array(got), plan(((np.arange(-128, 128) - 3) / 32).astype(np.float32))).all()


@pytest.mark.parametrize("kind", ["uniform", "cells", "search"])
def test_epilogue_of_a_matrix_product(kind):
    from lutc.kernels.matmul import linear_lut

    plan = lower(TABLES["grid"], "fp32", (kind,))
    generator = torch.Generator().manual_seed(0)
    a, b, bias = (torch.randn(*shape, generator=generator).to(DEVICE) for shape in ((70, 50), (50, 90), (90,)))
    want = plan((a.double() @ b.double() + bias).cpu().numpy().astype(np.float32))
    # beside a cut the product's own rounding may choose the other segment
    close = np.abs(array(linear_lut(a, b, bias, words(plan), plan.meta)) - want) < 1e-4
    assert close.mean() > 0.999


def test_launches_are_on_the_device_of_the_input(gpu, monkeypatch):
    """A kernel otherwise goes to the current device, where memory of another one is not to be reached."""
    from lutc.kernels.matmul import linear_lut

    plan, x, where = lower(TABLES["grid"]), torch.randn(16, 16, device=DEVICE), []
    monkeypatch.setattr(torch.cuda, "device_of", lambda tensor: where.append(tensor) or contextlib.nullcontext())
    gpu.values(x, words(plan), plan.meta)
    linear_lut(x, x, x[0], words(plan), plan.meta)
    assert len(where) == 2 and all(tensor is x for tensor in where)


def test_rows_beyond_a_grid_s_second_dimension_are_copied(gpu, monkeypatch):
    from lutc.kernels import pwl

    plan, (x, _) = lower(TABLES["grid"]), torch.randn(3, 100, device=DEVICE).chunk(2, -1)
    assert gpu._rows(x) == (3, 50, 100)
    monkeypatch.setattr(pwl, "LONGEST_ROW", 49)
    assert gpu._rows(x) is None
    assert same(
        array(gpu.values(x, words(plan), plan.meta)), array(gpu.values(x.contiguous(), words(plan), plan.meta))
    ).all()


def test_one_compiled_kernel_serves_all_tables_of_a_kind():
    """Tables of one kind and flatness differ in runtime arguments only."""
    from lutc.kernels import pwl

    a, b = (pwl.arguments(lower(TABLES[name]).meta) for name in ("grid", "right of 0"))
    c = pwl.arguments(lower(TABLES["flat ends"]).meta)
    assert {k for k in a if not k.startswith("p")} == {"KIND", "FLAGS"}
    assert a["KIND"] == b["KIND"] == c["KIND"] and a != b
    special = (
        {p.name for p in pwl.elementwise.params if p.do_not_specialize} if hasattr(pwl.elementwise, "params") else None
    )
    assert special is None or {f"p{i}" for i in range(6)} | {"n"} <= special


LIMITS = {("uniform", "fp16"): 12.0, ("uniform", "bf16"): 12.0, ("uniform", "fp32"): 12.0}
# An eighth of an instruction is the guard that keeps a NaN inside the cells where the interpreter runs.
LIMITS |= {("cells", "fp16"): 20.25, ("cells", "bf16"): 20.25, ("cells", "fp32"): 20.25}
FLAGS = (1, 3)  # flat on the left, as gelu's tables; on both sides, as sigmoid's


@pytest.fixture(scope="module")
def counts():
    """Instruction counts, compiled ahead of time."""
    script = (
        "import json, kernel_instructions as k\n"
        "rows = {}\n"
        "for kind, dtype, mode, flags in json.loads(input()):\n"
        "    for target in k.TARGETS if flags == 1 else (90,):\n"
        "        c = k.count(k.disassemble(k.compile_kernel(kind, dtype, target, flags, mode)), k.pwl.BLOCK // (32 * "
        "k.pwl.WARPS))\n"
        "        rows[f'{kind} {dtype} {mode} {flags} {target}'] = [c.per_element, dict(c.opcodes), "
        "dict(c.everything)]\n"
        "print(json.dumps(rows))\n"
    )
    wanted = [(kind, dtype, "value", flags) for kind, dtype in LIMITS for flags in FLAGS]
    wanted += [
        ("direct", "fp16", "value", 1),
        ("uniform", "fp16", "product", 1),
        ("uniform", "fp16", "gradient", 1),
        ("uniform", "int8", "value", 1),
    ]
    return counted(script, given=json.dumps(wanted))


@pytest.mark.slow
@pytest.mark.parametrize("kind, dtype", LIMITS)
@pytest.mark.parametrize("flags", FLAGS)
def test_instructions_per_element_on_sm_90(counts, kind, dtype, flags):
    per_element, opcodes, _ = counts[f"{kind} {dtype} value {flags} 90"]
    assert per_element <= LIMITS[kind, dtype]
    accesses = 2 if dtype != "fp32" else 4
    assert opcodes["LDG.E.128"] == opcodes["STG.E.128"] == accesses


@pytest.mark.slow
def test_no_spills_and_wide_accesses_everywhere(counts):
    for name, (_, opcodes, everything) in counts.items():
        assert not [op for op in everything if op.startswith(("LDL", "STL"))], name
        assert opcodes.get("LDG.E.128") and opcodes.get("STG.E.128"), name
