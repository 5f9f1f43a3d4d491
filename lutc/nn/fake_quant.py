"""Activations quantised and given back as real values: with a fixed scale, one per call, one observed, or a learned
power of two.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable

import torch

from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.functions import in_torch
from lutc.nn import portable, transforms
from lutc.nn.lut import LUT
from lutc.nn.power_ops import HIGHEST, LOWEST, least_squares, power_of_two
from lutc.nn.straight_through import look_up, quantise_and_return, real_values

KINDS = ("learned", "observed", "dynamic")
_SAMPLE = 1 << 14  # elements on which powers are tried


class FakeQuantize(torch.nn.Module):
    """Rounds a float tensor to the codes of `bits` bits and gives the real values scale * (q - zero_point) back, in the
    input's dtype.

    scale: "dynamic" (of every call), "observed" (a moving average over the batches of training mode, kept as it is in
    eval mode), "learned" (LSQ, arXiv:1902.08153: a parameter, started on the first batch of training mode), or a number
    (any positive one; `lutc.calibration` gives such). The first three are powers of two, of least squared error on some
    16,384 of a batch's elements; what is averaged or learned is the power, which is rounded when it is used. In eval
    mode before any batch LutcError says that there is no scale. bits: 2 to 8, so that values at powers of two are exact
    in float16 and bfloat16. zero_point: for a number only; the others are symmetric. momentum: share of the latest
    batch in the moving average.

    Rounds half to even and clamps; NaN stays NaN, infinities become the end codes and are not observed. Gradients are
    straight-through: 1 within the codes, 0 outside; a learned scale gets eq. 3 of LSQ times 1 / sqrt(N Qp), N the
    elements of one example (`x[0]`), Qp the largest code, and through log2 and its rounding the factor scale * ln 2.
    Nothing is read on the host, so it compiles as one graph.
    """

    def __init__(self, scale="learned", *, bits: int = 8, zero_point: int = 0, momentum: float = 0.1):
        super().__init__()
        if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 8:
            raise LutcError(f"FakeQuantize takes 2 to 8 bits; given {bits!r}")
        if not 0 < momentum <= 1:
            raise LutcError(f"momentum is the share of the latest batch, above 0 and at most 1; given {momentum}")
        self.bits, self.zero_point, self.momentum = bits, zero_point, momentum
        limits = Inputs(bits, 1.0, zero_point)  # refuses zero points that are out of range
        self.minimum, self.maximum = limits.minimum, limits.maximum
        self.kind = scale if scale in KINDS else "fixed"
        if self.kind != "fixed" and zero_point:
            raise LutcError(f"a {self.kind} scale is symmetric, with zero point 0; given {zero_point}")
        self._number = positive_number("scale", scale, f"or {', '.join(KINDS)}") if self.kind == "fixed" else None
        # NaN until the first batch: a checkpoint carries that too. One element and not 0-d, which FSDP does not take.
        if self.kind == "learned":
            self.log2_scale = torch.nn.Parameter(torch.full((1,), math.nan))
        elif self.kind == "observed":
            self.register_buffer("log2_scale", torch.full((1,), math.nan))
        self._started = self.kind in (
            "fixed",
            "dynamic",
        )  # known on the host; a scale may have come some other way than by a batch or a checkpoint

    @property
    def limits(self) -> tuple[int, int, int]:
        """Smallest code, largest code, zero point."""
        return self.minimum, self.maximum, self.zero_point

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale, rate = self.scale_for(x)
        return quantise_and_return(x, scale, self.limits, rate)

    @property
    def scale(self) -> float | None:
        """The scale as a number, read on the host; None where every call has its own or none was seen yet."""
        if self.kind == "fixed":
            return self._number
        power = math.nan if self.kind == "dynamic" else self.log2_scale.item()
        return None if math.isnan(power) else 2.0 ** min(max(round(power), LOWEST), HIGHEST)

    def scale_for(self, x: torch.Tensor) -> tuple[torch.Tensor, float]:
        """The scale for x (0-d, on its device) and the rate by which its gradient is to be multiplied."""
        if not (isinstance(x, torch.Tensor) and x.is_floating_point()):
            raise LutcError(
                "FakeQuantize takes float tensors; given "
                f"{x.dtype if isinstance(x, torch.Tensor) else type(x).__name__}"
            )
        if self.kind == "fixed":
            return torch.full((), self._number, dtype=torch.float64, device=x.device), 1.0
        if self.kind == "dynamic":
            return power_of_two(self._least_squares(x.detach())), 1.0
        if self.training:
            self._observe(x.detach())
        elif not self._started:
            self._started = not (torch.compiler.is_compiling() or math.isnan(self.log2_scale.item()))
            if not self._started:
                raise LutcError(
                    f"this {self.kind} scale has seen no batch yet; run one in training mode, load a checkpoint, or "
                    "give a number"
                )
        scale = power_of_two(self.log2_scale.detach().float().round()).reshape(())
        if self.kind == "observed":
            return scale, 1.0
        features = x[0].numel() if x.ndim and x.shape[0] else x.numel()
        # A factor of exactly 1 that carries the gradient scale * ln 2 to log2_scale.
        factor = 1.0 + math.log(2.0) * (self.log2_scale - self.log2_scale.detach()).float().reshape(())
        return scale * factor, 1.0 / math.sqrt(max(features, 1) * self.maximum)

    @torch.no_grad()
    def _observe(self, x: torch.Tensor) -> None:
        if not x.numel() or self._started and self.kind == "learned":
            return
        power = self._least_squares(x).to(self.log2_scale.dtype)
        later = self.log2_scale if self.kind == "learned" else torch.lerp(self.log2_scale, power, self.momentum)
        self.log2_scale.copy_(torch.where(self.log2_scale.isnan(), power, later))
        self._started = True

    def _least_squares(self, x: torch.Tensor) -> torch.Tensor:
        """The power of least squared error on x, float32, 0-d."""
        step = (
            2 * (x.numel() // (2 * _SAMPLE)) + 1
        )  # odd, so that it does not meet the same few channels again and again
        sample = x.reshape(-1)[::step]
        return least_squares(sample, self.minimum, self.maximum)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if self.kind in ("learned", "observed") and not self.log2_scale.is_meta:
            self._started = not bool(self.log2_scale.isnan())

    def get_extra_state(self) -> torch.Tensor:
        """Bits, zero point and the fixed scale (NaN for others), float64: a checkpoint carries them."""
        return torch.tensor(
            [self.bits, self.zero_point, math.nan if self._number is None else self._number], dtype=torch.float64
        )

    def set_extra_state(self, state: torch.Tensor) -> None:
        bits, zero_point, number = state.tolist()
        if (bits, math.isnan(number)) != (self.bits, self._number is None):
            given = "a scale that is no number" if math.isnan(number) else "a fixed scale"
            raise LutcError(
                f"the checkpoint's FakeQuantize has {bits:g} bits and {given}; this one is '{self.extra_repr()}': make "
                "it alike"
            )
        self.zero_point, self._number = int(zero_point), None if math.isnan(number) else number

    def extra_repr(self) -> str:
        return (
            f"{self.kind if self._number is None else f'scale={self._number:g}'}, bits={self.bits}, "
            f"zero_point={self.zero_point}"
        )


class QuantActivation(torch.nn.Module):
    """A function on quantised inputs: x is fake-quantised, then `function` computes: a registry name (exact, as torch
    computes it) or any module.

    quantise: a FakeQuantize, or what makes one: its `scale`, or `Inputs` (bits, scale and zero point). This is the
    first step of quantisation-aware training; `QuantLUT` takes its place in the second. A function of the registry or a
    `LUT` is evaluated at all codes and looked up, its derivative too, which second derivatives take for constant within
    a code.
    """

    def __init__(self, function: str | torch.nn.Module, quantise: FakeQuantize | Inputs | str | float = "learned"):
        super().__init__()
        if not isinstance(function, (str, Callable)) or isinstance(function, str) and not in_torch.known(function):
            raise LutcError(
                f"function is a module, or the name of a function that torch knows: {', '.join(in_torch.names())}; "
                f"given {function!r}"
            )
        self.quantise = as_quantiser(quantise)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        function, limits = self.function, self.quantise.limits
        if self._serves_codes(x):
            scale, rate = self.quantise.scale_for(x)
            values, slopes = self._responses(real_values(x, scale, limits).to(x.dtype))
            if values.dtype == x.dtype:
                return look_up(x, scale, values, slopes, limits, rate)
            x = quantise_and_return(x, scale, limits, rate)  # autocast has this function in another dtype
        else:
            x = self.quantise(x)
        return in_torch.value(function, x) if isinstance(function, str) else function(x)

    def _serves_codes(self, x) -> bool:
        """Whether the function is evaluated at all codes at once and looked up: elementwise ones, that nobody watches,
        of float32 and 16 bits. `torch.func` may want more derivatives than slopes give.
        """
        elementwise = isinstance(self.function, str) or type(self.function) is LUT
        watched = any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in self.children())
        known = isinstance(x, torch.Tensor) and x.dtype in (torch.float32, torch.float16, torch.bfloat16)
        return elementwise and known and not (watched or portable.wanted() or transforms.active())

    @torch.no_grad()
    def _responses(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Values of the function in the dtype of the points, derivatives in float32, 0 for NaN."""
        wide = points.float()
        if isinstance(self.function, str):
            values, slopes = in_torch.value(self.function, points), in_torch.derivative(self.function, wide)
        else:
            values, slopes = self.function(points), self.function.derivative(wide)
        return values, torch.where(wide.isnan(), 0.0, slopes)

    def extra_repr(self) -> str:
        return repr(self.function) if isinstance(self.function, str) else ""


def as_quantiser(source) -> FakeQuantize:
    """A FakeQuantize itself, or a new one from its scale: a kind, a number, or `lutc.samples.Inputs`."""
    if isinstance(source, Inputs):
        return FakeQuantize(source.scale, bits=source.bits, zero_point=source.zero_point)
    return source if isinstance(source, FakeQuantize) else FakeQuantize(source)


def positive_number(name: str, value, otherwise: str = "") -> float:
    """One positive finite number from a number or a tensor with one element, read on the host."""
    if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_complex():
        value = value.detach().item()
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not (math.isfinite(value) and value > 0):
        given = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
        raise LutcError(f"{name} is one positive finite number{otherwise and f', {otherwise}'}; given {given}")
    return float(value)
