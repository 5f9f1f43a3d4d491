"""Functions against mpmath at 60 digits, their limits, and the identities that tables rely on."""

import itertools
import math
import pickle
import subprocess
import sys

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lutc import functions
from lutc.errors import LutcError
from lutc.functions import FUNCTIONS, Line, checked_range, get, load

mpf, mp = mpmath.mpf, mpmath.mp
mp.dps = 60

ALL = list(FUNCTIONS)
CODES_FP16 = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float64)
SELU_SCALE, SELU_ALPHA = mpf("1.0507009873554804934193349852946"), mpf("1.6732632423543772848170429916717")

# Written from the papers' and torch's formulas; mpmath's own precision takes the place of care. The cube's 0.044715 is
# decimal.
ORACLES = {
    "gelu": lambda x: x * mpmath.ncdf(x),
    "gelu_tanh": lambda x: x / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mp.pi) * (x + mpf("0.044715") * x**3))),
    "quick_gelu": lambda x: x / (1 + mpmath.exp(mpf("-1.702") * x)),
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "tanh": mpmath.tanh,
    "relu": lambda x: max(x, mpf(0)),
    "leaky_relu": lambda x: x if x > 0 else x * mpf("0.01"),
    "elu": lambda x: x if x > 0 else mpmath.expm1(x),
    "selu": lambda x: SELU_SCALE * (x if x > 0 else SELU_ALPHA * mpmath.expm1(x)),
    "celu": lambda x: x if x > 0 else mpmath.expm1(x),
    "hardswish": lambda x: x * min(max(x + 3, mpf(0)), mpf(6)) / 6,
    "hardsigmoid": lambda x: min(max(x + 3, mpf(0)), mpf(6)) / 6,
    "mish": lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x))),
    "softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
    "exp": mpmath.exp,
    "log": mpmath.log,
    "sin": mpmath.sin,
    "cos": mpmath.cos,
    "reciprocal": lambda x: 1 / x,
    "rsqrt": lambda x: 1 / mpmath.sqrt(x),
    "sqrt": mpmath.sqrt,
    "square": lambda x: x * x,
    "inverse_sigmoid": lambda x: mpmath.log(x / (1 - x)),
    "erf": mpmath.erf,
    "prelu": lambda x: x if x > 0 else x / 4,
    "hardtanh": lambda x: min(max(x, mpf(-1)), mpf(1)),
    "relu6": lambda x: min(max(x, mpf(0)), mpf(6)),
    "relu2": lambda x: max(x, mpf(0)) ** 2,
    "xielu": lambda x: mpf(0.8) * x**2 + x / 2 if x > 0 else mpf(0.8) * (mpmath.expm1(x) - x) + x / 2,
    "swigluoai": lambda x: min(x, mpf(7)) / (1 + mpmath.exp(mpf(-1.702) * min(x, mpf(7)))),
    "snake": lambda x: x + mpmath.sin(x) ** 2,
    "softcap": lambda x: 30 * mpmath.tanh(x / 30),
    "softsign": lambda x: x / (1 + abs(x)),
    "logsigmoid": lambda x: -mpmath.log1p(mpmath.exp(-x)),
    "tanhshrink": lambda x: x - mpmath.tanh(x),
    "hardshrink": lambda x: x if abs(x) > 0.5 else mpf(0),
    "softshrink": lambda x: mpmath.sign(x) * max(abs(x) - mpf(0.5), mpf(0)),
    "exp2": lambda x: mpf(2) ** x,
    "log2": lambda x: mpmath.log(x, 2),
    "log1p": mpmath.log1p,
    "expm1": mpmath.expm1,
    "atan": mpmath.atan,
}
# Bounds in units of the last place. Those of gelu and erf are scipy.special's: its erfcx and erfc are up to 7 and 9
# off, measured apart.
ULPS = dict.fromkeys(ORACLES, 4.0) | {"gelu": 10.0, "erf": 10.0}
SIZES = {"xielu": 0.5}  # below which a value is what is left of larger ones: ulps are those of this size
KINKS = {0.0, -3.0, 3.0, -1.0, 1.0, -0.5, 0.5, 6.0, 7.0}
SLOW = {"softsign": 0.02, "atan": 0.02, "softcap": 1.1}  # still so far from their tails at +-60


def digits(x: float) -> int:
    return 60 if abs(x) < 4 else 700


