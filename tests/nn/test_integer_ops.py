"""The operators of integer softmax and norms on the CPU: every width against the numpy models, views, masks, threads,
what a compiler asks of them, and vectors that do not fit.
"""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch

from lutc.errors import LutcError, ScaleWarning
from lutc.nn import IntegerLayerNorm, IntegerRMSNorm, IntegerSoftmax, integer_ops, integer_plain

OUTPUTS = {torch.uint8: 2.0**-8, torch.int8: 1 / 200, torch.uint16: 2.0**-16, torch.int16: 1 / 30000}
SCALES = {8: (2.0**-4, 0.07), 16: (2.0**-11, 0.0005)}
pytestmark = pytest.mark.filterwarnings("ignore::lutc.errors.ScaleWarning")


def codes(bits, rows, n, seed=0):
    rng, half = np.random.default_rng(seed), 1 << (bits - 1)
    q = rng.integers(-half, half, (rows, n))
    q[0] = half - 1  # all equal
    q[1, 1:] = -half  # the largest difference
    q[2] = np.clip(rng.normal(half // 3, half // 20, n).round(), -half, half - 1)
    q[3] = -half
    q[4] = np.arange(n) % 2  # the smallest difference
    return torch.from_numpy(q).to(torch.int8 if bits == 8 else torch.int16)


def softmax(bits, dtype, scale=None):
    scale = SCALES[bits][0] if scale is None else scale
    return IntegerSoftmax(scale=scale, bits=bits, out_dtype=dtype, out_scale=OUTPUTS[dtype])


def norms(bits, n, dtype, scale, zero_point=3):
    generator = torch.Generator().manual_seed(n)
    weight, bias = torch.randn(n, generator=generator) + 1, torch.randn(n, generator=generator)
    options = {"scale": scale, "zero_point": zero_point, "bits": bits, "out_dtype": dtype}
    options["out_scale"] = 4.1 / torch.iinfo(dtype).max
    yield IntegerLayerNorm(weight, bias, **options)
    yield IntegerRMSNorm(weight, **options)
    yield IntegerLayerNorm(None, None, n=n, **options)


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 63, 300, 1025, 20011])
@pytest.mark.parametrize("dtype", OUTPUTS)
@pytest.mark.parametrize("bits", [8, 16])
def test_softmax(bits, dtype, n):
    for scale in SCALES[bits]:
        module, q = softmax(bits, dtype, scale), codes(bits, 6, n)
        got = module(q)
        assert got.dtype == dtype and (got.numpy() == module.model(q.numpy())).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_every_difference_of_two_codes(bits):
    module = softmax(bits, torch.uint16)
    q = torch.arange(-(1 << (bits - 1)), 1 << (bits - 1)).to(torch.int8 if bits == 8 else torch.int16)
    for row in (q[:, None].expand(-1, 2).clone(), torch.stack([q, q.flip(0)], 1), q[None]):
        assert (module(row).numpy() == module.model(row.numpy())).all()


@pytest.mark.parametrize("n", [1, 2, 7, 300, 513, 20011])
@pytest.mark.parametrize("dtype", [torch.int8, torch.int16])
@pytest.mark.parametrize("bits", [8, 16])
def test_norms(bits, dtype, n):
    for scale in SCALES[bits]:
        for module in norms(bits, n, dtype, scale):
            q = codes(bits, 6, n, 1)
            got = module(q)
            assert got.dtype == dtype and (got.numpy() == module.model(q.numpy())).all()


@pytest.mark.parametrize("centred", [True, False])
def test_norms_of_sixteen_bits_are_close_to_the_float_norms(centred):
    """Also where the deviations are a few codes, and with one feature that stands out."""
    n, scale, out = 512, 2.0**-12, 2.0**-11
    rng = np.random.default_rng(3)
    q = np.stack([rng.normal(0, spread, n).round() for spread in (2, 30, 1000, 8000)] + [np.eye(1, n)[0] * 32767])
    q = torch.from_numpy(q.clip(-32768, 32767)).to(torch.int16)
    kind = IntegerLayerNorm if centred else IntegerRMSNorm
    affine = (torch.ones(n), torch.zeros(n)) if centred else (torch.ones(n),)
    module = kind(*affine, 1e-9, scale=scale, out_scale=out, bits=16, out_dtype=torch.int16)
    x = q.double() * scale
    ours = (
        torch.nn.functional.layer_norm(x, (n,), eps=1e-9)
        if centred
        else torch.nn.functional.rms_norm(x, (n,), eps=1e-9)
    )
    # the rsqrt table of 8 lines is within 1.8 %, a hidden code of 10 fraction bits within 2**-11
    assert ((module(q) * out - ours.clamp(-16, 16)).abs() <= 0.018 * ours.abs() + 2.0**-9).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_softmax_of_long_rows_in_sixteen_bits_is_close(bits):
    module = softmax(bits, torch.uint16)
    q = codes(bits, 6, 4096)[2:]
    exact = torch.softmax(q.double() * module.scale, -1)
    assert (module.dequantise(module(q)) - exact).abs().max() < 0.05 * exact.max() + 2.0**-16


