"""The kernels that look up in the tables of channels, in Triton's interpreter and on a card, against plain torch."""

import itertools
import os

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported: its own functions are interpreted too
pytest.importorskip("triton")

from lutc.kernels import channels as kernels  # noqa: E402

from lutc.nn import channel_plain as plain  # noqa: E402
from tests.helpers.ahead import assert_wide_without_spills, counted  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = ((3, 5, 7), (41, 5, 13), (1, 1, 1100), (150, 1, 1), (2, 300, 1), (90, 33, 1), (2, 3, 2500), (70, 5, 8))
BF16 = 2.0**-7 if DEVICE == "cpu" else 0  # the interpreter truncates to it
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def room(size, dtype):
    return torch.full((size + 8,), 77, device=DEVICE).to(dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("out", [torch.int8, torch.float32])
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16])
def test_codes(dtype, out, shape):
    info, size = torch.iinfo(dtype), shape[0] * shape[1] * shape[2]
    q = torch.randint(info.min, info.max + 1, shape).to(dtype).to(DEVICE)
    tables = torch.randint(0, 100, (4, 1 << 8 * dtype.itemsize)).to(out).to(DEVICE)
    rows = torch.randint(0, 4, (shape[1],), dtype=torch.int32).to(DEVICE)
    found = room(size, out)
    kernels.codes(q, tables, rows, found[:size], shape)
    assert torch.equal(found[:size].view(shape), plain.codes(q, tables, rows, 1)) and (found[size:] == 77).all()


def made(shape, dtype, ends, identity):
    """At halves between codes, beyond the ends, at infinities and NaN."""
    size = shape[0] * shape[1] * shape[2]
    steps = torch.randint(2 * ends[0] - 400, 2 * ends[1] + 400, (size,)) / 2
    special = torch.tensor([torch.inf, -torch.inf, torch.nan, -0.0])
    x = torch.where(torch.rand(size) < 0.05, special[torch.randint(0, 4, (size,))], steps * 0.0625)
    x = x.view(shape).to(dtype).to(DEVICE)
    scales = torch.tensor([0.0625, 0.07, 0.125, 0.011, 3.0]).repeat(60)[: shape[1]].to(DEVICE)
    zeros = torch.randint(ends[0], ends[1] + 1, (shape[1],), dtype=torch.int32).to(DEVICE)
    rows = torch.randint(0, 4, (shape[1],), dtype=torch.int32).to(DEVICE)
    values = None if identity else torch.randn(4, ends[1] - ends[0] + 2).to(DEVICE)
    if values is not None:
        values[:, -1] = 0.0
    return x, scales, zeros, rows, values


CASES = [
    *itertools.product([torch.float32], [(-128, 127)], [False, True], SHAPES),
    *itertools.product([torch.float16, torch.bfloat16], [(0, 255), (-8, 7)], [False, True], SHAPES[:3]),
]


