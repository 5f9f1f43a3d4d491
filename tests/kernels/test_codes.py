"""The kernels that look codes up, in Triton's interpreter and on a card, against plain indexing."""

import os

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported: its own functions are interpreted too
pytest.importorskip("triton")

from lutc.kernels import codes as kernels  # noqa: E402

from lutc.nn import code_ops, through_codes  # noqa: E402
from lutc.nn.nearest import index  # noqa: E402
from tests.helpers.ahead import assert_wide_without_spills, counted  # noqa: E402

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


@pytest.mark.parametrize("identity", [False, True])
@pytest.mark.parametrize("limits", [(-128, 127, 0), (-8, 7, 3), (-32768, 32767, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gradients(dtype, limits, identity):
    """What is kept and the gradients, against plain operations; the sum of the scale's in any order of blocks."""
    scale, ends = torch.tensor(0.0625, device=DEVICE), torch.tensor([torch.inf, -torch.inf, torch.nan, -0.0])
    x = torch.cat([torch.arange(-300, 300) * 0.03125, torch.randn(4000) * limits[1] / 16, ends]).to(dtype).to(DEVICE)
    slopes, values = torch.randn(2, limits[1] - limits[0] + 2).to(DEVICE)
    slopes[-1] = 0.0
    gradient, given = torch.randn(len(x)).to(dtype).to(DEVICE), None if identity else slopes
    out, codes, within = through_codes._kept_plain(x, scale, values, *limits, True)
    found, places, bits = torch.empty_like(out), torch.empty_like(codes), torch.empty_like(within)
    kernels.through_codes(x, scale, values.to(dtype), found, limits, places, bits)
    known = ~x.isnan()
    assert torch.equal(found, out) and torch.equal(bits, within) and torch.equal(places[known], codes[known])

    def close(a, b):
        return torch.allclose(a.float(), b.float(), rtol=1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps)

    to_x = torch.empty_like(x)
    table = None if identity else through_codes._all_places(slopes, codes)
    kernels.backward(gradient, places, bits, table, to_x)
    want, wanted_sum = through_codes._backward_with_scale_plain(gradient, x, scale, given, *limits)
    assert close(to_x, want) and close(to_x, through_codes._backward_plain(gradient, codes, within, given))
    total = kernels.backward_with_scale(gradient, x, scale, given, found, limits)
    assert torch.equal(found, to_x) and torch.allclose(total, wanted_sum, rtol=1e-4, atol=1e-2)


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["learned", "dynamic", 2.0**-4])
def test_training_on_a_card_gives_what_the_cpu_gives(kind, dtype):
    from lutc.nn import QuantLUT

    module, x, found = QuantLUT("gelu_8", scale=kind), (torch.randn(3, 1001) * 3).to(dtype), []
    weights = torch.randn(3, 1001).to(dtype)
    for device in ("cpu", "cuda"):
        module, leaf = module.to(device), x.to(device).requires_grad_()
        module.zero_grad()
        (module(leaf) * weights.to(device)).sum().backward()
        found.append([leaf.grad.cpu(), *(p.grad.cpu() for p in module.parameters())])
    assert all(torch.allclose(a, b, rtol=2e-2 if dtype != torch.float32 else 1e-3) for a, b in zip(*found, strict=True))


AHEAD = """
import json
import kernel_instructions as k

found = {}
for target in k.TARGETS:
    for given, out in k.CODES:
        sass = k.disassemble(k.compile_codes(given, out, target))
        c = k.count(sass, k.codes.BLOCK // (32 * k.codes.WARPS))
        found[f"{given} {out} {target}"] = [c.per_element, dict(c.opcodes), dict(c.everything)]
    for name in ("through_codes_kernel", "backward_kernel", "backward_with_scale_kernel"):
        for element in ("fp32", "fp16", "bf16"):
            lines = k.disassemble(k.compile_gradients(name, element, target)).splitlines()
            matches = [m.group(1) for m in map(k._INSTRUCTION.match, lines) if m]
            found[f"{name} {element} {target}"] = [0, {}, dict(k.collections.Counter(matches))]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_compiled_ahead_of_time():
    """For sm_80, sm_90 and sm_100: at most six lane instructions a code from int8 to int8, and every kernel reads and
    writes 16 bytes at once, without spills.
    """
    counts = counted(AHEAD)
    assert_wide_without_spills(counts)
    for target in (80, 90, 100):
        per_element, opcodes, _ = counts[f"i8 i8 {target}"]
        assert per_element <= 6 and opcodes["LDG.E.128"] == opcodes["STG.E.128"] == 2  # of 32 codes
        assert counts[f"i16 i16 {target}"][0] <= 6 and counts[f"i8 fp32 {target}"][0] <= 8
