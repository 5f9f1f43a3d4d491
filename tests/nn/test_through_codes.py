"""Floats through their codes, and gradients back, in one pass: against plain indexing and autograd of plain operations,
at every half between codes, odd sizes, strides, NaN, every dtype.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lutc.errors import LutcError  # noqa: E402
from lutc.nn import straight_through, through_codes  # noqa: E402
from lutc.nn.cpu import through_codes as cpu  # noqa: E402
from lutc.nn.nearest import index  # noqa: E402

ops = torch.ops.lutc
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LIMITS = ((-128, 127, 0), (-128, 127, -7), (-8, 7, 3), (0, 255, 130), (-32768, 32767, 5))


def edges(limits, scale, count=300):
    """Codes, all halves between them, beyond the ends, and what is no number."""
    lowest, highest, zero_point = limits
    codes = torch.arange(lowest - 2, min(highest, lowest + count) + 3).double()
    high = torch.arange(max(lowest, highest - 5), highest + 3).double()
    at = torch.cat([codes, high]).sub(zero_point).mul(scale)
    far = torch.tensor([0.0, -0.0, 3e38, -3e38, torch.inf, -torch.inf, torch.nan])
    return torch.cat([at, at + scale / 2, far, torch.randn(2000) * scale * 99, torch.randn(701)])


@pytest.mark.parametrize("limits", [(-128, 127, 0), (-128, 127, -7), (-8, 7, 3), (0, 255, 130), (-32768, 32767, 5)])
@pytest.mark.parametrize("scale", [0.0625, 0.1, 3e-6, 1e30])
def test_floats_through_codes(limits, scale):
    lowest, highest, zero_point = limits
    values = torch.randn(highest - lowest + 2, dtype=torch.float64)
    edges = torch.arange(lowest - 2, min(highest, lowest + 300) + 3).double().sub(zero_point).mul(scale)
    x = torch.cat([edges, edges + scale / 2, torch.tensor([0.0, -0.0, 3e38, -3e38, torch.inf, -torch.inf, torch.nan])])
    x = torch.cat([x.float(), torch.randn(2000) * scale * 99, torch.randn(700)])
    for given in (x, x[1:], x[::3], x.to(torch.float16), x.double()):
        step = torch.tensor(scale, dtype=torch.float64)
        found = ops.through_codes(given, step, values, *limits)
        want = values.to(torch.float64 if given.dtype == torch.float64 else torch.float32)
        assert torch.equal(found, want[index(given, step, limits)].to(given.dtype))


def test_a_scale_that_is_no_number_gives_what_plain_operations_give():
    x, values = torch.randn(600), torch.randn(257)
    for scale in (0.0, torch.nan, torch.inf, -0.5):
        step = torch.tensor(scale)
        want = values[index(x, step, (-128, 127, 0))]
        assert torch.equal(ops.through_codes(x, step, values, -128, 127, 0), want)


def reference(x, scale, slopes, limits, gradient):
    """Gradients of x and of the scale, element by element in float64."""
    lowest, highest, zero_point = (int(v) for v in limits)
    x, gradient, slopes = (t.double().numpy() for t in (x, gradient, slopes))
    with np.errstate(all="ignore"):
        steps = (x.astype(np.float32) / np.float32(scale)).astype(np.float64)
    code = np.clip(np.rint(steps), lowest - zero_point, highest - zero_point)
    inside = (steps >= lowest - zero_point - 0.5) & (steps <= highest - zero_point + 0.5)
    place = np.where(np.isnan(steps), highest - lowest + 1, np.nan_to_num(code) + zero_point - lowest).astype(int)
    product = gradient * slopes[place]
    deviation = np.where(np.isnan(steps), 0.0, np.where(inside, code - steps, code))
    terms = product * deviation
    return np.where(inside, product, 0.0), terms.sum(), np.abs(terms).sum()


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("scale", [0.0625, 0.1, 3.7])
@pytest.mark.parametrize("dtype", DTYPES[:3])
@pytest.mark.parametrize("identity", [False, True])
def test_gradients_in_one_pass(limits, scale, dtype, identity):
    x = edges(limits, scale).to(dtype)
    gradient = torch.randn(len(x)).to(dtype)
    slopes = torch.randn(limits[1] - limits[0] + 2, dtype=torch.float64)
    slopes[-1] = 0.0
    ones = torch.ones_like(slopes)
    step, given = torch.tensor(scale, dtype=torch.float64), None if identity else slopes
    want, total, size = reference(x, scale, (ones if identity else slopes).float(), limits, gradient)
    want = torch.from_numpy(want)
    exactly = {"rtol": 1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps, "atol": 1e-7}
    to_x, to_scale = ops.through_codes_backward_with_scale(gradient, x, step, given, *limits)
    assert to_x.dtype == dtype and torch.allclose(to_x.double(), want, **exactly)
    assert abs(to_scale.item() - total) <= 1e-5 * size
    out, codes, within = ops.through_codes_kept(x, step, slopes, *limits, not identity)
    assert torch.equal(out.nan_to_num(7), ops.through_codes(x, step, slopes, *limits).nan_to_num(7))
    assert codes.itemsize == (1 if limits[1] - limits[0] < 256 else 2) and len(within) == (len(x) + 7) // 8
    assert torch.equal(ops.through_codes_backward(gradient, codes, within, given), to_x)
    kept = through_codes._kept_plain(x, step, slopes, *limits, not identity)
    known = ~x.isnan()
    assert torch.equal(kept[2], within) and (identity or torch.equal(kept[1][known], codes[known]))
    plain = through_codes._backward_plain(gradient, *kept[1:], given)
    assert torch.allclose(plain.double(), want, **exactly)
    plain, plain_scale = through_codes._backward_with_scale_plain(gradient, x, step, given, *limits)
    assert torch.allclose(plain.double(), want, **exactly) and abs(plain_scale.item() - total) <= 1e-5 * size


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 511, 512, 513, 3 * cpu.SLICE + 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sizes_strides_and_neighbours(n, dtype):
    """Layouts come back as empty_like has them, and nothing beyond the elements is touched."""
    if dtype == torch.float64 and n > 1000:
        pytest.skip("plain operations, whose results do not depend on the size")
    whole, slopes, step, limits = torch.randn(2, n + 9).to(dtype), torch.randn(257), torch.tensor(0.1), (-128, 127, 0)
    values = torch.randn(257)
    for x in (whole[:, 3 : n + 3], whole[:, 3 : n + 3].t(), whole[:1, :n].expand(2, n), whole[:, 1 : n + 1 : 2]):
        x = x.detach().requires_grad_()
        scale = step.clone().requires_grad_()
        weights = torch.randn(x.shape).to(dtype)
        wanted = [
            torch.autograd.grad(straight_through.look_up(x, s, values, slopes, limits), inputs, weights)
            for s, inputs in ((scale, (x, scale)), (step, (x,)))
        ]
        flat = x.detach().contiguous().double()
        by_hand, total, size = reference(flat, 0.1, slopes.double(), limits, weights)
        if dtype != torch.float64:  # whose steps are float64's
            assert np.allclose(wanted[0][0].double().numpy(), by_hand, rtol=2e-2 if x.itemsize == 2 else 1e-6)
            assert abs(wanted[0][1].item() - total) <= 1e-5 * max(size, 1e-9)
        assert torch.equal(wanted[0][0], wanted[1][0]) and wanted[0][0].shape == x.shape
        out = ops.through_codes_kept(x.detach(), step, values, *limits, True)[0]
        assert out.stride() == torch.empty_like(x).stride()
        assert torch.equal(out, values.to(out.dtype)[index(x.detach(), step, limits)])
    if dtype == torch.float32:
        memory = torch.full((5, n + 64), 77.0)
        x, out = memory[0, 32 : n + 32].normal_(), memory[1, 32 : n + 32]
        job = x.data_ptr(), out.data_ptr(), n
        cpu.backward_with_scale(job[0], *job, slopes.data_ptr(), np.float32(0.1), limits, 2)
        bits, codes = torch.full(((n + 7) // 8 + 8,), 77, dtype=torch.uint8), torch.full((n + 8,), 77).to(torch.uint8)
        kept = codes.data_ptr(), bits.data_ptr(), 1
        cpu.through_codes(*job, values.data_ptr(), np.float32(0.1), limits, 2, kept=kept)
        cpu.backward(*job, slopes.data_ptr(), kept, 2)
        assert (memory[1:, :32] == 77).all() and (memory[1:, n + 32 :] == 77).all() and (memory[2:] == 77).all()
        assert (bits[(n + 7) // 8 :] == 77).all() and (codes[n:] == 77).all()


def test_the_sum_is_the_same_with_any_number_of_threads():
    x, gradient = torch.randn(2, 9 * cpu.SLICE + 77)
    found, threads = set(), torch.get_num_threads()
    try:
        for count in (1, 2, 3, 2, 2):
            torch.set_num_threads(count)
            result = ops.through_codes_backward_with_scale(gradient, x, torch.tensor(0.01), None, -128, 127, 0)
            found.add(result[1].item())
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 1


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("identity", [True, False])
def test_second_derivatives_are_those_of_plain_operations(learned, identity):
    """As torch differentiates the formula of `reference` where it is written in torch."""
    limits, values = (-8, 7, 1), torch.randn(17, dtype=torch.float64)
    slopes = torch.ones(17, dtype=torch.float64) if identity else torch.randn(17, dtype=torch.float64)
    x = (torch.randn(50, dtype=torch.float64) * 5).requires_grad_()
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=learned)
    gradient, weights = torch.randn(2, 50, dtype=torch.float64)
    gradient.requires_grad_()
    inputs = (x, scale) if learned else (x,)

    def by_hand():
        steps = x / scale
        code = torch.round(steps).clamp(-9, 6)
        kept = (steps >= -9.5) & (steps <= 6.5)
        product = gradient * slopes[(code + 9).long()]
        return torch.where(kept, product, 0.0), (product * torch.where(kept, code - steps, code)).sum()

    out = straight_through.look_up(x, scale, values, None if identity else slopes, limits)
    found, want = torch.autograd.grad(out, inputs, gradient, create_graph=True), by_hand()[: len(inputs)]
    assert all(torch.allclose(a, b) for a, b in zip(found, want, strict=True))
    if learned:
        second = [
            torch.autograd.grad((first[0] * weights).sum() + first[1].square(), (gradient, x, scale))
            for first in (found, want)
        ]
    else:
        second = [torch.autograd.grad((first[0] * weights).sum(), (gradient,)) for first in (found, want)]
    assert all(torch.allclose(a, b) for a, b in zip(*second, strict=True))


@pytest.mark.parametrize("learned", [True, False])
def test_what_is_kept_for_the_backward_pass(learned):
    """With a learned scale x alone, which is there anyway; else a code and a bit for each x, and no floats."""
    x, kept = torch.randn(4000).requires_grad_(), []
    scale = torch.tensor(0.1, requires_grad=learned)
    for slopes in (torch.randn(257), None):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            straight_through.look_up(x, scale, torch.randn(257), slopes, (-128, 127, 0))
        large = [t for t in kept if t.numel() > 257]
        if learned:
            assert len(large) == 1 and large[0].data_ptr() == x.data_ptr()
        else:
            assert sum(t.nbytes for t in large) == 500 + (0 if slopes is None else 4000)


def test_no_gradients_are_made_for_what_is_kept():
    from torch.profiler import ProfilerActivity, profile

    x, values = torch.randn(3000).requires_grad_(), torch.randn(257)
    out = straight_through.look_up(x, torch.tensor(0.1), values, values, (-128, 127, 0))
    with profile(activities=[ProfilerActivity.CPU]) as found:
        out.backward(torch.ones(3000))
    assert "aten::zeros" not in (names := {event.key for event in found.key_averages()}) and "aten::full" not in names


def test_under_torch_func_and_checkpoints():
    from torch.utils.checkpoint import checkpoint

    x, values, slopes, limits = torch.randn(300), torch.randn(257), torch.randn(257), (-128, 127, 0)
    for identity in (True, False):

        def loss(x, scale, slopes=None if identity else slopes):
            return straight_through.look_up(x, scale, values, slopes, limits).square().sum()

        a, scale = x.clone().requires_grad_(), torch.tensor(0.1, requires_grad=True)
        want = torch.autograd.grad(loss(a, scale), (a, scale))
        assert all(map(torch.equal, torch.func.grad(loss, argnums=(0, 1))(x, torch.tensor(0.1)), want))
        assert torch.equal(torch.func.grad(loss)(x, torch.tensor(0.1)), want[0])
        for reentrant in (False, True):
            a.grad = scale.grad = None
            checkpoint(loss, a, scale, use_reentrant=reentrant).backward()
            assert torch.equal(a.grad, want[0]) and torch.equal(scale.grad, want[1])


def test_operators_are_as_torch_wants_them():
    limits, x, scale = (-128, 127, 0), torch.randn(5, 3), torch.tensor(0.5)
    values = torch.randn(257)
    torch.library.opcheck(ops.through_codes.default, (x, scale, values, *limits))
    for with_codes, slopes in ((True, values), (False, None)):
        torch.library.opcheck(ops.through_codes_kept.default, (x, scale, values, *limits, with_codes))
        _, codes, within = ops.through_codes_kept(x, scale, values, *limits, with_codes)
        torch.library.opcheck(ops.through_codes_backward.default, (x, codes, within, slopes))
        torch.library.opcheck(ops.through_codes_backward_with_scale.default, (x, x, scale, slopes, *limits))


def test_vectors_of_another_length_are_refused_not_read_beyond():
    x, step, limits = torch.zeros(9), torch.tensor(1.0), (-128, 127, 0)
    few, bits, codes = torch.zeros(9), torch.zeros(2, dtype=torch.uint8), torch.zeros(9, dtype=torch.uint8)
    with pytest.raises(LutcError, match="values takes a vector of 257 here; given shape \\(9,\\)"):
        ops.through_codes(x, step, few, *limits)
    with pytest.raises(LutcError, match="values takes a vector of 257 here"):
        ops.through_codes_kept(x, step, few, *limits, True)
    with pytest.raises(LutcError, match="slopes takes a vector of 257 here"):
        ops.through_codes_backward_with_scale(x, x, step, few, *limits)
    with pytest.raises(LutcError, match="within takes a vector of 2 here; given shape \\(1,\\)"):
        ops.through_codes_backward(x, codes, bits[:1], few)
    with pytest.raises(LutcError, match="codes takes a vector of 9 here; given shape \\(8,\\)"):
        ops.through_codes_backward(x, codes[:8], bits, few)
    assert ops.through_codes_backward(x + 1, codes + 200, bits + 255, few + 1).sum() == 0  # codes without a slope
