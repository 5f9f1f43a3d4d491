"""The kernels that look up in the tables of channels, in Triton's interpreter and on a card, against plain torch."""

import os

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported: its own functions are interpreted too
pytest.importorskip("triton")

from lutc.kernels import channels as kernels  # noqa: E402

from lutc.nn import channels  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = ((3, 5, 7), (41, 5, 13), (1, 1, 1100), (1100, 1, 1), (2, 300, 1))
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("out", [torch.int8, torch.uint8, torch.int16, torch.float32])
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16])
def test_codes(dtype, out, shape):
    if dtype == torch.int16 and shape[1] > 9:
        return  # 300 tables of 65,536
    info, size = torch.iinfo(dtype), shape[0] * shape[1] * shape[2]
    q = torch.randint(info.min, info.max + 1, shape).to(dtype).to(DEVICE)
    tables = torch.randint(0, 100, (shape[1], 1 << 8 * dtype.itemsize)).to(out).to(DEVICE)
    found = torch.full((size + 8,), 77, device=DEVICE).to(out)
    kernels.codes(q, tables, found[:size], shape)
    assert torch.equal(found[:size].view(shape), channels._codes_plain(q, tables, 1)) and (found[size:] == 77).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("identity", [False, True])
@pytest.mark.parametrize("ends", [(-128, 127), (0, 255), (-8, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_floats(dtype, ends, identity, shape):
    """At halves between codes, beyond the ends, at infinities and NaN: bit for bit what plain operations give, but for
    the interpreter's bfloat16, which it truncates to.
    """
    size = shape[0] * shape[1] * shape[2]
    steps = torch.randint(2 * ends[0] - 400, 2 * ends[1] + 400, (size,)) / 2
    special = torch.tensor([torch.inf, -torch.inf, torch.nan, -0.0])
    x = torch.where(torch.rand(size) < 0.05, special[torch.randint(0, 4, (size,))], steps * 0.0625)
    x = x.view(shape).to(dtype).to(DEVICE)
    scales = torch.tensor([0.0625, 0.07, 0.125, 0.011, 3.0]).repeat(60)[: shape[1]].to(DEVICE)
    zeros = torch.randint(ends[0], ends[1] + 1, (shape[1],), dtype=torch.int32).to(DEVICE)
    values = None if identity else torch.randn(shape[1], ends[1] - ends[0] + 4).to(dtype).to(DEVICE)
    rough = 2.0**-7 if identity and dtype == torch.bfloat16 and DEVICE == "cpu" else 0
    found = torch.full((size + 8,), 77.0, device=DEVICE).to(dtype)
    kernels.through(x, scales, zeros, values, found[:size], shape, ends)
    want = channels._through_plain(x, scales, zeros, values, 1, *ends)
    torch.testing.assert_close(found[:size].view(shape), want, rtol=rough, atol=0, equal_nan=True)
    assert (found[size:] == 77).all()
