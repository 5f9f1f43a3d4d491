"""The numba kernels against the plans' numpy models."""

import concurrent.futures
import os
import subprocess
import sys

import numba
import numpy as np
import pytest

from tests.helpers import plan_tables
from tests.helpers.plan_tables import PIECEWISE, TABLES, same

torch = pytest.importorskip("torch")

from lutc.errors import LutcError  # noqa: E402
from lutc.lower import plans  # noqa: E402
from lutc.lower.lowering import lower  # noqa: E402
from lutc.nn import plain  # noqa: E402
from lutc.nn.cpu import half as cpu_half  # noqa: E402
from lutc.nn.cpu import lines as cpu  # noqa: E402
from lutc.nn.cpu import team  # noqa: E402


def plans_of(name):
    for kind in ("chain", "uniform", "cells", "search"):
        try:
            yield lower(TABLES[name], "fp32", (kind,))
        except LutcError:
            continue


def run(plan, x, slope_only=False, threads=1):
    out = np.full(x.size, np.nan, x.dtype) if x.dtype == np.float32 else np.zeros(x.size, np.uint16)
    source = x if x.dtype == np.float32 else x.view(np.uint16)
    cpu.evaluate(source, out, plan.words(), plan.meta, slope_only, threads)
    return out if x.dtype == np.float32 else out.view(x.dtype)


@pytest.mark.parametrize("name", PIECEWISE)
def test_fp32_bit_for_bit(name):
    """Values and slopes at every cut and its neighbours, special values and normal ones, on every plan that fits."""
    x = plan_tables.inputs(TABLES[name])
    for plan in plans_of(name):
        got = run(plan, x)
        assert (same(got, plan(x)) | same(got, plan.unfused(x))).all(), plan.kind  # fused where the processor can
        assert same(run(plan, x, slope_only=True), plan.slope(x)).all(), plan.kind


@pytest.mark.parametrize("name", PIECEWISE)
def test_chains_without_permuting_lanes(name, monkeypatch):
    """What processors without AVX-512 run gives the same bits."""
    try:
        plan = lower(TABLES[name], "fp32", ("chain",))
    except LutcError:
        pytest.skip("more than 16 segments")
    x = plan_tables.inputs(TABLES[name])
    want = [run(plan, x, slope_only) for slope_only in (False, True)]
    monkeypatch.setattr(cpu, "_CHAINS", {8: cpu._chain8, 16: cpu._chain16})
    cpu.kernel_of.cache_clear()
    try:
        assert all(same(run(plan, x, slope_only), want[slope_only]).all() for slope_only in (False, True))
    finally:
        cpu.kernel_of.cache_clear()


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_16_bits_on_every_code(name, dtype):
    x = plans.all_codes(dtype)
    plan = lower(TABLES[name], dtype)
    assert same(run(plan, x), plans.round_to(TABLES[name](plans.widened(x)), dtype)).all()
    assert same(run(plan, x, slope_only=True), plan.slope(x)).all()


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 2 * cpu.SLICE - 1, 2 * cpu.SLICE, 5 * cpu.SLICE + 13])
@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_slices_cover_every_element(size, threads):
    x = np.random.default_rng(0).normal(size=size).astype(np.float32)
    plan = lower(TABLES["grid"], "fp32", ("chain",))
    np.testing.assert_array_equal(run(plan, x, threads=threads), run(plan, x))
    assert not np.isnan(run(plan, x, threads=threads)).any()


@pytest.mark.parametrize("size", [1, 4095, 4097, 3 * cpu.SLICE + 5])
@pytest.mark.parametrize("name", ["grid", "floats", "many floats", "cells", "reciprocal", "sine"])
def test_a_product_in_one_pass_is_that_of_two_steps(name, size):
    rng = np.random.default_rng(0)
    x, y = (np.float32(rng.normal(size=size) * 4) for _ in range(2))
    plan = lower(TABLES[name])
    words, out = plan.words(), np.full_like(x, np.nan)
    for slope_only in (False, True):
        at = [array.__array_interface__["data"][0] for array in (x, out, words, y)]
        cpu.run(*at[:2], size, at[2], plan.meta, slope_only, 2, at[3])
        np.testing.assert_array_equal(out, run(plan, x, slope_only) * y)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("shift", [0, 1])
def test_a_product_of_16_bits_is_that_of_two_steps(dtype, shift):
    """Every code, times codes in four random orders; also where the memory does not begin at a pair of codes."""
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    plan = lower(TABLES["floats"], dtype)
    words = torch.from_numpy(plan.words().copy())
    codes = torch.arange(65536).to(torch.uint16).view(torch.int16)
    for turn in range(4):
        x, y = (torch.empty(65536 + shift, dtype=half)[shift:] for _ in range(2))
        x.view(torch.int16).copy_(codes)
        y.view(torch.int16).copy_(codes[torch.randperm(65536, generator=torch.Generator().manual_seed(turn))])
        out = torch.zeros(65536 + shift, dtype=half)[shift:]
        for slope_only in (False, True):
            cpu.run(
                x.data_ptr(), out.data_ptr(), 65536, words.data_ptr(), plan.meta, slope_only, 2, y.data_ptr(), dtype
            )
            want = plain.evaluate(x, words, plan.meta, slope_only) * y
            assert ((out == want) | out.isnan() & want.isnan()).all()


