"""One pass over codes against plain indexing: every bit pattern, odd sizes, strides, NaN, out-of-range inputs."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lutc.errors import LutcError  # noqa: E402
from lutc.nn import code_ops  # noqa: E402
from lutc.nn.cpu import codes as cpu  # noqa: E402
from lutc.nn.nearest import index  # noqa: E402

OUTPUTS = (torch.int8, torch.uint8, torch.int16, torch.float32, torch.float64)


def table_of(dtype, out):
    size = 1 << 8 * dtype.itemsize
    values = torch.randint(-30000, 30000, (size,))
    return values.to(out) if not out.is_floating_point else (values / 7).to(out)


def oracle(q, table):
    unsigned = {1: np.uint8, 2: np.uint16}[q.itemsize]
    return torch.from_numpy(table.numpy()[q.contiguous().numpy().view(unsigned).astype(np.int64)])


@pytest.mark.parametrize("out", OUTPUTS)
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16])
def test_every_code(dtype, out):
    info, table = torch.iinfo(dtype), table_of(dtype, out)
    every = torch.arange(info.min, info.max + 1).to(dtype)
    assert torch.equal(torch.ops.lutc.codes(every, table), oracle(every, table))


@pytest.mark.parametrize("n", [0, 1, 7, 31, 32, 33, 255, 1000, 3 * cpu.SLICE + 5])
@pytest.mark.parametrize(
    "dtype, out", [(torch.int8, torch.int8), (torch.int8, torch.float32), (torch.int16, torch.int16)]
)
def test_sizes_offsets_and_strides(dtype, out, n):
    """Nothing is read or written beyond the elements: the neighbours of a view stay."""
    info, table = torch.iinfo(dtype), table_of(dtype, out)
    whole = torch.randint(info.min, info.max + 1, (n + 9,)).to(dtype)
    for q in (whole[3 : n + 3], whole[3 : n + 3].flip(0), whole[1 : n + 1 : 2], whole[:n].expand(2, n).t()):
        assert torch.equal(torch.ops.lutc.codes(q, table), oracle(q, table))
    left, right = torch.full((n + 64,), 77).to(out), whole[3 : n + 3]
    cpu.look_up(right.data_ptr(), left[32:].data_ptr(), n, table.data_ptr(), (dtype.itemsize, out.itemsize), threads=2)
    assert (
        (left[:32] == 77).all()
        and (left[n + 32 :] == 77).all()
        and torch.equal(left[32 : n + 32], oracle(right, table))
    )


def test_bytes_without_a_shuffle_give_the_same(monkeypatch):
    q, table = torch.randint(-128, 128, (100_001,)).to(torch.int8), table_of(torch.int8, torch.int8)
    want = torch.ops.lutc.codes(q, table)
    monkeypatch.setattr(cpu, "_shuffles", lambda: False)
    assert torch.equal(torch.ops.lutc.codes(q, table), want) and torch.equal(want, oracle(q, table))


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
        found = torch.ops.lutc.through_codes(given, step, values, *limits)
        want = values.to(torch.float64 if given.dtype == torch.float64 else torch.float32)
        assert torch.equal(found, want[index(given, step, limits)].to(given.dtype))


def test_a_scale_that_is_no_number_gives_what_plain_operations_give():
    x, values = torch.randn(600), torch.randn(257)
    for scale in (0.0, torch.nan, torch.inf, -0.5):
        step = torch.tensor(scale)
        want = values[index(x, step, (-128, 127, 0))]
        assert torch.equal(torch.ops.lutc.through_codes(x, step, values, -128, 127, 0), want)


def test_the_table_by_bits_saturates_codes_beyond_the_width():
    table = code_ops.by_bits(torch.arange(16).to(torch.int8), -8, torch.int8)
    q = torch.arange(-128, 128).to(torch.int8)
    assert torch.equal(torch.ops.lutc.codes(q, table).long(), q.long().clamp(-8, 7) + 8)


def test_operators_are_as_torch_wants_them():
    torch.library.opcheck(torch.ops.lutc.codes.default, (torch.zeros(5, dtype=torch.int8), torch.zeros(256)))
    arguments = (torch.zeros(5), torch.tensor(0.5), torch.zeros(257), -128, 127, 0)
    torch.library.opcheck(torch.ops.lutc.through_codes.default, arguments)


def test_vectors_of_another_length_are_refused_not_read_beyond():
    with pytest.raises(LutcError, match="codes: table takes a vector of 256 here; given shape \\(4,\\)"):
        torch.ops.lutc.codes(torch.zeros(3, dtype=torch.uint8), torch.zeros(4))
    with pytest.raises(LutcError, match="values takes a vector of 257 here"):
        torch.ops.lutc.through_codes(torch.zeros(3), torch.tensor(1.0), torch.zeros(9), -128, 127, 0)
