"""The walk over a model that puts tables in its places and writes down what it changed, and what it left."""

from __future__ import annotations

import contextlib
import difflib
import functools
import types
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from lutc import functions
from lutc.errors import LutcError
from lutc.functions import FUNCTIONS, in_torch
from lutc.functions.recognise import functions_of, values_of
from lutc.functions.spelling import base, file_name
from lutc.nn.channel_tables import ChannelLUT
from lutc.nn.lut import LUT
from lutc.nn.patching import attention as attentions
from lutc.nn.patching.calls import (
    ACTIVATION_CALLS,
    ATTENTION_CALLS,
    CHANNEL_NORM_CALLS,
    LOG_SOFTMAX_CALLS,
    MATH_CALLS,
    NORM_CALLS,
    POWER_CALLS,
    SOFTMAX_CALLS,
    Answered,
    Answers,
)
from lutc.nn.patching.changes import ATTENTION, MISSING, RECORD, Attribute, Child
from lutc.nn.patching.choose import Selection, Wanted
from lutc.nn.patching.offload import bring_as
from lutc.nn.patching.operators import Operator
from lutc.nn.patching.places import functions_behind, held_function, is_line, known_function
from lutc.nn.patching.quantised import Quantised, quantised_function
from lutc.nn.patching.recognise import could_be_activation, is_activation, is_norm, learned_activation, norm_of
from lutc.nn.patching.report import Left, Refused, Replaced, Report
from lutc.nn.patching.source import called, not_followed, uses_registry

_SOFTMAXES = SOFTMAX_CALLS | LOG_SOFTMAX_CALLS | ATTENTION_CALLS
_TRIED = np.linspace(-1.0, 1.0, 5)
_GATES = ("sigmoid", "tanh")  # of recurrent layers
_NORMS = {*NORM_CALLS, *CHANNEL_NORM_CALLS}


