"""Attention by tables against the whole matrix in float64, and against two-pass softmax within the bound."""

import copy
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lutc.errors import LutcError
from lutc.nn import IntegerAttention, LUTAttention, LUTSoftmax, attention_blocks
from lutc.nn.attention import Cap, attention, deviation, packed_attention
from lutc.table import library
from tests.helpers import attention_oracle as oracle
from tests.helpers.handmade import cell_tables, float_tables, int_tables

ROUNDING = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}


def only(tables):
    return next(iter(tables.values()))


EXP, RECI, TANH = only(float_tables("exp", -30, 0, 3000)), float_tables("reciprocal", 1, 2, 500), None
FPLUT = library.load("exp_fplut")["fp32"]
TANH = only(float_tables("tanh", -8, 8, 1000))


def trained(*tensors):
    return [None if x is None else x.clone().requires_grad_(x.is_floating_point()) for x in tensors]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    with oracle.small_blocks(monkeypatch, attention_blocks, keys=32):
        yield


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("name", oracle.CASES)
def test_equals_the_oracle(name, dtype):
    """Two-pass softmax with the same table, forward and backward, all options."""
    q, k, v, mask, options = oracle.arguments(name, dtype)
    sinks = options.pop("sinks", None)
    softmax, cap = LUTSoftmax(FPLUT, RECI), Cap(TANH)
    given, wanted = (trained(q, k, v, mask, sinks) for _ in range(2))
    got = attention(softmax, *given[:4], sinks=given[4], cap=cap, rescale="none", **options)
    want = oracle.attention(FPLUT, *wanted[:4], sinks=wanted[4], reciprocal=only(RECI), tanh=TANH, **options)
    assert got.dtype == dtype and got.is_contiguous()
    # fp32 arithmetic may land on the other side of a cut of a table, where both lines are close
    tolerance = ROUNDING[dtype] * (1 if dtype == torch.float64 else want.detach().abs().max().item())
    assert (got.double() - want).abs().max() <= tolerance
    upstream = torch.randn(want.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    needed = [i for i, x in enumerate(given) if x is not None and x.requires_grad]
    found = torch.autograd.grad(got, [given[i] for i in needed], upstream)
    right = torch.autograd.grad(want, [wanted[i] for i in needed], upstream.double())
    for one, other, i in zip(found, right, needed):
        assert one.dtype == given[i].dtype
        assert (one.double() - other).abs().max() <= 4 * ROUNDING[dtype] * max(1.0, other.abs().max().item()), i


@pytest.mark.parametrize("name", ["plain", "causal, cached keys", "all at once", "sinks"])
@pytest.mark.parametrize("rescale", ["exact", "table"])
def test_one_pass_with_a_fine_table(name, rescale):
    q, k, v, mask, options = oracle.arguments(name, torch.float64)
    got = LUTAttention(rescale=rescale)(q, k, v, mask, **options)
    want = oracle.attention(FPLUT, q, k, v, mask, **options)
    assert (got - want).abs().max() <= deviation("exp_fplut", rescale, rises=3) * v.abs().max()
    assert not torch.equal(got, want)


ORDERS = {"as they come": lambda s: s, "rising": lambda s: s.sort(-1)[0], "falling": lambda s: s.sort(-1)[0].flip(-1)}


@pytest.mark.parametrize("exp", ["exp_fplut", "exp_nnlut_16", "exp_nnlut_32", "exp_8", "exp_16"])
@pytest.mark.parametrize("rescale", ["exact", "table"])
@pytest.mark.parametrize("order", ORDERS)
def test_bound_of_one_pass(exp, rescale, order):
    """Scores are given as the mask, in the order that is worst for one pass; values +-1 collect all deviations."""
    generator = torch.Generator().manual_seed(0)
    scores = ORDERS[order](torch.rand(40, 320, dtype=torch.float64, generator=generator) * 12)[None, None]
    zero, value = torch.zeros(1, 1, 40, 16, dtype=torch.float64), torch.ones(1, 1, 320, 64, dtype=torch.float64)
    value = value * (2 * torch.randint(0, 2, value.shape, generator=generator) - 1)
    key = torch.zeros(1, 1, 320, 16, dtype=torch.float64)
    one = LUTAttention(exp, rescale=rescale)(zero, key, value, scores)
    two = LUTAttention(exp, rescale="none")(zero, key, value, scores)
    tables = library.load(exp)
    assert torch.allclose(two[0, 0], LUTSoftmax(tables)(scores[0, 0]) @ value[0, 0], atol=1e-12)
    bound = deviation(exp, rescale, rises=9, keys=320)
    worst = (one - two).abs().max()
    assert worst <= bound
    if order == "falling":
        assert worst < 1e-12  # the first block holds the largest score: nothing is rescaled
    elif bound < 2:
        assert worst > bound / 2000  # the bound says something


def test_bound_follows_the_tables_errors():
    d = np.linspace(-math.log(2), 0, 100_001)
    error = np.abs(FPLUT(d) / np.exp(d) - 1).max()
    assert deviation(FPLUT) == pytest.approx(4 * error, rel=1e-2)
    assert deviation(FPLUT, "table", rises=3) == pytest.approx(10 * error, rel=1e-2)
    coarse = int_tables("exp")["4"]
    worst = np.abs(np.maximum(coarse(np.linspace(-16, 0, 10_001)), 0) - np.exp(np.linspace(-16, 0, 10_001))).max()
    assert deviation(coarse, keys=3) == pytest.approx(2 * 3 * 2 * worst / (1 - worst), rel=1e-2)
    assert deviation(coarse) == 2.0  # no bound: its tail is flat, so relative errors are not bounded
    assert deviation(FPLUT, "none") == 0.0
    with pytest.raises(LutcError, match="rises are at least 0 and keys at least 1; given -1 and None"):
        deviation(FPLUT, "table", rises=-1)
    with pytest.raises(LutcError, match="rescale is one of exact, table, none; given 'half'"):
        deviation(FPLUT, "half")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_special_values_as_torch(dtype):
    """NaN and infinities in a row make it NaN there and nowhere else; hidden ones do not."""
    q, k, v = (torch.randn(1, 1, n, 16, dtype=dtype) for n in (6, 90, 90))
    bias = torch.zeros(6, 90, dtype=dtype)
    bias[0, 70], bias[1, 3], bias[2], bias[3] = math.nan, math.inf, -math.inf, torch.finfo(dtype).min
    for rescale in ("exact", "table", "none"):
        got = LUTAttention(EXP, rescale=rescale)(q, k, v, bias)
        want = F.scaled_dot_product_attention(q, k, v, bias)
        assert torch.equal(got.isnan(), want.isnan()) and (got[0, 0, 2] == 0).all()
        assert torch.allclose(got, want, atol=2e-3, equal_nan=True)
    q[0, 0, 4] = math.nan
    got = LUTAttention(EXP)(q, k, v, torch.arange(6)[:, None] != 4)
    assert (got[0, 0, 4] == 0).all() and not got.isnan().any()


@pytest.mark.parametrize("shape", [(1, 2, 0, 5), (1, 2, 5, 0), (0, 2, 3, 4)])
def test_empty(shape):
    batch, heads, n, keys = shape
    q, k = torch.randn(batch, heads, n, 16, requires_grad=True), torch.randn(batch, heads, keys, 16)
    got = LUTAttention()(q, k, k)
    assert got.shape == q.shape and (got == 0).all()
    got.sum().backward()
    assert q.grad.shape == q.shape


def test_other_numbers_of_dimensions_and_strides():
    module = LUTAttention()
    q, k, v = (torch.randn(2, 3, 4, n, 16) for n in (7, 50, 50))
    mask = torch.rand(2, 3, 1, 7, 50) < 0.5
    got = module(q, k, v, mask)
    for i in range(2):
        assert torch.allclose(got[i], module(q[i], k[i], v[i], mask[i]), atol=1e-6)
        assert torch.allclose(got[i, 1], module(q[i, 1], k[i, 1], v[i, 1], mask[i, 1]), atol=1e-6)
    moved = (x[0].transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    assert torch.equal(module(*moved), module(q[0], k[0], v[0]))


@pytest.mark.parametrize("causal", [True, False])
def test_packed_sequences(causal):
    lengths, key_lengths = [5, 0, 40, 1], [9, 3, 40, 7]
    starts, key_starts = (torch.tensor([0, *np.cumsum(sizes)]) for sizes in (lengths, key_lengths))
    q, k, v = torch.randn(46, 4, 16), torch.randn(59, 2, 16), torch.randn(59, 2, 24)
    softmax = LUTSoftmax()
    got = packed_attention(softmax, q, k, v, starts, key_starts, causal=causal)
    assert got.shape == (46, 4, 24)
    first = j = 0
    for n, keys in zip(lengths, key_lengths):
        parts = (x.transpose(0, 1)[None] for x in (q[first : first + n], k[j : j + keys], v[j : j + keys]))
        want = oracle.attention(FPLUT, *parts, causal=causal)[0].transpose(0, 1) if n else q.new_empty(0, 4, 24)
        assert (got[first : first + n] - want).abs().max() < 1e-3 if n else True
        first, j = first + n, j + keys
    with pytest.raises(LutcError, match="query_starts are integers that go up from 0 to the number of tokens, 46"):
        packed_attention(softmax, q, k, v, torch.tensor([0, 30]))
    with pytest.raises(LutcError, match=r"query_starts are integers .* given \[0.0, 2.5, 46.0\]"):
        packed_attention(LUTSoftmax(), q, k, v, torch.tensor([0, 2.5, 46]))
    with pytest.raises(LutcError, match="packed attention takes no lengths"):
        packed_attention(LUTSoftmax(), q, k, v, starts, lengths=torch.tensor([3]))
    with pytest.raises(LutcError, match="query_starts has 4 sequences and key_starts 1"):
        packed_attention(softmax, q, k, v, starts, torch.tensor([0, 59]))


def test_decoding_with_a_cache_equals_the_whole():
    module = LUTAttention(rescale="none")
    q, k, v = torch.randn(1, 4, 40, 16), torch.randn(1, 2, 40, 16), torch.randn(1, 2, 40, 16)
    whole = module(q, k, v, causal=True)
    steps = [module(q[:, :, i : i + 1], k[:, :, : i + 1], v[:, :, : i + 1], causal=True) for i in range(40)]
    assert torch.allclose(torch.cat(steps, 2), whole, atol=1e-6)


def _operator_arguments(**options):
    q, k, v = (torch.randn(2, h, n, 16, requires_grad=True) for h, n in ((4, 9), (2, 40), (2, 40)))
    softmax = LUTSoftmax(EXP, RECI)
    mask = torch.randn(1, 1, 9, 40, requires_grad=True)
    sinks = torch.randn(4, requires_grad=True)
    numbers = (0.0, True, 0.25, True, 31, 20, 0.0, "exact")
    return q, k, v, mask, sinks, None, None, softmax.words, softmax.meta, *numbers


def test_opcheck():
    torch.library.opcheck(torch.ops.lutc.attention.default, _operator_arguments())


def test_compile_export_and_vmap():
    module, q, k = LUTAttention(EXP, RECI), torch.randn(2, 4, 9, 16), torch.randn(2, 2, 40, 16)
    want = module(q, k, k, causal=True)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    assert torch.equal(compiled(q, k, k, causal=True), want)
    longer = torch.randn(2, 2, 77, 16)
    assert torch.equal(compiled(q, longer, longer, causal=True), module(q, longer, longer, causal=True))
    exported = torch.export.export(module, (q, k, k), {"causal": True})
    assert torch.equal(exported.module()(q, k, k, causal=True), want)
    leaf = q.clone().requires_grad_()
    (got,) = torch.autograd.grad(compiled(leaf, k, k, causal=True).sum(), leaf)
    other = q.clone().requires_grad_()
    assert torch.equal(got, torch.autograd.grad(module(other, k, k, causal=True).sum(), other)[0])
    batched = torch.vmap(lambda x: module(x, k, k, causal=True))(torch.stack([q, 2 * q]))
    assert torch.equal(batched[0], want) and torch.equal(batched[1], module(2 * q, k, k, causal=True))


def test_copies_and_checkpoints_keep_the_tables():
    module, q = LUTAttention(EXP, RECI, TANH), torch.randn(1, 2, 20, 16)
    want = module(q, q, q, softcap=2.0)
    other = LUTAttention("exp_fplut", "reciprocal_fplut", "tanh_fplut")
    assert not torch.equal(other(q, q, q, softcap=2.0), want)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(q, q, q, softcap=2.0), want)
    assert torch.equal(copy.deepcopy(module).half()(q, q, q, softcap=2.0), want)


Q, K = torch.zeros(2, 4, 5, 16), torch.zeros(2, 2, 7, 16)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((Q, K, K), {"dropout": 0.1}, "has no dropout; given 0.1"),
        ((Q.int(), K, K), {}, r"attention \(query\) takes float32"),
        ((Q, K.half(), K), {}, "one dtype; given torch.float32, torch.float16, torch.float32"),
        ((Q, K, K[:, :, 1:]), {}, r"given \(2, 4, 5, 16\), \(2, 2, 7, 16\), \(2, 2, 6, 16\)"),
        ((Q, K[..., 1:], K), {}, r"attention takes query \(..., heads, queries, size\)"),
        ((Q[:, :3], K, K), {}, "a multiple of those of key; given 3 and 2"),
        ((Q, K, K, torch.ones(5, 6).bool()), {}, r"a mask of shape \(5, 6\) does not broadcast to \(2, 4, 5, 7\)"),
        ((Q, K, K, torch.ones(1, 2, 4, 5, 7).bool()), {}, "does not broadcast"),
        ((Q, K, K, torch.ones(5, 7).int()), {}, "a mask is bool .* given torch.int32"),
        ((Q, K, K), {"sinks": torch.zeros(2)}, r"sinks has the shape \(4,\); given \(2,\)"),
        ((Q, K, K), {"alibi": torch.zeros(3, 4)}, r"alibi has the shape \(4,\) or \(2, 4\); given \(3, 4\)"),
        ((Q, K, K), {"lengths": torch.zeros(3).int()}, r"lengths has the shape \(2,\)"),
        ((Q, K, K), {"lengths": torch.zeros(2)}, "lengths are integers"),
        ((Q, K, K), {"window": 0}, "window is a positive number, or None"),
        ((Q, K, K), {"softcap": -1.0}, "softcap is a positive number"),
        ((Q, K, K), {"rescale": "half"}, "rescale is one of"),
        ((Q, K, K), {"window": 2.5}, "window is an integer; given 2.5"),
        ((Q, K, K), {"offset": True}, "offset is an integer; given True"),
        ((Q, K, K), {"offset": 1 << 40}, r"offset lies within -2\^29 and 2\^29; given 1099511627776"),
        ((Q, K, K), {"scale": float("nan")}, "scale is a finite number; given nan"),
        ((Q, K, K), {"scale": "1"}, "scale is a number; given '1'"),
        ((Q, K, K), {"softcap": float("inf")}, "softcap is a finite number; given inf"),
        ((Q, K, K), {"softcap": "much"}, "softcap is a number; given 'much'"),
        ((Q, K, K), {"causal": "no"}, "causal is True or False; given 'no'"),
        ((Q, K, K), {"lengths": [3, 4]}, "lengths is a tensor or None; given list"),
        ((Q, K, K), {"lengths": torch.ones(2).bool()}, "lengths are integers; given torch.bool"),
        ((Q, K, K), {"lengths": torch.ones(2, device="meta").int()}, "the input is on cpu, .* on meta"),
        ((Q, K.to("meta"), K), {}, "the input is on cpu, .* on meta"),
        ((Q, K, K), {"alibi": torch.ones(4).bool()}, "alibi are real numbers; given torch.bool"),
        ((Q, K, K, torch.ones(5, 7).to(torch.float8_e5m2)), {}, "a mask is bool .* given torch.float8_e5m2"),
        ((Q.to_sparse(), K, K), {}, "query is sparse or nested"),
        ((Q[..., :0], K[..., :0], K), {}, r"heads of at least size 1; given \(2, 4, 5, 0\)"),
        ((Q[:, :0], K[:, :0], K[:, :0]), {}, "a multiple of those of key; given 0 and 0"),
    ],
)
def test_bad_input_is_said_in_one_line(arguments, options, message):
    with pytest.raises(LutcError, match=message) as caught:
        attention(LUTSoftmax(), *arguments, **options)
    assert "\n" not in str(caught.value)


