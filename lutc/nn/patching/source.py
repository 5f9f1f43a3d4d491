"""Calls of functions that tables can answer, found in the source of a module's forward."""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import re
import textwrap
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from lutc.nn.patching.calls import (
    ACTIVATION_CALLS,
    ANSWERED,
    IN_PLACE,
    MATH_CALLS,
    PARAMETERS,
    POWER_CALLS,
    POWERS,
    spelled_call,
)

T = torch.Tensor
_METHODS = {"softmax": T.softmax, "log_softmax": T.log_softmax, "sigmoid": T.sigmoid, "tanh": T.tanh, "relu": T.relu}
_METHODS |= {name: getattr(T, name) for name in MATH_CALLS.values()}
_METHODS |= {"arctan": T.arctan}
_METHODS |= {"pow": T.pow}
_METHODS |= {there.__name__: there for there in IN_PLACE if hasattr(T, there.__name__)}
_SCRIPTED = re.compile(r"aten::(gelu|silu|sigmoid|tanh|erf|exp|mish|elu|selu|softplus|softmax|hardswish)_?\(")
# Names of variables that hold no tensor.
_NUMBERS = re.compile(r"dim|size|len|num|head|scal|channel|width|height|^[A-Z]$|^n$")


class Own(NamedTuple):
    """An option that the module itself holds, as `self.slope`: the attributes that lead to it."""

    names: tuple[str, ...]

    def of(self, module: nn.Module) -> object:
        """Its value, None where there is none."""
        held: object = module
        for name in self.names:
            held = getattr(held, name, None)
        return held


class Method(NamedTuple):
    """A call of a method, not the forward, of a child: `self.altup.predict(x)`."""

    child: Own
    name: str


class Looked(NamedTuple):
    """A call of what stands in transformers' registry of activations under a string, or where the module keeps it."""

    key: str | Own | None


class Power(NamedTuple):
    """`x ** -0.5`; x: where the module keeps it, None for a variable."""

    name: str
    x: Own | None


_Options = tuple[tuple[str | None, object], ...]


class Call(NamedTuple):
    """target: a function of `ANSWERED`. options: (name or None, value) of those of a function of PARAMETERS; None for
    other functions, which are `names`.
    """

    target: Callable
    names: tuple[str, ...]
    options: _Options | None


def called(module: nn.Module) -> list[tuple[Callable, tuple[str, ...]]]:
    """(function, registry names that the call may mean) for the calls of functions above in the module's forward,
    itself or through its own methods, those of its children that it calls by name, and helpers of its file, in order.
    The names are () for calls that are no activation, or one with options that the registry has not; `elu(*)` stands
    for parameters that are only computed.

    Read from the source: what is hidden behind a variable is not found, and a module without source gives none.
    """
    return list(dict.fromkeys(_calls_of(module, "forward", set())))


def _calls_of(module: nn.Module, method: str, seen: set) -> Iterator[tuple[Callable, tuple[str, ...]]]:
    if (id(module), method) in seen:
        return
    seen.add((id(module), method))
    cls: Any = type(module)
    for one in _called(cls, method):
        if isinstance(one, Method):
            child = one.child.of(module)
            if isinstance(child, nn.Module) and one.name != "forward" and not hasattr(nn.Module, one.name):
                yield from _calls_of(child, one.name, seen)
        elif isinstance(one, Looked):
            yield from _looked_up(one, module)
        elif isinstance(one, Power):
            if one.x is None or isinstance(one.x.of(module), T):
                yield T.__pow__, (one.name,)
        elif one.options is None:
            yield one.target, one.names
        else:
            given = [value.of(module) if isinstance(value, Own) else value for _, value in one.options]
            args = [None, *(value for (key, _), value in zip(one.options, given, strict=True) if key is None)]
            kwargs = {key: value for (key, _), value in zip(one.options, given, strict=True) if key is not None}
            name = spelled_call(one.target, args, kwargs)
            yield one.target, () if name is None else (name,)


def _looked_up(one: Looked, module: nn.Module) -> Iterator[tuple[Callable, tuple[str, ...]]]:
    """Of the strings that the module holds those that the registry has, where the key is computed."""
    from transformers.activations import ACT2FN  # is not needed, but for who calls it

    key = one.key.of(module) if isinstance(one.key, Own) else one.key
    keys = [key] if key is not None else [value for value in vars(module).values() if isinstance(value, str)]
    for key in keys:
        activation = ACT2FN[key] if isinstance(key, str) and key in ACT2FN else None
        if isinstance(activation, nn.Module):
            yield from _of_activation(activation)


class _Recording(TorchFunctionMode):
    """Which activations are called while it is on."""

    def __init__(self):
        super().__init__()
        self.calls: list[tuple[Callable, tuple[str, ...]]] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        names = tuple(name for name, matches in ACTIVATION_CALLS.get(func, ()) if matches(args, kwargs))
        if func in PARAMETERS:
            spelled = spelled_call(func, args, kwargs)
            names = () if spelled is None else (spelled,)
        if names:
            self.calls.append((func, names))
        return func(*args, **kwargs)