def precise(oracle, x: float):
    """oracle(x) with digits to spare for 1 + tanh(-700), which cancels the first 600."""
    with mp.workdps(digits(x)):
        return oracle(mpf(x))


def points(name: str, seed: int = 0) -> np.ndarray:
    """Random, dense, tiny, huge and special points inside the domain."""
    fn = FUNCTIONS[name]
    rng = np.random.default_rng(seed)
    lo, hi = max(fn.domain[0], -1e3), min(fn.domain[1], 1e3)
    scale = 10.0 ** rng.uniform(-12, 2, 150) * rng.choice([-1, 1], 150)
    near = [c + s * 2.0**-k for c in (-3.0, 0.0, 0.5, 3.0, 1.0) for s in (-1, 1) for k in (1, 3, 10, 30, 52)]
    x = np.concatenate(
        (np.linspace(*fn.range, 101), rng.uniform(-40, 40, 150), rng.uniform(*fn.range, 100), scale, near, [lo, hi])
    )
    x = np.unique(x[(x >= lo) & (x <= hi)])
    return x[np.isfinite(fn(x)) & (x != 0)]


def ulps_off(got: float, want, size: float = 1e-290) -> float:
    """|got - want| in ulps of want, or of `size` where want is smaller: below the smallest normal doubles lose
    digits.
    """
    return float(abs(mpf(float(got)) - want) / mpf(math.ulp(max(abs(float(want)), size))))


def test_every_function_has_an_oracle():
    assert set(ORACLES) == set(FUNCTIONS)


@pytest.mark.parametrize("name", ALL)
def test_values_against_mpmath(name):
    x = points(name)
    y = FUNCTIONS[name](x)
    size = SIZES.get(name, 1e-290)
    worst = max((ulps_off(got, precise(ORACLES[name], at), size), at) for at, got in zip(x, y))
    assert worst[0] <= ULPS[name], worst


@pytest.mark.parametrize("name", ALL)
def test_derivatives_against_mpmath(name):
    """Relative error 1e-14, but for the neighbourhood of the derivative's own zeros: there 1e-15 of the sizes that
    cancel.
    """
    x = points(name, seed=1)
    x = np.array([v for v in x[::3] if v not in KINKS and abs(v) < 700])
    y = FUNCTIONS[name].derivative(x)
    for at, got in zip(x, y):
        with mp.workdps(digits(at)):
            step = min(abs(mpf(at) - kink) for kink in KINKS) * mpf(10) ** -20
            want = (ORACLES[name](mpf(at) + step) - ORACLES[name](mpf(at) - step)) / (2 * step)
        error = abs(mpf(float(got)) - want)
        assert error <= 1e-14 * abs(want) + 1e-15 * min(1, 30 * abs(float(want)) + 0.3 * (abs(at) < 8)) + 1e-290, (
            at,
            got,
            float(want),
        )


@pytest.mark.parametrize("name", ALL)
def test_no_warning_and_nan_stays_nan_on_every_fp16_code(name):
    fn = FUNCTIONS[name]
    x = np.concatenate((CODES_FP16, [1e308, -1e308, 5e-324, -5e-324, 1e-310, 1e160, -1e160]))
    with np.errstate(all="raise"):  # warnings are errors as well
        for f in (fn, fn.derivative):
            y = f(x)
            assert y.dtype == np.float64 and y.shape == x.shape
            assert np.isnan(y[np.isnan(x)]).all()
            inside = (x > fn.domain[0]) & (x < fn.domain[1])
            assert not np.isnan(y[inside]).any()
            outside = (x < fn.domain[0]) | (x > fn.domain[1])
            assert np.isnan(y[outside]).all()
    assert isinstance(fn(1), float) and fn(np.ones((2, 3))).shape == (2, 3) and fn(np.empty(0)).shape == (0,)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("side", ["left", "right"])
def test_tails_are_the_limits(name, side):
    fn = FUNCTIONS[name]
    sign = -1.0 if side == "left" else 1.0
    tail = getattr(fn, side)
    far = sign * np.array([60.0, 1e3, 1e6, 1e30])
    if tail is None:
        # Then f is undefined or infinite there, or no line holds at three points; 1/x and 1/sqrt(x) tend to 0 too
        # slowly for one.
        f = fn(sign * np.array([64.0, 128.0, 192.0]))
        line = np.isfinite(f).all() and abs(f[0] - 2.0 * f[1] + f[2]) < 1e-6 * abs(f[0])
        assert not line, "a tail is missing"
        return
    near = SLOW.get(name, 1e-18)
    np.testing.assert_allclose(fn(far), tail.slope * far + tail.intercept, rtol=1e-15, atol=near)
    limit = fn(sign * np.inf)
    assert limit == (tail.slope * sign * np.inf if tail.slope else tail.intercept)
    assert fn.derivative(sign * np.inf) == tail.slope


