"""Collecting the error that each activation's next layer feels (`lutc.calibration.layer_error`) while a model runs.

An activation's output is followed to the linear layer it enters: through the product with a gate, dropout, reshapes and casts. The norm that runs next
on as many features weighs the tokens: what it divides by is what the model keeps of an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lutc import functions
from lutc.calibration.layer_error import LayerError
from lutc.calibration.observers import _EXACT
from lutc.errors import LutcError
from lutc.models.texts import to_device
from lutc.nn.patching.apply import Patcher
from lutc.nn.patching.choose import Selection, Wanted
from lutc.nn.patching.recognise import is_norm, norm_of
from lutc.samples import Inputs

T = torch.Tensor
_CHUNK = 1 << 22  # numbers of U [tokens, codes, outputs] held at a time
_PRODUCTS = {torch.mul, torch.multiply, T.mul, T.multiply, T.mul_, T.__mul__, T.__rmul__, T.__imul__}
_CASTS = {T.to, T.float, T.half, T.bfloat16, T.type, T.contiguous, T.clone, torch.clone, F.dropout, T.reshape, torch.reshape}
_MATMULS = {torch.matmul, T.matmul, T.__matmul__, torch.mm, T.mm}


class Accumulator:
    """Sums [U n]' [U n] of one layer at one scale (see `LayerError`), in float64, on the device of what it is given."""

    def __init__(self, function: str, inputs: Inputs):
        self.inputs = inputs
        self.exact = functions.get(function)(inputs.x())
        if not np.isfinite(self.exact).all():
            at = inputs.x()[~np.isfinite(self.exact)][0]
            raise LutcError(f"{function} is not finite at the input code of {at:g}; choose a scale whose codes stay where it is")
        self.form: T | None = None

    def add(self, x: T, gate: T | None, weight: T, token_weights: T | None, values: T) -> None:
        """x, gate (tokens, channels), values = f(x) of the same shape, weight (outputs, channels), token_weights (tokens,) or None for 1."""
        codes = torch.round(x / self.inputs.scale) + self.inputs.zero_point
        codes = (codes.clamp(self.inputs.minimum, self.inputs.maximum) - self.inputs.minimum).long()
        size = self.exact.size
        if self.form is None:
            self.form = torch.zeros(size + 1, size + 1, dtype=torch.float64, device=x.device)
        exact = torch.as_tensor(self.exact, dtype=weight.dtype, device=x.device)
        scaled = torch.ones_like(values) if gate is None else gate
        if token_weights is not None:
            scaled = scaled * token_weights.sqrt()[:, None]
        columns = weight.t().contiguous()
        low, high = int(codes.min()), int(codes.max()) + 1
        step = max(1, _CHUNK // ((high - low) * weight.shape[0]))
        for start in range(0, len(x), step):
            part = slice(start, start + step)
            u = _by_code(codes[part] - low, high - low, columns, scaled[part])
            rounding = torch.einsum("tqo,q->to", u, exact[low:high]) - (scaled[part] * values[part]) @ columns
            whole = torch.cat([u, rounding[:, None]], 1).transpose(0, 1).flatten(1)
            product = (whole @ whole.t()).double()
            self.form[low:high, low:high] += product[:-1, :-1]
            self.form[-1, low:high] += product[-1, :-1]
            self.form[-1, -1] += product[-1, -1]

    def result(self) -> np.ndarray:
        form = self.form.cpu().numpy().copy()
        form[:-1, -1] = form[-1, :-1]
        return form


def _by_code(codes: T, count: int, columns: T, scaled: T) -> T:
    """U (tokens, count, outputs): rows of `columns` (channels, outputs), times `scaled`, summed by the token's code of the channel."""
    tokens, channels = codes.shape
    order = codes.argsort(1)
    keys = (codes.gather(1, order) + count * torch.arange(tokens, device=codes.device)[:, None]).flatten()
    offsets = torch.searchsorted(keys, torch.arange(tokens * count, device=codes.device))
    sums = F.embedding_bag(order.flatten(), columns, offsets, mode="sum", per_sample_weights=scaled.gather(1, order).flatten())
    return sums.view(tokens, count, -1)


@dataclass
class Mark:
    """What follows an activation's output on its way: `x` and `gate` (tokens, channels) of the tokens that were drawn."""

    site: Site
    x: T
    shape: tuple[int, ...]
    gate: T | None = None


class Site(nn.Module):
    """Stands where an activation stood, computes it and marks its output. `linear`, `norm`: names of what follows, once seen."""

    def __init__(self, tracer: Tracer, path: str, function: str, exact):
        super().__init__()
        self._held = (tracer, exact or _EXACT[function])
        self.path, self.function = path if path not in tracer.sites else f"{path} {function}", function
        self.linear = self.norm = None
        self.tokens, self.sums = 0, [Accumulator(function, inputs) for inputs in tracer.inputs_of(self.path)]
        tracer.sites[self.path] = self

    def forward(self, x: T) -> T:
        tracer, exact = self._held
        rows = tracer.drawn(x)
        drawn = None if rows is None else x.reshape(-1, x.shape[-1])[rows].clone()
        with torch._C.DisableTorchFunction():
            y = exact(x)
        if drawn is not None:
            y.lutc_mark = Mark(self, drawn, tuple(y.shape))
        return y

    @torch.no_grad()
    def add(self, mark: Mark, weight: T, token_weights: T | None) -> None:
        dtype = torch.promote_types(weight.dtype, torch.float32)
        x, gate = (None if t is None else t.detach().to(dtype) for t in (mark.x, mark.gate))
        values = _EXACT[self.function](x)
        for sums in self.sums:
            sums.add(x, gate, weight.detach().to(dtype), token_weights, values)
        self.tokens += len(x)


@dataclass(frozen=True)
class _Marking:
    """An operator for the patcher that puts sites in a model."""

    tracer: Tracer
    function: str
    name: str = "a site"

    def fresh(self, path: str, exact=None) -> Site:
        return Site(self.tracer, path, self.function, exact)


@dataclass
class _Entered:
    """A linear layer that an activation has entered, until the norm that follows is seen."""

    mark: Mark
    weight: T


@dataclass
class Tracer:
    """Follows marks while a model runs. inputs_of(path): the codes wanted of a site. share: tokens of a batch to draw; weigh: by the norm."""

    inputs_of: Callable[[str], Sequence[Inputs]]
    names: Mapping[int, str]
    share: int
    weigh: bool
    sites: dict[str, Site] = field(default_factory=dict)
    waiting: list[_Entered] = field(default_factory=list)
    mask: T | None = None
    batch: int = 0

    def drawn(self, x: T) -> T | None:
        """Indices of the tokens to look at, the same in every layer of a batch; None for a tensor without any."""
        count = x.numel() // max(x.shape[-1], 1) if x.ndim > 1 else 0
        kept = torch.arange(count, device=x.device)
        if self.mask is not None and self.mask.numel() == count:
            kept = kept[self.mask.reshape(-1).to(x.device)]
        if len(kept) > self.share:
            generator = torch.Generator().manual_seed(self.batch)
            kept = kept[torch.randperm(len(kept), generator=generator)[: self.share].sort().values.to(x.device)]
        return kept if len(kept) else None

    def entered(self, mark: Mark, weight: T, owner: T) -> None:
        """`owner` is the parameter that `weight` (outputs, channels) is a view of."""
        if mark.site.linear is None:
            mark.site.linear = self.names.get(id(owner), "a linear layer")
        self.waiting.append(_Entered(mark, weight))

    def before_norm(self, module: nn.Module, kind: str, name: str, x: T) -> None:
        """A norm of module.weight over x runs: weigh what has entered a linear layer of as many outputs and tokens."""
        for one in [w for w in self.waiting if w.weight.shape[0] == x.shape[-1] and x.shape[:-1].numel() == np.prod(one_shape(w))]:
            self.waiting.remove(one)
            rows = self.drawn(x)
            wide = x.detach().reshape(-1, x.shape[-1])[rows].to(torch.promote_types(x.dtype, torch.float32))
            spread = wide.var(-1, unbiased=False) if kind == "layer_norm" else wide.square().mean(-1)
            weight = one.weight.detach().to(wide.dtype)
            if kind == "layer_norm":
                weight = weight - weight.mean(0)
            gain = getattr(module, "weight", None)
            if gain is not None:
                weight = weight * gain.detach().to(wide.dtype)[:, None]
            one.mark.site.norm = name
            one.mark.site.add(one.mark, weight, 1.0 / (spread + 1e-12))

    def flush(self) -> None:
        """What no norm followed counts with weight 1."""
        for one in self.waiting:
            one.mark.site.add(one.mark, one.weight, None)
        self.waiting.clear()
