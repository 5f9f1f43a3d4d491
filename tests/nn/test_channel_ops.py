"""The operators of channels against element by element in numpy: every layout, width, dtype and table, at every half
between codes, at infinities and NaN; gradients of the scales too.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lutc.errors import LutcError  # noqa: E402
from lutc.nn import channel_plain, channels  # noqa: E402

ops = torch.ops.lutc
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
SCALES, ZEROS, ROWS = (0.0625, 0.1, 3.7, 0.1, 0.011), (0, 5, -7, 5, 100), (0, 1, 2, 1, 3)
SHAPES = {
    (7, 5): 1,
    (433, 5): 1,
    (5,): 0,
    (2, 5, 3, 3): 1,
    (5, 700): 0,
    (0, 5): 1,
    (1, 5, 1): 1,
    (3, 5, 600): 1,
    (5, 3, 2): 0,
}


def of_channels(dtype=torch.float32):
    return torch.tensor(SCALES, dtype=dtype), torch.tensor(ZEROS, dtype=torch.int32)


def rows():
    return torch.tensor(ROWS, dtype=torch.int32)


def floats(shape, axis, dtype, ends, generator):
    """Around codes, halves between them and beyond the ends, for the scale of each channel."""
    at = torch.randint(2 * ends[0] - 40, 2 * ends[1] + 41, shape, generator=generator) / 2
    scale, zero = (channel_plain.along(side, at, axis) for side in of_channels())
    x = (at - zero) * scale
    odd = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1e30])
    which = torch.randint(0, len(odd), shape, generator=generator)
    return torch.where(torch.rand(shape, generator=generator) < 0.03, odd[which], x).to(dtype)


def layouts(x):
    """As it comes, in another order of dimensions, with gaps, expanded."""
    yield x
    yield x.permute(*reversed(range(x.ndim))).contiguous().permute(*reversed(range(x.ndim)))
    wide = torch.stack([x, x], -1)
    yield wide[..., 0]
    if x.ndim > 1 and x.shape[0] == 1:
        yield x.expand(3, *x.shape[1:])


def reference(x, axis, ends, table, slopes, gradient):
    """(values, gradients of x, of the scales, and the size of the terms of these), float64, an element at a time."""
    x, gradient = (tensor.movedim(axis, 0).double().numpy() for tensor in (x, gradient))
    out, back, sums, sizes = np.empty(x.shape), np.empty(x.shape), [], []
    for c, (scale, zero, row) in enumerate(zip(SCALES, ZEROS, ROWS, strict=True)):
        low, high = ends[0] - zero, ends[1] - zero
        with np.errstate(all="ignore"):
            steps = (x[c].astype(np.float32) / np.float32(scale)).astype(np.float64)
        code, known = np.clip(np.rint(steps), low, high), ~np.isnan(steps)
        inside = (steps >= low - 0.5) & (steps <= high + 0.5)
        place = np.where(known, np.nan_to_num(code) - low, high - low + 1).astype(int)
        exact = np.float32(code) * np.float32(scale)
        out[c] = exact if table is None else table[row].numpy()[place]
        product = gradient[c] * (1.0 if slopes is None else slopes[row].double().numpy()[place])
        back[c] = np.where(inside, product, 0.0)
        terms = product * np.where(known, np.where(inside, code - np.nan_to_num(steps), code), 0.0)
        sums.append(terms[known].sum())
        sizes.append(np.abs(terms[known]).sum())
    return *(torch.from_numpy(side).movedim(0, axis) for side in (out, back)), np.array(sums), np.array(sizes)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ends", [(-128, 127), (0, 255), (-8, 7), (-32768, 32767)])
@pytest.mark.parametrize("identity", [False, True])
def test_floats_and_gradients(shape, dtype, ends, identity):
    axis, generator = SHAPES[shape], torch.Generator().manual_seed(3)
    if ends[1] - ends[0] > 255 and len(shape) != 2:
        return
    table = torch.randn(4, ends[1] - ends[0] + 2, generator=generator)
    slopes = torch.randn(table.shape, generator=generator)
    slopes[:, -1] = 0.0
    given = (None, None) if identity else (table, slopes)
    eps = max(torch.finfo(dtype).eps, 1e-6)
    for x in layouts(floats(shape, axis, dtype, ends, generator)):
        scales, zeros = of_channels()
        gradient = torch.randn(x.shape, generator=generator).to(dtype)
        want, back, sums, sizes = reference(x, axis, ends, *given, gradient)
        arguments = x, scales, zeros, given[0], rows(), axis, *ends
        out = ops.through_channels(*arguments)
        assert out.dtype == dtype and out.stride() == torch.empty_like(x).stride()
        assert torch.equal(out.double().nan_to_num(7), want.float().to(dtype).double().nan_to_num(7))
        kept = ops.through_channels_kept(*arguments, not identity)
        assert torch.equal(kept[0].nan_to_num(7), out.nan_to_num(7))
        plain = channel_plain.kept(*arguments, not identity)
        known = ~x.isnan()
        assert torch.equal(plain[2], kept[2]) and (identity or torch.equal(plain[1][known], kept[1][known]))
        to_x, to_scales = ops.through_channels_backward_with_scales(
            gradient, x, scales, zeros, given[1], *arguments[4:]
        )
        assert torch.allclose(to_x.double(), back, rtol=eps, atol=1e-7)
        assert (np.abs(to_scales.double().numpy() - sums) <= 1e-5 * sizes + 1e-9).all()
        if not identity:
            again = ops.through_channels_backward(gradient, *kept[1:], slopes, rows(), axis)
            assert torch.equal(again, to_x)
            again = channel_plain.backward(gradient, *plain[1:], slopes, rows(), axis)
            assert torch.allclose(again.double(), back, rtol=eps, atol=1e-7)
        plain = channel_plain.backward_with_scales(gradient, x, scales, zeros, given[1], *arguments[4:])
        assert torch.allclose(plain[0].double(), back, rtol=eps, atol=1e-7)
        assert (np.abs(plain[1].double().numpy() - sums) <= 1e-5 * sizes + 1e-9).all()


@pytest.mark.parametrize("shape, axis", [((4000, 70), 1), ((40, 9, 900), 1), ((3, 100000), 0), ((1, 40000, 2), 1)])
def test_sums_have_one_order_whatever_the_threads(shape, axis):
    x, gradient, channels = torch.randn(shape), torch.randn(shape), shape[axis]
    scales, rows = torch.rand(channels) / 40 + 0.01, torch.randint(0, 3, (channels,), dtype=torch.int32)
    zeros, slopes = torch.randint(-9, 9, (channels,), dtype=torch.int32), torch.randn(3, 257)
    given, before, found = (gradient, x, scales, zeros, slopes, rows, axis, -128, 127), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(ops.through_channels_backward_with_scales(*given))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))
    wide = channel_plain.backward_with_scales(
        gradient.double(), x.double(), scales, zeros, slopes, rows, axis, -128, 127
    )
    near = channel_plain.backward_with_scales(*given)
    assert torch.equal(found[0][0], near[0])
    terms = (gradient * 128).abs().sum([d for d in range(x.ndim) if d != axis])  # float64's steps are not float32's
    assert ((found[0][1] - near[1]).abs() <= 1e-6 * terms).all() and wide[1].shape == (channels,)


@pytest.mark.parametrize("scale", [0.0, torch.nan, torch.inf, -0.5])
def test_a_scale_that_is_no_number_gives_what_plain_operations_give(scale):
    x, scales, values = torch.randn(90, 2), torch.tensor([0.1, scale]), torch.randn(1, 257)
    x[0] = 0.0
    none = torch.zeros(2, dtype=torch.int32)
    for table in (values, None):
        given = x, scales, none, table, none, 1, -128, 127
        want = channel_plain.through(*given)
        assert torch.equal(ops.through_channels(*given).nan_to_num(7), want.nan_to_num(7))
        assert torch.equal(ops.through_channels_kept(*given, table is not None)[0].nan_to_num(7), want.nan_to_num(7))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16])
@pytest.mark.parametrize("shape", SHAPES)
def test_codes(shape, dtype):
    info, axis = torch.iinfo(dtype), SHAPES[shape]
    tables = torch.randint(-99, 99, (4, 1 << 8 * dtype.itemsize)).to(torch.int16)
    for q in layouts(torch.randint(info.min, info.max + 1, shape).to(dtype)):
        for table in (tables, tables.to(torch.int8), tables.float()):
            found = ops.codes_by_channel(q, table, rows(), axis)
            each = q.movedim(axis, 0).numpy().view(f"u{q.itemsize}")
            want = np.stack([table[row].numpy()[each[c]] for c, row in enumerate(ROWS)])
            assert (found.movedim(axis, 0).numpy() == want).all() and found.stride() == torch.empty_like(q).stride()
            assert torch.equal(channel_plain.codes(q, table, rows(), axis), found)


@pytest.mark.parametrize("shape", [(130, 64), (64, 64), (400, 5), (70, 130), (67, 3, 40), (65, 700), (2, 3, 70)])
@pytest.mark.parametrize("code, output", [("int8", "int8"), ("uint8", "float32"), ("int16", "int16")])
def test_codes_in_tiles_and_columns(shape, code, output):
    """Whole tiles, tiles that overlap at the ends, several rows as one, columns some at a time, runs."""
    generator, channels, dtype = torch.Generator().manual_seed(1), shape[1], getattr(torch, code)
    least, most = torch.iinfo(dtype).min, torch.iinfo(dtype).max + 1
    q = torch.randint(least, most, shape, generator=generator).to(dtype)
    many = min(channels, 3 if code == "int16" else channels)
    tables = torch.randint(-128, 128, (many, most - least), generator=generator).to(getattr(torch, output))
    rows = torch.randint(0, many, (channels,), generator=generator, dtype=torch.int32)
    assert torch.equal(ops.codes_by_channel(q, tables, rows, 1), channel_plain.codes(q, tables, rows, 1))


@pytest.mark.parametrize("shape", [(30, 608), (90, 303, 2), (3, 607)])
def test_many_channels(shape):
    """Whose tables no cache holds together: columns go some at a time, where the bits that are kept allow it."""
    generator, channels = torch.Generator().manual_seed(2), shape[1]
    x, gradient = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    scales, zeros = torch.rand(channels, generator=generator) / 20 + 0.01, torch.arange(channels, dtype=torch.int32) % 9
    table, slopes = torch.randn(2, channels, 257, generator=generator)
    given, rest = (x, scales, zeros), (torch.arange(channels, dtype=torch.int32), 1, -128, 127)
    for ours, plain in zip(
        ops.through_channels_kept(*given, table, *rest, True),
        channel_plain.kept(*given, table, *rest, True),
        strict=True,
    ):
        assert torch.equal(ours, plain)
    _, codes, within = ops.through_channels_kept(*given, table, *rest, True)
    to_x, to_scales = ops.through_channels_backward_with_scales(gradient, *given, slopes, *rest)
    assert torch.equal(to_x, ops.through_channels_backward(gradient, codes, within, slopes, *rest[:2]))
    plain = channel_plain.backward_with_scales(gradient, *given, slopes, *rest)
    assert torch.equal(to_x, plain[0]) and torch.allclose(to_scales, plain[1], rtol=1e-4, atol=1e-4)


def test_the_operators_are_as_torch_wants_them():
    x, q, gradient = torch.randn(4, 5, 6), torch.randint(-9, 9, (4, 5)).to(torch.int8), torch.randn(4, 5, 6)
    scales, zeros = of_channels()
    values = torch.randn(4, 257)
    given = x, scales, zeros, values, rows(), 1, -128, 127
    _, codes, within = ops.through_channels_kept(*given, True)
    for name, arguments in {
        "codes_by_channel": (q, torch.zeros(4, 256), rows(), 1),
        "through_channels": given,
        "through_channels_kept": (*given, True),
        "through_channels_backward": (gradient, codes, within, values, rows(), 1),
        "through_channels_backward_with_scales": (gradient, *given),
    }.items():
        torch.library.opcheck(getattr(ops, name).default, arguments)


def test_what_is_read_out_of_bounds_is_refused():
    x, q, (scales, zeros), none = torch.zeros(2, 5), torch.zeros(2, 5, dtype=torch.int8), of_channels(), rows()
    good = x, scales, zeros, torch.zeros(4, 17), none, 1, -8, 7
    bad = {
        "codes_by_channel": [(q, torch.zeros(4, 255), none, 1), (q, torch.zeros(4, 256), none[:4], 1)],
        "through_channels": [
            (x, scales[:4], *good[2:]),
            (x, scales, zeros[:4], *good[3:]),
            (*good[:3], torch.zeros(4, 9), *good[4:]),
            (*good[:4], none[:4], *good[5:]),
            (*good[:5], 2, *good[6:]),
        ],
        "through_channels_backward": [
            (x, q.to(torch.uint8), torch.zeros(1, dtype=torch.uint8), torch.zeros(4, 17), none, 1),
            (x, q[:1].to(torch.uint8), torch.zeros(2, dtype=torch.uint8), torch.zeros(4, 17), none, 1),
        ],
    }
    for name, cases in bad.items():
        for arguments in cases:
            with pytest.raises(LutcError, match=f"{name} takes .* for the channels along axis"):
                getattr(ops, name)(*arguments)


def test_second_derivatives():
    """Of gradients by the scale and by x, which the operators take for linear within a code."""
    x = torch.randn(6, 5, dtype=torch.float64).requires_grad_()
    scales, zeros = of_channels(torch.float64)
    scales = scales.clone().requires_grad_()
    slopes = torch.randn(4, 257, dtype=torch.float64)

    def first(x, scales, gradient):
        y = channels.look_up(x, scales, zeros, slopes.cumsum(1), slopes, rows(), 1, (-128, 127))
        return torch.autograd.grad(y, (x, scales), gradient, create_graph=True)

    gradient = torch.randn(6, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda g: first(x, scales, g), gradient)
    with torch.no_grad():  # away from where codes change
        steps = x / scales
        near = (steps - steps.round()).abs() > 0.4
        x[near] = (steps.round() * scales)[near]

    def by_scale(x, scales):
        return first(x, scales, gradient)[1]

    assert torch.autograd.gradcheck(by_scale, (x, scales), eps=1e-7, atol=1e-4)
