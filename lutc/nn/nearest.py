"""The code nearest to a real value. Arithmetic is float32, float64 for float64 inputs; `limits` = (smallest code,
largest code, zero point), `scale` a 0-d tensor on the device of x.
"""

from __future__ import annotations

import torch

Limits = tuple[int, int, int]


def described(x: object) -> str:
    """What was given in the place of another tensor, for an error."""
    if not isinstance(x, torch.Tensor):
        return type(x).__name__
    layout = "" if x.layout == torch.strided else f", {str(x.layout).removeprefix('torch.')}"
    return f"a tensor of {x.dtype}{layout}"


def wide_dtype(x: torch.Tensor) -> torch.dtype:
    """What x is computed in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def nearest_code(x: torch.Tensor, scale: torch.Tensor, limits: Limits) -> torch.Tensor:
    """Codes of x less the zero point, in float32 or float64: rounded half to even, clamped; NaN stays NaN."""
    lowest, highest, zero_point = limits
    dtype = wide_dtype(x)
    return torch.round(x.to(dtype) / scale.to(dtype)).clamp(lowest - zero_point, highest - zero_point)


def index(x: torch.Tensor, scale: torch.Tensor, limits: Limits) -> torch.Tensor:
    """Where the code of x stands among all codes, int32; NaN stands behind the last."""
    lowest, highest, zero_point = limits
    return (nearest_code(x, scale, limits) + (zero_point - lowest)).nan_to_num(highest - lowest + 1).to(torch.int32)
