"""Functional calls: finding them in the source of a module's forward, and answering them with tables while that forward
runs.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
import types
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lutc.functions import alike, find
from lutc.functions.recognise import functions_of
from lutc.functions.spelling import spelled
from lutc.nn.patching.attention import attend, multi_head_attention
from lutc.nn.patching.channel_norms import batch_norm, group_norm, instance_norm

T = torch.Tensor


def _gelu(form):
    return lambda args, kwargs: kwargs.get("approximate", "none") == form


def _on_floats(args, kwargs) -> bool:
    """Positions are rotated and steps counted in integers, which no table takes; `out=` is an answer of its own."""
    x = args[0] if args else kwargs.get("input")
    return x is None or isinstance(x, T) and x.is_floating_point() and kwargs.get("out") is None  # None: read in source


def _inverse_root(args, kwargs) -> bool:
    return _on_floats(args, kwargs) and (args[1] if len(args) > 1 else kwargs.get("exponent")) == -0.5


def _any(args, kwargs) -> bool:
    return True


# function object -> [(registry name, whether a call with these arguments is that function)]
ACTIVATION_CALLS: dict[Callable, list[tuple[str, Callable]]] = {
    F.gelu: [("gelu", _gelu("none")), ("gelu_tanh", _gelu("tanh"))],
    **{
        call: [(name, _any)]
        for name, calls in {
            "silu": [F.silu],
            "relu": [F.relu, torch.relu, T.relu],
            "selu": [F.selu, torch.selu],
            "hardswish": [F.hardswish],
            "hardsigmoid": [F.hardsigmoid],
            "mish": [F.mish],
            "relu6": [F.relu6],
            "softsign": [F.softsign],
            "logsigmoid": [F.logsigmoid],
            "tanhshrink": [F.tanhshrink],
            "sigmoid": [F.sigmoid, torch.sigmoid, T.sigmoid, torch.special.expit],
            "tanh": [F.tanh, torch.tanh, T.tanh],
        }.items()
        for call in calls
    },
}
# Functions with parameters, and what their options are called, in order; the registry calls them so too.
PARAMETERS: dict[Callable, tuple[str, tuple[str, ...]]] = {
    F.elu: ("elu", ("alpha",)),
    F.celu: ("celu", ("alpha",)),
    F.leaky_relu: ("leaky_relu", ("negative_slope",)),
    F.softplus: ("softplus", ("beta",)),
    F.hardtanh: ("hardtanh", ("min_val", "max_val")),
    F.hardshrink: ("hardshrink", ("lambd",)),
    F.softshrink: ("softshrink", ("lambd",)),
}
ACTIVATION_CALLS |= {call: [(family, _any)] for call, (family, _) in PARAMETERS.items()}
# Functions that code writes out by name; they are answered where a table of theirs is given, and else are no matter.
MATH_CALLS: dict[Callable, str] = {
    call: name
    for name, calls in {
        "exp": [torch.exp, T.exp],
        "erf": [torch.erf, T.erf, torch.special.erf],
        "log": [torch.log, T.log],
        "sin": [torch.sin, T.sin],
        "cos": [torch.cos, T.cos],
        "sqrt": [torch.sqrt, T.sqrt],
        "rsqrt": [torch.rsqrt, T.rsqrt],
        "reciprocal": [torch.reciprocal, T.reciprocal],
        "square": [torch.square, T.square],
        "exp2": [torch.exp2, T.exp2, torch.special.exp2],
        "expm1": [torch.expm1, T.expm1, torch.special.expm1],
        "log2": [torch.log2, T.log2],
        "log1p": [torch.log1p, T.log1p, torch.special.log1p],
        "atan": [torch.atan, torch.arctan, T.atan, T.arctan],
    }.items()
    for call in calls
}
ACTIVATION_CALLS |= {call: [(name, _on_floats)] for call, name in MATH_CALLS.items()}
MATH_CALLS[torch.pow] = "rsqrt"
ACTIVATION_CALLS[torch.pow] = [("rsqrt", _inverse_root)]
SOFTMAX_CALLS = {F.softmax, F.softmin, torch.softmax, T.softmax, torch.special.softmax}
ATTENTION_CALLS = {F.scaled_dot_product_attention, F.multi_head_attention_forward}
LOG_SOFTMAX_CALLS = {F.log_softmax, torch.log_softmax, T.log_softmax, torch.special.log_softmax}
CHANNEL_NORM_CALLS: dict[Callable, tuple[str, Callable]] = {
    F.group_norm: ("group_norm", group_norm),
    F.instance_norm: ("instance_norm", instance_norm),
    F.batch_norm: ("batch_norm", batch_norm),
}
NORM_CALLS = {
    F.layer_norm: "layer_norm",
    torch.layer_norm: "layer_norm",
    F.rms_norm: "rms_norm",
    torch.rms_norm: "rms_norm",
}
_METHODS = {"softmax": T.softmax, "log_softmax": T.log_softmax, "sigmoid": T.sigmoid, "tanh": T.tanh, "relu": T.relu}
_METHODS |= {name: getattr(T, name) for name in MATH_CALLS.values()}
_METHODS |= {"arctan": T.arctan}
_ANSWERED = (ACTIVATION_CALLS, SOFTMAX_CALLS, LOG_SOFTMAX_CALLS, ATTENTION_CALLS, NORM_CALLS, CHANNEL_NORM_CALLS)


class Own(NamedTuple):
    """An option that the module itself holds, as `self.slope`: the attributes that lead to it."""

    names: tuple[str, ...]

    def of(self, module: nn.Module) -> object:
        """Its value, None where there is none."""
        return functools.reduce(lambda holder, name: getattr(holder, name, None), self.names, module)


def spelled_call(call: Callable, args: Sequence, kwargs: Mapping) -> str | None:
    """The registry's spelling of a call of PARAMETERS with these arguments, x the first of them; `elu(*)` where they
    are no numbers, which may be any; None where there is no such function.
    """
    family, names = PARAMETERS[call]
    given = dict(zip(names, args[1:], strict=False)) | {key: kwargs[key] for key in names if key in kwargs}
    if not all(isinstance(value, (int, float)) for value in given.values()):
        return f"{family}(*)"
    fn = find(spelled(family, {key: float(value) for key, value in given.items()}))
    return None if fn is None else fn.name


def called(module: nn.Module) -> list[tuple[Callable, tuple[str, ...]]]:
    """(function, registry names that the call may mean) for the calls of functions above in the module's forward,
    itself or through its own methods and helpers of its file, in order. The names are () for calls that are no
    activation, or one with options that the registry has not; `elu(*)` stands for parameters that are only computed.

    Read from the source: what is hidden behind a variable is not found, and a module without source gives none.
    """
    found: dict[tuple[Callable, tuple[str, ...]], None] = {}
    for call, names, options in _called(type(module)):
        if options is not None:
            given = [value.of(module) if isinstance(value, Own) else value for _, value in options]
            args = [None, *(value for (key, _), value in zip(options, given, strict=True) if key is None)]
            kwargs = {key: value for (key, _), value in zip(options, given, strict=True) if key is not None}
            name = spelled_call(call, args, kwargs)
            names = () if name is None else (name,)
        found.setdefault((call, names))
    return list(found)


@functools.cache
def _called(cls: type) -> tuple[tuple[Callable, tuple[str, ...], _Options | None], ...]:
    """Options: (name or None, value) of those of a function of PARAMETERS; None for other functions."""
    found: dict[tuple[Callable, tuple[str, ...], _Options | None], None] = {}
    _collect(inspect.unwrap(cls.forward), cls, found, set())
    return tuple(found)


def _collect(function, cls, found: dict, seen: set) -> None:
    if function in seen or not isinstance(function, types.FunctionType):
        return
    seen.add(function)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            target = _resolve(node.func, function.__globals__, cls)
            if isinstance(target, nn.Module):  # an activation of the file, as transformers.activations.gelu
                names = functions_of(target.forward)
                target = next((call for call, forms in ACTIVATION_CALLS.items() if forms[0][0] in names), None)
                if target is not None:
                    found.setdefault((target, names, None))
            elif target is not None and _known(target):
                if target in PARAMETERS:
                    found.setdefault((target, (), _options(node)))
                else:
                    found.setdefault((target, _meanings(target, node), None))
            elif isinstance(target, types.FunctionType) and (
                target.__module__ == function.__module__ or _of_super(node.func)
            ):
                _collect(inspect.unwrap(target), cls, found, seen)


_Options = tuple[tuple[str | None, object], ...]


def _options(node: ast.Call) -> _Options:
    """Those behind x: constants, Own, and None for what is computed otherwise."""
    given = [(None, value) for value in node.args[1:]]
    given += [(keyword.arg, keyword.value) for keyword in node.keywords if keyword.arg != "input"]
    return tuple((name, _option(value)) for name, value in given)


def _option(node: ast.expr) -> object:
    sign, node = (-1, node.operand) if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) else (1, node)
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return sign * node.value
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    own = sign == 1 and names and isinstance(node, ast.Name) and node.id == "self"
    return Own(tuple(reversed(names))) if own else None


def _meanings(target, node: ast.Call) -> tuple[str, ...]:
    """Registry names of an activation call: decided by options that are written out, all possible ones where they are
    computed.
    """
    forms = ACTIVATION_CALLS.get(target, [])
    options = [*node.args[1:], *(keyword.value for keyword in node.keywords if keyword.arg != "input")]
    if not all(isinstance(option, ast.Constant) for option in options) or any(
        keyword.arg is None for keyword in node.keywords
    ):
        return tuple(name for name, _ in forms)
    args = (None, *(option.value for option in node.args[1:]))
    kwargs = {keyword.arg: keyword.value.value for keyword in node.keywords if keyword.arg != "input"}
    return tuple(name for name, matches in forms if matches(args, kwargs))


def _known(target) -> bool:
    try:
        return any(target in calls for calls in _ANSWERED)
    except TypeError:  # unhashable
        return False


def _resolve(node: ast.expr, names: Mapping, cls: type):
    """The object that a name or a chain of attributes means in `names`; a method of the class for self.method; a tensor
    method otherwise.
    """
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if not isinstance(node, ast.Attribute):
        return None
    if isinstance(node.value, ast.Name) and node.value.id == "self":
        return inspect.getattr_static(cls, node.attr, None)
    if _of_super(node):
        return next((vars(base)[node.attr] for base in cls.__mro__[1:] if node.attr in vars(base)), None)
    base = _resolve(node.value, names, cls)
    if isinstance(base, (types.ModuleType, type)):
        return getattr(base, node.attr, None)
    return _METHODS.get(node.attr)


def _of_super(node: ast.expr) -> bool:
    """Whether this is `super().name`."""
    call = node.value if isinstance(node, ast.Attribute) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "super"


def uses_registry(module: nn.Module) -> bool:
    """Whether the forward picks its attention from transformers' registry."""
    function = inspect.unwrap(type(module).forward)
    return "ALL_ATTENTION_FUNCTIONS" in getattr(getattr(function, "__code__", None), "co_names", ())