def test_numbers_that_do_not_fit_32_bits():
    q, k = torch.randn(2, 1, 9, 16), torch.randn(2, 1, 9, 16)
    want, module = attention(LUTSoftmax(), q, k, k), LUTAttention()
    assert torch.equal(module(q, k, k, lengths=torch.tensor([1 << 33, 1 << 40])), want)
    assert torch.equal(module(q, k, k, lengths=torch.tensor([-(1 << 33), 9]))[0], torch.zeros_like(want[0]))
    assert torch.equal(module(q, k, k, window=1 << 40), want)
    many = torch.randn(2, 1, 300, 16)
    few = torch.tensor([3, 200])
    assert torch.equal(module(q, many, many, lengths=few.to(torch.uint8)), module(q, many, many, lengths=few))


def test_what_lies_behind_the_lengths_is_not_read():
    q, k, lengths = torch.randn(2, 4, 9, 16), torch.randn(2, 2, 40, 16), torch.tensor([40, 7])
    poisoned = k.clone()
    poisoned[1, :, 7:] = float("nan")
    results = []
    for keys in (k, poisoned):
        leaves = q.clone().requires_grad_(), keys.clone().requires_grad_()
        out = attention(LUTSoftmax(), leaves[0], leaves[1], leaves[1], lengths=lengths)
        results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    assert all(torch.equal(*pair) for pair in zip(*results)) and not results[1][2][1, :, 7:].any()


