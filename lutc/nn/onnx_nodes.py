"""Nodes that ONNX has and torch has not, while `torch.onnx.export` traces, and marks around what a module traces to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

DOMAIN, BEGIN, END = "lutc", "Begin", "End"

_marking = False


@contextmanager
def marks(wanted: bool = True) -> Iterator[None]:
    """Meanwhile `local_function` marks what it traces, or not; `lutc.nn.onnx_functions` makes functions of marks."""
    global _marking
    before, _marking = _marking, wanted
    try:
        yield
    finally:
        _marking = before


def local_function(name: str, compute: Callable[..., torch.Tensor], *tensors: torch.Tensor | None) -> torch.Tensor:
    """compute(*tensors), which becomes a local function of the name where marks are wanted; one inside another is part
    of that. `tensors` are all that changes from call to call; None stays None.
    """
    if not (_marking and exporting()):
        return compute(*tensors)
    given = [t if t is None else _node(f"{DOMAIN}::{BEGIN}", (t,), t.dtype, t.shape) for t in tensors]
    with marks(False):
        result = compute(*given)
    end = f"{DOMAIN}::{END}"
    return torch.onnx.ops.symbolic(end, (result,), {"name": name}, dtype=result.dtype, shape=result.shape, version=1)


def exporting() -> bool:
    """Whether `torch.onnx.export` is tracing."""
    return torch.onnx.is_in_onnx_export()


def gathered(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """values[index] of one dimension, by Gather; index: int64, any shape, 0 to len(values) - 1."""
    if not exporting():
        return values[index]
    return _node("Gather", (values, index), values.dtype, index.shape)


def nearest_codes(
    x: torch.Tensor, scale: torch.Tensor, limits: tuple[int, int, Any], dtype: torch.dtype, axis: int | None = None
) -> torch.Tensor:
    """Codes of a float32 tensor by QuantizeLinear, clamped; those of NaN are any. dtype: int8 or uint8. axis: with it
    scale and zero point are vectors, of the indices of this dimension (>= 0).
    """
    lowest, highest, zero_point = limits
    given = x, *_scale_and_zero(x, scale, zero_point, dtype, axis)
    codes = _node("QuantizeLinear", given, dtype, x.shape, axis)
    width = torch.iinfo(dtype)
    return codes if (lowest, highest) == (width.min, width.max) else codes.clamp(lowest, highest)


def real_values_of(codes: torch.Tensor, scale: torch.Tensor, zero_point: Any, axis: int | None = None) -> torch.Tensor:
    """scale * (codes - zero_point) in float32 by DequantizeLinear; axis: as in `nearest_codes`."""
    given = codes, *_scale_and_zero(codes, scale, zero_point, codes.dtype, axis)
    return _node("DequantizeLinear", given, torch.float32, codes.shape, axis)


def _scale_and_zero(like: torch.Tensor, scale: torch.Tensor, zero_point: Any, dtype: torch.dtype, axis: int | None):
    scale = scale.reshape(() if axis is None else (-1,)).to(torch.float32)
    return scale, torch.tensor(zero_point, dtype=dtype, device=like.device)


def _node(
    operator: str, inputs: tuple[torch.Tensor, ...], dtype: torch.dtype, shape, axis: int | None = None
) -> torch.Tensor:
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    version = 1 if operator.startswith(DOMAIN) else None
    name = operator if "::" in operator else f"::{operator}"
    return torch.onnx.ops.symbolic(name, inputs, attributes, dtype=dtype, shape=shape, version=version)
