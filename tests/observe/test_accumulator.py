"""What is counted on the way is what numpy counts of all values together."""

import numpy as np
import pytest
import torch

from lutc.calibration.histogram import Histogram
from lutc.observe.accumulator import Accumulator


def special_values() -> torch.Tensor:
    """Random bit patterns: every exponent, subnormals, infinities, NaN."""
    bits = np.random.default_rng(0).integers(0, 1 << 32, 50_000, dtype=np.uint32)
    bits[:4] = 0x7F800000, 0xFF800000, 0x7FC00000, 0x80000000
    return torch.from_numpy(bits.view(np.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_values_of_any_kind(dtype):
    x = special_values().clamp(-60000, 60000).to(dtype) if dtype == torch.float16 else special_values().to(dtype)
    counted = Accumulator()
    for part in x.split(7001):
        counted.add(part[::1])
    given = x.float().numpy()
    finite = given[np.isfinite(given)]
    assert counted.histogram() == Histogram.of(finite)
    assert counted.special() == (int(np.isinf(given).sum()), int(np.isnan(given).sum()))


def test_strides():
    x, counted = torch.randn(40, 30), Accumulator()
    counted.add(x.t()[::2])
    assert counted.histogram() == Histogram.of(x.numpy().T[::2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_rows_below_their_maximum(dtype):
    x = (5 * torch.randn(300, 17, generator=torch.Generator().manual_seed(0))).to(dtype)
    x[3, 5:] = -torch.inf
    x[4, 2] = torch.finfo(dtype).min
    x[5, 0], x[6, 0] = torch.nan, torch.inf
    x[7] = -torch.inf
    counted = Accumulator()
    masked = counted.add_below_maximum(x[:150]) + counted.add_below_maximum(x[150:])
    wide = x.float().numpy()
    with np.errstate(invalid="ignore"):
        below = wide - wide.max(1, keepdims=True)
    hidden = (x <= torch.finfo(dtype).min / 2).numpy()
    kept = below[~hidden]
    assert masked == hidden.sum() == 12 + 1 + 17
    assert counted.histogram() == Histogram.of(kept[np.isfinite(kept)])
    assert counted.special() == (int(np.isinf(kept).sum()), int(np.isnan(kept).sum()))
    assert counted.special()[1] == 17 + 1