def test_derivatives_that_there_are_not():
    q, module = torch.randn(1, 2, 5, 16), LUTAttention()
    for call in (
        lambda: torch.func.jvp(lambda x: module(x, x, x), (q,), (q,)),
        lambda: torch.func.grad(lambda x: module(x, x, x).sum())(q),
        lambda: torch.func.jvp(lambda x: IntegerAttention()(x, x, x), (q,), (q,)),
    ):
        with pytest.raises(LutcError, match="no derivative under torch.func or in forward mode"):
            call()
    with pytest.raises(LutcError, match="alibi has no gradient"):
        module(q, q, q, alibi=torch.ones(2, requires_grad=True))


def test_a_mask_of_two_dimensions_over_several_batch_dimensions():
    q, mask = torch.randn(2, 3, 4, 5, 16), torch.rand(5, 5) < 0.5
    want = attention(LUTSoftmax(), q.flatten(0, 1), q.flatten(0, 1), q.flatten(0, 1), mask)
    assert torch.equal(attention(LUTSoftmax(), q, q, q, mask), want.view_as(q))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_leaves_the_sums_alone(dtype):
    q = torch.randn(1, 2, 40, 16).to(dtype).requires_grad_()
    module, upstream = LUTAttention(), torch.ones(1, 2, 40, 16).to(dtype)
    want = module(q, q, q, causal=True)
    (gradient,) = torch.autograd.grad(want, q, upstream)
    with torch.autocast("cpu", torch.bfloat16):
        got = module(q, q, q, causal=True)
        assert torch.equal(got, want) and torch.equal(torch.autograd.grad(got, q, upstream)[0], gradient)


def test_a_table_that_does_not_serve():
    with pytest.raises(LutcError, match=r"covers exp on \[-16, 0\]"):
        LUTAttention(cell_tables("exp", [-60, -50, -40], [4, 4]))
    with pytest.raises(LutcError, match="a table of tanh is needed here"):
        LUTAttention(tanh=float_tables("gelu", -4, 4, 8))
