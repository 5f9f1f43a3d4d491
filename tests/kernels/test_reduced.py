"""Range reduction in float32: the Triton and the numba kernels against the table's float64 value rounded once."""

import os

import numpy as np
import pytest

from tests.helpers import plan_tables
from tests.helpers.plan_tables import TABLES, same

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from lutc.errors import LutcError  # noqa: E402
from lutc.lower import plans  # noqa: E402
from lutc.lower.lowering import lower  # noqa: E402
from lutc.nn import LUT, cpu  # noqa: E402
from lutc.table import library  # noqa: E402
from lutc.table.bodies import Lines  # noqa: E402
from lutc.table.prologues import ExponentPrologue  # noqa: E402
from lutc.table.table import Table  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore::RuntimeWarning"
)  # the interpreter computes in numpy, which warns where a GPU does not
BY_HAND = ("reciprocal", "logarithm", "sine", "square", "two steps", "exponential")
SHIPPED = (
    "exp_fplut",
    "log_fplut",
    "sin_fplut",
    "cos_fplut",
    "reciprocal_fplut",
    "rsqrt_fplut",
    "sqrt_fplut",
    "square_fplut",
    "exp_nnlut_16",
)


def table_of(name: str) -> Table:
    return TABLES[name] if name in TABLES else library.load(name)["fp32"]


def inputs(table: Table) -> np.ndarray:
    """Every cut in several periods or binades and its neighbours, special values, all magnitudes."""
    cuts = np.float32(table.body.edges if hasattr(table.body, "edges") else table.body.breakpoints)
    prologue = table.prologue
    if prologue.kind == "exponent":
        moved = [cuts * np.float32(2.0**k) for k in (-140, -8, 3, 100)]
    else:
        moved = [cuts + k * prologue.period for k in (-5, 1, 40)]
    cuts = np.float32(np.concatenate([cuts, *moved]))
    around = [cuts, np.nextafter(cuts, np.float32(np.inf)), np.nextafter(cuts, np.float32(-np.inf))]
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << 32, 20_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    x = np.concatenate(
        [*around, -cuts, np.float32(plan_tables.SPECIAL), bits, np.float32(rng.normal(size=20_000) * 20)]
    )
    return np.where(np.isnan(x), np.float32(np.nan), x)


def nearly_same(got, want) -> bool:
    """Equal but for a fused multiply-add in float64: one ulp of float32 on one value in a hundred."""
    equal = same(got, want)
    apart = np.abs(plans.widened(got) - plans.widened(want))[~equal]
    return (apart <= np.spacing(np.abs(want[~equal]))).all() and (~equal).mean() < 0.01


@pytest.mark.parametrize("name", BY_HAND + SHIPPED)
def test_the_plan_finds_the_tables_segment(name):
    table = table_of(name)
    plan = lower(table, "fp32", ("reduced",))
    top = 2.0**table.prologue.step if table.prologue.kind == "exponent" else table.prologue.period
    reference = lower(table, "fp32", ("reference",))
    r = np.concatenate(
        [np.random.default_rng(1).uniform(table.prologue.kind == "exponent", top, 5000), reference.thresholds]
    )
    r = np.concatenate([r, np.nextafter(r, 0.0)])
    r = r[(r >= (table.prologue.kind == "exponent")) & (r < top)]
    np.testing.assert_array_equal(
        plan.slopes[plan.index(r)], reference.slopes[np.searchsorted(reference.thresholds, r, side="right")]
    )
    assert plan.thresholds.size <= 16384


@pytest.mark.parametrize("slope_only", [False, True])
@pytest.mark.parametrize("name", BY_HAND + SHIPPED)
def test_numba(name, slope_only):
    table = table_of(name)
    plan, x = lower(table, "fp32", ("reduced",)), inputs(table)
    out = np.full_like(x, 7.0)
    cpu.evaluate(x, out, plan.words(), plan.meta, slope_only, 1)
    assert nearly_same(out, plan.slope(x) if slope_only else plan(x))


@pytest.mark.parametrize("slope_only", [False, True])
@pytest.mark.parametrize("name", [*BY_HAND, "exp_fplut", "rsqrt_fplut"])
def test_triton(name, slope_only):
    """The interpreter does not fuse, which far from 0 leaves other remainders: periods are held to where it makes no
    difference there.
    """
    pytest.importorskip("triton", reason="Triton is not installed here")
    from lutc.nn import gpu

    device = "cuda" if torch.cuda.is_available() else "cpu"
    table = table_of(name)
    plan, x = lower(table, "fp32", ("reduced",)), inputs(table)
    if table.prologue.kind == "period" and device == "cpu":
        cuts = table.body.edges if hasattr(table.body, "edges") else table.body.breakpoints
        r = np.mod(np.where(np.isfinite(x), x, 1.0).astype(np.float64), table.prologue.period)
        clear = np.abs(r[:, None] - np.concatenate([[0.0, table.prologue.period], cuts])).min(axis=1) > 1e-9
        x = x[((np.abs(x) < 1e4) & clear) | ~np.isfinite(x)]
    words = torch.from_numpy(plan.words().copy()).to(device)
    run = gpu.slopes if slope_only else gpu.values
    got = run(torch.from_numpy(x).to(device), words, plan.meta).cpu().numpy()
    want = plan.slope(x) if slope_only else plan(x)
    finite = np.isfinite(want) & (np.abs(want) > 1e-30)
    np.testing.assert_allclose(
        got[finite], want[finite], rtol=3e-7, atol=1e-9 if table.prologue.kind == "period" else 0
    )
    assert same(got[~np.isfinite(want)], want[~np.isfinite(want)]).all()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_module_runs_it(name):
    act = LUT(name)
    assert act.plan_kind(torch.float32) == "reduced"
    x = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 0.7, 3.0, 1e-40])
    want = library.load(name)["fp32"](x.double().numpy())
    assert same(act(x).numpy(), want.astype(np.float32)).all()
    assert (torch.signbit(act(x)) == torch.from_numpy(np.signbit(want)))[~torch.from_numpy(np.isnan(want))].all()


def test_cuts_too_close_take_the_reference():
    close = 1.0 + np.arange(1, 4) * 2.0**-40
    table = Table(Lines(close, np.zeros(4), np.arange(4.0)), ExponentPrologue(1, 0))
    assert lower(table).kind == "reference"
    with pytest.raises(LutcError, match="none of the plans reduced fits"):
        lower(table, "fp32", ("reduced",))