@pytest.mark.parametrize("name", [name for name in ALL if FUNCTIONS[name].symmetry])
def test_symmetry(name):
    fn = FUNCTIONS[name]
    for x in (points(name), np.array([0.0, 1e-320, 40.0, -40.0])):
        x = x[np.isfinite(fn(x))]
        h = fn.symmetry.h(np.abs(x))
        terms = np.where(x >= 0, *(np.array(side)[:, None] for side in (fn.symmetry.positive, fn.symmetry.negative)))
        f = terms[0] * h + terms[1] * x + terms[2]
        np.testing.assert_allclose(f, fn(x), rtol=1e-15, atol=1e-300)
    tail = fn.symmetry.right
    if tail is not None:
        far = np.array([60.0, 1e3, 1e300])
        near = SLOW.get(name, 1e-20)
        np.testing.assert_allclose(fn.symmetry.h(far), tail.slope * far + tail.intercept, rtol=0, atol=near)
        assert fn.symmetry.h(np.inf) == (np.inf if tail.slope else tail.intercept)
    assert np.isnan(fn.symmetry.h(np.nan))


@pytest.mark.parametrize("name", [name for name in ALL if FUNCTIONS[name].symmetry])
def test_stored_halves_against_mpmath(name):
    """h is as accurate as f itself: h = (f(x) - slope x - intercept) / factor in 700 digits."""
    fn = FUNCTIONS[name]
    factor, slope, intercept = fn.symmetry.positive
    for u in np.abs(points(name, seed=2))[::4]:
        with mp.workdps(1400):
            want = (ORACLES[name](mpf(u)) - mpf(slope) * mpf(u) - mpf(intercept)) / mpf(factor)
        assert ulps_off(fn.symmetry.h(u), want) <= ULPS[name], u


@pytest.mark.parametrize("name", [name for name in ALL if FUNCTIONS[name].reduction])
def test_reduction_identity(name):
    fn, reduction = FUNCTIONS[name], FUNCTIONS[name].reduction
    x = points(name)
    x = x[np.abs(x) < 700]
    if reduction.kind == "exponent":
        magnitude = np.abs(x)
        e = np.floor(np.log2(magnitude) / reduction.step)
        m = magnitude * 2.0 ** (-reduction.step * e)
        assert ((m >= 1) & (m < 2**reduction.step)).all()
        f = (fn(m) * 2.0 ** (reduction.growth * e) + reduction.offset * e) * (np.sign(x) if reduction.odd else 1)
        np.testing.assert_allclose(f, fn(x), rtol=1e-15, atol=1e-15)
    else:
        n = np.floor(x / reduction.period)
        r = np.array([float(mpf(v) - mpf(reduction.period) * int(k)) for v, k in zip(x, n)])
        # the period is rounded to double, so the reduced argument is off by |x| 2^-53
        np.testing.assert_allclose(
            fn(r) * 2.0 ** (reduction.growth * n), fn(x), rtol=2e-13, atol=2e-13 if reduction.growth == 0 else 0
        )
        assert (r >= -1e-15).all() and (r <= reduction.period).all()


FLAT = {"hardsigmoid", "selu", "hardtanh", "relu6", "hardshrink", "softshrink"}  # kinks, or lines on both sides


@pytest.mark.parametrize("name", [name for name in ALL if FUNCTIONS[name].inflections is not None])
def test_convex_or_concave_between_inflections(name):
    """The slope is monotone between neighbouring inflections, and turns at each."""
    fn = FUNCTIONS[name]
    lo, hi = (
        (0.0, fn.reduction.period)
        if fn.reduction and fn.reduction.kind == "period" and fn.reduction.growth == 0
        else (-8.0, 8.0)
    )
    lo, hi = max(lo, fn.domain[0]), min(hi, fn.domain[1])
    ends = [lo, *fn.inflections, hi]
    for a, b in itertools.pairwise(ends):
        if a == b:
            continue
        inside = np.linspace(a, b, 402)[1:-1]
        turns = np.diff(fn.derivative(inside))
        tolerance = 1e-13 * np.abs(fn.derivative(inside)).max()
        assert (turns >= -tolerance).all() or (turns <= tolerance).all(), (a, b)
        assert np.isfinite(fn(inside)).all()
    for point in fn.inflections:
        if lo < point < hi and point not in fn.poles and name not in FLAT:
            left, right = fn.derivative(point + np.array([[-2e-5, -1e-5], [1e-5, 2e-5]]))
            assert np.sign(left[1] - left[0]) != np.sign(right[1] - right[0])