@pytest.mark.parametrize("name", ["from_fp16", "to_fp16", "bits_from_fp16", "bits_to_fp16", "from_bf16", "to_bf16"])
def test_conversions_of_16_bits(name):
    """To float32: every code. From it: every value of the format, the midpoints between them, and their neighbours."""
    convert, dtype = getattr(cpu_half, name), name[-4:]
    half, codes = {"fp16": torch.float16, "bf16": torch.bfloat16}[dtype], torch.arange(65536).to(torch.uint16)
    single = codes.view(half).float()
    if "from" in name:
        given, want = codes.numpy(), single
    else:
        near = single[~single.isnan()].sort().values
        middle = (near[1:].double() + near[:-1].double()).div(2).float()
        given = torch.cat(
            [
                single,
                middle,
                middle.nextafter(torch.tensor(9e38)),
                middle.nextafter(torch.tensor(-9e38)),
                torch.rand(1 << 16) * 1e-40,
            ]
        )
        want, given = given.to(half).float(), given.numpy()
    got = numba.njit(lambda x: [convert(v) for v in x])(given)
    got = torch.tensor(got) if "from" in name else torch.tensor(got).to(torch.uint16).view(half).float()
    same_bits = got.view(torch.int32) == want.view(torch.int32)
    assert (same_bits | got.isnan() & want.isnan()).all()


def test_many_callers_at_once():
    x = np.random.default_rng(0).normal(size=4 * cpu.SLICE).astype(np.float32)
    plan = lower(TABLES["floats"])
    want = run(plan, x)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: run(plan, x, threads=2), range(12)):
            np.testing.assert_array_equal(got, want)


def test_without_torch_s_openmp_a_pool_serves(monkeypatch):
    monkeypatch.setattr(team, "_openmp", lambda: None)
    x = np.random.default_rng(0).normal(size=9 * cpu.SLICE + 1).astype(np.float32)
    plan = lower(TABLES["floats"])
    np.testing.assert_array_equal(run(plan, x, threads=3), run(plan, x))
    assert 3 in team._pools


def _script(text, **environment):
    ran = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or not torch.backends.openmp.is_available(), reason="torch runs on other threads here"
)
def test_the_threads_are_torch_s():
    """A table starts none of its own beside those of torch's loops, which would wait for each other's cores."""
    text = (
        "import os, torch, lutc.nn\n"
        "torch.set_num_threads(2)\n"
        "x = torch.randn(1 << 20)\n"
        "act, softmax = lutc.nn.LUT('gelu_8'), lutc.nn.LUTSoftmax()\n"
        "x.exp(), act(x[:9]), softmax(x[:9])\n"  # what these load may start threads of its own
        "before = len(os.listdir('/proc/self/task'))\n"
        "act(x), act(x.half()), act.gated(x, x), softmax(x.view(1024, 1024))\n"
        "print(before, len(os.listdir('/proc/self/task')))"
    )
    before, after = _script(text).split()
    assert before == after


@pytest.mark.slow
def test_kernels_are_compiled_once(tmp_path):
    """A second process finds all of them in the cache on disk and adds nothing to it."""
    text = (
        "import torch, lutc.nn\n"
        "x = torch.randn(4, 8)\n"
        "lutc.nn.LUT('gelu_8').gated(x, x), lutc.nn.LUTRMSNorm(8, rsqrt='sqrt_reci_8')(x)"
    )
    files = []
    for _ in range(2):
        _script(text, NUMBA_CACHE_DIR=str(tmp_path))
        files.append({path.relative_to(tmp_path) for path in tmp_path.rglob("*.nb*")})
    assert files[0] and files[0] == files[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_computes_on_its_own_threads():
    x = np.random.default_rng(0).normal(size=4 * cpu.SLICE).astype(np.float32)
    plan = lower(TABLES["grid"])
    want = run(plan, x, threads=2)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(run(plan, x, threads=2), want) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_without_a_folder_for_the_cache(tmp_path):
    """A read-only installation and a home that cannot be written: the kernels are compiled afresh, not refused."""
    script = (
        "import numba.core.caching as c\n"
        "c.CacheImpl._locator_classes = []\n"
        "import numpy as np\n"
        "from lutc.nn import cpu\n"
        "out = np.zeros(4, np.uint16)\n"
        "cpu.evaluate(np.arange(4, dtype=np.uint16), out, np.arange(65536, dtype=np.int32), (4, 0, 65536), False, 1)\n"
        "assert out.tolist() == [0, 0, 1, 0], out\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("name", TABLES)
def test_plain_torch_agrees(name):
    """The fallback without numba or Triton, on every dtype that it may meet."""
    table = TABLES[name]
    for dtype in ("fp16", "bf16", "fp32", "fp64"):
        kinds = ("direct",) if dtype in ("fp16", "bf16") else ("search", "reference")
        plan = lower(table, dtype, kinds)
        x = plan_tables.inputs(table, dtype)
        half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(dtype)
        tensor = torch.from_numpy(x) if half is None else torch.from_numpy(x.view(np.int16)).view(half)
        words = torch.from_numpy(plan.words().copy())
        for slope_only, want in ((False, plan(x)), (True, plan.slope(x))):
            got = plans.widened(plain.evaluate(tensor, words, plan.meta, slope_only).double().numpy())
            want = plans.widened(want)
            assert (np.isnan(got) == np.isnan(want)).all(), (dtype, slope_only)
            rtol = {"fp16": 0, "bf16": 0, "fp32": 3e-7, "fp64": 1e-12}[dtype]
            np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * 4, err_msg=f"{dtype} {slope_only}")
