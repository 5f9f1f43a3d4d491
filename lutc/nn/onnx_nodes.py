"""Nodes that ONNX has and torch has not, while `torch.onnx.export` traces."""

from __future__ import annotations

import torch

from lutc.nn.nearest import Limits


def exporting() -> bool:
    """Whether `torch.onnx.export` is tracing."""
    return torch.onnx.is_in_onnx_export()


def gathered(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """values[index] of one dimension, by Gather; index: int64, any shape, 0 to len(values) - 1."""
    if not exporting():
        return values[index]
    return _node("Gather", (values, index), values.dtype, index.shape)


def nearest_codes(x: torch.Tensor, scale: torch.Tensor, limits: Limits, dtype: torch.dtype) -> torch.Tensor:
    """Codes of a float32 tensor by QuantizeLinear, clamped; those of NaN are any. dtype: int8 or uint8."""
    lowest, highest, zero_point = limits
    codes = _node("QuantizeLinear", (x, *_scale_and_zero(x, scale, zero_point, dtype)), dtype, x.shape)
    width = torch.iinfo(dtype)
    return codes if (lowest, highest) == (width.min, width.max) else codes.clamp(lowest, highest)


def real_values_of(codes: torch.Tensor, scale: torch.Tensor, zero_point: int) -> torch.Tensor:
    """scale * (codes - zero_point) in float32 by DequantizeLinear."""
    given = (codes, *_scale_and_zero(codes, scale, zero_point, codes.dtype))
    return _node("DequantizeLinear", given, torch.float32, codes.shape)


def _scale_and_zero(like: torch.Tensor, scale: torch.Tensor, zero_point: int, dtype: torch.dtype):
    return scale.reshape(()).to(torch.float32), torch.tensor(zero_point, dtype=dtype, device=like.device)


def _node(operator: str, inputs: tuple[torch.Tensor, ...], dtype: torch.dtype, shape) -> torch.Tensor:
    return torch.onnx.ops.symbolic(f"::{operator}", inputs, dtype=dtype, shape=shape)