@pytest.mark.parametrize("bits", [8, 16])
def test_masks(bits):
    module, q = softmax(bits, torch.uint8), codes(bits, 6, 133)
    mask = torch.from_numpy(np.random.default_rng(2).random((6, 133)) < 0.4)
    mask[1] = False
    mask[2, 5:] = False
    for given in (mask, mask[:1], mask.t().contiguous().t()):
        assert (module(q, given).numpy() == module.model(q.numpy(), given.numpy())).all()
    assert (softmax(bits, torch.int8)(q, mask)[1] == -128).all()


def test_views_threads_and_neighbours():
    """Nothing is read or written beyond the elements, on any number of threads."""
    for bits in (8, 16):
        q = codes(bits, 64, 1500)
        for module in (softmax(bits, torch.uint8), *norms(bits, 1500, torch.int8, SCALES[bits][0])):
            want = torch.from_numpy(module.model(q.numpy())).to(torch.int32)
            for view in (q, q.t().contiguous().t(), torch.cat([q, q], 1)[:, :1500], q[:, None].expand(-1, 2, -1)[:, 1]):
                assert torch.equal(module(view).to(torch.int32), want)
            assert torch.equal(module(q.flip(0)).to(torch.int32), want.flip(0))
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            assert torch.equal(module(q).to(torch.int32), want)
            torch.set_num_threads(threads)


@pytest.mark.parametrize("bits", [8, 16])
def test_plain_operations_give_the_same(bits):
    q, mask = codes(bits, 6, 301), torch.from_numpy(np.random.default_rng(2).random((6, 301)) < 0.4)
    for dtype in OUTPUTS:
        module = softmax(bits, dtype)
        roots = module.reciprocal.cuts, module.reciprocal.slopes, module.reciprocal.intercepts
        for given in (None, mask):
            plain = integer_plain.softmax(q, given, module.weights, *roots, module.numbers, dtype)
            assert torch.equal(plain.to(torch.int32), module(q, given).to(torch.int32))
    for module in norms(bits, 301, torch.int16, SCALES[bits][1]):
        roots = module.rsqrt.cuts, module.rsqrt.slopes, module.rsqrt.intercepts
        plain = integer_plain.norm(q, module.weight, module.bias, *roots, module.numbers, torch.int16)
        assert torch.equal(plain, module(q))


def test_operators_are_as_torch_wants_them():
    q = codes(8, 6, 33)
    module, norm = softmax(8, torch.uint8), next(norms(8, 33, torch.int8, 0.1))
    roots = module.reciprocal.cuts, module.reciprocal.slopes, module.reciprocal.intercepts
    given = (q, None, module.weights, *roots, module.numbers, torch.uint8)
    torch.library.opcheck(torch.ops.lutc.integer_softmax.default, given)
    roots = norm.rsqrt.cuts, norm.rsqrt.slopes, norm.rsqrt.intercepts
    given = (q, norm.weight, norm.bias, *roots, norm.numbers, torch.int8)
    torch.library.opcheck(torch.ops.lutc.integer_norm.default, given)
    for each in (module, norm):
        assert torch.equal(torch.compile(each, fullgraph=True, backend="aot_eager")(q), each(q))
        assert torch.equal(torch.vmap(each, in_dims=1)(q[:, None].expand(-1, 4, -1)), each(q).expand(4, 6, 33))
    mask = torch.rand(4, 33) < 0.5
    found = torch.vmap(module, in_dims=(None, 0))(q, mask)
    assert torch.equal(found, torch.stack([module(q, part) for part in mask]))


