"""A user's own function, given as package.module:name."""

import math
import sys

import numpy as np
import pytest

from lutc.errors import LutcError
from lutc.functions import FUNCTIONS, load

SOURCE = """
import math
import numpy as np

def snake(x):
    return x + np.sin(x) ** 2

def snake_slope(x):
    return 1 + np.sin(2 * x)

snake.derivative = snake_slope

def scalar(x):
    return math.exp(x) if x < 0 else 1.0 + x

def root(x):
    return math.sqrt(x)

def inverse(x):
    return 1 / x

def constant(x):
    return 1.0

def normalised(x):
    return x - np.mean(x)

def text(x):
    return "no"

def steep(x):
    return 100.0 * x

class Scaled:
    @staticmethod
    def twice(x):
        return 2.0 * x

value = 3
"""


@pytest.fixture
def user(tmp_path, monkeypatch):
    """A module of a user's in the current directory, by a name of its own: modules stay imported."""
    name = f"activations_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    (tmp_path / "broken_one.py").write_text("import nothing_of_this_name\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def test_user_array_function(user):
    fn = load(f"{user}:snake", (-4, 4))
    x = np.linspace(-5, 5, 12).reshape(3, 4)
    np.testing.assert_array_equal(fn(x), x + np.sin(x) ** 2)
    np.testing.assert_array_equal(fn.derivative(x), 1 + np.sin(2 * x))
    assert (
        fn.name == f"{user}:snake"
        and fn.range == (-4.0, 4.0)
        and fn.left is fn.right is fn.symmetry is fn.reduction is None
    )
    assert np.isnan(fn(np.nan)) and isinstance(fn(0.5), float)


def test_user_scalar_function(user):
    fn = load(f"{user}:scalar", (-4, 4))
    assert fn.derivative is None
    np.testing.assert_array_equal(fn(np.array([[-1.0, 2.0]])), [[math.exp(-1.0), 3.0]])
    np.testing.assert_array_equal(load(f"{user}:constant", (0, 1))(np.array([0.5, np.nan])), [1.0, np.nan])
    assert load(f"{user}:Scaled.twice", (0, 1))(3.0) == 6.0


def test_user_function_outside_its_range_is_nan_not_an_error(user):
    np.testing.assert_array_equal(load(f"{user}:root", (0, 4))(np.array([-1.0, 4.0])), [np.nan, 2.0])


def test_user_format_fits(user):
    assert load(f"{user}:snake", (-0.5, 0.5)).coefficients == "q1.6"
    assert load(f"{user}:steep", (-1, 1)).coefficients == "q7.0"
    assert load(f"{user}:Scaled.twice", (-1, 1)).coefficients == "q2.5"
    assert [load(f"{user}:inverse", (low, 1.0)).coefficients for low in (1e-3, 1e-6)] == ["fp16", "fp32"]


@pytest.mark.parametrize(
    "attribute, range, message",
    [
        ("snake", None, "has no default range"),
        ("root", (-1, 4), "raises ValueError at -1: "),
        ("inverse", (-1, 1), r"(is inf at 0|raises ZeroDivisionError at 0)"),
        ("normalised", (-1, 1), "does not treat each element"),
        ("text", (-1, 1), "raises ValueError at -1"),
        ("value", (-1, 1), "is int, not something to call"),
        ("snakes", (-1, 1), "has no 'snakes'"),
        ("", (-1, 1), "not of the form package.module:name"),
        ("snake", (1, -1), "empty"),
        ("snake", 3, "two numbers"),
    ],
)
def test_user_mistakes(user, attribute, range, message):
    with pytest.raises(LutcError, match=message):
        load(f"{user}:{attribute}", range)


def test_user_module_that_cannot_be_imported(user):
    for spec in ("no_such_module:f", "broken_one:f", "..:f", ":f", "a b:f"):
        with pytest.raises(LutcError, match="cannot import|not of the form"):
            load(spec, (-1, 1))


def test_user_torch_functions(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    name = "torch_activations"
    source = (
        "import torch\nactivation = torch.nn.SiLU()\nfunction = lambda x: x * torch.sigmoid(x)\nlearned = "
        "torch.nn.PReLU(init=0.125)\n"
    )
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    x = np.linspace(-6, 6, 101)
    for attribute in ("activation", "function"):
        np.testing.assert_allclose(
            load(f"{name}:{attribute}", (-4, 4))(x), FUNCTIONS["silu"](x), rtol=1e-14, atol=1e-300
        )
    prelu = load(f"{name}:learned", (-4, 4))
    np.testing.assert_allclose(prelu(x), np.where(x > 0, x, 0.125 * x), rtol=1e-6)
    assert torch.is_grad_enabled()
