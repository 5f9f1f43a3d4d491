"""The functions that lutc knows, by name. What is particular to a function stands here and nowhere else.

Default ranges: what users of GQA-LUT expect where it has the function (gelu, silu, hardswish [-4, 4]; exp [-8, 0], the
inputs of a softmax less their maximum; reciprocal [0.5, 4]; rsqrt [0.25, 4]); [-8, 8] where an int8 code at 2^-4 covers
it and the function still moves beyond 4 (sigmoid, softplus); [-4, 4], more than a whole period with ends on every grid,
for sin and cos; for the rest the widest range on which an 8-bit fixed-point format holds the slopes and intercepts of
good lines with its step still small.
"""

import difflib
import math

import numpy as np

from lutc.errors import LutcError
from lutc.functions import definitions as d
from lutc.functions.kinds import Function, Line, Reduction, Symmetry

_ZERO, _ONE, _IDENTITY = Line(0.0, 0.0), Line(0.0, 1.0), Line(1.0, 0.0)
_ODD = {"positive": (1.0, 0.0, 0.0), "negative": (-1.0, 0.0, 0.0)}
_EVEN = {"positive": (1.0, 0.0, 0.0), "negative": (1.0, 0.0, 0.0)}
_RAMP = {"positive": (1.0, 1.0, 0.0), "negative": (1.0, 0.0, 0.0)}  # relu(x) + h(|x|)
_STEP = {"positive": (-1.0, 0.0, 1.0), "negative": (1.0, 0.0, 0.0)}  # 1 - h(x) and h(-x)
_RECTIFIER = {"left": _ZERO, "right": _IDENTITY}
_SELU_LEFT = Line(0.0, -d.SELU_SCALE * d.SELU_ALPHA)
_WIDE, _NARROW = (-8.0, 8.0), (-4.0, 4.0)
_PI = math.pi

_ENTRIES = (
    Function(
        "gelu",
        d.gelu,
        d.gelu_derivative,
        _NARROW,
        **_RECTIFIER,
        symmetry=Symmetry(d.gelu_half, **_RAMP, right=_ZERO),
        inflections=(-math.sqrt(2.0), math.sqrt(2.0)),
        aliases=("gelu_erf",),
    ),
    Function(
        "gelu_tanh",
        d.gelu_tanh,
        d.gelu_tanh_derivative,
        _NARROW,
        **_RECTIFIER,
        symmetry=Symmetry(d.gelu_tanh_half, **_RAMP, right=_ZERO),
        inflections=(-1.4185040087908284, 1.4185040087908284),
    ),
    Function(
        "quick_gelu",
        d.quick_gelu,
        d.quick_gelu_derivative,
        _NARROW,
        **_RECTIFIER,
        symmetry=Symmetry(d.quick_gelu_half, **_RAMP, right=_ZERO),
        inflections=(-1.4097281319127307, 1.4097281319127307),
    ),
    Function(
        "silu",
        d.silu,
        d.silu_derivative,
        _NARROW,
        **_RECTIFIER,
        symmetry=Symmetry(d.silu_half, **_RAMP, right=_ZERO),
        inflections=(-2.3993572805154677, 2.3993572805154677),
        aliases=("swish",),
    ),
    Function(
        "sigmoid",
        d.sigmoid,
        d.sigmoid_derivative,
        _WIDE,
        left=_ZERO,
        right=_ONE,
        symmetry=Symmetry(d.sigmoid_half, **_STEP, right=_ZERO),
        inflections=(0.0,),
    ),
    Function(
        "tanh",
        d.tanh,
        d.tanh_derivative,
        _NARROW,
        left=Line(0.0, -1.0),
        right=_ONE,
        symmetry=Symmetry(d.tanh, **_ODD, right=_ONE),
        inflections=(0.0,),
    ),
    Function("relu", d.relu, d.relu_derivative, _NARROW, **_RECTIFIER, inflections=()),
    Function(
        "leaky_relu",
        d.leaky_relu,
        d.leaky_relu_derivative,
        _NARROW,
        left=Line(d.LEAKY_SLOPE, 0.0),
        right=_IDENTITY,
        inflections=(),
    ),
    Function("elu", d.elu, d.elu_derivative, _NARROW, left=Line(0.0, -1.0), right=_IDENTITY, inflections=()),
    Function(
        "selu", d.selu, d.selu_derivative, _NARROW, left=_SELU_LEFT, right=Line(d.SELU_SCALE, 0.0), inflections=(0.0,)
    ),
    Function(
        "celu", d.elu, d.elu_derivative, _NARROW, left=Line(0.0, -1.0), right=_IDENTITY, inflections=()
    ),  # alpha = 1: elu
    Function(
        "hardswish",
        d.hardswish,
        d.hardswish_derivative,
        _NARROW,
        **_RECTIFIER,
        symmetry=Symmetry(d.hardswish_half, **_RAMP, right=_ZERO),
        inflections=(-3.0, 3.0),
        aliases=("hswish",),
    ),
    Function(
        "hardsigmoid",
        d.hardsigmoid,
        d.hardsigmoid_derivative,
        _NARROW,
        left=_ZERO,
        right=_ONE,
        symmetry=Symmetry(d.hardsigmoid_half, **_STEP, right=_ZERO),
        inflections=(0.0,),
        aliases=("hsigmoid",),
    ),
    Function(
        "mish", d.mish, d.mish_derivative, _NARROW, **_RECTIFIER, inflections=(-2.2563763963607931, 1.4905711794854285)
    ),
    Function(
        "softplus",
        d.softplus,
        d.sigmoid,
        _WIDE,
        **_RECTIFIER,
        symmetry=Symmetry(d.softplus_half, **_RAMP, right=_ZERO),
        inflections=(),
    ),
    Function(
        "exp",
        d.exp,
        d.exp,
        (-8.0, 0.0),
        left=_ZERO,
        reduction=Reduction("period", growth=1, period=math.log(2.0)),
        inflections=(),
    ),
    Function(
        "log",
        d.log,
        d.log_derivative,
        (0.25, 4.0),
        "q2.5",
        domain=(0.0, np.inf),
        lo_open=True,
        reduction=Reduction("exponent", growth=0, step=1, offset=math.log(2.0)),
        inflections=(),
    ),
    Function(
        "sin",
        d.sin,
        d.cos,
        _NARROW,
        "q2.5",
        symmetry=Symmetry(d.sin, **_ODD, right=None),
        reduction=Reduction("period", growth=0, period=2.0 * _PI),
        inflections=(0.0, _PI),
    ),
    Function(
        "cos",
        d.cos,
        d.cos_derivative,
        _NARROW,
        "q2.5",
        symmetry=Symmetry(d.cos, **_EVEN, right=None),
        reduction=Reduction("period", growth=0, period=2.0 * _PI),
        inflections=(0.5 * _PI, 1.5 * _PI),
    ),
    Function(
        "reciprocal",
        d.reciprocal,
        d.reciprocal_derivative,
        (0.5, 4.0),
        "q2.5",
        poles=(0.0,),
        symmetry=Symmetry(d.reciprocal, **_ODD, right=None),
        reduction=Reduction("exponent", growth=-1, step=1, odd=True),
        inflections=(0.0,),
        aliases=("reci", "divide"),
    ),
    Function(
        "rsqrt",
        d.rsqrt,
        d.rsqrt_derivative,
        (0.25, 4.0),
        "q2.5",
        domain=(0.0, np.inf),
        lo_open=True,
        reduction=Reduction("exponent", growth=-1, step=2),
        inflections=(),
        aliases=("sqrt_reci",),
    ),
    Function(
        "sqrt",
        d.sqrt,
        d.sqrt_derivative,
        (0.25, 4.0),
        domain=(0.0, np.inf),
        reduction=Reduction("exponent", growth=1, step=2),
        inflections=(),
    ),
    Function(
        "square",
        d.square,
        d.square_derivative,
        (-2.0, 2.0),
        "q2.5",
        symmetry=Symmetry(d.square, **_EVEN, right=None),
        reduction=Reduction("exponent", growth=2, step=1, even=True),
        inflections=(),
        aliases=("pow_2.0",),
    ),
    Function(
        "inverse_sigmoid",
        d.inverse_sigmoid,
        d.inverse_sigmoid_derivative,
        (0.125, 0.875),
        "q3.4",
        domain=(0.0, 1.0),
        lo_open=True,
        hi_open=True,
        inflections=(0.5,),
        aliases=("inversesigmoid", "logit"),
    ),
    Function(
        "erf",
        d.erf,
        d.erf_derivative,
        _NARROW,
        left=Line(0.0, -1.0),
        right=_ONE,
        symmetry=Symmetry(d.erf, **_ODD, right=_ONE),
        inflections=(0.0,),
    ),
)

