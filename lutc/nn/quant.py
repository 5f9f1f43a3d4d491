"""A table over quantised inputs: integer codes in, integer codes or real values out, by the integer rule of `lutc.integer`."""

from __future__ import annotations

import math
import numbers

import torch

from lutc.coverage import as_table_set
from lutc.errors import LutcError
from lutc.integer import integer_lines, requantiser
from lutc.nn import exact
from lutc.nn.integer_lines import TorchIntegerLines, requantise
from lutc.samples import Inputs

_DTYPES = {8: torch.int8, 16: torch.int16}


class QuantLUT(torch.nn.Module):
    """Integer-only evaluation of a table over codes q, x = scale * (q - zero_point).

    table: name, path or TableSet with fixed-point lines; the table of the scale nearest to `scale` is used, as GQA-LUT does.
    scale: any positive number (powers of two are applied by shifts, others by an int32 multiplier and a shift), or an nn.Parameter with one
    element, which is learned (LSQ, arXiv:1902.08153), or None: then every call gives it.
    out_scale: with it the output is codes, x_out = out_scale * (code - out_zero_point); without it float32 values acc * scale * 2**-F.
    bits: width of the codes, 2 to 16; the dtype is int8 up to 8 bits, else int16.

    forward(x, scale=None): codes in give codes (or float32) out. Floats in are quantised (half to even, clamped), evaluated by the same
    integers and given back as real values in their own dtype, with straight-through gradients: the derivative of the exact function
    (that of the table for functions that are not in the registry); outside the codes the gradient of x is 0. NaN stays NaN.
    Since codes are few, the integer arithmetic of all of them is done once per scale; a call looks its codes up. A scale given as a tensor is read
    on the host at every call.
    """

    def __init__(self, table, scale=None, zero_point: int = 0, out_scale: float | None = None, out_zero_point: int = 0, *, bits: int = 8):
        super().__init__()
        self.tables = as_table_set(table)
        if not self.tables.inputs:
            raise LutcError(f"QuantLUT takes tables over codes; '{self.tables.name}' holds float tables ({', '.join(self.tables)})")
        self.bits, self.zero_point = bits, zero_point
        self.out = None if out_scale is None else Inputs(bits, _number("out_scale", out_scale), out_zero_point)
        self.dtype = _DTYPES[8 if bits <= 8 else 16]
        limits = Inputs(bits, 1.0, zero_point)  # refuses bits and zero points that are out of range
        self.minimum, self.maximum = limits.minimum, limits.maximum
        self.scale = scale if isinstance(scale, torch.nn.Parameter) or scale is None else _number("scale", scale)
        self._last: tuple | None = None
        self._hold()

    def inputs(self, scale: float) -> Inputs:
        return Inputs(self.bits, scale, self.zero_point)

    def _hold(self) -> None:
        """With a fixed scale the responses are buffers: bit patterns, for .half() must not round them."""
        fixed = isinstance(self.scale, float)
        device = next((buffer.device for buffer in self.buffers()), torch.device("cpu"))
        responses = [r.view(torch.int32) if r.is_floating_point() else r for r in self._responses(self.scale, device)] if fixed else (None, None)
        for name, buffer in zip(("outputs", "slopes"), responses, strict=True):
            self.register_buffer(name, buffer, persistent=False)

    def _responses(self, scale: float, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """For all codes, ascending: outputs (codes of `self.dtype` with an output scale, else float32) and the table's slopes (float32)."""
        inputs = self.inputs(scale)
        lines = TorchIntegerLines(integer_lines(self.tables[self.tables.key_for_scale(scale)], inputs)).to(device)
        centred = torch.arange(inputs.minimum, inputs.maximum + 1, dtype=torch.int32, device=device) - inputs.zero_point
        acc = lines.accumulate(centred)
        if self.out is None:
            outputs = (acc.to(torch.float64) * lines.unit).to(torch.float32)
        else:
            codes = requantise(acc, *requantiser(lines.unit / self.out.scale)) + self.out.zero_point
            outputs = codes.clamp(self.out.minimum, self.out.maximum).to(self.dtype)
        slopes = lines.slopes[lines.segment(centred)] * (lines.unit / scale)
        return outputs, slopes.to(torch.float32)

    def _responses_at(self, scale, number: float, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Those of the fixed scale, or of a scale that came with the call or was learned: kept until another one comes."""
        if scale is self.scale and self.outputs is not None:
            outputs = self.outputs if self.out is not None else self.outputs.view(torch.float32)
            return outputs, self.slopes.view(torch.float32)
        if self._last is None or self._last[0] != (number, device):
            self._last = ((number, device), self._responses(number, device))
        return self._last[1]

    def forward(self, x: torch.Tensor, scale=None) -> torch.Tensor:
        scale = self.scale if scale is None else scale
        if scale is None:
            raise LutcError("this QuantLUT has no scale of its own; give one with every call: forward(x, scale)")
        number = _number("scale", scale)
        if x.dtype == self.dtype:
            return self._responses_at(scale, number, x.device)[0][x.to(torch.int32) - self.minimum]
        if not x.is_floating_point():
            raise LutcError(f"QuantLUT with {self.bits} bits takes {self.dtype} codes or floats; given a tensor of {x.dtype}")
        return self._fake_quantised(x, scale, number)

    def _fake_quantised(self, x: torch.Tensor, scale, number: float) -> torch.Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        codes = (torch.round(wide.detach() / number) + self.zero_point).clamp(self.minimum, self.maximum)
        codes = torch.where(codes.isnan(), self.zero_point, codes).to(torch.int32)
        outputs, slopes = self._responses_at(scale, number, x.device)
        values = outputs[codes - self.minimum]
        if self.out is not None:
            values = (values.to(torch.float64) - self.out.zero_point) * self.out.scale
        values = torch.where(x.isnan(), torch.nan, values.to(wide.dtype))
        learned = isinstance(scale, torch.Tensor) and scale.requires_grad
        if torch.is_grad_enabled() and (x.requires_grad or learned):
            centred = codes - self.zero_point
            slope = slopes[codes - self.minimum].to(wide.dtype)
            if exact.known(self.tables.function):
                slope = exact.derivative(self.tables.function, (centred * number).to(wide.dtype))
            values = values + self._straight_through(wide, scale.to(x.device) if learned else None, number, centred, values, slope)
        return values.to(x.dtype)

    def _straight_through(self, x, scale, number: float, centred, values, slope) -> torch.Tensor:
        """A zero that carries the gradients: of x within the codes, of the scale by eq. 3 of arXiv:1902.08153, both times `slope`."""
        steps = x.detach() / number
        inside = (steps + self.zero_point >= self.minimum - 0.5) & (steps + self.zero_point <= self.maximum + 0.5)
        if self.out is not None:
            # Saturated output codes do not move with the input.
            lowest, highest = ((limit - self.out.zero_point) * self.out.scale for limit in (self.out.minimum, self.out.maximum))
            slope = torch.where((values.detach() <= lowest) | (values.detach() >= highest), 0.0, slope)
        quantised = torch.where(inside, x, 0.0)
        if scale is not None:
            rate = torch.where(inside, centred - steps, centred.to(x.dtype))
            quantised = quantised + torch.where(x.isnan(), 0.0, rate) * (scale - scale.detach()).to(x.dtype)
        return (quantised - quantised.detach()) * slope

    def get_extra_state(self) -> torch.Tensor:
        """The table file's bytes, so that a checkpoint carries the table."""
        return torch.frombuffer(bytearray(self.tables.dumps().encode()), dtype=torch.uint8)

    def set_extra_state(self, state: torch.Tensor) -> None:
        from lutc.tablefile import loads

        self.tables = loads(bytes(state.cpu().tolist()).decode())
        self._last = None
        self._hold()

    def extra_repr(self) -> str:
        scale = "learned" if isinstance(self.scale, torch.Tensor) else self.scale
        return f"'{self.tables.name}', scale={scale}, zero_point={self.zero_point}, out={self.out}, bits={self.bits}"


def _number(name: str, value) -> float:
    """One positive finite number from a number or a tensor with one element."""
    if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_complex():
        value = value.detach().item()
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not (math.isfinite(value) and value > 0):
        given = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
        raise LutcError(f"{name} is one positive finite number; given {given}")
    return float(value)