@pytest.mark.parametrize("name", ALL)
def test_default_format_holds_good_lines(name):
    """Slopes and intercepts of chords over sixteenths of the default range lie in the format, at most one step beyond
    it.
    """
    from lutc import formats

    fn, fmt = FUNCTIONS[name], formats.get(FUNCTIONS[name].coefficients)
    assert fmt.bits == (16 if name == "softcap" else 8) and checked_range(fn, *fn.range) == fn.range
    x = np.linspace(*fn.range, 17)
    slopes = np.diff(fn(x)) / np.diff(x)
    both = np.concatenate((slopes, fn(x)[:-1] - slopes * x[:-1]))
    assert both.min() >= fmt.min - fmt.step and both.max() <= fmt.max + fmt.step


def test_at_the_edges_as_torch_does():
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    theirs = {
        "relu": f.relu,
        "leaky_relu": f.leaky_relu,
        "elu": f.elu,
        "selu": f.selu,
        "celu": f.celu,
        "hardswish": f.hardswish,
        "mish": f.mish,
        "hardsigmoid": f.hardsigmoid,
        "gelu": f.gelu,
        "silu": f.silu,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "softplus": f.softplus,
        "gelu_tanh": lambda x: f.gelu(x, approximate="tanh"),
        "exp": torch.exp,
        "log": torch.log,
        "sin": torch.sin,
        "cos": torch.cos,
        "reciprocal": torch.reciprocal,
        "rsqrt": torch.rsqrt,
        "sqrt": torch.sqrt,
        "square": torch.square,
        "erf": torch.erf,
        "inverse_sigmoid": torch.logit,
        "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
        "prelu": lambda x: f.prelu(x, torch.tensor(0.25, dtype=torch.float64)),
        "hardtanh": f.hardtanh,
        "relu6": f.relu6,
        "relu2": lambda x: f.relu(x).square(),
        "xielu": lambda x: torch.where(x > 0, 0.8 * x * x + 0.5 * x, 0.8 * (torch.expm1(x) - x) + 0.5 * x),
        "swigluoai": lambda x: x.clamp(max=7.0) * torch.sigmoid(1.702 * x.clamp(max=7.0)),
        "snake": lambda x: x + torch.sin(x).square(),
        "softcap": lambda x: 30.0 * torch.tanh(x / 30.0),
        "softsign": f.softsign,
        "logsigmoid": f.logsigmoid,
        "tanhshrink": f.tanhshrink,
        "hardshrink": f.hardshrink,
        "softshrink": f.softshrink,
        "exp2": torch.exp2,
        "log2": torch.log2,
        "log1p": torch.log1p,
        "expm1": torch.expm1,
        "atan": torch.atan,
    }
    assert set(theirs) == set(FUNCTIONS)
    kinks = torch.tensor([-3.0, 3.0, 0.0, -0.0, 1.0, 0.5, 2.0, -2.0], dtype=torch.float64)
    for name, module in theirs.items():
        x = kinks.clone().requires_grad_()
        y = module(x)
        (slope,) = torch.autograd.grad(y.sum(), x)
        np.testing.assert_allclose(
            FUNCTIONS[name](kinks.numpy()), y.detach().numpy(), rtol=1e-12, atol=1e-15, err_msg=name
        )
        # outside the domain torch's derivative of log is a number, and at -0 its infinities have another sign
        defined = ~np.isnan(y.detach().numpy()) & (
            x.detach().numpy() != 0 if name in ("rsqrt", "sqrt", "log", "log2", "inverse_sigmoid") else True
        )
        # torch's hardsigmoid takes its 1/6 from fp32
        np.testing.assert_allclose(
            FUNCTIONS[name].derivative(kinks.numpy())[defined],
            slope.numpy()[defined],
            rtol=1e-7,
            atol=1e-15,
            err_msg=name,
        )


