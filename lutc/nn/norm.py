"""LayerNorm and RMSNorm with an rsqrt table."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from functools import partial

import torch

from lutc.certify.coverage import RSQRT
from lutc.errors import LutcError
from lutc.nn import onnx_nodes, portable, rows, transforms
from lutc.nn.row_tables import RowOperator, check_device, check_float
from lutc.nn.traced import is_traced, leaf
from lutc.table.library import TableSource


class _LUTNorm(RowOperator):
    centred: bool
    normalized_shape: tuple[int, ...]

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float,
        elementwise_affine: bool,
        bias: bool,
        rsqrt: TableSource,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ):
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, numbers.Integral) else tuple(normalized_shape)
        if not shape or not all(isinstance(n, numbers.Integral) and n > 0 for n in shape):
            raise LutcError(f"normalized_shape is a positive number or several; given {normalized_shape!r}")
        if eps is not None and not eps >= 0:
            raise LutcError(f"eps is a number, not negative; given {eps}")
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        options = {"device": device, "dtype": dtype}
        self.register_parameter(
            "weight", torch.nn.Parameter(torch.ones(shape, **options)) if elementwise_affine else None
        )
        self.register_parameter(
            "bias", torch.nn.Parameter(torch.zeros(shape, **options)) if elementwise_affine and bias else None
        )
        self.hold("rsqrt", rsqrt, RSQRT)

    def normalise(
        self,
        input: torch.Tensor,
        normalized_shape: int | Sequence[int],
        weight: torch.Tensor | None = None,
        bias=None,
        eps: float | None = 1e-5,
    ) -> torch.Tensor:
        """`F.layer_norm` or `F.rms_norm` with the table; same arguments."""
        x, shape = input, tuple(normalized_shape)
        check_float(x, type(self).__name__)
        words = self.words
        check_device(x, (*words, weight, bias))
        if x.ndim < len(shape) or tuple(x.shape[x.ndim - len(shape) :]) != shape:
            raise LutcError(
                f"{type(self).__name__} over {shape} takes tensors that end in this shape; given {tuple(x.shape)}"
            )
        if any(p is not None and tuple(p.shape) != shape for p in (weight, bias)):
            given = [tuple(p.shape) for p in (weight, bias) if p is not None]
            raise LutcError(
                f"{type(self).__name__} over {shape} takes weight and bias of this shape; given "
                f"{' and '.join(map(str, given))}"
            )
        n = math.prod(shape)
        eps = torch.finfo(x.dtype).eps if eps is None else float(eps)
        flat = [None if p is None else p.reshape(-1).contiguous() for p in (weight, bias)]
        if portable.wanted():
            rows_of = x if len(shape) == 1 else x.reshape(*x.shape[: x.ndim - len(shape)], n)
            norm = partial(portable.norm, eps=eps, centred=self.centred, rsqrt=self.held["rsqrt"])
            return onnx_nodes.local_function(type(self).__name__, norm, rows_of, *flat).reshape(x.shape)
        given = x.reshape(-1, n).contiguous(), *flat, eps, self.centred, words, self.meta
        return (transforms.norm(*given) if transforms.active() else rows.norm(*given)[0]).view(x.shape)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if is_traced(x):
            return leaf(self, x)
        return self.normalise(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.weight is not None}"


class LUTLayerNorm(_LUTNorm):
    """LayerNorm whose 1/sqrt(variance + eps) is a table on [1, 4) with the exponent halved and set aside: right for
    every positive float.

    rsqrt: name, path, TableSet or Table; the table of a set that is best on [1, 4) is used, LutcError where none comes
    within an eighth. Other arguments, shapes and dtypes as torch.nn.LayerNorm; mean and variance are float32 (float64
    for float64). A variance + eps of 0 gives NaN, as torch's does. Gradients: the exact norm's, for input, weight and
    bias.
    """

    centred = True

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        rsqrt: TableSource = "rsqrt_fplut",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(normalized_shape, eps, elementwise_affine, bias, rsqrt, device, dtype)


class LUTRMSNorm(_LUTNorm):
    """RMSNorm whose 1/sqrt(mean of squares + eps) is a table; see LUTLayerNorm. eps=None is the input dtype's epsilon,
    as in torch.nn.RMSNorm. offset: added to the weight where it is used, in float32 or wider: 1 for weights that are
    stored as the difference to 1, as Gemma's are.
    """

    centred = False
    offset = 0.0

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        rsqrt: TableSource = "rsqrt_fplut",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(normalized_shape, eps, elementwise_affine, False, rsqrt, device, dtype)

    def normalise(
        self,
        input: torch.Tensor,
        normalized_shape: int | Sequence[int],
        weight: torch.Tensor | None = None,
        eps: float | None = None,
    ) -> torch.Tensor:
        """`F.rms_norm` with the table; same arguments."""
        return super().normalise(input, normalized_shape, weight, None, eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if is_traced(x):
            return leaf(self, x)
        weight = (
            self.weight
            if not self.offset
            else self.weight.to(torch.promote_types(self.weight.dtype, torch.float32)) + self.offset
        )
        return self.normalise(x, self.normalized_shape, weight, self.eps)