class Patcher:
    """Walks a model once, changes it and writes down both the changes and the report."""

    def __init__(self, model: nn.Module, wanted: Wanted, selection: Selection):
        self.model, self.wanted, self.selection = model, wanted, selection
        self.report, self.changes = Report(), []
        self.touched: set[str] = set()
        self.answered: set[str] = set()
        self.ending: dict[str, str] = {}  # tables by name that go on as lines beyond their range, and where
        self.placed: set[str] = set()  # of the paths that were asked for
        self.gone: set[int] = set()  # ids of modules that stand in the model no more, or were looked into before

    # --- changes ---

    def put(self, parent: nn.Module, parent_name: str, name: str, module: nn.Module) -> None:
        before = parent._modules.get(name)
        module.train(parent.training if before is None else before.training)
        held = {} if before is None else before._parameters
        shared = tuple(
            key for key, parameter in held.items() if parameter is not None and parameter is module._parameters.get(key)
        )
        self.changes.append(Child(parent, name, before, shared))
        parent._modules[name] = module
        if shared:
            bring_as(module, before)
        self.touched.add(parent_name)

    def assign(self, owner: object, name: str, value: object) -> None:
        self.changes.append(Attribute(owner, name, owner.__dict__.get(name, MISSING)))
        owner.__dict__[name] = value

    def undo(self) -> None:
        for change in reversed(self.changes):
            change.undo()

    def put_in_place(self) -> list[tuple[str, nn.Module, nn.Module]]:
        """(path, what stands there now, what stood there) of the modules that were replaced."""
        names = {id(module): name for name, module in self.model.named_modules()}
        swaps = [one for one in self.changes if isinstance(one, Child) and isinstance(one.before, nn.Module)]
        now = [(one.parent._modules[one.name], one.before) for one in swaps]
        return [(names[id(after)], after, before) for after, before in now if id(after) in names]

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The model changed, and afterwards as it was before."""
        try:
            self.run()
            yield
        finally:
            self.undo()

    # --- the walk ---

    def run(self) -> None:
        modules = list(self.model.named_modules())
        self.selection.check([name for name, _ in modules])
        self._places(modules)
        modules = self._without_scripts(modules)
        for name, module in modules:
            if id(module) in self.gone:
                continue
            if self._leaf(module):
                if module is self.model:
                    raise LutcError(
                        f"the model itself is a {type(module).__name__}; use the table's module in its place"
                    )
                continue
            for child_name, child in list(module._modules.items()):
                path = f"{name}.{child_name}" if name else child_name
                free = path in self.selection and path not in self.wanted.places
                if child is not None and free and not isinstance(child, torch.jit.ScriptModule):
                    self._child(module, name, child_name, child, path)
            if name in self.selection or (not name and self.selection.only is None):
                self._function_attributes(name, module)
                if not self._calls(name, module) and self.wanted.elementwise and learned_activation(module):
                    why = "it has parameters of its own; functions that it calls take tables that are given by name"
                    self.report.left.append(Left(name, type(module).__name__, why))
        if self.wanted.softmax is not None:
            self._registry(modules)
        self._check_places()
        self._shield(modules)
        self._leave_fast_paths(modules)

    def _without_scripts(self, modules: list[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
        """Those whose code can be answered; TorchScript's is compiled, which the report says."""
        scripts = [name for name, module in modules if isinstance(module, torch.jit.ScriptModule)]
        if "" in scripts:
            raise LutcError("the model itself is TorchScript, whose code is compiled: patch it before torch.jit.script")
        for name in scripts:
            if not any(name.startswith(f"{outer}.") for outer in scripts):
                why = "its code is compiled by TorchScript: patch before torch.jit.script"
                self.report.left.append(Left(name, "ScriptModule", why))
        return [one for one in modules if not isinstance(one[1], torch.jit.ScriptModule)]

    def _leaf(self, module: nn.Module) -> bool:
        return (
            is_activation(module)
            or is_norm(module)
            or isinstance(module, (nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d))
        )

    def _child(self, parent, parent_name, name, child, path) -> None:
        within = name.startswith("lutc_") or type(parent).__module__.startswith("lutc.")
        if within and isinstance(child, (LUT, ChannelLUT)):
            return
        behind = None if name.startswith("lutc_") else quantised_function(child)
        stood = child if behind else self._stood(parent, name, child)
        if (behind or self._activation(stood)) and self.wanted.elementwise:
            device = next((held.device for held in (*child.buffers(), *child.parameters())), "cpu")
            names = (behind,) if behind else functions_behind(stood, device)
            if isinstance(child, LUT) and self.wanted.other is None and not self.wanted.serving(names):
                return  # an earlier table stays
            operator = self._operator(names, path, type(stood).__name__, stood)
            if operator is not None:
                self.put(parent, parent_name, name, operator.fresh(path, stood))
                self.gone.add(id(child))
        elif isinstance(child, (nn.RNNBase, nn.RNNCellBase)) and self.wanted.serving(_GATES):
            why = "its gates are one operator of torch, which no table reaches"
            self.report.left.append(Left(path, type(child).__name__, why))
        elif isinstance(child, nn.Softmax) and self.wanted.softmax is not None:
            if child.dim is None:
                self.report.left.append(Left(path, "softmax", "its dim is None; give it one"))
                return
            softmax = self.wanted.softmax.fresh(path, child)
            softmax.dim = child.dim
            self.put(parent, parent_name, name, softmax)
            self.report.replaced.append(Replaced(path, "softmax", self.wanted.softmax.name))
        elif isinstance(child, (nn.LogSoftmax, nn.Softmin, nn.Softmax2d)) and self.wanted.softmax is not None:
            self._calls(path, child)
        elif is_norm(child) and self.wanted.norms and not name.startswith("lutc_"):
            self._norm(parent, parent_name, name, child, path)

    def _stood(self, parent: nn.Module, name: str, child: nn.Module) -> Any:
        """The module or function that stood in a table's place before the first patch; else what stands there."""
        if not isinstance(child, (LUT, ChannelLUT)):
            return child
        for change in (change for changes in self.model.__dict__.get(RECORD, ()) for change in changes):
            if isinstance(change, Child) and change.parent is parent and change.name == name and change.before:
                return change.before
            if isinstance(change, Attribute) and change.owner is parent and change.name == name:
                return change.before
        return child

    def _activation(self, module: Any) -> bool:
        """A candidate for an activation; where any function is to have a table, a leaf that could be one."""
        if not isinstance(module, nn.Module) or isinstance(module, LUT) or is_activation(module):
            return True
        whole = getattr(self.wanted.other, "leaves", False) and could_be_activation(module)
        return whole and not any(known_function(value) for value in vars(module).values())  # which is served by itself

    def _operator(self, names: Sequence[str], path: str, what: str, exact: Any = None) -> Operator | Quantised | None:
        """The operator wanted for one of `names` (of the same function), and the report of it. exact: the module or
        function that stands there.
        """
        for name in self.wanted.serving(names):
            return self._replaced(path, name, self.wanted.activations[name])
        if self.wanted.other is not None:
            found = self.wanted.other(names, exact)
            if isinstance(found, Refused):
                if not found.silent or not isinstance(exact, nn.Module) or is_activation(exact):
                    self.report.left.append(Left(path, names[0] if names else what, found.why))
                return None
            return self._replaced(path, names[0] if names else what, found)
        why = f"no table of {names[0]} was given" if names else "no function of the registry, or not elementwise"
        self.report.left.append(Left(path, names[0] if names else what, why))
        return None

    def _replaced(self, path: str, what: str, operator: Operator | Quantised) -> Operator | Quantised:
        self.report.replaced.append(Replaced(path, what, operator.name, getattr(operator, "note", "")))
        if getattr(operator, "open_ends", False):
            self.ending[operator.name] = operator.note
        return operator

    def _norm(self, parent, parent_name, name, child, path) -> None:
        known = norm_of(child)
        if known is None:  # one written out of other calls, with a gate or another gain: those are answered
            self.gone.add(id(child))
            if not self.wanted.norm_calls or not self._calls(path, child):
                why = "computes neither LayerNorm nor RMSNorm over its last dimension"
                self.report.left.append(Left(path, type(child).__name__, why))
            return
        weight, bias = child._parameters.get("weight"), child._parameters.get("bias")
        shape = tuple(weight.shape) if weight is not None else tuple(child.normalized_shape)
        if known.kind not in self.wanted.norms:
            self.report.left.append(Left(path, known.kind, f"no norm for it, only {', '.join(self.wanted.norms)}"))
            return
        module = self.wanted.norm_module(known.kind, shape, known.eps, weight, bias, path, child, known.offset)
        self.put(parent, parent_name, name, module)
        self.report.replaced.append(Replaced(path, known.kind, self.wanted.norms[known.kind].name))

    def _function_attributes(self, name: str, module: nn.Module) -> None:
        """Functions held as attributes: `self.activation = F.relu`, partial(F.gelu, approximate="tanh")."""
        if not self.wanted.elementwise:
            return
        for attribute, value in list(vars(module).items()):
            if known_function(value) or held_function(attribute, value):
                path = f"{name}.{attribute}" if name else attribute
                names = functions_of(value)  # () for log, which is not finite everywhere
                if not names and known_function(value) and value in MATH_CALLS and value not in POWER_CALLS:
                    names = (MATH_CALLS[value],)
                if not names and not known_function(value) and values_of(value, _TRIED) is None:
                    continue  # no function of one tensor
                operator = self._operator(names, path, attribute, value)
                if operator is not None:
                    self._put_for_attribute(module, name, attribute, operator.fresh(path, value))

    def _put_for_attribute(self, module: nn.Module, name: str, attribute: str, operator: nn.Module) -> None:
        """A child in the place of a function that the module held as an attribute."""
        self.changes.append(Attribute(module, attribute, module.__dict__[attribute]))
        del module.__dict__[attribute]
        self.put(module, name, attribute, operator)

    def _places(self, modules: list[tuple[str, nn.Module]]) -> None:
        """Operators that were given by path, wherever they are to go."""
        parents = dict(modules)
        for path, operator in self.wanted.places.items():
            parent_name, _, name = path.rpartition(".")
            parent = parents.get(parent_name)
            before = None if parent is None else parent._modules.get(name, vars(parent).get(name))
            before = self._stood(parent, name, before) if isinstance(before, nn.Module) else before
            if before is None or not callable(before):
                continue  # a call in a forward, or nowhere
            what = before.__name__ if isinstance(before, types.FunctionType) else type(before).__name__
            module = self._replaced(path, getattr(operator, "function", None) or what, operator).fresh(path, before)
            if isinstance(before, nn.Module):
                self.put(parent, parent_name, name, module)
                self.gone |= {id(inner) for inner in before.modules()}
            else:
                self._put_for_attribute(parent, parent_name, name, module)
            self.placed.add(path)

    def _check_places(self) -> None:
        for path in self.wanted.places:
            if path not in self.placed:
                if "=" in path or difflib.get_close_matches(base(path), FUNCTIONS, 1):
                    functions.get(path)  # raises, with the function that was meant
                names = [name for name, module in self.model.named_modules() if name and not module._modules]
                near = difflib.get_close_matches(path, names, 3, 0.3) or names[:3]
                raise LutcError(
                    f"{path!r} is neither a function that `lutc functions` lists nor a module, a function held as an "
                    f"attribute or a call (as 'layers.0 (silu)') in this model; modules are called {', '.join(near)}"
                )

    def _calls(self, name: str, module: nn.Module) -> bool:
        """Calls in the module's own forward, answered while it runs; whether there are some."""
        activations, softmax, norms = {}, None, {}
        for call, names in called(module):
            path = f"{name} ({call.__name__})" if name else f"({call.__name__})"
            if isinstance(call, torch.jit.ScriptFunction):
                if self.wanted.elementwise:
                    path = f"{name} ({call.name})" if name else f"({call.name})"
                    self.report.left.append(Left(path, call.name, "its code is compiled by torch.jit.script"))
            elif path in self.wanted.places and names and call in ACTIVATION_CALLS:
                operator = self.wanted.places[path]
                own = _child_name(names[0])
                if path not in self.placed:
                    self._replaced(path, names[0], operator)
                stood = functools.partial(in_torch.value, names[0]) if in_torch.known(names[0]) else None
                activations[names[0]] = self._added(module, name, own, operator.fresh(path, stood))
                self.placed.add(path)
            elif call in MATH_CALLS:
                function = names[0] if names else ""
                operator = self.wanted.activations.get(function) or self.wanted.written.get(function)
                if operator is not None and function not in activations:
                    own = _child_name(function)
                    activations[function] = self._added(
                        module, name, own, operator.fresh(path, module._modules.get(own))
                    )
                    self._replaced(path, function, operator)
            elif call in ACTIVATION_CALLS and self.wanted.elementwise:
                others = names if self.wanted.other is not None and names else [None]
                for function in self.wanted.serving(names) or others:
                    operator = self._operator((function,) if function else names, path, call.__name__)
                    if operator is not None and function not in activations:
                        own = _child_name(function)
                        activations[function] = self._added(
                            module, name, own, operator.fresh(path, module._modules.get(own))
                        )
            elif call in _SOFTMAXES and self.wanted.softmax is not None:
                what = "log_softmax" if call in LOG_SOFTMAX_CALLS else "softmax"
                softmax = softmax or self._added(module, name, "lutc_softmax", self.wanted.softmax.fresh(path))
                if what == "log_softmax" and not hasattr(softmax, "log_along"):
                    self.report.left.append(Left(path, what, "this softmax has no logarithm; give an exp table"))
                    continue
                self.report.replaced.append(Replaced(path, what, self.wanted.softmax.name))
            elif call in _NORMS and self.wanted.norms and not is_line(module):
                what = NORM_CALLS[call] if call in NORM_CALLS else CHANNEL_NORM_CALLS[call][0]
                kind = NORM_CALLS.get(call, "layer_norm")
                if kind not in self.wanted.norm_calls:
                    self.report.left.append(Left(path, what, "an integer norm stands in the place of modules alone"))
                    continue
                norm = self.wanted.norm_module(kind, (1,), 1e-5, None, None, path)
                norms[kind] = self._added(module, name, f"lutc_{kind}", norm).normalise
                self.report.replaced.append(Replaced(path, what, self.wanted.norms[kind].name))
        if activations or softmax or norms:
            self._answer(name, module, Answers(activations, softmax, norms))
        return bool(activations or softmax or norms)

    def _added(self, module: nn.Module, module_name: str, name: str, operator: nn.Module) -> nn.Module:
        self.put(module, module_name, name, operator)
        return operator

    def _answer(self, name: str, module: nn.Module, answers: Answers) -> None:
        earlier = module.__dict__.get("forward")
        if isinstance(earlier, Answered):  # patched before for something else: one set of answers for both
            before, earlier = earlier.answers, earlier.forward
            answers = Answers(
                {**before.activations, **answers.activations},
                answers.softmax or before.softmax,
                {**before.norms, **answers.norms},
            )
        answered = (
            call
            for call, names in called(module)
            if not answers.activations.keys().isdisjoint(names) or answers.softmax and call in _SOFTMAXES
        )
        self.assign(module, "forward", Answered(module, answers, earlier, not_followed(answered)))
        self.answered.add(name)

    def _registry(self, modules) -> None:
        """Attention modules that take their attention from transformers' registry, by the name in their config."""
        users = [(name, m) for name, m in modules if uses_registry(m) and hasattr(m, "config")]
        chosen, configs = [], {}
        for name, module in users:
            if name not in self.selection:
                continue
            before = module.config._attn_implementation
            if hasattr(module, "sinks") and not attentions.in_blocks(self.wanted.softmax):
                self.report.left.append(Left(name, "softmax", "its attention has sinks; give attention='fused'"))
            elif before in attentions.NAMES:
                chosen.append((name, module))
                configs[id(module.config)] = (module.config, before)
            elif before in attentions.NAMED:  # patched before
                chosen.append((name, module))
            else:
                why = f"its attention is '{before}'; load the model with attn_implementation='sdpa' or 'eager'"
                self.report.left.append(Left(name, "softmax", why))
        if not chosen:
            return
        attentions.register()
        for name, module in chosen:
            self.put(module, name, "lutc_softmax", self.wanted.softmax.fresh(name))
            self.report.replaced.append(Replaced(name, "softmax", self.wanted.softmax.name))
        for _, module in users:
            if id(module.config) in configs:
                self.assign(module, "lutc_attention", configs[id(module.config)][1])
        for config, before in configs.values():
            self.assign(config, ATTENTION, attentions.NAMES[before])

    def _shield(self, modules) -> None:
        """Modules that run inside an answered one and are to keep their own functions."""
        for name, module in modules:
            inside = any(name.startswith(f"{outer}." if outer else "") for outer in self.answered - {name})
            forward = module.__dict__.get("forward")
            if inside and name not in self.answered and not isinstance(forward, Answered) and called(module):
                self.assign(module, "forward", Answered(module, Answers({}), forward))

    def _leave_fast_paths(self, modules) -> None:
        """torch's encoder layer has a fused path that goes around its children, and its encoder packs padded batches
        for it; flags turn both off.
        """
        for name, module in modules:
            below = any(path == name or path.startswith(f"{name}." if name else "") for path in self.touched)
            if below and isinstance(module, nn.TransformerEncoderLayer):
                self.assign(module, "activation_relu_or_gelu", 0)
            elif below and isinstance(module, nn.TransformerEncoder):
                self.assign(module, "use_nested_tensor", False)


def _child_name(function: str) -> str:
    """Of the module that answers calls of the function; names of children have no dots."""
    return f"lutc_{file_name(function).replace('.', '_')}"
