"""LayerNorm and RMSNorm in integers only: int8 codes in, int8 codes out."""

from __future__ import annotations

import torch

from lutc.errors import LutcError
from lutc.formats.requantise import requantiser
from lutc.hardware.rows import DEVIATION_BITS, ROOT_BITS, RSQRT_INPUTS, IntegerNormModel, OutputCodes
from lutc.nn import portable
from lutc.nn.integer_lines import TorchIntegerLines, check_codes, divide, leading_one, requantise, shift_to
from lutc.nn.refilled import Refilled


class _IntegerNorm(Refilled):
    """Rows (last dimension) of int8 codes x = scale * (q - zero_point); bit for bit
    `lutc.hardware.rows.IntegerNormModel` (`self.model`).
    """

    centred: bool
    weight: torch.Tensor | None
    bias: torch.Tensor | None

    def __init__(
        self,
        weight,
        bias,
        eps: float,
        scale: float,
        zero_point: int,
        out_scale: float,
        out_zero_point: int,
        rsqrt,
        n: int | None,
    ):
        super().__init__()
        weight, bias = (None if given is None else given.detach().double().cpu().numpy() for given in (weight, bias))
        if weight is None and bias is None and n is None:
            raise LutcError("a norm without weight and bias needs its number of features: give n")
        n = n if weight is None and bias is None else (weight if weight is not None else bias).size
        out = OutputCodes(out_scale, out_zero_point, -128, 127)
        self.model = IntegerNormModel.build(rsqrt, n, scale, zero_point, eps, weight, bias, self.centred, out)
        self.rsqrt = TorchIntegerLines(self.model.rsqrt)
        self._fill(torch.device("cpu"))

    def _fill(self, device: torch.device) -> None:
        for name in ("weight", "bias"):
            codes = getattr(self.model, name)
            self.register_buffer(name, None if codes is None else torch.from_numpy(codes).to(device, torch.int32))

    def forward(self, q: torch.Tensor) -> torch.Tensor:
        check_codes(q, torch.int8, type(self).__name__)
        model = self.model
        if q.ndim == 0 or q.shape[-1] != model.n:
            raise LutcError(f"this norm takes rows of {model.n}; given shape {tuple(q.shape)}")
        if portable.wanted():
            return portable.integer_norm(q, model)
        c = q.to(torch.int32) - model.zero_point
        rest = torch.zeros_like(c[..., :1])
        if self.centred:
            total = c.sum(dim=-1, keepdim=True, dtype=torch.int32)
            mean = divide(total, model.n)
            c, rest = c - mean, total - model.n * mean
        squares = c.square().sum(dim=-1, keepdim=True, dtype=torch.int32) << model.fraction
        # The correction of the variance, twice n**2 / 4 << fraction, is the one quotient whose numerator can pass
        # int32.
        squares = squares - divide(rest.to(torch.int64).square() << model.fraction, model.n).to(torch.int32)
        spread = (squares + model.epsilon).clamp(min=1)
        half = leading_one(spread) >> 1
        mantissa = shift_to(spread, 13 - 2 * half).clamp(max=RSQRT_INPUTS.maximum)
        roots = requantise(self.rsqrt.accumulate(mantissa), *requantiser(self.rsqrt.unit * 2.0**ROOT_BITS)).to(
            torch.int32
        )
        deviation = (c << DEVIATION_BITS) - divide(rest << DEVIATION_BITS, model.n)
        multiplier, shift = model.hidden_requantiser
        acc = requantise(deviation * roots, multiplier, shift + half).clamp(-32768, 32767).to(torch.int32)
        acc = acc if self.weight is None else acc * self.weight
        acc = acc if self.bias is None else acc + self.bias
        codes = requantise(acc, *requantiser(model.unit / model.out.scale)) + model.out.zero_point
        return codes.clamp(model.out.minimum, model.out.maximum).to(torch.int8)

    def extra_repr(self) -> str:
        return f"n={self.model.n}, out_scale={self.model.out.scale:g}, out_zero_point={self.model.out.zero_point}"


class IntegerLayerNorm(_IntegerNorm):
    """LayerNorm of int8 codes over the last dimension with an integer mean and variance and an rsqrt table.

    weight, bias: float tensors of shape (n,) or None (then give n), stored as int16 at one scale and int32. out_scale:
    about max|y| / 127. LutcError: rows beyond 33,025 (int32 sum of squares), an eps that leaves int32 at this scale, a
    bias too large beside the weight.
    """

    centred = True

    def __init__(
        self,
        weight,
        bias,
        eps: float = 1e-5,
        *,
        scale: float,
        zero_point: int = 0,
        out_scale: float,
        out_zero_point: int = 0,
        rsqrt="sqrt_reci_8",
        n: int | None = None,
    ):
        super().__init__(weight, bias, eps, scale, zero_point, out_scale, out_zero_point, rsqrt, n)


class IntegerRMSNorm(_IntegerNorm):
    """RMSNorm of int8 codes over the last dimension; arguments as for IntegerLayerNorm, without a bias."""

    centred = False

    def __init__(
        self,
        weight,
        eps: float = 1e-6,
        *,
        scale: float,
        zero_point: int = 0,
        out_scale: float,
        out_zero_point: int = 0,
        rsqrt="sqrt_reci_8",
        n: int | None = None,
    ):
        super().__init__(weight, None, eps, scale, zero_point, out_scale, out_zero_point, rsqrt, n)
