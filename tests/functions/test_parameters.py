"""Functions with parameters: how they are written, and their values against torch's own in float64 and mpmath."""

import pickle

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lutc
from lutc.errors import LutcError
from lutc.functions import FAMILIES, FUNCTIONS, alike, find, get, in_torch, known
from lutc.functions.spelling import file_name, parts, spelled

torch = pytest.importorskip("torch")
f = torch.nn.functional

CASES = {
    "leaky_relu(negative_slope=0.2)": lambda x: f.leaky_relu(x, 0.2),
    "prelu(weight=-0.5)": lambda x: f.prelu(x, torch.tensor(-0.5, dtype=torch.float64)),
    "elu(alpha=0.5)": lambda x: f.elu(x, 0.5),
    "elu(alpha=3)": lambda x: f.elu(x, 3.0),
    "celu(alpha=0.5)": lambda x: f.celu(x, 0.5),
    "celu(alpha=2.5)": lambda x: f.celu(x, 2.5),
    "softplus(beta=5)": lambda x: f.softplus(x, 5.0, 1e9),
    "softplus(beta=0.25)": lambda x: f.softplus(x, 0.25, 1e9),
    "hardtanh(min_val=-2, max_val=0.5)": lambda x: f.hardtanh(x, -2.0, 0.5),
    "hardshrink(lambd=1.5)": lambda x: f.hardshrink(x, 1.5),
    "softshrink(lambd=1.5)": lambda x: f.softshrink(x, 1.5),
    "snake(alpha=2)": lambda x: x + torch.sin(2.0 * x) ** 2 / 2.0,
    "softcap(cap=5)": lambda x: 5.0 * torch.tanh(x / 5.0),
    "xielu(alpha_p=1.5, alpha_n=0.25, beta=0.75)": lambda x: torch.where(
        x > 0, 1.5 * x * x + 0.75 * x, 0.25 * (torch.expm1(x) - x) + 0.75 * x
    ),
    "swigluoai(alpha=1, limit=3)": lambda x: f.silu(x.clamp(max=3.0)),
}


def test_every_family_has_a_case():
    assert {name.partition("(")[0] for name in CASES} == set(FAMILIES)


