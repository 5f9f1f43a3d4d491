"""torch's derivatives against the registry's, in float64."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lutc.functions import FUNCTIONS, in_torch  # noqa: E402

CANONICAL = sorted({function.name for function in FUNCTIONS.values()})


def points(function) -> np.ndarray:
    lo, hi = max(function.domain[0], -30.0), min(function.domain[1], 30.0)
    x = np.linspace(lo, hi, 2002)[1:-1]
    kinks = [0.0, *(function.inflections or ()), *function.poles]
    return x[np.min(np.abs(x[:, None] - np.array(kinks)), axis=1) > 1e-3]


@pytest.mark.parametrize("name", CANONICAL)
def test_every_function_of_the_registry(name):
    assert in_torch.known(name)
    function = FUNCTIONS[name]
    x = points(function)
    got = in_torch.derivative(name, torch.from_numpy(x)).numpy()
    want = function.derivative(x)
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=3e-8)  # softplus in torch is linear beyond 20


@pytest.mark.parametrize("name", CANONICAL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(name, dtype):
    x = torch.from_numpy(points(FUNCTIONS[name])).to(dtype)
    gradient = torch.randn_like(x)
    got = in_torch.backward(name, gradient, x)
    assert got.dtype == dtype and got.shape == x.shape
    want = in_torch.backward(name, gradient.double(), x.double())
    finite = want.abs() < 6e4
    scale = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(got.double()[finite], want[finite], rtol=scale, atol=scale)


def test_unknown():
    assert not in_torch.known("my.module:f") and not in_torch.known(None)
