"""One pass over codes against plain indexing: every bit pattern, odd sizes, strides, NaN, out-of-range inputs."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lutc.errors import LutcError  # noqa: E402
from lutc.nn import code_ops  # noqa: E402
from lutc.nn.cpu import codes as cpu  # noqa: E402

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


@pytest.mark.parametrize("n", [0, 1, 7, 31, 32, 33, 63, 64, 65, 255, 1000, 3 * cpu.SLICE + 5])
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


@pytest.mark.parametrize("offset", [0, 1])
def test_outputs_that_go_past_the_caches(offset):
    n, table = cpu._MANY + 77, table_of(torch.int8, torch.float32)
    q, out = torch.randint(-128, 128, (n,), dtype=torch.int8), torch.full((n + 2,), 77.0)
    cpu.look_up(q.data_ptr(), out[offset:].data_ptr(), n, table.data_ptr(), (1, 4), threads=2)
    assert torch.equal(out[offset : n + offset], oracle(q, table)) and (out[n + offset :] == 77).all()


@pytest.mark.parametrize("lacks", [("permutes_bytes",), ("permutes_bytes", "_shuffles")])
@pytest.mark.parametrize("out", [torch.int8, torch.float32])
def test_processors_without_permutations_give_the_same(monkeypatch, lacks, out):
    q, table = torch.randint(-128, 128, (100_001,)).to(torch.int8), table_of(torch.int8, out)
    want = torch.ops.lutc.codes(q, table)
    for name in lacks:
        monkeypatch.setattr(cpu, name, lambda: False)
    assert torch.equal(torch.ops.lutc.codes(q, table), want) and torch.equal(want, oracle(q, table))


def test_the_table_by_bits_saturates_codes_beyond_the_width():
    table = code_ops.by_bits(torch.arange(16).to(torch.int8), -8, torch.int8)
    q = torch.arange(-128, 128).to(torch.int8)
    assert torch.equal(torch.ops.lutc.codes(q, table).long(), q.long().clamp(-8, 7) + 8)


def test_the_operator_is_as_torch_wants_it():
    torch.library.opcheck(torch.ops.lutc.codes.default, (torch.zeros(5, dtype=torch.int8), torch.zeros(256)))


def test_a_table_of_another_length_is_refused_not_read_beyond():
    with pytest.raises(LutcError, match="codes: table takes a vector of 256 here; given shape \\(4,\\)"):
        torch.ops.lutc.codes(torch.zeros(3, dtype=torch.uint8), torch.zeros(4))