@pytest.mark.parametrize("name", CASES)
def test_values_derivatives_and_facts_against_torch(name):
    fn, x = get(name), np.linspace(-20.0, 20.0, 4001) + 1e-4  # off the kinks
    at = torch.from_numpy(x).requires_grad_()
    want = CASES[name](at)
    (slope,) = torch.autograd.grad(want.sum(), at)
    np.testing.assert_allclose(fn(x), want.detach().numpy(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(fn.derivative(x), slope.numpy(), rtol=1e-11, atol=1e-13)
    assert fn.name == name and pickle.loads(pickle.dumps(fn)) == fn and get(name.upper()) is fn
    for side, far in ((fn.left, -1e4), (fn.right, 1e4)):
        if side is not None:
            assert fn(far) == pytest.approx(side.slope * far + side.intercept, rel=1e-12)
    if fn.symmetry is not None:
        factor, slope, intercept = (
            np.where(x >= 0, a, b) for a, b in zip(fn.symmetry.positive, fn.symmetry.negative, strict=True)
        )
        np.testing.assert_allclose(factor * fn.symmetry.h(np.abs(x)) + slope * x + intercept, fn(x), atol=1e-14)
    # in torch: softplus is a line beyond 20 / beta there
    np.testing.assert_allclose(in_torch.value(name, torch.from_numpy(x)).numpy(), fn(x), rtol=1e-6, atol=1e-8)
    got = in_torch.derivative(name, torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, fn.derivative(x), rtol=1e-6, atol=3e-8)
    assert in_torch.known(name)


@pytest.mark.parametrize("beta", [0.3, 5.0, 40.0])
def test_softplus_where_torch_gives_up(beta):
    """Beyond its threshold torch has a line; here the tail is exact."""
    with mpmath.workdps(40):
        for x in (-7.0, -0.3, 0.2, 4.5, 11.0):
            want = mpmath.log1p(mpmath.exp(mpmath.mpf(beta) * x)) / beta
            assert abs(get(f"softplus(beta={beta})")(x) - want) <= 4e-16 * max(1, abs(want)) * max(1, beta * abs(x))


@pytest.mark.parametrize("name", CASES)
def test_a_table_of_it_is_written_read_and_judged(name, tmp_path):
    made = lutc.compile(name, 8, search="exact", inputs=lutc.formats.Inputs(8, 2.0**-4))
    assert made.function == name and "function_sample" not in made.meta
    made.save(tmp_path / "x.json")
    read = lutc.load(tmp_path / "x.json")
    assert read.dumps() == made.dumps() and read.range == get(name).range
    x = read.inputs["4"].x()
    lo, hi = read.range
    x = x[(x >= lo) & (x <= hi)]
    worst = np.abs(read["4"](x) - get(name)(x)).max()
    claimed = read.meta["certificate"]["4"]["range"]["worst_absolute"]["error"]
    assert claimed == pytest.approx(worst, rel=1e-5) and lutc.certify.certify(read) == read.meta["certificate"]


def test_one_spelling():
    assert get("elu(alpha=1)") is FUNCTIONS["elu"] is get("elu()") is get(" ELU ( alpha = 1.0 ) ")
    assert get("hardtanh(max_val=2, min_val=-1)").name == "hardtanh(max_val=2)"
    assert get("elu(alpha=1e-7)").name == "elu(alpha=1e-07)"
    assert file_name("hardtanh(min_val=-2, max_val=0.5)") == "hardtanh_min_val_-2_max_val_0.5"
    assert alike("elu", "celu") and not alike("elu(alpha=0.5)", "celu(alpha=0.5)")
    assert alike("prelu", "leaky_relu(negative_slope=0.25)") and alike("relu6", "hardtanh(min_val=0, max_val=6)")
    assert find(None) is None and find("elu(beta=1)") is None and not known("elu(0.5)")


NAMES = st.sampled_from([(family, p.name) for family in FAMILIES.values() for p in family.parameters])


@given(NAMES, st.floats(1e-3, 1e3))
def test_what_is_spelled_reads_back(which, value):
    family, parameter = which
    if family.name == "hardtanh":
        value = -value if parameter == "min_val" else value
        value = min(value, 0.5) if parameter == "min_val" else value
    fn = get(spelled(family.name, {parameter: value}))
    assert dict(fn.parameters)[parameter] == value and get(fn.name) is get(fn.name) and get(fn.name) == fn


@given(st.text("elu(ap=0.5,-) \n"))
def test_any_text_is_parts_or_a_clear_error(text):
    try:
        name, parameters = parts(text)
        assert isinstance(name, str) and all(isinstance(value, float) for value in parameters.values())
    except LutcError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "name, message",
    [
        ("elu(beta=1)", "elu has no parameter 'beta'; it has alpha=1"),
        ("elu(alpha=-1)", "alpha of elu is a positive number"),
        ("elu(alpha=nan)", "positive number, by default 1; given nan"),
        ("elu(alpha=x)", "'alpha=x' in .* is no parameter; write name=number"),
        ("elu(0.5)", "'0.5' in .* is no parameter"),
        ("elu(alpha=1,alpha=2)", "alpha stands twice"),
        ("elu(alpha=0.5", r"write it as elu\(alpha=0.5\)"),
        ("gelu(alpha=1)", "gelu has no parameters"),
        ("hardtanh(min_val=2)", "min_val below max_val; given 2 and 1"),
        ("eluu(alpha=1)", "did you mean 'elu'"),
    ],
)
def test_bad_spellings(name, message):
    with pytest.raises(LutcError, match=message):
        get(name)


def test_a_callable_has_a_name_of_the_registry_only_where_it_is_that_function():
    def gelu(x):
        return np.maximum(x, 0.0)

    assert get("atan").name == lutc.functions.load(np.arctan, (-2.0, 2.0)).name
    own = lutc.compile(gelu, 4, range=(-4.0, 4.0), search="exact", inputs="grid")
    assert own.function == "own_gelu" and "function_sample" in own.meta


def test_parameters_by_keyword_are_told_where_they_stand():
    with pytest.raises(LutcError, match=r"with the function's name: 'leaky_relu\(negative_slope=0.2\)'"):
        lutc.compile("leaky_relu", negative_slope=0.2)
