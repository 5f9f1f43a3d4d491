"""The kernels that look codes up, in Triton's interpreter and on a card, against plain indexing."""

import os

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from lutc.kernels import codes as kernels  # noqa: E402

from lutc.nn import code_ops  # noqa: E402
from lutc.nn.nearest import index  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::lutc.errors.ScaleWarning")


@pytest.mark.parametrize("n", [1, 255, 4096, 9001])
@pytest.mark.parametrize("out", [torch.int8, torch.int16, torch.float32])
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16])
def test_codes(dtype, out, n):
    info = torch.iinfo(dtype)
    q = torch.randint(info.min, info.max + 1, (n,)).to(dtype).to(DEVICE)
    table = torch.randint(-100, 100, (1 << 8 * dtype.itemsize,)).to(out).to(DEVICE)
    found = torch.full((n + 8,), 77, device=DEVICE).to(out)
    kernels.codes(q, table, found[:n])
    assert torch.equal(found[:n], code_ops._codes_plain(q, table)) and (found[n:] == 77).all()


@pytest.mark.parametrize("limits", [(-128, 127, 0), (-8, 7, 3), (0, 255, 130), (-32768, 32767, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_floats_through_codes(dtype, limits):
    """At every half between codes, beyond the ends, at infinities and NaN: bit for bit what plain operations give."""
    lowest, highest, zero_point = limits
    scale = torch.tensor(0.0625, device=DEVICE)
    edges = torch.arange(lowest - 2, min(highest, lowest + 600) + 3).sub(zero_point).mul(0.0625)
    x = torch.cat(
        [edges, edges + 0.03125, torch.randn(500) * 9, torch.tensor([torch.inf, -torch.inf, torch.nan, -0.0])]
    )
    x = x.to(dtype).to(DEVICE)
    values = torch.randn(highest - lowest + 2).to(DEVICE)
    found = torch.empty_like(x)
    kernels.through_codes(x, scale, values.to(dtype), found, limits)
    assert torch.equal(found, values[index(x, scale, limits)].to(dtype))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("scale", [2.0**-4, 0.05, "dynamic"])
def test_modules_on_a_card_give_what_the_cpu_gives(bits, scale):
    from lutc.nn import QuantLUT

    if bits == 16 and scale == "dynamic":
        pytest.skip("FakeQuantize takes at most 8 bits")
    module, x = QuantLUT("gelu_8", scale=scale, bits=bits), torch.randn(3, 1001) * 3
    if bits == 16 and scale != "dynamic":
        module = QuantLUT("gelu_8", scale=scale / 64, bits=16)
    want = module(x)
    assert torch.equal(module.cuda()(x.cuda()).cpu(), want)
