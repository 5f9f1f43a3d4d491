"""Whether what a patch put in a module's place computes what stood there, on the inputs that it is really given.

A table differs from its function by what its certificate says, input for input: |table(x) - f(x)| in float64. What
stands in the place of f may differ from the module that stood there by so much, and by rounding. More means that the
module never computed f.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lutc import functions
from lutc.errors import LutcError
from lutc.nn.fake_quant import FakeQuantize
from lutc.nn.lut import LUT
from lutc.nn.norm import LUTLayerNorm, LUTRMSNorm
from lutc.nn.quant import QuantLUT
from lutc.nn.softmax import LUTSoftmax

_ROUNDING = 16  # units in the last place of the largest number, for what exact code rounds on its way


# (path, what stands there now, what stood there)
Pairs = Iterable[tuple[str, nn.Module, nn.Module]]


def compare(pairs: Pairs, run: Callable[[], object], listening: Any = None) -> None:
    """Run a model whose modules were replaced, and hold every replacement against what stood there.

    run: calls the model. listening: an audit's mode, which is
    not to count the exact modules. LutcError for the first replacement that is off by more than its table.
    """
    hooks = [after.register_forward_hook(_Holding(path, before, listening)) for path, after, before in pairs]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()


class _Holding:
    """A forward hook that compares the module's output with that of the module that stood there."""

    def __init__(self, path: str, before: nn.Module, listening: Any):
        self.path, self.before, self.listening = path, before, listening

    def __call__(self, after: nn.Module, args: tuple, output: Any) -> None:
        if len(args) != 1 or not isinstance(args[0], torch.Tensor) or not args[0].is_floating_point():
            return
        if not args[0].numel() or not isinstance(output, torch.Tensor):
            return
        if self.listening is not None:
            self.listening.paused = True
        try:
            self._hold(after, args[0], output)
        finally:
            if self.listening is not None:
                self.listening.paused = False

    @torch.no_grad()
    def _hold(self, after: nn.Module, x: torch.Tensor, output: torch.Tensor) -> None:
        allowed = deviation(after, x)
        if allowed is None:
            return
        exact = self.before.forward(x)
        difference = (output.double() - exact.double()).abs()
        unit = torch.finfo(x.dtype).eps * _ROUNDING
        tolerance = 1.01 * allowed + unit * (exact.double().abs().amax(-1, keepdim=True) + exact.double().abs())
        off = (difference > tolerance.expand_as(difference)) & exact.isfinite()
        if off.any():
            at = int((difference - tolerance).masked_fill(~off, -1.0).argmax())
            raise LutcError(
                f"{self.path} is a {type(self.before).__name__} that does not compute what its table is of: "
                f"{float(output.flatten()[at]):.6g} came in the place of {float(exact.flatten()[at]):.6g}, where the "
                f"table may differ by {float(allowed.expand_as(difference).flatten()[at]):.2g}; leave it out: "
                f"skip={self.path!r}"
            )


def deviation(module: nn.Module, x: torch.Tensor) -> torch.Tensor | None:
    """|what `module` computes - the function it stands for| at x, both in float64, in a shape that broadcasts to that
    of x; None where it says not which function that is.
    """
    wide = x.double()
    if isinstance(module, (LUTLayerNorm, LUTRMSNorm)):
        return (module.forward(wide) - _norm(module, wide)).abs()
    if isinstance(module, LUTSoftmax):
        return (module.forward(wide) - torch.softmax(wide, module.dim)).abs()
    if not isinstance(module, (LUT, QuantLUT)):
        return None
    if isinstance(module, QuantLUT) and isinstance(module.quantise, FakeQuantize) and module.quantise.scale is None:
        return None
    name = module.tables.function
    if name is None or not functions.known(name):
        return None
    with np.errstate(all="ignore"):
        exact = torch.from_numpy(np.asarray(functions.get(name)(wide.cpu().numpy()), np.float64)).to(x.device)
    return (module.forward(wide) - exact).abs().nan_to_num(float("inf"))


def _norm(module: LUTLayerNorm | LUTRMSNorm, x: torch.Tensor) -> torch.Tensor:
    """The exact norm in float64."""
    held: list[Any] = [module.weight, module.bias]
    weight, bias = (None if p is None else p.double() for p in held)
    shape = tuple(module.normalized_shape)
    if module.centred:
        return F.layer_norm(x, shape, weight, bias, module.eps)
    offset: Any = module.offset
    return F.rms_norm(x, shape, None if weight is None else weight + offset, module.eps)
