"""Softmax and norms over quantised inputs, against numpy float64."""

import numpy as np
import pytest
import torch

import lutc
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.nn.coded_rows import CodeLayerNorm, CodeRMSNorm, CodeSoftmax, CodeTable

EXP = lutc.compile("exp", 16, inputs=(Inputs(8, 2**-5, 127),), range=(-8, 0), search="exact")
RSQRT = lutc.compile("rsqrt", 16, inputs=(Inputs(8, 2**-6, -128),), range=(1, 4), search="exact")


def looked_up(tables, x):
    ((key, table),) = tables.items()
    inputs = tables.inputs[key]
    q = np.clip(np.rint(x / inputs.scale) + inputs.zero_point, inputs.minimum, inputs.maximum)
    return table(inputs.scale * (q - inputs.zero_point)).astype(np.float32)


def test_softmax():
    x = torch.randn(5, 7, 33, generator=torch.Generator().manual_seed(0)) * 4
    x[0, 0, :5], x[0, 1, 3] = -torch.inf, torch.finfo(torch.float32).min
    a = x.numpy().astype(np.float64)
    w = np.maximum(looked_up(EXP, a - a.max(-1, keepdims=True)).astype(np.float64), 0)
    w[a <= np.finfo(np.float32).min / 2] = 0
    np.testing.assert_allclose(CodeSoftmax(EXP)(x), w / w.sum(-1, keepdims=True), rtol=1e-6, atol=1e-9)
    moved = CodeSoftmax(EXP, dim=1)(x.transpose(1, 2).contiguous())
    np.testing.assert_allclose(moved.transpose(1, 2), CodeSoftmax(EXP)(x), rtol=1e-6)
    assert CodeSoftmax(EXP)(torch.tensor([1.0, torch.nan])).isnan().all()
    lowest = torch.full((4,), torch.finfo(torch.float32).min)
    assert torch.equal(CodeSoftmax(EXP)(lowest), torch.full((4,), 0.25))


@pytest.mark.parametrize("scale", [1e-4, 0.3, 1.0, 2.0, 700.0])
@pytest.mark.parametrize("kind", [CodeLayerNorm, CodeRMSNorm])
def test_norms(kind, scale):
    x = torch.randn(64, 32, generator=torch.Generator().manual_seed(0)) * scale
    weight = torch.rand(32) + 0.5
    a = x.numpy().astype(np.float64)
    if kind is CodeLayerNorm:
        a = a - a.mean(-1, keepdims=True)
    v = np.mean(a * a, -1, keepdims=True) + 1e-12
    e = np.floor(np.log2(v) / 2)
    expected = a * looked_up(RSQRT, v / 4.0**e) * 2.0**-e * weight.numpy()
    found = kind(RSQRT).normalise(x, (32,), weight, eps=1e-12)
    far = np.abs(found.numpy() - expected) > 1e-4 * np.abs(expected) + 1e-6
    assert far.any(-1).mean() < 0.05  # a mean square within rounding of the middle between two codes may take either
    exact = a / np.sqrt(v) * weight.numpy()
    assert np.abs(found.numpy() - exact).max() < 0.03 * np.abs(exact).max()


def test_half_moves_the_values_unrounded():
    table = CodeTable(EXP)
    before = table.values.clone()
    assert torch.equal(table.half().values, before) and table.values.dtype == torch.float32
    assert CodeSoftmax(EXP).half()(torch.zeros(2, 3).half()).dtype == torch.float16
    with pytest.raises(LutcError, match="one table over codes"):
        CodeTable(lutc.load("exp_fplut"))
