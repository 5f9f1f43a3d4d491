"""The power of least squared error in one pass against plain operations and brute force."""

import math

import pytest

torch = pytest.importorskip("torch")

from lutc.nn import power_ops  # noqa: E402


def brute_force(x, lowest, highest):
    """By trying all powers in Python; the largest of equals."""
    values = [v if math.isfinite(v) else 0.0 for v in x.float().tolist()]

    def error(power):
        scale = 2.0**power
        return sum((min(max(round(v / scale), lowest), highest) * scale - v) ** 2 for v in values)

    return min(range(power_ops.HIGHEST, power_ops.LOWEST - 1, -1), key=error)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("spread", [1e-5, 0.3, 7.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_power_of_least_squared_error(bits, spread, dtype):
    limits = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    x = (torch.randn(777) * spread).clamp(-6e4, 6e4).to(dtype)
    x[:3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    found = torch.ops.lutc.least_squares_power(x, *limits)
    assert found.dtype == torch.float32 and found.shape == ()
    assert found == brute_force(x, *limits) == power_ops._plain(x, *limits)


@pytest.mark.parametrize("x", [[], [0.0] * 5, [1e30, -1e30], [1e-30], [math.nan], [127.0], [127.01], [-128.0, 127.0]])
def test_ends(x):
    x = torch.tensor(x)
    assert torch.ops.lutc.least_squares_power(x, -128, 127) == power_ops._plain(x, -128, 127)


def test_the_operator_is_as_torch_wants_it():
    torch.library.opcheck(torch.ops.lutc.least_squares_power.default, (torch.randn(50), -128, 127))
