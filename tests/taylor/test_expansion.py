import pytest
import torch
from torch import nn

from lutc.errors import LutcError
from lutc.taylor.expansion import expand, format_bytes, hessian


def mlp(d, h, o, activation, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(d, h), activation, nn.Linear(h, o)).double().requires_grad_(False)


def test_against_finite_differences():
    function, c, step = mlp(5, 17, 3, nn.GELU()), torch.randn(4, 5, dtype=torch.float64), 1e-4
    found = expand(function, c, 2)
    for i in range(5):
        e = step * torch.eye(5, dtype=torch.float64)[i]
        up, middle, down = function(c + e), function(c), function(c - e)
        torch.testing.assert_close(found.jacobians[:, :, i], (up - down) / (2 * step), rtol=0, atol=1e-7)
        torch.testing.assert_close(found.hessians[:, :, i], (up - 2 * middle + down) / step**2, rtol=0, atol=1e-6)
    torch.testing.assert_close(found.values, function(c))


@pytest.mark.parametrize(
    "activation", [nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Tanh(), nn.Sigmoid(), nn.Softplus(), nn.Mish()], ids=str
)
def test_against_torch_full_derivatives(activation):
    function, c = mlp(6, 20, 4, activation), torch.randn(3, 6, dtype=torch.float64)
    found = expand(function, c, 2)
    for index, centre in enumerate(c):
        torch.testing.assert_close(found.jacobians[index], torch.autograd.functional.jacobian(function, centre))
        for o in range(4):
            full = torch.autograd.functional.hessian(lambda x, o=o: function(x)[o], centre)
            torch.testing.assert_close(found.hessians[index, o], full.diagonal())
            torch.testing.assert_close(hessian(function, c)[index, o], full)


def test_order_one_has_no_hessian_and_chunks_agree():
    function, c = mlp(8, 32, 8, nn.GELU()), torch.randn(2, 8, dtype=torch.float64)
    whole = expand(function, c, 1)
    assert whole.hessians is None
    # Results take 2 * 8 * 8 * 8 bytes; what is left allows a few tangent rows at a time.
    narrow = expand(function, c, 1, memory=1024 + 8 * 6 * 150)
    torch.testing.assert_close(narrow.jacobians, whole.jacobians)


def test_errors():
    function, c = mlp(8, 32, 8, nn.GELU()), torch.randn(2, 8, dtype=torch.float64)
    with pytest.raises(LutcError, match="order 3 is not possible"):
        expand(function, c, 3)
    with pytest.raises(LutcError, match=r"need .* 1 kB are given.*fewer centres"):
        expand(function, c, 1, memory=1000)
    with pytest.raises(LutcError, match="finite"):
        expand(function, c.index_fill(0, torch.tensor([0]), torch.nan), 1)
    with pytest.raises(LutcError, match="Jacobian is not finite"):
        expand(lambda x: x.sqrt(), torch.zeros(1, 3, dtype=torch.float64), 1)
    with pytest.raises(LutcError, match="use order 2, the diagonal"):
        hessian(lambda x: torch.cat([x] * 9, -1), torch.zeros(1, 700))


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (2_359_296, "2.36 MB"), (2.17e12, "2.17 TB")])
def test_format_bytes(count, text):
    assert format_bytes(count) == text
