"""LayerNorm and RMSNorm in integers only: codes of 8 or 16 bits in and out."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from lutc.errors import LutcError
from lutc.formats.requantise import requantiser
from lutc.hardware.rows import ROOT_BITS, IntegerNormModel, OutputCodes
from lutc.nn import integer_ops as _  # noqa: F401 - torch.ops.lutc.integer_norm
from lutc.nn import onnx_nodes, portable
from lutc.nn.integer_lines import TorchIntegerLines, check_codes
from lutc.nn.integer_softmax import CODES
from lutc.nn.refilled import Refilled
from lutc.table.library import TableSource


class _IntegerNorm(Refilled):
    """Rows (last dimension) of codes x = scale * (q - zero_point); one pass on a CPU or GPU, bit for bit
    `lutc.hardware.rows.IntegerNormModel` (`self.model`).
    """

    centred: bool
    weight: torch.Tensor | None
    bias: torch.Tensor | None

    def __init__(
        self,
        weight: ArrayLike | None,
        bias: ArrayLike | None,
        eps: float,
        scale: float,
        zero_point: int,
        out_scale: float,
        out_zero_point: int,
        rsqrt: TableSource,
        n: int | None,
        bits: int,
        out_dtype: torch.dtype,
    ):
        super().__init__()
        self.options: dict[str, Any] = {
            "scale": scale,
            "zero_point": zero_point,
            "out_scale": out_scale,
            "out_zero_point": out_zero_point,
            "rsqrt": rsqrt,
            "bits": bits,
            "out_dtype": out_dtype,
        }
        if out_dtype not in CODES.values():
            raise LutcError(f"out_dtype is torch.int8 or torch.int16; given {out_dtype}")
        weight, bias = _numbers("weight", weight), _numbers("bias", bias)
        if weight is None and bias is None and n is None:
            raise LutcError("a norm without weight and bias needs its number of features: give n")
        n = n if weight is None and bias is None else (weight if weight is not None else bias).size
        limits = torch.iinfo(out_dtype)
        out = OutputCodes(out_scale, out_zero_point, limits.min, limits.max)
        model = IntegerNormModel.build(rsqrt, n, scale, zero_point, eps, weight, bias, self.centred, out, bits)
        self.model, self.scale, self.out_dtype = model, float(scale), out_dtype
        self.rsqrt = TorchIntegerLines(model.rsqrt)
        statistics = int(self.centred), model.zero_point, model.fraction, model.epsilon, model.dropped
        roots, give = requantiser(model.rsqrt.unit * 2.0**ROOT_BITS), requantiser(model.unit / out.scale)
        limits_of_codes = out.zero_point, out.minimum, out.maximum
        self.numbers = [*roots, *statistics, *model.hidden_requantiser, *give, *limits_of_codes]
        self._fill(torch.device("cpu"))

    def _fill(self, device: torch.device) -> None:
        for name in ("weight", "bias"):
            codes = getattr(self.model, name)
            self.register_buffer(name, None if codes is None else torch.from_numpy(codes).to(device, torch.int32))

    def forward(self, q: torch.Tensor) -> torch.Tensor:
        check_codes(q, CODES[self.model.bits], type(self).__name__ + ("" if self.model.bits == 8 else "(bits=16)"))
        model = self.model
        if q.ndim == 0 or q.shape[-1] != model.n:
            raise LutcError(f"this norm takes rows of {model.n}; given shape {tuple(q.shape)}")
        if portable.wanted():
            norm = partial(portable.integer_norm, model=model, dtype=self.out_dtype)
            return onnx_nodes.local_function(type(self).__name__, norm, q)
        roots = self.rsqrt.cuts, self.rsqrt.slopes, self.rsqrt.intercepts
        return torch.ops.lutc.integer_norm(q, self.weight, self.bias, *roots, self.numbers, self.out_dtype)

    def remade(self, weight: ArrayLike | None, bias: ArrayLike | None, eps: float, n: int) -> _IntegerNorm:
        """A norm with the table, scales and dtypes of this one for another weight, bias, eps and number of features."""
        given = (weight, bias, eps) if self.centred else (weight, eps)
        return type(self)(*given, n=n, **self.options)  # type: ignore[arg-type,call-arg]

    def dequantise(self, codes: torch.Tensor) -> torch.Tensor:
        """Values (float32) of output codes."""
        out = self.model.out
        return (codes.to(torch.int32) - out.zero_point).to(torch.float32) * np.float32(out.scale).item()

    def extra_repr(self) -> str:
        return f"n={self.model.n}, out_scale={self.model.out.scale:g}, out_zero_point={self.model.out.zero_point}"


def _numbers(name: str, given: ArrayLike | torch.Tensor | None) -> np.ndarray | None:
    """A tensor, an array or a list as float64."""
    if isinstance(given, torch.Tensor):
        return given.detach().double().cpu().numpy()
    try:
        return None if given is None else np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        raise LutcError(f"`{name}` of a norm is a number for each feature; given {given!r:.40}") from error


class IntegerLayerNorm(_IntegerNorm):
    """LayerNorm of int8 codes, with bits=16 of int16 codes, over the last dimension with an integer mean and variance
    and an rsqrt table.

    weight, bias: float tensors of shape (n,) or None (then give n), stored as int16 at one scale and int32. out_scale:
    about max|y| / 127, or / 32767 with out_dtype=torch.int16. LutcError: rows of int8 beyond 33,025 (int32 sum of
    squares), an eps that leaves the sum at this scale, a bias too large beside the weight.
    """

    centred = True

    def __init__(
        self,
        weight: ArrayLike | None,
        bias: ArrayLike | None,
        eps: float = 1e-5,
        *,
        scale: float,
        zero_point: int = 0,
        out_scale: float,
        out_zero_point: int = 0,
        rsqrt: TableSource = "sqrt_reci_8",
        n: int | None = None,
        bits: int = 8,
        out_dtype: torch.dtype = torch.int8,
    ):
        super().__init__(weight, bias, eps, scale, zero_point, out_scale, out_zero_point, rsqrt, n, bits, out_dtype)


class IntegerRMSNorm(_IntegerNorm):
    """RMSNorm of int8 or int16 codes over the last dimension; arguments as for IntegerLayerNorm, without a bias."""

    centred = False

    def __init__(
        self,
        weight: ArrayLike | None,
        eps: float = 1e-6,
        *,
        scale: float,
        zero_point: int = 0,
        out_scale: float,
        out_zero_point: int = 0,
        rsqrt: TableSource = "sqrt_reci_8",
        n: int | None = None,
        bits: int = 8,
        out_dtype: torch.dtype = torch.int8,
    ):
        super().__init__(weight, None, eps, scale, zero_point, out_scale, out_zero_point, rsqrt, n, bits, out_dtype)