def test_copies_and_checkpoints_keep_the_tables():
    q, module, other = codes(8, 6, 50), softmax(8, torch.uint8), IntegerSoftmax(scale=2.0**-3)
    want = module(q)
    assert torch.equal(copy.deepcopy(module)(q), want)
    assert torch.equal(pickle.loads(pickle.dumps(module))(q), want)
    assert torch.equal(module.half()(q), want)
    assert torch.equal(copy.deepcopy(module).to("meta").to_empty(device="cpu")(q), want)
    before = other.weights.clone()
    other.load_state_dict(softmax(8, torch.uint8, 2.0**-5).state_dict())
    assert not torch.equal(other.weights.to(torch.int32), before.to(torch.int32))


def test_a_long_row_of_codes_of_0_says_so_once():
    integer_ops._say_nothing_is_left.cache_clear()
    q = torch.zeros(3, 2000, dtype=torch.int8)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            assert (softmax(8, torch.uint8)(q) == 0).all()
    assert len(said) == 1 and said[0].category is ScaleWarning
    assert "rows of 2000" in str(said[0].message) and "take out_scale=2**-13" in str(said[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (IntegerSoftmax(scale=2.0**-4, out_scale=2.0**-13, out_dtype=torch.uint16)(q) == 4).all()
        q[:, 0] = 127
        assert softmax(8, torch.uint8)(q).max() > 0
        assert (softmax(8, torch.uint8)(q, torch.zeros_like(q, dtype=torch.bool)) == 0).all()


def test_what_does_not_fit_is_refused_not_read_beyond():
    q, module, norm = codes(8, 6, 33), softmax(8, torch.uint8), next(norms(8, 33, torch.int8, 0.1))
    lines = module.reciprocal
    roots, call = (lines.cuts, lines.slopes, lines.intercepts), torch.ops.lutc.integer_softmax
    given = {"q": q, "mask": None, "weights": module.weights, "roots": roots, "numbers": module.numbers}
    for wrong, message in (
        ({"q": q.to(torch.int32)}, "takes int8 or int16 codes of at least one dimension; given torch.int32"),
        ({"q": q.to(torch.int16)}, r"takes 131072 weights in int16 for torch.int16; given \(512,\)"),
        ({"weights": module.weights[:9]}, r"takes 512 weights in int16 for torch.int8; given \(9,\)"),
        ({"mask": torch.ones(33, dtype=torch.bool)}, r"takes a bool mask of the codes' shape \(6, 33\); given \(33,\)"),
        ({"roots": (lines.cuts, lines.slopes[:2], lines.intercepts)}, "a slope and an intercept more than cuts"),
        ({"roots": (lines.cuts.long(), lines.slopes, lines.intercepts)}, "in int32; given"),
        ({"numbers": [1]}, "and 7 numbers; given"),
    ):
        x = {**given, **wrong}
        with pytest.raises(LutcError, match=message):
            call(x["q"], x["mask"], x["weights"], *x["roots"], x["numbers"], torch.uint8)
    with pytest.raises(LutcError, match="dtype is one of torch.uint8"):
        call(q, None, module.weights, *roots, module.numbers, torch.float32)
    roots = norm.rsqrt.cuts, norm.rsqrt.slopes, norm.rsqrt.intercepts
    with pytest.raises(LutcError, match=r"takes weight in int32 of shape \(33,\); given \(5,\)"):
        torch.ops.lutc.integer_norm(q, norm.weight[:5], None, *roots, norm.numbers, torch.int8)
    with pytest.raises(LutcError, match="rows of at most 33025 int8 codes; given 40000"):
        torch.ops.lutc.integer_norm(torch.zeros(40000, dtype=torch.int8), None, None, *roots, norm.numbers, torch.int8)
    with pytest.raises(LutcError, match="IntegerSoftmax\\(bits=16\\) takes torch.int16 codes"):
        softmax(16, torch.uint8)(q)
    with pytest.raises(LutcError, match="needs n \\* \\(65535"):
        IntegerRMSNorm(torch.ones(8), 1e6, scale=1e-9, out_scale=0.1, bits=16)
    with pytest.raises(LutcError, match="out_dtype is torch.int8 or torch.int16; given torch.uint8"):
        IntegerRMSNorm(torch.ones(8), scale=1.0, out_scale=0.1, out_dtype=torch.uint8)