def test_poles():
    assert (
        FUNCTIONS["log"](0.0) == -np.inf
        and FUNCTIONS["inverse_sigmoid"](0.0) == -np.inf
        and FUNCTIONS["inverse_sigmoid"](1.0) == np.inf
    )
    assert FUNCTIONS["reciprocal"](-0.0) == -np.inf and FUNCTIONS["reciprocal"](0.0) == np.inf
    assert (
        FUNCTIONS["rsqrt"](0.0) == np.inf and np.isnan(FUNCTIONS["rsqrt"](-1.0)) and np.isnan(FUNCTIONS["sqrt"](-1.0))
    )
    assert (
        FUNCTIONS["reciprocal"](np.inf) == 0 and FUNCTIONS["rsqrt"](np.inf) == 0 and np.isnan(FUNCTIONS["sin"](np.inf))
    )


# names


def test_aliases():
    for alias, name in {
        "hswish": "hardswish",
        "reci": "reciprocal",
        "divide": "reciprocal",
        "sqrt_reci": "rsqrt",
        "swish": "silu",
        "SiLU": "silu",
        "inversesigmoid": "inverse_sigmoid",
        "pow_2.0": "square",
        " GELU ": "gelu",
        "squared_relu": "relu2",
        "arctan": "atan",
    }.items():
        assert get(alias) is FUNCTIONS[name] is load(alias)
    every = [name for fn in FUNCTIONS.values() for name in (fn.name, *fn.aliases)]
    assert len(every) == len(set(every)) and all(name == name.lower() for name in every)


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(LutcError, match=r"unknown function 'gelv'; did you mean 'gelu'\? known: gelu, "):
        get("gelv")
    with pytest.raises(LutcError, match="unknown function 7; known"):
        get(7)


@given(st.text())
def test_any_text_is_a_function_or_a_clear_error(text):
    try:
        assert load(text) in FUNCTIONS.values()
    except LutcError as error:
        assert repr(text) in str(error) and "\n" not in str(error).replace(repr(text), "")


@pytest.mark.parametrize("name", ALL)
def test_functions_travel_between_processes(name):
    fn = pickle.loads(pickle.dumps(FUNCTIONS[name]))
    assert fn == FUNCTIONS[name]


def test_import_is_light():
    heavy = "{'torch', 'scipy', 'ml_dtypes', 'numba'}"
    code = (
        f"import sys, lutc.functions, lutc.formats; print(sorted({{m.split('.')[0] for m in sys.modules}} & {heavy}))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


# ranges


def test_load_with_a_range():
    fn = load("gelu", (-2, 3))
    assert fn.range == (-2.0, 3.0) and fn.f is FUNCTIONS["gelu"].f and FUNCTIONS["gelu"].range == (-4.0, 4.0)


@pytest.mark.parametrize(
    "name, lo, hi, message",
    [
        ("log", -1, 4, r"range \[-1, 4\] leaves the domain \(0, inf\) of log"),
        ("log", 0, 4, "leaves the domain"),
        ("rsqrt", 0, 4, "leaves the domain"),
        ("inverse_sigmoid", 0.5, 1, r"leaves the domain \(0, 1\)"),
        ("inverse_sigmoid", 0.5, 1.5, "leaves the domain"),
        ("sqrt", -1e-9, 4, r"leaves the domain \[0, inf\)"),
        ("reciprocal", -1, 1, "holds 0, where reciprocal is infinite"),
        ("reciprocal", 0, 1, "holds 0"),
        ("gelu", 4, 4, "empty"),
        ("gelu", 4, -4, "empty"),
        ("gelu", float("nan"), 4, "not finite"),
        ("gelu", -4, float("inf"), "not finite"),
        ("gelu", "a", 4, "two numbers"),
        ("gelu", None, 4, "two numbers"),
        ("exp", 0, 1000, "exp is inf at 1000"),
    ],
)
def test_bad_ranges(name, lo, hi, message):
    with pytest.raises(LutcError, match=message):
        load(name, (lo, hi))
    with pytest.raises(LutcError, match=message):
        checked_range(FUNCTIONS[name], lo, hi)


def test_good_ranges_at_the_edge():
    assert checked_range(FUNCTIONS["sqrt"], 0, 4) == (0.0, 4.0)
    assert checked_range(FUNCTIONS["reciprocal"], -4, -1) == (-4.0, -1.0)
    with pytest.raises(LutcError, match="two numbers"):
        load("gelu", 5)


def test_public_names():
    assert all(hasattr(functions, name) for name in functions.__all__)
    assert Line(1.0, 0.0) == FUNCTIONS["gelu"].right
