"""Modules with a scale for every channel as ONNX: QuantizeLinear with an axis, and torch's results bit for bit."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
onnx, _ = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")

import lutc.onnx  # noqa: E402
from lutc import nn  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of the exporter, and scales without a table
SCALES, ZEROS = (0.07, 2.0**-4, 0.3, 0.07), (0, 5, -100, 7)
C = len(SCALES)
OUT = {"out_scale": 0.03, "out_zero_point": -9}


def all_codes(dtype=torch.int8):
    """All codes in every channel."""
    info = torch.iinfo(dtype)
    return torch.arange(info.min, info.max + 1).to(dtype)[:, None].expand(-1, C).contiguous()


def floats():
    """Codes, halves between them, beyond the ends, NaN and infinities, for every channel."""
    steps = torch.cat([torch.arange(-300, 300) / 2, torch.tensor([torch.nan, torch.inf, -torch.inf, 1e30, -0.0])])
    return steps[:, None] * torch.tensor(SCALES)


def seen(module):
    module.train()(
        torch.randn(500, C, generator=torch.Generator().manual_seed(7)) * torch.tensor([0.1, 1.0, 5.0, 30.0])
    )
    return module.eval()


class AtScales(torch.nn.Module):
    """Whose scales come with every call."""

    def __init__(self):
        super().__init__()
        self.table = nn.QuantLUT("silu_8", axis=1, **OUT)

    def forward(self, x, scales):
        return self.table(x, scales)


def image(x):
    """(n, C) as (n / 5, C, 5)"""
    return x[: len(x) // 5 * 5].reshape(-1, 5, C).movedim(2, 1).contiguous()


UNSIGNED = {"signed": False, "zero_point": [zero + 128 for zero in ZEROS]}
CASES = {
    "codes": (lambda: nn.QuantLUT("gelu_8", SCALES, ZEROS, **OUT, axis=1), all_codes(), 0),
    "codes to floats": (lambda: nn.QuantLUT("exp_8", SCALES, ZEROS, axis=-1), all_codes(), 0),
    "codes, rounding": (lambda: nn.QuantLUT("silu_8", SCALES, **OUT, rounding="half_even", axis=1), all_codes(), 0),
    "uint8": (
        lambda: nn.QuantLUT("gelu_8", SCALES, out_scale=0.03, out_zero_point=99, **UNSIGNED, axis=1),
        all_codes(torch.uint8),
        0,
    ),
    "16 bits": (lambda: nn.QuantLUT("gelu_8", SCALES, 9, 2.0**-9, bits=16, axis=1), all_codes(torch.int16), 0),
    "4 bits": (lambda: nn.QuantLUT("gelu_8", SCALES, (0, 5, -8, 7), 0.5, bits=4, axis=1), floats(), 2),
    "floats": (lambda: nn.QuantLUT("gelu_8", SCALES, ZEROS, **OUT, axis=1), floats(), 2),
    "images": (lambda: nn.QuantLUT("gelu_8", SCALES, ZEROS, **OUT, axis=1), image(floats()), 2),
    "images of codes": (lambda: nn.QuantLUT("gelu_8", SCALES, ZEROS, **OUT, axis=-2), image(all_codes()), 0),
    "to floats": (lambda: nn.QuantLUT("gelu_8", SCALES, ZEROS, axis=-1), floats(), 1),
    "half": (lambda: nn.QuantLUT("gelu_8", SCALES, ZEROS, **OUT, axis=1), floats().half(), 2),
    "double": (lambda: nn.FakeQuantize(SCALES, zero_point=ZEROS, axis=1), floats().double(), 0),
    "quantiser": (lambda: nn.FakeQuantize(SCALES, zero_point=ZEROS, axis=1), floats(), 2),
    "unsigned quantiser": (lambda: nn.FakeQuantize(SCALES, bits=6, zero_point=7, axis=1, signed=False), floats(), 2),
    "learned": (lambda: seen(nn.QuantLUT("gelu_8", "learned", **OUT, axis=1, channels=C)), floats(), 2),
    "learned, codes": (lambda: seen(nn.QuantLUT("gelu_8", "learned", **OUT, axis=1, channels=C)), all_codes(), 0),
    "observed": (lambda: seen(nn.FakeQuantize("observed", axis=1, channels=C)), floats(), 2),
    "dynamic": (lambda: nn.QuantLUT("gelu_8", "dynamic", **OUT, axis=1), floats().nan_to_num(1.0).clamp(-9, 9), 2),
    "parameter": (
        lambda: nn.QuantLUT("gelu_8", torch.nn.Parameter(torch.tensor(SCALES)), ZEROS, **OUT, axis=1),
        floats(),
        2,
    ),
}
FEW = "images", "images of codes", "learned"  # quick ones; each export takes the exporter seconds


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def test_channels_to_the_bit(name, tmp_path):
    make, x, nodes = CASES[name]
    found = lutc.onnx.export(make(), (x,), tmp_path / "m.onnx")
    assert [(c.values, c.different) for c in found] == [(x.numel(), 0)]
    model = onnx.load(tmp_path / "m.onnx")
    every = [node for part in (model.graph, *model.functions) for node in part.node]
    linear = [node for node in every if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(linear) == nodes
    axis = {a.name: a.i for node in linear if node.op_type == "QuantizeLinear" for a in node.attribute}
    assert not linear or axis["axis"] == 1


@pytest.mark.slow
def test_scales_of_a_call(tmp_path):
    for x in (floats(), all_codes()):
        found = lutc.onnx.export(AtScales(), (x, torch.tensor(SCALES)), tmp_path / "m.onnx")
        assert [(c.values, c.different) for c in found] == [(x.numel(), 0)]
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    names = [given.name for given in session.get_inputs()]
    others = np.array([0.01, 1.0, 0.5, 0.07], np.float32)
    got = session.run(None, dict(zip(names, (all_codes().numpy(), others))))[0]
    assert (got == AtScales()(all_codes(), torch.from_numpy(others)).numpy()).all()


def test_what_cannot_be_exported(tmp_path):
    with pytest.raises(lutc.errors.LutcError, match="has seen no batch yet"):
        lutc.onnx.export(nn.FakeQuantize("learned", axis=1, channels=C), (floats(),), tmp_path / "m.onnx")
    with pytest.raises(lutc.errors.LutcError, match="dynamic scales are those of floats"):
        lutc.onnx.export(nn.QuantLUT("gelu_8", "dynamic", axis=1), (all_codes(),), tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()
