"""Modules that stand where a table would: each computes what stood there before and counts what a table would be fed
with.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lutc.calibration.file import Layer
from lutc.errors import LutcError
from lutc.functions.in_torch import value
from lutc.functions.recognise import functions_of
from lutc.functions.user import name_of
from lutc.nn.patching.automatic import own_function
from lutc.nn.patching.calls import ACTIVATION_CALLS, MATH_CALLS
from lutc.nn.patching.report import Refused
from lutc.observe.accumulator import Accumulator

_CALLS = [forms for call, forms in ACTIVATION_CALLS.items() if call not in MATH_CALLS]
EXACT = {name: functools.partial(value, name) for forms in _CALLS for name, _ in forms}


@dataclass
class Watch:
    """What the observers of one model share. mask: bool (batch, length), the tokens of the batch that count; None for
    all. observers: by name; running: those that were reached, in order. channel_axis: the dimension of an activation's
    input whose ranges are kept. every_channel: refuse inputs that have no such ranges, where they are to be kept of.
    """

    mask: torch.Tensor | None = None
    observers: dict[str, Observer] = field(default_factory=dict)
    running: dict[str, Observer] = field(default_factory=dict)
    channel_axis: int = -1
    every_channel: bool = False


class Observer(nn.Module):
    """Common to all. exact: the module or function that stands here; it keeps its place and name outside the observed
    model, so it is no child.
    """

    operator = quantity = ""

    def __init__(self, watch: Watch, path: str, function: str, exact: Callable):
        super().__init__()
        self.function, self.values, self.masked = function, Accumulator(), 0
        self._held = (watch, exact)
        self.path = path if path not in watch.observers else f"{path} {function}"
        watch.observers[self.path] = self

    def compute(self, *args, **kwargs) -> Any:
        """What stood here, out of sight of the observers of calls around it."""
        with torch._C.DisableTorchFunction():
            return self._held[1](*args, **kwargs)

    def kept(self, x: torch.Tensor, queries: bool = False) -> torch.Tensor | None:
        """Which of the leading indices of x, (batch, length, ...) or (batch * length, ...), or with `queries` (batch,
        ..., length), are tokens that count: bool of the shape of x without its last dimension; None for all, and where
        x is laid out by neither.
        """
        watch, mask = self._held[0], self._held[0].mask
        watch.running.setdefault(self.path, self)
        if mask is None:
            return None
        mask, shape = mask.to(x.device), x.shape[:-1]
        if queries:
            if len(shape) >= 2 and (shape[0], shape[-1]) == tuple(mask.shape):
                return mask.view(mask.shape[0], *(1,) * (len(shape) - 2), mask.shape[1]).expand(shape)
            if (
                len(shape) == 2 and shape[0] % mask.shape[0] == 0 and shape[-1] == mask.shape[1]
            ):  # heads folded into the batch
                return mask.repeat_interleave(shape[0] // mask.shape[0], 0)
        elif shape[:2] == mask.shape:
            return mask.view(*mask.shape, *(1,) * (len(shape) - 2)).expand(shape)
        elif len(shape) == 1 and shape[0] == mask.numel():
            return mask.reshape(-1)
        return None

    def layer(self) -> Layer:
        infinite, _ = self.values.special()
        return Layer(self.function, self.operator, self.quantity, self.values.histogram(), self.masked, infinite)


class ActivationObserver(Observer):
    """x itself, and the range of each channel: of each index of its last dimension, or of another that the watch names,
    where no mask leaves tokens out and every batch has as many of them.
    """

    operator, quantity = "activation", "x"

    def __init__(self, watch: Watch, path: str, function: str, exact: Callable | None = None):
        super().__init__(watch, path, function, exact or functools.partial(value, function))
        self.channels: tuple[torch.Tensor, torch.Tensor] | None = None
        self.varying = False  # batches of other numbers of channels, whose ranges are of nothing

    @torch.no_grad()
    def observe(self, x: torch.Tensor) -> None:
        keep = self.kept(x)
        rows = x.reshape(-1, x.shape[-1]) if keep is None else x[keep]
        if not rows.numel():
            return
        self.values.add(rows)
        axis = self._held[0].channel_axis
        if not -x.ndim <= axis < x.ndim:
            self._without(f"has shape {tuple(x.shape)}, without the axis {axis} of channels; give another axis")
            return
        if axis not in (-1, x.ndim - 1):
            if keep is not None:
                self._without(f"is padded, so it has ranges along its last dimension alone, not along axis {axis}")
                return
            rows = x.movedim(axis, -1).reshape(-1, x.shape[axis])
        low, high = (end.float().nan_to_num(0.0, 0.0, 0.0) for end in rows.aminmax(dim=0))
        if self.channels is not None and self.channels[0].shape != low.shape:
            told = f"{len(self.channels[0])} channels along axis {axis} in one batch and {len(low)} in another"
            self._without(f"has {told}, so there is no scale for each; give another axis")
            self.varying = True
        if self.varying:
            self.channels = None
            return
        if self.channels is not None:
            low, high = torch.minimum(low, self.channels[0]), torch.maximum(high, self.channels[1])
        self.channels = low, high

    def _without(self, why: str) -> None:
        """The input of this layer has no ranges of channels."""
        if self._held[0].every_channel:
            raise LutcError(f"the input of '{self.path}' {why}, or leave the layer out by skip=")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.observe(x if x.ndim else x[None])
        return self.compute(x)

    def layer(self) -> Layer:
        layer = super().layer()
        if self.channels is None:
            return layer
        low, high = (end.cpu().numpy() for end in self.channels)
        return replace(layer, channel_low=low, channel_high=high, channel_axis=self._held[0].channel_axis)


class SoftmaxObserver(Observer):
    """x - max(x) of every row: what the exp table of a softmax sees. Elements of -inf or finfo.min (a mask) are counted
    apart.
    """

    operator, quantity = "softmax", "x - max(x)"

    def __init__(self, watch: Watch, path: str, exact: Callable | None = None):
        super().__init__(watch, path, "exp", torch.softmax)
        self.dim = -1

    @torch.no_grad()
    def observe(self, x: torch.Tensor) -> None:
        keep = self.kept(x, queries=True)
        rows = x.reshape(-1, x.shape[-1]) if keep is None else x[keep]
        if not rows.numel():
            return
        self.masked += self.values.add_below_maximum(rows)

    def along(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """The softmax along `dim`, as `LUTSoftmax` has it."""
        if x.ndim:
            self.observe(x.transpose(dim, -1))
        return self.compute(x, dim)

    def log_along(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """Its logarithm, as `LUTSoftmax` has it."""
        if x.ndim:
            self.observe(x.transpose(dim, -1))
        with torch._C.DisableTorchFunction():
            return torch.log_softmax(x, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.along(x, self.dim)


class NormObserver(Observer):
    """The mean square (RMSNorm) or variance (LayerNorm) of every token, eps added: what an rsqrt table sees."""

    def __init__(self, watch: Watch, path: str, kind: str, exact: Callable | None = None):
        self.operator, self.quantity = kind, {"layer_norm": "variance(x) + eps", "rms_norm": "mean(x^2) + eps"}[kind]
        super().__init__(watch, path, "rsqrt", exact or (F.layer_norm if kind == "layer_norm" else F.rms_norm))
        self.normalized_shape, self.eps, self.weight, self.bias = (), 0.0, None, None

    @torch.no_grad()
    def observe(self, x: torch.Tensor, shape: tuple[int, ...], eps: float | None) -> None:
        rows = x.flatten(x.ndim - len(shape)) if len(shape) != 1 else x
        keep = self.kept(rows)
        rows = rows.reshape(-1, rows.shape[-1]) if keep is None else rows[keep]
        if rows.numel():
            rows = rows.float() if rows.dtype != torch.float64 else rows
            spread = rows.var(-1, unbiased=False) if self.operator == "layer_norm" else rows.square().mean(-1)
            self.values.add(spread + (torch.finfo(x.dtype).eps if eps is None else eps))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.observe(x, tuple(self.normalized_shape), self.eps)
        return self.compute(x)

    def normalise(
        self,
        input: torch.Tensor,
        normalized_shape: Sequence[int],
        weight: torch.Tensor | None = None,
        *options,
        **named,
    ) -> torch.Tensor:
        """A call of `F.layer_norm` or `F.rms_norm`, observed."""
        at = 1 if self.operator == "layer_norm" else 0
        eps = options[at] if len(options) > at else named.get("eps", 1e-5 if at else None)
        self.observe(input, tuple(normalized_shape), eps)
        return self.compute(input, normalized_shape, weight, *options, **named)


@dataclass(frozen=True)
class Observing:
    """An operator for the patcher that puts observers in a model. kind: a function's name, "softmax", "layer_norm" or
    "rms_norm".
    """

    watch: Watch
    kind: str
    name: str = "an observer"
    answers_calls: bool = True

    def fresh(self, path: str, exact: Callable | None = None) -> Observer:
        if self.kind == "softmax":
            return SoftmaxObserver(self.watch, path, exact)
        if self.kind in ("layer_norm", "rms_norm"):
            return NormObserver(self.watch, path, self.kind, exact)
        return ActivationObserver(self.watch, path, self.kind, exact)


@dataclass(frozen=True)
class ObservingAny:
    """An observer for a function that the registry has, or with `own` any that treats elements by themselves; given by
    path, for whatever stands there.
    """

    watch: Watch
    own: bool = False
    name: str = "an observer"

    @property
    def leaves(self) -> bool:
        """As `lutc.nn.patching.automatic.Automatic` has it."""
        return self.own

    def __call__(self, found: Sequence[str], exact: Any) -> Observing | Refused:
        """As `lutc.nn.patching.automatic.Automatic`."""
        if found and found[0].endswith("(*)"):
            return Refused("its parameters are computed as it runs")
        if found and found[0] not in MATH_CALLS.values():
            return Observing(self.watch, found[0])
        if not self.own:
            return Refused("no function of the registry, or not elementwise", silent=True)
        try:
            return Observing(self.watch, own_function(exact).name)
        except LutcError as error:
            return Refused(str(error), silent=True)

    def fresh(self, path: str, exact: Any = None) -> Observer:
        """At a place that was asked for, under the name of its function or of what stands there."""
        call = exact.forward if isinstance(exact, nn.Module) else exact
        names = () if call is None else functions_of(call)
        return ActivationObserver(self.watch, path, names[0] if names else name_of(exact), exact)


def refuse_nan(watch: Watch) -> None:
    """LutcError that names the first layer, in the order in which they run, that was fed with NaN."""
    for path, observer in watch.running.items():
        nan = observer.values.special()[1]
        if nan:
            raise LutcError(
                f"{nan} NaN among the inputs of {path} ({observer.function}, {observer.quantity}): the model computes "
                "NaN before it; "
                "try `dtype` fp32 or bf16, or look at the weights"
            )