@pytest.mark.parametrize("dtype, ends, identity, shape", CASES)
def test_floats_and_gradients(dtype, ends, identity, shape):
    """Bit for bit what plain operations give, the sums but for their order."""
    x, scales, zeros, rows, values = made(shape, dtype, ends, identity)
    size, rough = x.numel(), BF16 if dtype == torch.bfloat16 else 0
    given = x, scales, zeros, values, rows, 1, *ends
    found, want = room(size, dtype), plain.through(*given)
    kernels.through(x, (scales, zeros, rows), values, found[:size], shape, ends)
    torch.testing.assert_close(found[:size].view(shape), want, rtol=rough, atol=0, equal_nan=True)
    assert (found[size:] == 77).all()

    found, codes, bits = room(size, dtype), room(size, torch.uint8), room((size + 7) // 8, torch.uint8)
    places = None if identity else codes[:size].view(shape)
    kernels.through(x, (scales, zeros, rows), values, found[:size], shape, ends, places, bits[:-8])
    torch.testing.assert_close(found[:size].view(shape), want, rtol=rough, atol=0, equal_nan=True)
    _, want_codes, want_bits = plain.kept(*given, not identity)
    known = ~x.isnan()
    assert torch.equal(bits[:-8], want_bits) and all(
        (end == 77).all() for end in (found[size:], codes[size:], bits[-8:])
    )
    assert identity or torch.equal(places[known], want_codes[known])

    gradient = torch.randn(shape, device=DEVICE).to(dtype)
    to_x, to_scales = plain.backward_with_scales(gradient, x, scales, zeros, values, rows, 1, *ends)
    terms = (gradient.float() * (ends[1] - ends[0]) * 4).abs().sum((0, 2))
    found = room(size, dtype)
    sums = kernels.backward_with_scales(gradient, x, (scales, zeros, rows), values, found[:size], shape, ends)
    torch.testing.assert_close(found[:size].view(shape), to_x, rtol=rough, atol=0)
    assert (found[size:] == 77).all() and ((sums - to_scales).abs() <= 1e-5 * terms).all()
    if not identity:
        found = room(size, dtype)
        kernels.backward(gradient, places, bits[:-8], values, rows, found[:size], shape)
        torch.testing.assert_close(found[:size].view(shape), to_x, rtol=rough, atol=0)
        assert (found[size:] == 77).all()


def test_every_layout_names_the_channels():
    """Exactly, at the ends of what multiplications serve too."""
    kinds = set()
    for sides in [*SHAPES, (9, 1, 3), (1, 1 << 15, 1), (1, 1 << 17, 1), (5, 2047, 3), (3, 31, 2047), (1, 500, 1999)]:
        channels, inner, by_inner, by_channels, kind, far = kernels.layout(sides, kernels.NARROW)
        kinds.add(kind)
        assert not far
        if kind in (kernels.SIDE, kernels.SHORT):
            place = torch.arange(channels * inner + kernels.NARROW)
            run = place if kind == kernels.SIDE else (place * by_inner) >> 32
            assert torch.equal(run, place // inner) and torch.equal((run * by_channels) >> 32, run // channels)
    assert kinds == {kernels.RUNS, kernels.SIDE, kernels.SHORT, kernels.ANY}
    assert kernels.layout((1 << 20, 1 << 11, 1), 2048)[-1]


AHEAD = """
import json
import kernel_instructions as k

found = {}
for target in k.TARGETS:
    for name, layout in k.CHANNELS.items():
        for given, out in (("i8", "i8"), ("i8", "fp32")):
            built, elements = k.compile_channels("codes_kernel", given, out, layout, target)
            c = k.count(k.disassemble(built), elements)
            found[f"{name} {given} {out} {target}"] = [c.per_element, dict(c.opcodes), dict(c.everything)]
        for kernel in ("through_kernel", "backward_kernel"):
            for element in ("fp32", "fp16", "bf16"):
                lines = k.disassemble(k.compile_channels(kernel, element, element, layout, target)[0]).splitlines()
                matches = [m.group(1) for m in map(k._INSTRUCTION.match, lines) if m]
                found[f"{kernel} {name} {element} {target}"] = [0, {}, dict(k.collections.Counter(matches))]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_compiled_ahead_of_time():
    """For sm_80, sm_90 and sm_100, instructions a code: twice to three times those of one table, all reads and writes
    of 16 bytes, no spills.
    """
    counts = counted(AHEAD, timeout=900)
    assert_wide_without_spills(counts)
    for target in (80, 90, 100):
        for name, most in (("runs", 13), ("side by side", 16), ("short runs", 17)):
            per_element, opcodes, _ = counts[f"{name} i8 i8 {target}"]
            assert per_element <= most and opcodes["LDG.E.128"] == opcodes["STG.E.128"] == 2  # of 32 codes
            assert counts[f"{name} i8 fp32 {target}"][0] <= most + 2
