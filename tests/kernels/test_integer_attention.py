"""The Triton kernel of attention in integers against the torch form, which equals the numpy model, bit for bit: in
Triton's interpreter where there is no GPU, and compiled ahead of time.
"""

import os
import subprocess
import sys

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton")

from lutc.formats.requantise import requantiser  # noqa: E402
from lutc.hardware.rows import ROOT_BITS  # noqa: E402
from lutc.nn import IntegerAttention, integer_attention_blocks  # noqa: E402
from lutc.nn.attention_arguments import operands  # noqa: E402
from lutc.nn.attention_blocks import Form  # noqa: E402
from tests.helpers import attention_oracle as oracle  # noqa: E402
from tests.helpers.handmade import float_tables, int_tables  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EXP, RECI = float_tables("exp", -30, 0, 3000), int_tables("reciprocal", 8, range(3, 7))
CASES = [name for name in oracle.CASES if not oracle.CASES[name][1].get("softcap")]
pytestmark = [pytest.mark.gpu] if torch.cuda.is_available() else []
FEW = {"causal, cached keys", "sliding window", "added mask", "sinks", "one query", "values of another size", "padding"}


def both(name, rescale, reciprocal, block):
    """Codes by the kernel, and by torch operations on the CPU."""
    from lutc.kernels import integer_attention as kernels

    q, k, v, mask, options = oracle.arguments(name, spread=5.0)
    module = IntegerAttention(EXP, reciprocal, rescale, block)
    sinks, alibi, lengths = (options.get(name) for name in ("sinks", "alibi", "lengths"))
    given = operands(q, k, v, mask, sinks, alibi, lengths, 0.0)
    offset = options.get("offset")
    form = Form(
        0.0,
        reciprocal is not None,
        options.get("scale") or q.shape[-1] ** -0.5,
        options.get("causal", False),
        k.shape[2] - q.shape[2] if offset is None else offset,
        options.get("window") or 0,
        0.0,
        rescale,
    )
    lines, of_roots = module.reciprocal, (0, 0)
    if lines is not None:
        of_roots = requantiser(lines.unit * 2.0**ROOT_BITS)
    results = []
    for device, call in ((DEVICE, kernels.forward), ("cpu", integer_attention_blocks.forward)):
        moved = type(given)(*(None if x is None else x.to(device) for x in vars(given).values()))
        roots = None if lines is None else tuple(x.to(device) for x in (lines.cuts, lines.slopes, lines.intercepts))
        tables = integer_attention_blocks.Tables(module.weights.to(device), roots, of_roots)
        codes, _, _ = integer_attention_blocks.in_codes(moved, form.scale, block)
        results.append(call(codes, tables, form, block).cpu())
    return results


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
@pytest.mark.parametrize("rescale", ["shift", "none"])
def test_equals_torch_bit_for_bit(name, rescale):
    got, want = both(name, rescale, None, 32)
    assert got.dtype == torch.int16 and got.count_nonzero() and torch.equal(got, want)


@pytest.mark.parametrize(("name", "block"), [("causal, cached keys", 64), ("sinks", 128)])
def test_reciprocal_and_blocks(name, block):
    got, want = both(name, "shift", RECI, block)
    assert got.count_nonzero() and torch.equal(got, want)


AHEAD = """
import sys
from benchmarks import attention
found = attention.integer_count(int(sys.argv[1]), 64)
print(found.spills, found.per_score)
"""


@pytest.mark.parametrize(
    "capability", [pytest.param(80, marks=pytest.mark.slow), 90, pytest.param(100, marks=pytest.mark.slow)]
)
def test_compiles_ahead_of_time(capability):
    """In a process of its own, since the interpreter is chosen at import."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", AHEAD, str(capability)], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 0, run.stderr[-2000:]
    spills, per_score = map(float, run.stdout.split())
    assert spills == 0 and per_score > 0, run.stdout