class Answers(TorchFunctionMode):
    """While on top, answers calls with tables: `activations` by registry name, `softmax`, `norms` by kind; leaves all
    others alone.

    Answers lie on a stack, one for each module that is running and has some; only the topmost speaks, so a module that
    was left out of a patch and runs inside a patched one, which has empty Answers, keeps its own functions.
    """

    def __init__(
        self,
        activations: Mapping[str, Callable],
        softmax: Callable | None = None,
        norms: Mapping[str, Callable] | None = None,
    ):
        super().__init__()
        self.activations, self.softmax, self.norms = dict(activations), softmax, dict(norms or {})

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if _RUNNING and _RUNNING[-1] is self:
            answer = self._answer(func, args, kwargs)
            if answer is not None:
                return answer(*args, **kwargs)
        return func(*args, **kwargs)

    def _answer(self, func, args, kwargs):
        if func in PARAMETERS:
            name = spelled_call(func, args, kwargs)
            table = next((self.activations[own] for own in self.activations if name and alike(own, name)), None)
            return None if table is None else lambda input, *_, **__: table(input)
        if func in ACTIVATION_CALLS:
            for name, matches in ACTIVATION_CALLS[func]:
                if name in self.activations and matches(args, kwargs):
                    table = self.activations[name]
                    return lambda input, *_, **__: table(input)
        elif func in NORM_CALLS:
            return self.norms.get(NORM_CALLS[func])
        elif func in CHANNEL_NORM_CALLS:
            normalise = self.norms.get("layer_norm")
            return None if normalise is None else functools.partial(CHANNEL_NORM_CALLS[func][1], normalise)
        elif self.softmax is not None:
            if func in SOFTMAX_CALLS:
                return functools.partial(self._softmax, negated=func is F.softmin)
            if func in LOG_SOFTMAX_CALLS and hasattr(self.softmax, "log_along"):
                return functools.partial(self._softmax, logarithm=True)
            if func is F.scaled_dot_product_attention:
                return functools.partial(attend, self.softmax)
            if func is F.multi_head_attention_forward:
                return functools.partial(multi_head_attention, self.softmax)
        return None

    def _softmax(self, input, dim=None, _stacklevel=3, dtype=None, *, negated=False, logarithm=False):
        x = input if dtype is None else input.to(dtype)
        dim = F._get_softmax_dim("softmax", x.ndim, _stacklevel) if dim is None else dim
        if logarithm:
            return self.softmax.log_along(x, dim)
        return self.softmax.along(-x if negated else x, dim)


_RUNNING: list[Answers] = []


class Answered:
    """A module's forward under Answers; stands as the attribute `forward` of the instance. Copies and pickles along
    with the module.

    forward: what stood there as an attribute, as accelerate puts one that brings weights in; None for that of the
    class.
    """

    def __init__(self, module: nn.Module, answers: Answers, forward: Callable | None = None):
        self.module, self.answers, self.forward = module, answers, forward
        self.__signature__ = inspect.signature(type(module).forward.__get__(module))

    @property
    def __code__(self) -> types.CodeType:
        """torch.export names arguments by it."""
        return inspect.unwrap(type(self.module).forward).__code__

    def __call__(self, *args, **kwargs):
        _RUNNING.append(self.answers)
        try:
            with self.answers:
                return (
                    type(self.module).forward(self.module, *args, **kwargs)
                    if self.forward is None
                    else self.forward(*args, **kwargs)
                )
        finally:
            _RUNNING.pop()
