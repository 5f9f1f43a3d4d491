"""int8 slopes with inputs at hand, against a search over all scales and against what rounding does to outputs."""

import pytest
import torch

from lutc.taylor import TaylorTable
from lutc.taylor.module import TaylorMLP
from lutc.taylor.rounding import int8_slopes


def _table(slopes: torch.Tensor) -> TaylorTable:
    k, o, d = slopes.shape
    centres = torch.arange(k).float()[:, None].expand(k, d) * 8
    return TaylorTable(centres.contiguous(), torch.randn(k, o), slopes, torch.ones(k, dtype=torch.int64))


def test_an_input_that_hardly_varies_does_not_take_the_rows_scale():
    torch.manual_seed(0)
    slopes = torch.randn(3, 8, 32)
    # Another input of each centre: no one scale per column serves all.
    spread = torch.ones(3, 32)
    for index in range(3):
        slopes[index, :, index] *= 300
        spread[index, index] = 1e-3
    table = _table(slopes)
    owner = torch.arange(3000) % 3
    x = table.centres[owner] + torch.randn(3000, 32) * spread[owner]
    exact = TaylorMLP(table)(x)
    errors = [(TaylorMLP(one)(x) - exact).square().mean() for one in (table.stored("int8", x), table.stored("int8"))]
    assert errors[0] < 0.005 * exact.var() and errors[0] < 0.25 * errors[1]


@pytest.mark.parametrize("seed", range(5))
def test_scales_of_rows_are_near_the_best_of_a_fine_search(seed):
    generator = torch.Generator().manual_seed(seed)
    slopes = torch.randn(2, 3, 40, generator=generator, dtype=torch.float64).pow(3)
    squares = torch.rand(2, 40, generator=generator, dtype=torch.float64).pow(4) + 1e-9
    codes, scales, columns = int8_slopes(slopes, squares)
    found = codes.double() * scales.double()[..., None] * columns.double()
    best = 0
    for k in range(2):
        for row in range(3):
            units = slopes[k, row] / columns.double()
            tried = torch.linspace(0.005, 1, 2000, dtype=torch.float64)[:, None] * units.abs().max() / 127
            rounded = (units / tried).round().clamp(-127, 127) * tried * columns.double()
            best += ((rounded - slopes[k, row]).square() * squares[k]).sum(1).min()
    assert ((found - slopes).square() * squares[:, None]).sum() <= 2 * best


def test_constant_inputs_and_a_centre_without_samples():
    torch.manual_seed(1)
    table = _table(torch.randn(2, 4, 6))
    x = torch.zeros(50, 6)
    x[:, :3] = torch.randn(50, 3)
    stored = table.stored("int8", x)
    torch.testing.assert_close(TaylorMLP(stored)(x), TaylorMLP(table)(x), atol=0.15, rtol=0.02)