def _of_activation(module: nn.Module) -> Iterator[tuple[Callable, tuple[str, ...]]]:
    """The calls that an activation of the file makes, as transformers.activations.gelu."""
    with torch.no_grad(), _Recording() as recording:
        with contextlib.suppress(Exception):  # another's code, which may take something else
            module.forward(torch.linspace(-1.0, 1.0, 4))
    yield from recording.calls


@functools.cache
def _called(cls: type, method: str) -> tuple[Call | Method | Looked | Power, ...]:
    found: dict[Call | Method | Looked | Power, None] = {}
    function = getattr(cls, method, None)
    if callable(function):
        _collect(inspect.unwrap(function), cls, found, set())
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
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            name = POWERS.get(_option(node.right))
            if name is not None and not _is_number(node.left):
                own = _option(node.left)
                found.setdefault(Power(name, own if isinstance(own, Own) else None))
        elif isinstance(node, ast.Call):
            _collect_call(node, function, cls, found, seen)


def _collect_call(node: ast.Call, function, cls, found: dict, seen: set) -> None:
    target = _resolve(node.func, function.__globals__, cls)
    if isinstance(target, nn.Module):
        for call, names in _of_activation(target):
            found.setdefault(Call(call, names, None))
    elif target is not None and _known(target):
        if target in PARAMETERS:
            found.setdefault(Call(target, (), _options(node)))
        elif target not in POWER_CALLS or _power(node, target):
            names = _power(node, target) if target in POWER_CALLS else _meanings(target, node)
            found.setdefault(Call(target, names, None))
    elif isinstance(target, torch.jit.ScriptFunction):
        if _SCRIPTED.search(str(target.inlined_graph)):
            found.setdefault(Call(target, (), None))
    elif isinstance(target, types.FunctionType) and (target.__module__ == function.__module__ or _of_super(node.func)):
        _collect(inspect.unwrap(target), cls, found, seen)
    elif isinstance(node.func, ast.Subscript):
        registry = _resolve(node.func.value, function.__globals__, cls)
        if type(registry).__module__ == "transformers.activations":
            key = node.func.slice
            own = _option(key)
            text = key.value if isinstance(key, ast.Constant) and isinstance(key.value, str) else None
            found.setdefault(Looked(own if isinstance(own, Own) else text))
    elif isinstance(node.func, ast.Attribute):
        own = _option(node.func.value)
        if isinstance(own, Own):
            found.setdefault(Method(own, node.func.attr))
        elif node.func.attr == "apply":
            made = _resolve(node.func.value, function.__globals__, cls)
            if isinstance(made, type) and issubclass(made, torch.autograd.Function):
                _collect(made.forward, cls, found, seen)


def _is_number(node: ast.expr) -> bool:
    """Whether an expression is no tensor, as far as its form and its names tell."""
    if isinstance(node, (ast.Constant, ast.Subscript)):
        return True
    if isinstance(node, ast.BinOp):
        return _is_number(node.left) and _is_number(node.right)
    if isinstance(node, ast.UnaryOp):
        return _is_number(node.operand)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name)  # int(x), len(x)
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return bool(_NUMBERS.search(name))


def _options(node: ast.Call) -> _Options:
    """Those behind x: constants, Own, and None for what is computed otherwise."""
    given: list[tuple[str | None, ast.expr]] = [(None, value) for value in node.args[1:]]
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
    named = [(keyword.arg, keyword.value) for keyword in node.keywords if keyword.arg != "input"]
    kwargs = {name: value.value for name, value in named if name is not None and isinstance(value, ast.Constant)}
    options = [option.value for option in node.args[1:] if isinstance(option, ast.Constant)]
    if len(options) != len(node.args[1:]) or len(kwargs) != len(named):
        return tuple(name for name, _ in forms)
    args = (None, *options)
    return tuple(name for name, matches in forms if matches(args, kwargs))


def _power(node: ast.Call, target: Callable) -> tuple[str, ...]:
    """What a call of pow computes of a tensor, () for exponents that are computed and for others."""
    given = node.args if target is T.pow else node.args[1:]
    if target is torch.pow and node.args and _is_number(node.args[0]):
        return ()
    exponent = next((one.value for one in node.keywords if one.arg == "exponent"), given[0] if given else None)
    name = None if exponent is None else POWERS.get(_option(exponent))
    return () if name is None else (name,)


def _known(target) -> bool:
    try:
        return any(target in calls for calls in ANSWERED)
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


def not_followed(calls: Iterable[Callable]) -> list[str]:
    """Of calls the methods and operators of tensors, which torch.fx records without handing them on."""
    methods = {*_METHODS.values(), *POWER_CALLS[1:]}
    return list(
        dict.fromkeys(f".{call.__name__}" if call is not T.__pow__ else "**" for call in calls if call in methods)
    )


def uses_registry(module: nn.Module) -> bool:
    """Whether the forward picks its attention from transformers' registry."""
    function = inspect.unwrap(type(module).forward)
    return "ALL_ATTENTION_FUNCTIONS" in getattr(getattr(function, "__code__", None), "co_names", ())
