"""Functional calls: which there are, and answering them with tables while a module's forward runs."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lutc.errors import LutcError
from lutc.functions import alike, find
from lutc.functions.spelling import spelled
from lutc.nn.patching.attention import attend, multi_head_attention
from lutc.nn.patching.channel_norms import batch_norm, group_norm, instance_norm
from lutc.nn.traced import is_traced

T = torch.Tensor


def _gelu(form):
    return lambda args, kwargs: kwargs.get("approximate", "none") == form


def _on_floats(args, kwargs) -> bool:
    """Positions are rotated and steps counted in integers, which no table takes; `out=` is an answer of its own."""
    x = args[0] if args else kwargs.get("input")
    return x is None or isinstance(x, T) and x.is_floating_point() and kwargs.get("out") is None  # None: read in source


def _power(exponent: float) -> Callable:
    def matches(args, kwargs) -> bool:
        given = args[1] if len(args) > 1 else kwargs.get("exponent")
        return isinstance(given, (int, float)) and given == exponent and _on_floats(args, kwargs)

    return matches


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
POWERS: dict[object, str] = {-0.5: "rsqrt", 0.5: "sqrt", -1.0: "reciprocal"}
POWER_CALLS = (torch.pow, T.pow, T.__pow__)  # answered for exponents of POWERS; `x ** -0.5` is the last of them
MATH_CALLS |= dict.fromkeys(POWER_CALLS, "rsqrt")
ACTIVATION_CALLS |= {call: [(name, _power(exponent)) for exponent, name in POWERS.items()] for call in POWER_CALLS}
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
# In place: what they give stands where their input stood.
IN_PLACE: dict[Callable, Callable] = {
    there: call
    for there, call in {
        T.relu_: T.relu, torch.relu_: torch.relu, T.sigmoid_: T.sigmoid, torch.sigmoid_: torch.sigmoid,
        T.tanh_: T.tanh, torch.tanh_: torch.tanh, torch.selu_: torch.selu, F.elu_: F.elu, F.celu_: F.celu,
        F.leaky_relu_: F.leaky_relu, F.hardtanh_: F.hardtanh, T.exp_: T.exp, torch.exp_: torch.exp,
        T.sqrt_: T.sqrt, torch.sqrt_: torch.sqrt, T.rsqrt_: T.rsqrt, torch.rsqrt_: torch.rsqrt, T.log_: T.log,
        torch.log_: torch.log, T.reciprocal_: T.reciprocal, torch.reciprocal_: torch.reciprocal,
    }.items()
}  # fmt: skip
PARAMETERS |= {there: PARAMETERS[call] for there, call in IN_PLACE.items() if call in PARAMETERS}
MATH_CALLS |= {there: MATH_CALLS[call] for there, call in IN_PLACE.items() if call in MATH_CALLS}
ACTIVATION_CALLS |= {there: ACTIVATION_CALLS[call] for there, call in IN_PLACE.items()}
ANSWERED = (ACTIVATION_CALLS, SOFTMAX_CALLS, LOG_SOFTMAX_CALLS, ATTENTION_CALLS, NORM_CALLS, CHANNEL_NORM_CALLS)


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
            return None if table is None else _elementwise(table, func)
        if func in ACTIVATION_CALLS:
            for name, matches in ACTIVATION_CALLS[func]:
                if name in self.activations and matches(args, kwargs):
                    return _elementwise(self.activations[name], func)
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


def _elementwise(table: Callable, func: Callable) -> Callable:
    """The table for a call of `func`, which may be meant to change its input."""

    def answer(input, *options, inplace=False, **_):
        there = func in IN_PLACE or inplace or options and options[-1] is True
        return input.copy_(table(input.clone())) if there else table(input)

    return answer


_RUNNING: list[Answers] = []


class Answered:
    """A module's forward under Answers; stands as the attribute `forward` of the instance. Copies and pickles along
    with the module.

    forward: what stood there as an attribute, as accelerate puts one that brings weights in; None for that of the
    class. unseen: answered calls, methods and operators of tensors, that torch.fx does not hand on.
    """

    def __init__(
        self, module: nn.Module, answers: Answers, forward: Callable | None = None, unseen: Sequence[str] = ()
    ):
        self.module, self.answers, self.forward, self.unseen = module, answers, forward, tuple(unseen)
        self.__signature__ = inspect.signature(type(module).forward.__get__(module))

    @property
    def __code__(self) -> types.CodeType:
        """torch.export names arguments by it."""
        return inspect.unwrap(type(self.module).forward).__code__

    def __call__(self, *args, **kwargs):
        if self.unseen and any(map(is_traced, (*args, *kwargs.values()))):
            raise LutcError(
                f"torch.fx cannot follow {', '.join(self.unseen)} of tensors in a {type(self.module).__name__}'s "
                "forward to a table; torch.export.export can"
            )
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
