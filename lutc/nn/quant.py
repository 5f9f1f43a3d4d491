"""A table over quantised inputs: integer codes in, integer codes or real values out, by the integer rule of
`lutc.table.integer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from lutc.errors import LutcError
from lutc.formats.codes import Inputs, Outputs, check_rounding
from lutc.formats.requantise import requantiser
from lutc.nn import code_ops, exported_quant, onnx_nodes, portable, quant_channels, transforms
from lutc.nn.channels import check_axis, check_signed, check_zero_points, given_channels, whole
from lutc.nn.fake_quant import AXIS, KINDS, FakeQuantize, positive_number
from lutc.nn.lowered import DTYPES
from lutc.nn.nearest import described
from lutc.nn.power_ops import HIGHEST, LOWEST, power_rows
from lutc.nn.refilled import Refilled
from lutc.nn.responses import SIDES, Coding, answers, responses, side_by_side
from lutc.nn.scale_tables import forget, outputs_at, values_at
from lutc.nn.straight_through import look_up
from lutc.nn.traced import is_traced, leaf
from lutc.table.integer import integer_lines
from lutc.table.library import TableSource, as_table_set
from lutc.table.table_set import loads

_DTYPES = {8: torch.int8, 16: torch.int16}


class QuantLUT(Refilled):
    """Integer-only evaluation of a table over codes q, x = scale * (q - zero_point).

    table: name, path or TableSet with fixed-point lines; the table of the scale nearest to `scale` is used, as GQA-LUT
    does, with a ScaleWarning where it is of another, or an error where `strict`. scale: any positive number (powers
    of two are applied by shifts, others by an int32 multiplier and a shift); "learned", "observed" or "dynamic", or
    a `FakeQuantize`, which becomes the submodule `quantise`; an nn.Parameter with one element, which is learned as
    it is (LSQ, arXiv:1902.08153); or None: then every call gives it. out_scale: with it the output is codes, x_out
    = out_scale * (code - out_zero_point); without it float32 values acc * scale * 2**-F. bits: width of the codes,
    2 to 16; the dtype is int8 up to 8 bits, else int16. rounding: of halves between output codes, one of
    `lutc.formats.ROUNDINGS`; None is what the table's file says of its output, else `half_up`. signed: False takes and
    gives torch.uint8 codes of up to 8 bits, from 0 on, with zero points among them. Tensors of torch.qint8 and
    torch.quint8 are refused: give their `int_repr()`. axis: a scale for every index of this dimension of the input
    and one zero point or a vector of them; outputs are codes of one scale. `scale` is then a vector of numbers or a
    Parameter of so many, a kind or a FakeQuantize with an axis, or None. Derivatives, and values of float64 inputs, are
    float32 ones with numbers. channels: how many, for kinds that need to know (`FakeQuantize`).

    forward(x, scale=None), scale one number or tensor, with an axis one for each channel: codes in give codes (or
    float32) out. Floats in are quantised (half to even, clamped), evaluated by the same integers and given back as real
    values in their own dtype, with straight-through gradients: the derivative of the exact function (that of the table
    for functions that are not in the registry); outside the codes the gradient of x is 0. NaN stays NaN.

    Since codes are few, the integer arithmetic of all of them is done at once, for a fixed scale and for all powers of
    two of a quantiser when the module is made, else in every call, and a call looks its codes up. A scale that is a
    tensor is read on the host for checking, but not for floats on a GPU or in a compiled graph: what is LutcError
    otherwise (a scale that is no positive number, an accumulator beyond int32) gives NaN there.
    """

    def __init__(
        self,
        table: TableSource,
        scale: Any = None,
        zero_point: int = 0,
        out_scale: float | None = None,
        out_zero_point: int = 0,
        *,
        bits: int = 8,
        strict: bool = False,
        rounding: str | None = None,
        signed: bool = True,
        axis: int | None = None,
        channels: int | None = None,
    ):
        super().__init__()
        check_signed(signed)
        zero_point, out_zero_point = whole(zero_point), whole(out_zero_point)
        self.tables = as_table_set(table)
        if not self.tables.inputs:
            raise LutcError(
                f"QuantLUT takes tables over codes; '{self.tables.name}' holds float tables ({', '.join(self.tables)})"
            )
        kind = isinstance(scale, str) and scale in KINDS
        self.quantise = scale if isinstance(scale, FakeQuantize) else None
        if kind:
            self.quantise = FakeQuantize(
                scale, bits=bits, zero_point=zero_point, axis=axis, channels=channels, signed=signed
            )
        if self.quantise is not None:
            given = (bits, zero_point, signed, axis)
            own = (self.quantise.bits, self.quantise.zero_point, self.quantise.signed, self.quantise.axis)
            if any(g != default and g != o for g, o, default in zip(given, own, (8, 0, True, None), strict=True)):
                raise LutcError(
                    f"bits, zero_point, signed and axis are those of the FakeQuantize, {self.quantise.extra_repr()}; "
                    f"given {', '.join(map(str, given))}"
                )
            (bits, zero_point, signed, axis), scale, channels = own, None, self.quantise.channels
        elif axis is not None:
            scale, zero_point, channels = given_channels(scale, zero_point, axis, channels)
        else:
            check_axis(axis, channels)
        if self.quantise is None and axis is None and not (isinstance(scale, torch.nn.Parameter) or scale is None):
            scale = positive_number("scale", scale, f"or {', '.join(KINDS)}", AXIS)
        offset = 0 if signed else self._unsigned(bits, out_zero_point)
        self.bits, self.scale, self._zero_point, self._offset = bits, scale, zero_point, offset
        self.axis, self.channels = axis, channels
        scales = self._fixed_scales or ((scale,) if isinstance(scale, float) else ())
        for number in {self.tables.key_for_scale(number): number for number in scales}.values():
            self.tables.chosen_key(number, strict)  # says so where there is no table of that scale, of each key once
        if isinstance(out_zero_point, bool) or not isinstance(out_zero_point, int):
            raise LutcError(f"`out_zero_point` is a whole number; given {out_zero_point!r:.40}")
        if rounding is not None and out_scale is None:
            raise LutcError("`rounding` is of output codes; give `out_scale` too, or leave it out")
        rounding = self.tables.rounding if rounding is None else check_rounding(rounding)
        self.out = (
            None
            if out_scale is None
            else Outputs(bits, positive_number("out_scale", out_scale), out_zero_point - offset, rounding)
        )
        self.dtype = _DTYPES[8 if bits <= 8 else 16] if signed else torch.uint8
        limits = Inputs(bits)  # refuses bits that are out of range
        self.minimum, self.maximum = limits.minimum + offset, limits.maximum + offset
        check_zero_points(zero_point, bits, self.minimum)
        if self.quantise is not None and axis is not None:
            self.register_load_state_dict_post_hook(_made_again)
        self._hold()

    @staticmethod
    def _unsigned(bits: int, out_zero_point: int) -> int:
        """What is taken from unsigned codes, so that the integer rule sees signed ones; LutcError where it cannot."""
        if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 8:
            raise LutcError(f"unsigned codes (`signed`=False) have 2 to 8 bits; given {bits!r}")
        check_zero_points(out_zero_point, bits, 0)
        return 1 << (bits - 1)

    @property
    def _fixed_scales(self) -> tuple[float, ...]:
        """Of the channels, where there are some and their scales are numbers."""
        if self.quantise is None:
            return self.scale if isinstance(self.scale, tuple) else ()
        return self.quantise.numbers

    @property
    def zero_point(self) -> Any:
        """Of all codes, or with an axis a tuple of one for each channel."""
        return self._zero_point if self.quantise is None else self.quantise.zero_point

    @property
    def limits(self) -> tuple[int, int, int]:
        """Smallest code, largest code, zero point."""
        return self.minimum, self.maximum, self.zero_point

    def inputs(self, scale: float, zero_point: int | None = None) -> Inputs:
        """The codes at `scale` as the integer rule sees them: signed."""
        return Inputs(self.bits, scale, (self.zero_point if zero_point is None else zero_point) - self._offset)

    def _hold(self) -> None:
        """The tables of all keys side by side, and with a fixed scale the responses: bit patterns, for .half() must not
        round them.
        """
        self._fill(next((buffer.device for buffer in self.buffers()), torch.device("cpu")))

    @property
    def zero_point_offset(self) -> int:
        """What unsigned codes have more than those that the integer rule sees."""
        return self._offset

    def sides(self) -> dict[str, np.ndarray]:
        """Numbers of the tables of all keys, as `answers` takes them."""
        return side_by_side(self.tables)

    def _lost(self) -> bool:
        return True  # no telling but by making them

    def _fill(self, device: torch.device) -> None:
        forget(self)
        for name, values in self.sides().items():
            self.register_buffer(f"key_{name}", torch.from_numpy(values).view(torch.int64).to(device), persistent=False)
        if self._fixed_scales:
            for scale, zero in dict.fromkeys(zip(self._fixed_scales, self.zero_point, strict=True)):
                self._checked(scale, device, zero)
            for name, buffer in quant_channels.buffers_of(self, self._fixed_scales, self.zero_point, device).items():
                self.register_buffer(name, buffer, persistent=False)
            return
        if self.quantise is not None and self.quantise.kind != "fixed":
            powers = 2.0 ** torch.arange(LOWEST, HIGHEST + 1, dtype=torch.float64, device=device)
            _, values, slopes, _ = self._responses(powers)
            self.register_buffer("power_values", values.view(torch.int64), persistent=False)
            self.register_buffer("power_slopes", slopes.view(torch.int64), persistent=False)
        # Last, for torch.export miscounts buffers behind those that are None.
        lines = None
        if isinstance(self.scale, float):
            table = self.tables[self.tables.key_for_scale(self.scale)]
            lines = code_ops.lines_over(integer_lines(table, self.inputs(self.scale)), self.out, device)
        self.register_buffer("all_lines", lines, persistent=False)
        number = self._checked(self.scale, device) if isinstance(self.scale, float) else None
        outputs, *rest = (None, None, None) if number is None else self._of_one(number)
        if outputs is not None:  # in the order of the codes' bits, as they are looked up
            outputs = code_ops.by_bits(outputs, self.minimum, self.dtype)
        for name, values in zip(("outputs", "values", "slopes"), (outputs, *rest), strict=True):
            bits = (
                {torch.float64: torch.int64, torch.float32: torch.int32}.get(values.dtype, values.dtype)
                if values is not None
                else None
            )
            self.register_buffer(f"all_{name}", values if values is None else values.view(bits), persistent=False)

    def _at_power(self, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Values and slopes, as `_responses` has them, of a scale that the quantiser gave: a power of two, or NaN."""
        row = power_rows(scale.reshape(1))
        sides = self.power_values.view(torch.float64), self.power_slopes.view(torch.float64)
        return sides[0].index_select(0, row)[0], sides[1].index_select(0, row)[0]

    def _checked(self, number: float, device, zero_point: int | None = None) -> torch.Tensor:
        """The scale as a tensor (float64, 0-d); LutcError where the integers could leave int32 or the output scale is
        out of reach.
        """
        table = self.tables[self.tables.key_for_scale(number)]
        unit = integer_lines(table, self.inputs(number, zero_point)).unit
        if self.out is not None:
            requantiser(unit / self.out.scale)
        return torch.full((), number, dtype=torch.float64, device=device)

    def _responses(self, scales: torch.Tensor, zeros: Any = None) -> tuple[torch.Tensor, ...]:
        """`responses` of the module at scales (float64, (n,)), and zero points, its own unless given."""
        keys = [self.get_buffer(f"key_{name}").view(torch.float64) for name in SIDES]
        zeros = self.zero_point if zeros is None else zeros
        return responses(keys, self.tables.function, self.coding, scales, zeros)

    @property
    def coding(self) -> Coding:
        """Codes as the module takes and gives them."""
        return Coding(self.minimum, self.maximum, self.dtype, self._offset, self.out)

    def answers(
        self, scale: torch.Tensor, zero_point: int, sides: Sequence[torch.Tensor], requantised: Callable
    ) -> tuple[torch.Tensor, ...]:
        """Of all codes, ascending, at `scale` (float64, 0-d): x, slope of the segment, output and real value, as
        `lutc.nn.responses.answers` has them. sides: those of `sides`; requantised: as there.
        """
        found = answers(sides, self.coding, scale.reshape(1), zero_point, requantised)
        return tuple(side[0] for side in found[:4])

    def _of_one(self, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Outputs, values and derivatives at one scale (0-d)."""
        outputs, values, slopes, _ = self._responses(scale.detach().to(torch.float64).reshape(1))
        return outputs[0], values[0], slopes[0]

    def forward(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        if is_traced(x):
            return leaf(self, x) if scale is None else leaf(self, x, scale)
        dense = isinstance(x, torch.Tensor) and x.layout == torch.strided
        codes = dense and x.dtype == self.dtype
        if not codes and not (dense and x.dtype in DTYPES):
            given = described(x)
            if isinstance(x, torch.Tensor) and x.is_quantized:
                given += ": give its codes, x.int_repr(), to a module of its q_scale() and q_zero_point()"
            raise LutcError(f"QuantLUT with {self.bits} bits takes {self.dtype} codes or floats; given {given}")
        if portable.wanted():
            given = (x, scale) if isinstance(scale, torch.Tensor) else (x,)
            compute = partial(exported_quant.look_up, self, codes=codes)
            compute = compute if self.axis is None else partial(quant_channels.look_up, self)
            compute = compute if len(given) == 2 else partial(compute, scale=scale)
            return onnx_nodes.local_function("QuantLUT", compute, *given)
        if self.axis is not None:
            if codes:
                self._check_width(x)
            return quant_channels.look_up(self, x, scale)
        if codes and scale is None and isinstance(self.scale, float):
            self._check_width(x)
            return torch.ops.lutc.codes(x, self._of_fixed(self.all_outputs), self.all_lines)
        own = scale is None and not codes and self.quantise is not None and self.quantise.kind != "fixed"
        scale, rate, fixed = self._scale_for(x, scale, codes)
        if codes:
            self._check_width(x)
            outputs = self._of_fixed(self.all_outputs) if fixed else outputs_at(self, *self._as_rows(scale))[0][0]
            return torch.ops.lutc.codes(x, outputs)
        if own:
            values, slopes = self._at_power(scale)
        elif fixed:
            values, slopes = self.all_values.view(torch.float64), self.all_slopes.view(torch.float64)
        else:
            needed = torch.is_grad_enabled() and (x.requires_grad or scale.requires_grad)
            made = values_at(self, *self._as_rows(scale), x.dtype, needed)[:2]
            values, slopes = (None if side is None else side[0] for side in made)
        return look_up(x, scale, values, slopes, self.limits, rate)

    def _of_fixed(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs.view(torch.float32) if self.out is None else outputs

    def _as_rows(self, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One scale, and the zero point, as vectors of one."""
        exact = scale.detach().to(torch.float64).reshape(1)
        return exact, torch.full((1,), self.zero_point, dtype=torch.int32, device=exact.device)

    def _check_width(self, codes: torch.Tensor) -> None:
        """Codes beyond the width, which only a wider dtype holds, are an error; in a compiled graph, and where telling
        would mean to wait for a GPU, they saturate.
        """
        if self.bits == 8 * codes.itemsize:
            return
        if codes.device.type == "cpu" and codes.numel() and not torch.compiler.is_compiling():
            least, most = map(int, codes.aminmax())
            if least < self.minimum or most > self.maximum:
                raise LutcError(
                    f"codes of {self.bits} bits are {self.minimum} to {self.maximum}; given {least} to {most}"
                )

    def _scale_for(self, x: torch.Tensor, scale, codes: bool) -> tuple[torch.Tensor, float, bool]:
        """(scale as a 0-d tensor on the device of x, rate of its gradient, whether it is the fixed one)."""
        if scale is None and self.quantise is not None and not codes:
            return *self.quantise.scale_for(x), False
        if scale is None:
            scale = self.scale if self.quantise is None else self.quantise.scale
        if scale is None:
            raise LutcError("this QuantLUT has no scale of its own; give one with every call: forward(x, scale)")
        fixed = scale is self.scale and isinstance(scale, float)
        if fixed:
            return torch.full((), scale, dtype=torch.float64, device=x.device), 1.0, True
        host = (
            not isinstance(scale, torch.Tensor)
            or scale.numel() != 1
            or codes
            or not (x.is_cuda or torch.compiler.is_compiling() or transforms.is_batched(scale))
        )
        checked = self._checked(positive_number("scale", scale), x.device) if host else None
        return scale.reshape(()).to(x.device) if isinstance(scale, torch.Tensor) else checked, 1.0, False

    def get_extra_state(self) -> torch.Tensor:
        """The table file's bytes, so that a checkpoint carries the table."""
        return torch.frombuffer(bytearray(self.tables.dumps().encode()), dtype=torch.uint8)

    def set_extra_state(self, state: torch.Tensor) -> None:
        self.tables = loads(bytes(state.cpu().tolist()).decode())
        self._hold()

    def extra_repr(self) -> str:
        if self.quantise is not None:
            scale = "of quantise"
        elif self.axis is not None:
            kind = {None: "given", True: "learned", False: "those"}
            said = kind[None if self.scale is None else isinstance(self.scale, torch.Tensor)]
            scale = f"{said} of {self.channels or 'all'} channels, axis={self.axis}"
        else:
            scale = "learned" if isinstance(self.scale, torch.Tensor) else self.scale
        kind = "" if self.dtype.is_signed else ", signed=False"
        zero_point = "" if self.axis is not None else f", zero_point={self.zero_point}"
        said = f"'{self.tables.name}', scale={scale}{zero_point}, out={self.out}, bits={self.bits}"
        return said + kind


def _made_again(module: QuantLUT, _) -> None:
    """After a checkpoint, which may bring other scales of channels."""
    module._hold()
