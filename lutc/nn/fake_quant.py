"""Activations quantised and given back as real values: with a fixed scale, one per call, one observed, or a learned
power of two.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import torch

from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.functions import in_torch
from lutc.nn import exported_channels, onnx_nodes, portable, transforms
from lutc.nn.channels import (
    LEAST,
    MOST,
    channel_samples,
    check_axis,
    check_signed,
    check_zero_points,
    dimension,
    given_channels,
    whole,
)
from lutc.nn.channels import look_up as by_channel
from lutc.nn.lowered import DTYPES
from lutc.nn.lut import LUT
from lutc.nn.nearest import described
from lutc.nn.power_ops import HIGHEST, LOWEST, least_squares, power_of_two
from lutc.nn.refilled import Refilled
from lutc.nn.scripting import Unscripted
from lutc.nn.straight_through import look_up, quantise_and_return, real_values

KINDS = ("learned", "observed", "dynamic")
AXIS = "; one for each channel goes with `axis`"
_SAMPLE = 1 << 14  # elements on which powers are tried


class FakeQuantize(Refilled):
    """Rounds a float tensor to the codes of `bits` bits and gives the real values scale * (q - zero_point) back, in the
    input's dtype.

    scale: "dynamic" (of every call), "observed" (a moving average over the batches of training mode, kept as it is in
    eval mode), "learned" (LSQ, arXiv:1902.08153: a parameter, started on the first batch of training mode), or a number
    (any positive one; `lutc.calibration` gives such). The first three are powers of two, of least squared error on some
    16,384 of a batch's elements; what is averaged or learned is the power, which is rounded when it is used. In eval
    mode before any batch LutcError says that there is no scale. bits: 2 to 8, so that values at powers of two are exact
    in float16 and bfloat16. zero_point: for a number only; the others are symmetric. momentum: share of the latest
    batch in the moving average. signed: False counts codes from 0 on (uint8), with zero points among them; a symmetric
    scale then has zero point 0 and serves inputs that are not negative.

    axis: a scale for every index of this dimension of the input: given as a vector of numbers, with a vector of zero
    points or one of all (`lutc.calibration.scales.per_channel` finds such; they are buffers, so a checkpoint carries
    them), or each its own learned, observed or dynamic one, found on some of that channel's elements. channels: their
    number, which learned and observed scales need beforehand.

    Rounds half to even and clamps; NaN stays NaN, infinities become the end codes and are not observed. Gradients are
    straight-through: 1 within the codes, 0 outside; a learned scale gets eq. 3 of LSQ times 1 / sqrt(N Qp), N the
    elements of one example (`x[0]`) that share the scale, Qp the largest code, and through log2 and its rounding the
    factor scale * ln 2.
    Nothing is read on the host, so it compiles as one graph.
    """

    def __init__(
        self,
        scale: Any = "learned",
        *,
        bits: int = 8,
        zero_point: Any = 0,
        momentum: float = 0.1,
        axis: int | None = None,
        signed: bool = True,
        channels: int | None = None,
    ):
        super().__init__()
        if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 8:
            raise LutcError(f"FakeQuantize takes 2 to 8 bits; given {bits!r}")
        if not 0 < momentum <= 1:
            raise LutcError(f"momentum is the share of the latest batch, above 0 and at most 1; given {momentum}")
        check_signed(signed)
        zero_point = whole(zero_point)
        self.bits, self.zero_point, self.momentum, self.axis, self.signed = bits, zero_point, momentum, axis, signed
        offset = 0 if signed else 1 << (bits - 1)
        self.minimum, self.maximum = offset - (1 << (bits - 1)), offset + (1 << (bits - 1)) - 1
        self.kind = scale if isinstance(scale, str) and scale in KINDS else "fixed"
        self.channels, self._number, self.numbers = channels, None, ()
        if self.kind != "fixed":
            if isinstance(zero_point, bool) or not isinstance(zero_point, int) or zero_point:
                raise LutcError(f"a {self.kind} scale is symmetric, with zero point 0; given {zero_point!r:.40}")
            check_axis(axis, channels)
            if axis is not None and channels is None and self.kind != "dynamic":
                raise LutcError(
                    f"`channels`, their number, is needed beforehand where each has its own {self.kind} scale"
                )
        elif axis is not None:
            if scale is None or isinstance(scale, torch.nn.Parameter):
                raise LutcError(
                    "FakeQuantize takes a number for each channel, learned, observed or dynamic; learn a Parameter, or "
                    "give scales with every call, in a QuantLUT"
                )
            self.numbers, self.zero_point, self.channels = given_channels(scale, zero_point, axis, channels)
            self._fill(torch.get_default_device())
        else:
            check_axis(axis, channels)
            self._number = positive_number("scale", scale, f"or {', '.join(KINDS)}", AXIS)
        check_zero_points(self.zero_point, bits, self.minimum)
        # NaN until the first batch: a checkpoint carries that too. One element and not 0-d, which FSDP does not take.
        if self.kind == "learned":
            self.log2_scale = torch.nn.Parameter(torch.full((self.channels or 1,), math.nan))
        elif self.kind == "observed":
            self.register_buffer("log2_scale", torch.full((self.channels or 1,), math.nan))
        self._started = self.kind in (
            "fixed",
            "dynamic",
        )  # known on the host; a scale may have come some other way than by a batch or a checkpoint

    def _fill(self, device: torch.device) -> None:
        """The numbers of channels as buffers."""
        if self.numbers:
            scales = torch.tensor(self.numbers, dtype=torch.float64, device=device)
            self.register_buffer("channel_scales", scales.view(torch.int64))
            zeros = torch.tensor(self.zero_point, dtype=torch.int32, device=device)
            self.register_buffer("channel_zero_points", zeros)

    @property
    def limits(self) -> tuple[int, int, Any]:
        """Smallest code, largest code, zero point, of channels a tuple of them."""
        return self.minimum, self.maximum, self.zero_point

    @property
    def channel_values(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scales (float64) and zero points (int32) of the channels, where they are numbers."""
        return self.channel_scales.view(torch.float64), self.channel_zero_points

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return onnx_nodes.local_function("FakeQuantize", self._quantised, x)

    def _quantised(self, x: torch.Tensor) -> torch.Tensor:
        scale, rate = self.scale_for(x)
        if self.axis is not None:
            if portable.wanted():
                zero_point = self.zero_point if self.numbers else (0,) * len(scale)
                return exported_channels.quantise(x, scale, zero_point, self.axis % x.ndim, self.limits[:2])
            rows = torch.zeros_like(scale, dtype=torch.int32)
            zeros = self.channel_values[1] if self.numbers else torch.zeros_like(rows)
            given = self.axis % x.ndim, (self.minimum, self.maximum), rate
            return by_channel(x, scale, zeros, None, None, rows, *given)
        return quantise_and_return(x, scale, self.limits, rate)

    @property
    def scale(self) -> Any:
        """The scale as a number, read on the host, of channels a tuple of them; None where every call has its own or
        none was seen yet.
        """
        if self.kind == "fixed":
            return self.numbers or self._number
        powers = [math.nan] if self.kind == "dynamic" else self.log2_scale.tolist()
        if any(map(math.isnan, powers)):
            return None
        scales = tuple(2.0 ** min(max(round(power), LOWEST), HIGHEST) for power in powers)
        return scales[0] if self.axis is None else scales

    def scale_for(self, x: torch.Tensor) -> tuple[torch.Tensor, float]:
        """The scale for x (0-d, of channels a vector, on its device) and the rate by which its gradient is to be
        multiplied.
        """
        _checked(x)
        if self.axis is not None:
            dimension(x, self.axis, self.channels)
        if self.numbers or self.axis is not None and portable.present(self) is not None:
            numbers = self.numbers or portable.present(self)
            return (portable.constant(numbers, x) if portable.wanted() else self.channel_values[0]), 1.0
        if self.kind == "fixed":
            return torch.full((), self._number, dtype=torch.float64, device=x.device), 1.0
        if (number := portable.present(self)) is not None:
            return torch.full((), number, dtype=torch.float64, device=x.device), 1.0
        if self.kind == "dynamic":
            return power_of_two(self._least_squares(x.detach())), 1.0
        if self.training:
            self._observe(x.detach())
        elif not self._started:
            self._started = not (torch.compiler.is_compiling() or bool(self.log2_scale.isnan().any()))
            if not self._started:
                raise LutcError(
                    f"this {self.kind} scale has seen no batch yet; run one in training mode, load a checkpoint, or "
                    "give a number"
                )
        shape = () if self.axis is None else (-1,)
        scale = power_of_two(self.log2_scale.detach().float().round()).reshape(shape)
        if self.kind == "observed":
            return scale, 1.0
        features = x[0].numel() if x.ndim and x.shape[0] else x.numel()
        if self.axis is not None:
            features = x.numel() if self.axis % x.ndim == 0 else features
            features = features // self.channels
        # A factor of exactly 1 that carries the gradient scale * ln 2 to log2_scale.
        factor = 1.0 + math.log(2.0) * (self.log2_scale - self.log2_scale.detach()).float().reshape(shape)
        return scale * factor, 1.0 / math.sqrt(max(features, 1) * self.maximum)

    @torch.no_grad()
    def _observe(self, x: torch.Tensor) -> None:
        if not x.numel() or self._started and self.kind == "learned":
            return
        power = self._least_squares(x).to(self.log2_scale.dtype).reshape(self.log2_scale.shape)
        later = self.log2_scale if self.kind == "learned" else torch.lerp(self.log2_scale, power, self.momentum)
        self.log2_scale.copy_(torch.where(self.log2_scale.isnan(), power, later))
        self._started = True

    def _least_squares(self, x: torch.Tensor) -> torch.Tensor:
        """The power of least squared error on x, float32, 0-d, or of each channel, (channels,)."""
        if self.axis is not None:
            return least_squares(channel_samples(x, self.axis % x.ndim, _SAMPLE), self.minimum, self.maximum)
        step = (
            2 * (x.numel() // (2 * _SAMPLE)) + 1
        )  # odd, so that it does not meet the same few channels again and again
        sample = x.reshape(-1)[::step]
        return least_squares(sample, self.minimum, self.maximum)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if self.kind in ("learned", "observed") and not self.log2_scale.is_meta:
            self._started = not bool(self.log2_scale.isnan().any())
        if self.numbers and not self.channel_scales.is_meta:
            scales, zeros = self.channel_values
            self.numbers, self.zero_point = tuple(scales.tolist()), tuple(zeros.tolist())

    def get_extra_state(self) -> torch.Tensor:
        """Bits, zero point, the fixed scale (NaN for others, infinite for those of channels, which are buffers) and
        whether codes are signed, float64: a checkpoint carries them.
        """
        number = math.inf if self.numbers else math.nan if self._number is None else self._number
        zero_point = 0 if self.numbers else self.zero_point
        return torch.tensor([self.bits, zero_point, number, self.signed], dtype=torch.float64)

    def set_extra_state(self, state: torch.Tensor) -> None:
        bits, zero_point, number, *signed = state.tolist()
        kinds = {True: "a scale that is no number", False: "a fixed scale"}
        given = "scales of channels" if math.isinf(number) else kinds[math.isnan(number)]
        own = "scales of channels" if self.numbers else kinds[self._number is None]
        if (bits, given, signed or [True]) != (self.bits, own, [self.signed]):
            codes = "" if all(signed) else " unsigned"
            raise LutcError(
                f"the checkpoint's FakeQuantize has {bits:g}{codes} bits and {given}; this one is "
                f"'{self.extra_repr()}': make it alike"
            )
        if not self.numbers:
            self.zero_point, self._number = int(zero_point), None if math.isnan(number) else number

    def extra_repr(self) -> str:
        scale = self.kind if self._number is None else f"scale={self._number:g}"
        zero_point = f", zero_point={self.zero_point}"
        if self.axis is not None:
            kind = "" if self.numbers else f"{self.kind} "
            scale, zero_point = f"{kind}scales of {self.channels or 'all'} channels, axis={self.axis}", ""
        return f"{scale}, bits={self.bits}{zero_point}{'' if self.signed else ', signed=False'}"


def _checked(x: torch.Tensor) -> torch.Tensor:
    if not (isinstance(x, torch.Tensor) and x.dtype in DTYPES and x.layout == torch.strided):
        raise LutcError(f"FakeQuantize takes float tensors, dense and of 16, 32 or 64 bits; given {described(x)}")
    return x


class QuantActivation(Unscripted):
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
        of float32 and 16 bits, with one scale. `torch.func` may want more derivatives than slopes give.
        """
        elementwise = self.quantise.axis is None and (isinstance(self.function, str) or type(self.function) is LUT)
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


def as_quantiser(source: Any, axis: int = -1, signed: bool = True) -> FakeQuantize:
    """A FakeQuantize itself, or a new one from its scale: a kind, a number, `lutc.formats.Inputs`, or a list of these,
    one for every channel of `axis`. signed: False counts the codes of `Inputs` from 0 on.
    """
    if isinstance(source, Inputs):
        moved = 0 if signed else -source.minimum
        return FakeQuantize(source.scale, bits=source.bits, zero_point=source.zero_point + moved, signed=signed)
    if isinstance(source, Sequence) and source and all(isinstance(inputs, Inputs) for inputs in source):
        if len({inputs.bits for inputs in source}) > 1:
            raise LutcError(f"channels have one width; given {', '.join(str(inputs.bits) for inputs in source):.60}")
        moved = 0 if signed else -source[0].minimum
        zeros = [inputs.zero_point + moved for inputs in source]
        scales, bits = [inputs.scale for inputs in source], source[0].bits
        return FakeQuantize(scales, bits=bits, zero_point=zeros, axis=axis, signed=signed)
    return source if isinstance(source, FakeQuantize) else FakeQuantize(source, signed=signed)


def positive_number(name: str, value: Any, otherwise: str = "", if_several: str = "") -> float:
    """One positive finite number from a number or a tensor with one element, read on the host; else LutcError, which
    says `otherwise` what is allowed, and `if_several` numbers are given what to do.
    """
    if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_complex():
        value = value.detach().item()
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not (math.isfinite(value) and value > 0):
        given = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
        if isinstance(value, (torch.Tensor, Sequence)) and not isinstance(value, str):
            given += if_several
        raise LutcError(f"{name} is one positive finite number{otherwise and f', {otherwise}'}; given {given}")
    if not LEAST <= value <= MOST:  # float32 arithmetic would make 0 or infinity of it
        raise LutcError(f"{name} lies between 2^-64 and 2^64; given {value!r:.40}")
    return float(value)