FUNCTIONS: dict[str, Function] = {entry.name: entry for entry in _ENTRIES}
_BY_NAME = {name: entry for entry in _ENTRIES for name in (entry.name, *entry.aliases)}


def _plain(name) -> str:
    return name.strip().lower() if isinstance(name, str) else repr(name)


def known(name: str) -> bool:
    """Whether `get(name)` has an answer."""
    return _plain(name) in _BY_NAME


def get(name: str) -> Function:
    """The function called `name`, or that has it as an alias, in any case."""
    wanted = _plain(name)
    if wanted in _BY_NAME:
        return _BY_NAME[wanted]
    close = difflib.get_close_matches(wanted, _BY_NAME, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise LutcError(
        f"unknown function {name!r}; {hint}known: {', '.join(FUNCTIONS)}, or your own as package.module:name"
    )


def checked_range(fn: Function, lo: float, hi: float) -> tuple[float, float]:
    """(lo, hi) as floats, once they are finite, in order, and `fn` is finite at both and has no pole between."""
    try:
        lo, hi = float(lo), float(hi)
    except (TypeError, ValueError):
        raise LutcError(f"a range is two numbers, not {lo!r} and {hi!r}") from None
    if not (math.isfinite(lo) and math.isfinite(hi)):
        raise LutcError(f"range [{lo:g}, {hi:g}] is not finite; give two finite numbers")
    if lo >= hi:
        raise LutcError(f"range [{lo:g}, {hi:g}] is empty; its first number must be below its second")
    low, high = fn.domain
    if lo < low or hi > high or (fn.lo_open and lo == low) or (fn.hi_open and hi == high):
        allowed = (
            f"{'(' if fn.lo_open or low == -np.inf else '['}{low:g}, "
            f"{high:g}{')' if fn.hi_open or high == np.inf else ']'}"
        )
        raise LutcError(f"range [{lo:g}, {hi:g}] leaves the domain {allowed} of {fn.name}; give a range inside it")
    for pole in fn.poles:
        if lo <= pole <= hi:
            raise LutcError(
                f"range [{lo:g}, {hi:g}] holds {pole:g}, where {fn.name} is infinite; give a range on one side of it"
            )
    for end in (lo, hi):
        if not np.isfinite(fn(end)):
            raise LutcError(
                f"{fn.name} is {float(fn(end)):g} at {end:g}, an end of the range [{lo:g}, {hi:g}]; give a range where "
                "it is finite"
            )
    return lo, hi
