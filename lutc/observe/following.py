"""Following an activation's output to the linear layer it enters, and on to the norm behind that,
while a model runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.nn.patching.offload import present
from lutc.nn.patching.recognise import Norm
from lutc.observe.layer_sums import LayerSums
from lutc.observe.observers import EXACT

T = torch.Tensor
_PRODUCTS = {torch.mul, torch.multiply, T.mul, T.multiply, T.mul_, T.__mul__, T.__rmul__, T.__imul__}
_CASTS = {
    T.to,
    T.float,
    T.half,
    T.bfloat16,
    T.type,
    T.contiguous,
    T.clone,
    torch.clone,
    F.dropout,
    T.reshape,
    torch.reshape,
}
_MATMULS = {torch.matmul, T.matmul, T.__matmul__, torch.mm, T.mm}


@dataclass
class Mark:
    """Goes with an activation's output: rows are the tokens that were drawn, x and gate (tokens, channels) theirs,
    shape that of the whole.
    """

    site: Site
    rows: T
    x: T
    shape: torch.Size
    gate: T | None = None
    weight: T | None = None


class Site(nn.Module):
    """Stands where an activation stood, computes it and marks its output. linear, norm: names of what follows, once
    seen.
    """

    def __init__(self, tracer: Tracer, path: str, function: str, exact: Callable | None):
        super().__init__()
        self._held = (tracer, exact or EXACT[function])
        self.path, self.function = path if path not in tracer.sites else f"{path} {function}", function
        self.linear = self.norm = None
        self.tokens, self.sums = 0, [LayerSums(function, inputs) for inputs in tracer.inputs_of(self.path)]
        tracer.sites[self.path] = self

    def forward(self, x: T) -> T:
        tracer, exact = self._held
        rows = tracer.drawn(x) if self.sums else None
        drawn = (
            None if rows is None else x.detach().reshape(-1, x.shape[-1])[rows]
        )  # a copy, for the activation may work in place
        with torch._C.DisableTorchFunction():
            y = exact(x)
        if drawn is not None:
            y.lutc_mark = Mark(self, rows, drawn, y.shape)
        return y

    def add(self, mark: Mark, weight: T, token_weights: T | None) -> None:
        """Tokens and the (outputs, channels) matrix that follows."""
        if not mark.x.isfinite().all():
            raise LutcError(
                f"the inputs of {self.path} ({self.function}) are not all finite; try `dtype` fp32 or bf16, or look at "
                "the weights"
            )
        dtype = torch.promote_types(weight.dtype, torch.float32)
        x, gate = (None if t is None else t.detach().to(dtype) for t in (mark.x, mark.gate))
        values = EXACT[self.function](x)
        for sums in self.sums:
            sums.add(x, gate, values, weight.to(dtype), token_weights)
        self.tokens += len(x)


@dataclass(frozen=True)
class Marking:
    """An operator for the patcher that puts sites in a model."""

    tracer: Tracer
    function: str
    name: str = "a site"

    def fresh(self, path: str, exact: Callable | None = None) -> Site:
        return Site(self.tracer, path, self.function, exact)


@dataclass
class Tracer:
    """What follows marks while a model runs.

    inputs_of(path): the codes wanted of a site. names: of the model's parameters by id. share: tokens of a batch to
    look at. mask: bool (batch, length), the tokens that count, or None. waiting: marks that entered a linear layer,
    until the norm behind it runs.
    """

    inputs_of: Callable[[str], Sequence[Inputs]]
    names: Mapping[int, str]
    share: int
    sites: dict[str, Site] = field(default_factory=dict)
    waiting: list[Mark] = field(default_factory=list)
    mask: T | None = None
    batch: int = 0

    def drawn(self, x: T) -> T | None:
        """Indices of the tokens of x (..., features) to look at, the same ones in every layer of a batch; None where
        there are none.
        """
        count = x.shape[:-1].numel() if x.ndim > 1 else 0
        kept = torch.arange(count, device=x.device)
        if self.mask is not None and self.mask.numel() == count:
            kept = kept[self.mask.reshape(-1).to(x.device)]
        if len(kept) > self.share:
            chosen = torch.randperm(len(kept), generator=torch.Generator().manual_seed(self.batch))[: self.share]
            kept = kept[chosen.sort().values.to(x.device)]
        return kept if len(kept) else None

    def entered(self, mark: Mark, weight: T, parameter: T) -> None:
        """A linear layer of `weight` (outputs, channels), a view of `parameter`."""
        mark.site.linear = self.names.get(id(parameter), "a linear layer").removesuffix(".weight")
        mark.weight = weight.detach()
        self.waiting.append(mark)

    @torch.no_grad()
    def before_norm(self, name: str, module: nn.Module, norm: Norm, x: T) -> None:
        """A norm over x runs: what entered a linear layer of as many outputs and tokens waits no longer."""
        for mark in [
            m for m in self.waiting if m.weight.shape[0] == x.shape[-1] and m.shape[:-1].numel() == x.shape[:-1].numel()
        ]:
            self.waiting.remove(mark)
            rows = x.detach().reshape(-1, x.shape[-1])[mark.rows]
            rows, weight = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (rows, mark.weight))
            spread = rows.square().mean(-1)
            if norm.kind == "layer_norm":
                spread, weight = rows.var(-1, unbiased=False), weight - weight.mean(0)
            with present(module):
                gain = getattr(module, "weight", None)
                if gain is not None:
                    weight = weight * (gain.detach().to(weight.dtype) + norm.offset)[:, None]
            mark.site.norm = name
            mark.site.add(mark, weight, 1.0 / (spread + norm.eps))

    @torch.no_grad()
    def after_batch(self) -> None:
        """What no norm followed counts with weight 1."""
        for mark in self.waiting:
            mark.site.add(mark, mark.weight, None)
        self.waiting.clear()
        self.batch += 1


class Follow(TorchFunctionMode):
    """Hands marks on from tensor to tensor."""

    def __init__(self, tracer: Tracer):
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if isinstance(result, T):
            given = [*args, *kwargs.values()]
            at = next((i for i, a in enumerate(given) if isinstance(a, T) and hasattr(a, "lutc_mark")), None)
            if at is not None:
                self._follow(func, given, at, result)
        return result

    def _follow(self, func, given: list, at: int, result: T) -> None:
        mark = given[at].lutc_mark
        if func is F.linear and at == 0:
            self.tracer.entered(mark, given[1], given[1])
        elif func in _MATMULS and at == 0 and given[1].ndim == 2:
            self.tracer.entered(mark, given[1].t(), given[1])
        elif func in (torch.addmm, T.addmm) and at == 1:
            self.tracer.entered(mark, given[2].t(), given[2])
        elif result.numel() != mark.shape.numel() or result.shape[-1:] != mark.shape[-1:]:
            return
        elif func in _PRODUCTS:
            gate = (
                torch.as_tensor(given[1 - at], device=result.device)
                .detach()
                .expand(result.shape)
                .reshape(-1, mark.shape[-1])[mark.rows]
            )
            result.lutc_mark = Mark(
                mark.site, mark.rows, mark.x, mark.shape, gate if mark.gate is None else mark.gate * gate
            )
        elif func in _CASTS or result.data_ptr() == given[at].data_ptr():
            result.lutc_mark = mark
