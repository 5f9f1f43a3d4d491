"""The layers of a model, and their outputs compared while the model runs: only one batch's outputs are kept, and only
until the next.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from lutc.evaluation.placing import operators

_TINY = 1e-30


class NotFinite(Exception):
    """A layer's output holds NaN or infinities at tokens that count."""

    def __init__(self, layer: str):
        super().__init__(layer)
        self.layer = layer


def find_layers(model: nn.Module, sites: Iterable[str] = ()) -> list[str]:
    """Names of the repeated blocks of a model: the members of the ModuleList with the most weights. Without one, of the
    outermost children that hold one of the replaced `sites`; a patch may put another module in such a place.
    """
    lists = [
        (name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module)
    ]
    if lists:
        name, chosen = max(lists, key=lambda entry: sum(p.numel() for p in entry[1].parameters()))
        return [f"{name}.{index}" if name else str(index) for index in range(len(chosen))]
    first = dict.fromkeys(site.partition(" ")[0].partition(".")[0] for site in sites)
    return [name for name, _ in model.named_children() if name in first]


class _Enough(Exception):
    """Ends a forward from which nothing more is wanted."""


class Means:
    """Sum and count of numbers per name."""

    def __init__(self):
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def add(self, name: str, total: float, count: int) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + total
        self.counts[name] = self.counts.get(name, 0) + count

    def join(self, other: Means) -> None:
        """Those of other data too."""
        for name, total in other.sums.items():
            self.add(name, total, other.counts[name])

    def mean(self, name: str) -> float | None:
        return self.sums[name] / self.counts[name] if self.counts.get(name) else None


class Recorder:
    """Inputs and outputs of the named layers in one forward of the exact model. `mask`: bool (batch, length), tokens
    that count; None for all. `seconds`: spent in hooks, to be taken off the time of a forward.
    """

    def __init__(self, model: nn.Module, layers: Iterable[str]):
        self.model, self.layers, self.mask, self.seconds = model, list(layers), None, 0.0
        # by layer and how often it ran before in this forward (ALBERT runs one layer many times)
        self.inputs: dict[tuple[str, int], Tensor] = {}
        self.outputs: dict[tuple[str, int], Tensor] = {}
        self.forms: list[tuple | None] = []  # what a layer gave besides, as `_besides` has it

    @contextlib.contextmanager
    def record(self) -> Iterator[None]:
        """Keep what a forward gives. Raises NotFinite."""
        self.inputs, self.outputs, self.forms, last, runs = {}, {}, [], [None, None], Counter()

        def before(name):
            def hook(module, args, kwargs):
                x = _first(args, kwargs)
                if x is not None:  # the output of the layer before, as a rule: kept once
                    self.inputs[name, runs[name]] = last[1] if x is last[0] else x.clone()

            return hook

        def after(name):
            def hook(module, args, output):
                y = _tensor(output)
                if y is not None:
                    self._check(name, y)
                    last[:] = y, y.clone()  # a residual added in place must not reach it
                    self.outputs[name, runs[name]] = last[1]
                    self.forms.append(_besides(output))
                runs[name] += 1

            return hook

        with self._hooks((self.model.get_submodule(name), before(name), after(name)) for name in self.layers):
            yield

    @contextlib.contextmanager
    def compare(self, errors: Means, on_exact_inputs: bool = False) -> Iterator[None]:
        """Add the relative errors of a forward's layers to `errors`. With `on_exact_inputs` every layer gets the exact
        model's input, and the forward ends behind the last one. Raises NotFinite.
        """
        runs, last = Counter(), next(reversed(self.outputs), None)

        def before(name):
            def hook(module, args, kwargs):
                at = name, runs[name]
                return _with_first(args, kwargs, self.inputs[at]) if on_exact_inputs and at in self.inputs else None

            return hook

        def after(name):
            def hook(module, args, output):
                at, y = (name, runs[name]), _tensor(output)
                exact = self.outputs.get(at)
                if y is not None and exact is not None and y.shape == exact.shape:
                    self._check(name, y)
                    exact, y = self._kept(exact.to(y.device)).float(), self._kept(y).float()
                    error = (y - exact).norm(dim=-1) / exact.norm(dim=-1).clamp_min(_TINY)
                    errors.add(name, float(error.sum(dtype=torch.float64)), error.numel())
                runs[name] += 1
                if on_exact_inputs and at == last:
                    raise _Enough

            return hook

        with (
            self._hooks((self.model.get_submodule(name), before(name), after(name)) for name in self.layers),
            contextlib.suppress(_Enough),
        ):
            yield

    @contextlib.contextmanager
    def ranges(self, model: nn.Module, outside: Means, clipped: Means) -> Iterator[None]:
        """Count inputs of the activations' tables beyond their range, and beyond the codes of their quantiser."""

        def hook(name):
            def count(module, args):
                x = self._kept(args[0])
                for means, limits in ((outside, _range(module)), (clipped, _codes(module))):
                    if limits is not None:
                        means.add(name, float(((x < limits[0]) | (x > limits[1])).sum()), x.numel())

            return count

        with self._hooks(
            (module, hook(name), None) for name, module in operators(model) if _range(module) or _codes(module)
        ):
            yield

    @contextlib.contextmanager
    def _hooks(self, wanted) -> Iterator[None]:
        """(module, before or None, after or None) for the time of a forward; the time they take is counted."""

        def timed(hook):
            def run(*given):
                start = time.perf_counter()
                try:
                    return hook(*given)
                finally:
                    self.seconds += time.perf_counter() - start

            return run

        handles = []
        try:
            for module, before, after in wanted:
                if before is not None:
                    named = before.__code__.co_argcount == 3
                    handles.append(module.register_forward_pre_hook(timed(before), with_kwargs=named))
                if after is not None:
                    handles.append(module.register_forward_hook(timed(after)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _kept(self, x: Tensor) -> Tensor:
        """Rows of the tokens that count: (tokens, width), as far as x is laid out as (batch, length, ...)."""
        if self.mask is not None and x.shape[:2] == self.mask.shape:
            return x[self.mask.to(x.device)]
        return x

    def _check(self, name: str, y: Tensor) -> None:
        if not torch.isfinite(self._kept(y)).all():
            raise NotFinite(name)


def _range(module: nn.Module) -> tuple[float, float] | None:
    tables = getattr(module, "tables", None) or getattr(getattr(module, "function", None), "tables", None)
    return getattr(tables, "range", None)


def _codes(module: nn.Module) -> tuple[float, float] | None:
    """Values that a module's quantiser does not clip; None where it has none, or one for each channel."""
    quantise = getattr(module, "quantise", None)
    if quantise is None or quantise.axis is not None or quantise.scale is None:
        return None
    lowest, highest, zero = quantise.limits
    return (lowest - 0.5 - zero) * quantise.scale, (highest + 0.5 - zero) * quantise.scale


def _tensor(output) -> Tensor | None:
    """The hidden states among a layer's outputs."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    if isinstance(output, tuple | list) and output:
        return _tensor(output[0])
    return None


def _besides(output) -> tuple | None:
    """The type of a layer's output and what it holds besides hidden states where that is nothing but None, else None;
    () for a tensor.
    """
    if isinstance(output, Tensor):
        return ()
    plain = type(output) in (tuple, list) and all(value is None for value in output[1:])
    return (type(output), *output[1:]) if plain and isinstance(output[0], Tensor) else None


def _first(args, kwargs) -> Tensor | None:
    return _tensor(args) if args else _tensor(kwargs.get("hidden_states"))


def _with_first(args, kwargs, x: Tensor):
    return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})
