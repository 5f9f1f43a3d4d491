"""Attention in integers: torch against the numpy model bit for bit, the model against plain Python integers and, within
a proven bound, against float64.
"""

import copy
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lutc.errors import LutcError
from lutc.hardware import attention as model
from lutc.nn import IntegerAttention, integer_attention_blocks
from tests.helpers import attention_oracle as oracle
from tests.helpers.handmade import cell_tables, float_tables, int_tables

EXP, RECI = float_tables("exp", -30, 0, 3000), int_tables("reciprocal", 8, range(3, 7))
X = np.ones((1, 2, 9, 16))
CASES = [name for name in oracle.CASES if not oracle.CASES[name][1].get("softcap")]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    with oracle.small_blocks(monkeypatch, integer_attention_blocks, keys=64):
        yield


def by_the_model(module, q, k, v, mask=None, *, scale=None, alibi=None, sinks=None, lengths=None, offset=None, **rest):
    """The numpy model at the arguments of a call, as float32."""
    batch, n, keys = q.shape[0], q.shape[2], k.shape[2]
    if lengths is not None:
        behind = (torch.arange(keys) >= lengths[:, None])[:, None, :, None]
        k, v = k.masked_fill(behind, 0), v.masked_fill(behind, 0)
    seen = oracle.seen(batch, n, keys, mask, offset=offset, lengths=lengths, **rest).numpy()
    bias = np.zeros((1, 1, 1, 1), np.int64)
    if alibi is not None:
        slopes = np.rint(alibi.numpy() * np.float32(65536 / model.STEP)).astype(np.int64).reshape(-1, q.shape[1], 1, 1)
        bias = -((slopes * oracle.distances(n, keys, offset).numpy() + 32768) >> 16)
    if mask is not None and mask.dtype != torch.bool:
        added = mask.float().numpy()
        with np.errstate(over="ignore"):
            codes = np.rint(added * np.float32(1 / model.STEP)).clip(-4 * model.FARTHEST, 4 * model.FARTHEST)
        away = (mask == -math.inf).numpy()
        bias, seen = bias + np.where(away, 0, codes).astype(np.int64), seen & ~away
    codes = None if sinks is None else np.rint(sinks.numpy() * np.float32(1 / model.STEP)).astype(np.int64)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out, scales = module.model(*(x.float().numpy() for x in (q, k, v)), scale, seen, bias, codes)
    return torch.from_numpy(out.astype(np.float32) * (scales * np.float32(2**-8)))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rescale", ["shift", "none"])
def test_equals_the_model_bit_for_bit(name, rescale):
    q, k, v, mask, options = oracle.arguments(name, spread=5.0)
    for reciprocal, block in ((None, 32), (RECI, 64)):
        module = IntegerAttention(EXP, reciprocal, rescale, block)
        got = module(q, k, v, mask, **options)
        assert got.isfinite().all() and torch.equal(got, by_the_model(module, q, k, v, mask, **options))


@pytest.mark.parametrize("name", ["causal, cached keys", "added mask", "sinks"])
def test_plain_operations_give_the_same(name, monkeypatch):
    """Which other devices run."""
    q, k, v, mask, options = oracle.arguments(name, spread=5.0)
    want = [IntegerAttention(EXP, None, rescale)(q, k, v, mask, **options) for rescale in ("shift", "none")]
    monkeypatch.setattr(integer_attention_blocks, "_native", lambda x: False)
    for rescale, one in zip(("shift", "none"), want):
        assert torch.equal(IntegerAttention(EXP, None, rescale)(q, k, v, mask, **options), one)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_rounded_once(dtype):
    q, k, v, mask, options = oracle.arguments("added mask", dtype)
    module = IntegerAttention()
    got = module(q, k, v, mask, **options)
    assert got.dtype == dtype and torch.equal(got, by_the_model(module, q, k, v, mask, **options).to(dtype))


def python_row(q, keys, values, ratio, weights, block, one_pass):
    """A row of the model in Python integers and fractions: codes of its result."""

    def half_up(x):
        return math.floor(x + Fraction(1, 2))

    scores = [half_up(sum(a * b for a, b in zip(q, key)) * r) for key, r in zip(keys, ratio)]
    reference = None if one_pass else max(scores)
    before, total, acc = reference, 0, [0] * len(values[0])
    for first in range(0, len(keys), block):
        part = scores[first : first + block]
        if reference is None:
            reference = max(part)
        while reference < max(part):
            reference += 32
        octaves = 0 if before is None else (reference - before) // 32
        if octaves:
            total = half_up(Fraction(total, 2**octaves))
            acc = [half_up(Fraction(x, 2**octaves)) for x in acc]
        before = reference
        for score, value in zip(part, values[first : first + block]):
            weight = int(weights[reference - score]) if reference - score < 256 else 0
            total += weight
            acc = [x + weight * y for x, y in zip(acc, value)]
    return [half_up(Fraction(256 * x, total)) for x in acc]


