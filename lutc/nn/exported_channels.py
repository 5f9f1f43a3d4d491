"""What modules with a scale for every channel trace to under an export (`lutc.nn.portable`): a Gather from the answers
to all codes of all channels, for ONNX between QuantizeLinear with an axis and DequantizeLinear where they take floats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lutc.errors import LutcError
from lutc.nn import onnx_nodes, portable
from lutc.nn.channel_plain import along
from lutc.nn.nearest import wide_dtype
from lutc.nn.power_ops import power_of_two
from lutc.nn.responses import answers
from lutc.table.integer import evaluate


def quantise(
    x: torch.Tensor, scales: torch.Tensor, zeros: Sequence[int], axis: int, ends: tuple[int, int]
) -> torch.Tensor:
    """scale * (code of x less the zero point), in the dtype of x."""
    if onnx_nodes.exporting() and x.dtype != torch.float64:
        dtype = torch.int8 if ends[0] < 0 else torch.uint8
        codes = onnx_nodes.nearest_codes(x.float(), scales, (*ends, list(zeros)), dtype, axis)
        return torch.where(x.isnan(), x, onnx_nodes.real_values_of(codes, scales, list(zeros), axis).to(x.dtype))
    scale = along(scales, x, axis).to(wide_dtype(x))
    code = _code(torch.where(x.isnan(), 0.0, x), scale, zeros, axis, ends)
    return torch.where(x.isnan(), x, (code * scale).to(x.dtype))


def look_up(module: Any, x: torch.Tensor, axis: int, scale: Any) -> torch.Tensor:
    """Codes or floats through a QuantLUT; scale: what the call gave, or None."""
    codes, ends, count = not x.is_floating_point(), (module.minimum, module.maximum), x.shape[axis]
    zeros = module.zero_point if isinstance(module.zero_point, tuple) else (module.zero_point,) * count
    numbers = _numbers(module, codes) if scale is None else None if isinstance(scale, torch.Tensor) else tuple(scale)
    if numbers is not None:
        scales = portable.constant(numbers, x, torch.float64)
        outputs, values, rows = _constants(module, numbers, zeros, x)
    else:
        scales = _scales_of(module, x, codes) if scale is None else scale.detach().to(x.device)
        sides = [portable.constant(side, x) for side in module.sides().values()]
        given = scales.to(torch.float64), portable.constant(zeros, x, torch.float64)
        _, _, outputs, values, _ = answers(sides, module.coding, *given, portable.requantised)
        rows = np.arange(count)
    size = module.maximum - module.minimum + 1
    first = along(portable.constant(rows * size, x, torch.int64), x, axis)
    if codes:
        place = x.to(torch.int64) - module.minimum
        place = place if module.bits == 8 * x.itemsize else place.clamp(0, size - 1)
        return onnx_nodes.gathered(outputs.reshape(-1), place + first)
    if not onnx_nodes.exporting() or module.bits > 8 or x.dtype == torch.float64:
        code = _code(torch.where(x.isnan(), 0.0, x), along(scales, x, axis).to(wide_dtype(x)), zeros, axis, ends)
        lowest = along(portable.constant([ends[0] - zero for zero in zeros], x, torch.int64), x, axis)
        place = code.to(torch.int64) - lowest + first
        y = onnx_nodes.gathered(values.to(wide_dtype(x)).reshape(-1), place)
        return torch.where(x.isnan(), x, y.to(x.dtype))
    code = onnx_nodes.nearest_codes(x.float(), scales, (*ends, list(zeros)), module.dtype, axis)
    y = onnx_nodes.gathered(outputs.reshape(-1), code.to(torch.int64) - module.minimum + first)
    if module.out is not None:
        out_scale = portable.constant(module.out.scale, x, torch.float32)
        y = onnx_nodes.real_values_of(y, out_scale, module.out.zero_point + module.zero_point_offset)
    return torch.where(x.isnan(), x, y.to(x.dtype))


def _code(x: torch.Tensor, scale: torch.Tensor, zeros: Sequence[int], axis: int, ends: tuple[int, int]) -> torch.Tensor:
    """Codes of x, none of it NaN, less the zero points."""
    low, high = (along(portable.constant([end - z for z in zeros], x, scale.dtype), x, axis) for end in ends)
    return torch.minimum(torch.maximum(torch.round(x.to(scale.dtype) / scale), low), high)


def _numbers(module: Any, codes: bool) -> tuple[float, ...] | None:
    """The scales where they are known on the host."""
    if module._fixed_scales:
        return module._fixed_scales
    quantiser = module.quantise
    found = portable.present(module if quantiser is None else quantiser)
    if codes and found is None and quantiser is not None and quantiser.kind == "dynamic":
        raise LutcError("dynamic scales are those of floats; give floats, or codes and scales: forward(codes, scales)")
    return found


def _scales_of(module: Any, x: torch.Tensor, codes: bool) -> torch.Tensor:
    if module.quantise is None:
        if module.scale is None:
            raise LutcError("this QuantLUT has no scales of its own; give them with every call: forward(x, scales)")
        return module.scale.detach()
    if codes:
        return power_of_two(module.quantise.log2_scale.detach().float().round())
    return module.quantise.scale_for(x)[0]


def _constants(
    module: Any, scales: Sequence[float], zeros: Sequence[int], like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Outputs of all codes, ascending, and their real values (float64), a row for every scale and zero point that occur
    together, and the row of each channel.
    """
    pairs, out = list(zip(scales, zeros, strict=True)), module.out
    places = {pair: place for place, pair in enumerate(dict.fromkeys(pairs))}
    found = []
    for scale, zero in places:
        inputs = module.inputs(scale, zero)
        found.append(evaluate(module.tables[module.tables.key_for_scale(scale)], inputs.codes(), inputs, out))
    answer, rows = np.stack(found), np.array([places[pair] for pair in pairs])
    if out is None:
        return portable.constant(answer, like, torch.float32), portable.constant(answer, like), rows
    values = (answer - out.zero_point).astype(np.float32) * np.float32(out.scale)
    outputs = portable.constant(answer + module.zero_point_offset, like, module.dtype)
    return outputs, portable.constant(values, like, torch.float64), rows
