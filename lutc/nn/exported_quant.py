"""What a `QuantLUT` traces to under an export (`lutc.nn.portable`): a Gather from its answers to all codes, for ONNX
between QuantizeLinear and DequantizeLinear where it takes floats.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from lutc.errors import LutcError
from lutc.nn import onnx_nodes, portable
from lutc.nn.nearest import nearest_code, wide_dtype
from lutc.nn.power_ops import power_of_two
from lutc.table.integer import evaluate


def look_up(module: Any, x: torch.Tensor, scale: Any, *, codes: bool) -> torch.Tensor:
    """Codes or floats through a QuantLUT; scale: what the call gave, or None."""
    number = _number(module, codes) if scale is None else scale if isinstance(scale, (int, float)) else None
    if number is not None:
        outputs, values = _constants(module, float(number), x)
        scale = portable.constant(float(number), x, torch.float64)
    else:
        scale = _scale_of(module, x, codes) if scale is None else scale.detach().reshape(()).to(x.device)
        outputs, values = _traced(module, scale.to(torch.float64))
    if codes:
        place = x.to(torch.int64) - module.minimum
        place = place if module.bits == 8 * x.itemsize else place.clamp(0, module.maximum - module.minimum)
        return onnx_nodes.gathered(outputs, place)
    if not onnx_nodes.exporting() or module.bits > 8 or x.dtype == torch.float64:
        return _through_floats(module, x, scale, values)
    place = onnx_nodes.nearest_codes(x.float(), scale, module.limits, module.dtype).to(torch.int64) - module.minimum
    y = onnx_nodes.gathered(outputs, place)
    if module.out is not None:
        out_scale = portable.constant(module.out.scale, x, torch.float32)
        y = onnx_nodes.real_values_of(y, out_scale, module.out.zero_point + module.zero_point_offset)
    return torch.where(x.isnan(), x, y.to(x.dtype))


def _number(module: Any, codes: bool) -> float | None:
    """The scale where it is known on the host."""
    if isinstance(module.scale, float):
        return module.scale
    quantise = module.quantise
    number = portable.present(module if quantise is None else quantise)
    if quantise is not None and quantise.kind == "fixed":
        return quantise.scale
    if codes and number is None and quantise is not None and quantise.kind == "dynamic":
        raise LutcError("a dynamic scale is that of floats; give floats, or codes and a scale: forward(codes, scale)")
    return number


def _scale_of(module: Any, x: torch.Tensor, codes: bool) -> torch.Tensor:
    if module.quantise is None:
        if module.scale is None:
            raise LutcError("this QuantLUT has no scale of its own; give one with every call: forward(x, scale)")
        return module.scale.detach().reshape(())
    if codes:
        return power_of_two(module.quantise.log2_scale.detach().float().round()).reshape(())
    return module.quantise.scale_for(x)[0]


def _constants(module: Any, scale: float, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs of all codes, ascending, and their real values (float64), as constants."""
    inputs, out = module.inputs(scale), module.out
    answer = evaluate(module.tables[module.tables.key_for_scale(scale)], inputs.codes(), inputs, out)
    if out is None:
        return portable.constant(answer, like, torch.float32), portable.constant(answer, like)
    values = (answer - out.zero_point).astype(np.float32) * np.float32(out.scale)
    outputs = portable.constant(answer + module.zero_point_offset, like, module.dtype)
    return outputs, portable.constant(values, like, torch.float64)


def _traced(module: Any, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of a scale that is a tensor, by the integer rule in the graph."""
    sides = [portable.constant(side, scale) for side in module.sides().values()]
    _, _, outputs, values = module.answers(scale, module.zero_point, sides, portable.requantised)
    return outputs, values


def _through_floats(module: Any, x: torch.Tensor, scale: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    lowest, _, zero_point = module.limits
    code = nearest_code(torch.where(x.isnan(), 0.0, x), scale, module.limits)
    place = code.to(torch.int64) + (zero_point - lowest)
    return torch.where(x.isnan(), x, onnx_nodes.gathered(values.to(wide_dtype(x)), place).to(x.dtype))