@pytest.mark.parametrize("one_pass", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_the_model_equals_python_integers(one_pass, seed):
    rng = np.random.default_rng(seed)
    q, k, v = (rng.normal(size=(1, n, size)) * by for n, size, by in ((2, 16, 6), (75, 16, 1), (75, 5, 1)))
    k *= np.linspace(0.2, 2, 75)[:, None]  # larger scores come later
    held = model.IntegerAttentionModel.build(EXP, None, 32, one_pass)
    got, _ = held(q, k, v, 0.25)
    (q_codes, q_scale), (k_codes, k_scales), (v_codes, _) = (
        model.quantised(x, block) for x, block in ((q, 32), (k, 32), (v, None))
    )

    def part(scale, factor=1.0):
        mantissa, exponent = math.frexp(float(scale) * factor)
        return Fraction(round(mantissa * 2**15), 2**15) * Fraction(2) ** exponent

    ratio = [part(q_scale[0, 0], 0.25 / model.STEP) * part(k_scales[0, j // 32]) for j in range(75)]
    as_lists = [x[0].tolist() for x in (q_codes, k_codes, v_codes)]
    want = [python_row(row, *as_lists[1:], ratio, held.weights, 32, one_pass) for row in as_lists[0]]
    assert got[0].tolist() == want


@pytest.mark.parametrize("rescale", ["shift", "none"])
@pytest.mark.parametrize("order", ["as they come", "rising", "falling"])
def test_bound_against_float64(rescale, order):
    """Attention in float64 at the same codes differs by what docs/attention.md proves, and far less in the mean."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, n, 32, generator=generator) * by for n, by in ((40, 3.0), (300, 1.0), (300, 1.0)))
    if order != "as they come":
        q = q[:, :, :1].expand(q.shape).contiguous()
        by = (q[:, :, 0, None] * k).sum(-1).argsort(-1, descending=order == "falling")
        k = k.gather(2, by[..., None].expand(k.shape))
    module = IntegerAttention("exp_fplut", None, rescale, 32)
    got = module(q, k, v).double()
    given = []
    for x in (q, k):
        codes, scales = integer_attention_blocks.quantised(x, 32)
        given.append(codes.double() * scales.double().repeat_interleave(32, -1)[..., : x.shape[2], None])
    codes, scales = integer_attention_blocks.quantised(v, None)
    v = codes.double() * scales[..., None, :].double()
    s = given[0] @ given[1].transpose(-2, -1) * 32**-0.5
    d = s - s.amax(-1, keepdim=True)
    want = torch.softmax(d, -1) @ v
    heaviest = 1.0 if rescale == "none" or order == "falling" else 0.5
    total = 127 * heaviest * d.exp().sum(-1)
    off = model.STEP / 2 + s.abs().amax(-1) * 2**-14
    each = 0.5 + 127 * 2e-6  # half a weight and exp_fplut's error; what lies beyond the table is 0.51 at most
    bound = 2 * torch.expm1(2 * off) + 2 * (300 * (each + 0.02) + 1) / total
    bound = bound[..., None] * v.abs().amax(-2, keepdim=True) + scales[..., None, :] * (1 / total[..., None] + 2**-9)
    error = (got - want).abs()
    assert (error <= bound).all()
    assert 1e-3 < error.mean() < 0.04 * want.std()


def test_one_pass_is_two_where_the_largest_score_comes_first():
    q, k, v = (
        torch.ones(1, 1, 9, 16),
        torch.linspace(3, 0, 200)[:, None].expand(1, 1, 200, 16),
        torch.randn(1, 1, 200, 8),
    )
    one, two = (IntegerAttention(EXP, None, rescale) for rescale in ("shift", "none"))
    assert torch.equal(one(q, k, v), two(q, k, v))
    assert not torch.equal(one(q, k.flip(2), v.flip(2)), two(q, k.flip(2), v.flip(2)))


@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=80),
    st.sampled_from([None, 32]),
    st.sampled_from([1.0, 1e-30, 1e30]),
)
@settings(max_examples=60, deadline=None)
def test_codes_are_within_half_a_step_and_torch_has_numpys(values, block, by):
    x = (np.array(values, np.float32) * np.float32(by)).reshape(-1, 1)
    codes, scales = model.quantised(x, block)
    found, of = integer_attention_blocks.quantised(torch.from_numpy(x), block)
    assert np.array_equal(found.numpy(), codes) and np.array_equal(of.numpy(), scales)
    by = scales.astype(np.float64).repeat(len(x) if block is None else block)[: len(x), None]
    served = by >= model.LEAST_SCALE
    assert np.abs(codes).max() <= 127 and (codes[~served] == 0).all()
    assert (np.abs(codes * by - x)[served] <= by[served] * (0.5 + 1e-4)).all()
    one, other = model.multipliers(scales, 0.3), integer_attention_blocks.multipliers(of, 0.3)
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(one, other))
    exact = np.where(scales >= model.LEAST_SCALE, scales.astype(np.float64) * 0.3, 0)
    assert np.allclose(one[0] * 2.0 ** (one[1] - 15.0), exact, rtol=2**-15, atol=0)


def test_nothing_seen_is_zero_and_special_values_are_nan():
    q, k, v = (torch.randn(1, 2, n, 16) for n in (70, 100, 100))
    for rescale in ("shift", "none"):
        module = IntegerAttention(EXP, None, rescale, 32)
        assert (module(q, k, v, torch.zeros(70, 100).bool()) == 0).all()
        assert (module(q, k, v, torch.full((70, 100), -math.inf)) == 0).all()
        bad = q.clone()
        bad[0, 1, 40, 3] = math.nan
        wrong = module(bad, k, v).isnan()
        assert wrong[0, 1, 32:64].all() and wrong.sum() == 32 * 16
        bad = k.clone()
        bad[0, 0, 5, 1] = math.inf
        assert module(q, bad, v)[0, 0].isnan().all() and not module(q, bad, v)[0, 1].isnan().any()
        bad = v.clone()
        bad[0, 0, 5, 1] = -math.inf
        assert module(q, k, bad)[0, 0, :, 1].isnan().all() and module(q, k, bad).isnan().sum() == 70
        bias = torch.zeros(70, 100)
        bias[3, 7], bias[4, 8] = math.nan, math.inf
        got = module(q, k, v, bias)
        assert got[..., 3, :].isnan().all() and got.isnan().sum() == 32
        assert torch.allclose(got[0, :, 4], v[0, :, 8], atol=2e-2)  # it alone is seen
        big = torch.full((1, 1, 3, 16), 1e30)
        assert module(big, big, big).isfinite().all() and module(big * 0, k[:, :1], v[:, :1]).isfinite().all()


@pytest.mark.parametrize("shape", [(1, 2, 0, 5), (1, 2, 5, 0), (0, 2, 3, 4)])
def test_empty(shape):
    batch, heads, n, keys = shape
    q, k = torch.randn(batch, heads, n, 16), torch.randn(batch, heads, keys, 16)
    got = IntegerAttention(EXP)(q, k, k)
    assert got.shape == q.shape and (got == 0).all()


def test_other_numbers_of_dimensions_and_strides():
    module = IntegerAttention(EXP)
    q, k, v = (torch.randn(2, 3, 4, n, 16) for n in (7, 50, 50))
    mask = torch.rand(2, 3, 1, 7, 50) < 0.5
    got = module(q, k, v, mask)
    for i in range(2):
        assert torch.equal(got[i], module(q[i], k[i], v[i], mask[i]))
        assert torch.equal(got[i, 1], module(q[i, 1], k[i, 1], v[i, 1], mask[i, 1]))
    moved = (x[0].transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    assert torch.equal(module(*moved), module(q[0], k[0], v[0]))


def test_opcheck_compile_export_and_vmap():
    module = IntegerAttention(EXP, RECI)
    q, k = torch.randn(2, 4, 9, 16), torch.randn(2, 2, 40, 16)
    lines = [module.reciprocal.cuts, module.reciprocal.slopes, module.reciprocal.intercepts]
    given = (q, k, k, torch.randn(1, 1, 9, 40), torch.randn(4), None, None, module.weights, lines, [1, 3])
    torch.library.opcheck(torch.ops.lutc.integer_attention.default, (*given, 0.25, True, 31, 20, "shift", 32))
    want = module(q, k, k, causal=True)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    assert torch.equal(compiled(q, k, k, causal=True), want)
    longer = torch.randn(2, 2, 77, 16)
    assert torch.equal(compiled(q, longer, longer, causal=True), module(q, longer, longer, causal=True))
    exported = torch.export.export(module, (q, k, k), {"causal": True})
    assert torch.equal(exported.module()(q, k, k, causal=True), want)
    batched = torch.vmap(lambda x: module(x, k, k, causal=True))(torch.stack([q, 2 * q]))
    assert torch.equal(batched[0], want) and torch.equal(batched[1], module(2 * q, k, k, causal=True))


def test_copies_and_checkpoints_keep_the_table():
    module, q = IntegerAttention(int_tables("exp"), RECI), torch.randn(1, 2, 90, 16)
    want = module(q, q, q)
    other = IntegerAttention(EXP, RECI)
    assert not torch.equal(other(q, q, q), want)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(q, q, q), want) and torch.equal(by_the_model(other, q, q, q), want)
    for copied in (
        copy.deepcopy(module).half(),
        pickle.loads(pickle.dumps(module)),
        module.to("meta").to_empty(device="cpu"),
    ):
        assert torch.equal(copied(q, q, q), want)


def test_the_table_is_127_exp_in_bytes():
    weights = IntegerAttention("exp_fplut").model.weights
    assert weights.tolist() == [math.floor(127 * 2 ** (-i / 32) + 0.5) for i in range(256)]
    of_codes = IntegerAttention("exp_8").model.weights  # by the table of the scale 2**-4, whose codes reach -8
    assert np.abs(of_codes - weights).max() <= 127 * 0.02 and of_codes[-1] == 0


Q, K = torch.zeros(2, 4, 5, 16), torch.zeros(2, 2, 7, 16)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((Q, K, K), {"dropout": 0.1}, "has no dropout; given 0.1"),
        ((Q.int(), K, K), {}, r"attention \(query\) takes float32"),
        ((Q[:, :3], K, K), {}, "a multiple of those of key; given 3 and 2"),
        ((Q, K, K, torch.ones(5, 6).bool()), {}, r"a mask of shape \(5, 6\) does not broadcast to \(2, 4, 5, 7\)"),
        ((Q, K, K), {"softcap": 3.0}, "caps no scores; given softcap=3.0: use LUTAttention"),
        ((Q, K, K), {"window": 0}, "window is a positive number, or None"),
        ((torch.zeros(1, 1, 2, 1041),) * 3, {}, "takes heads of up to 1040; given 1041"),
        ((Q[:1, :1], *[torch.zeros(1).expand(1, 1, 133145, 16)] * 2), {}, "hold up to 133144 keys; given 133145"),
    ],
)
def test_bad_input_is_said_in_one_line(arguments, options, message):
    with pytest.raises(LutcError, match=message) as caught:
        IntegerAttention(EXP)(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_autocast_leaves_the_integers_alone():
    q = torch.randn(1, 2, 90, 64)
    want = IntegerAttention()(q, q, q, causal=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(IntegerAttention()(q, q, q, causal=True), want)


@pytest.mark.parametrize("block", [32, 64])
def test_windows_behind_all_keys_give_0(block):
    q, mask = torch.randn(1, 2, 9, 16), torch.ones(9, 9).bool()
    assert not IntegerAttention(block=block)(q, q, q, mask, offset=500, window=3).any()


def test_nan_among_slopes_makes_nan_of_their_heads():
    q = torch.randn(1, 2, 9, 16)
    got = IntegerAttention()(q, q, q, alibi=torch.tensor([0.5, float("nan")]))
    assert got[:, 0].isfinite().all() and got[:, 1].isnan().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": X * np.nan}, "query holds NaN or infinities"),
        ({"value": [[1.0]]}, "value is an array of floats .* given list"),
        ({"key": X[..., :8]}, r"given \(1, 2, 9, 16\), \(1, 2, 9, 8\), \(1, 2, 9, 16\)"),
        ({"scale": float("nan")}, "scale is a finite number; given nan"),
    ],
)
def test_the_model_refuses_what_codes_cannot_hold(change, message):
    with pytest.raises(LutcError, match=message):
        IntegerAttention(EXP).model(**{"query": X, "key": X, "value": X, "scale": 0.25, **change})


def test_what_does_not_serve():
    with pytest.raises(LutcError, match="rescale is one of shift, none; given 'exact'"):
        IntegerAttention(rescale="exact")
    with pytest.raises(LutcError, match="block is one of 32, 64, 128; given 48"):
        IntegerAttention(block=48)
    with pytest.raises(LutcError, match=r"covers exp on \[-16, 0\]"):
        IntegerAttention(cell_tables("exp", [-60, -50, -40], [4, 4]))
    q = torch.randn(1, 1, 4, 16, requires_grad=True)
    with pytest.raises(LutcError, match="has no gradient; train with LUTAttention"):
        IntegerAttention(EXP)(q, q, q).sum().backward()


def test_in_place_of_torchs_attention():
    """Errors of int8 attention at scores of unit spread: a few percent of the result's own spread."""
    q, k, v = (torch.randn(1, 4, 256, 64, generator=torch.Generator().manual_seed(1)) for _ in range(3))
    got, want = (
        IntegerAttention()(q, k, v, causal=True, offset=0),
        F.scaled_dot_product_attention(q, k, v, is_causal=True),
    )
    assert (got - want).std() < 0.03 * want.std()
