"""The sums of `lutc.calibration.layer_error`, tokens at a time, in torch."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from lutc import functions
from lutc.errors import LutcError
from lutc.formats.codes import Inputs

T = torch.Tensor
_BITS = 10
_CHUNK = 1 << 22  # numbers of U (tokens, codes, outputs) held at a time


class LayerSums:
    """The sum over tokens of w [U n]' [U n] of one layer at one scale, in float64, on the device of
    what it is given.
    """

    def __init__(self, function: str, inputs: Inputs):
        if inputs.bits > _BITS:
            raise LutcError(
                f"layer errors are a matrix over all pairs of codes, for codes of up to {_BITS} bits; given "
                f"{inputs.bits}"
            )
        self.inputs, self.form = inputs, None
        self.exact = functions.get(function)(inputs.x())
        if not np.isfinite(self.exact).all():
            at = inputs.x()[~np.isfinite(self.exact)][0]
            raise LutcError(
                f"{function} is not finite at the input code of {at:g}; choose a scale whose codes stay where it is"
            )

    def add(self, x: T, gate: T | None, values: T, weight: T, token_weights: T | None) -> None:
        """x, values = f(x), gate: (tokens, channels); weight: (outputs, channels), of their dtype; token_weights:
        (tokens,) or None for 1.
        """
        codes = torch.round(x / self.inputs.scale) + self.inputs.zero_point
        codes = (codes.clamp(self.inputs.minimum, self.inputs.maximum) - self.inputs.minimum).long()
        if self.form is None:
            self.form = torch.zeros(self.exact.size + 1, self.exact.size + 1, dtype=torch.float64, device=x.device)
        exact = torch.as_tensor(self.exact, dtype=weight.dtype, device=x.device)
        scaled = torch.ones_like(values) if gate is None else gate
        if token_weights is not None:
            scaled = scaled * token_weights.sqrt()[:, None]
        columns = weight.t().contiguous()
        low, high = int(codes.min()), int(codes.max()) + 1
        step = max(1, _CHUNK // ((high - low) * weight.shape[0]))
        for start in range(0, len(x), step):
            part = slice(start, start + step)
            u = sums_by_code(codes[part] - low, high - low, columns, scaled[part])
            rounding = torch.einsum("tqo,q->to", u, exact[low:high]) - (scaled[part] * values[part]) @ columns
            whole = torch.cat([u, rounding[:, None]], 1).transpose(0, 1).flatten(1)
            product = (whole @ whole.t()).double()
            self.form[low:high, low:high] += product[:-1, :-1]
            self.form[low:high, -1] += product[:-1, -1]
            self.form[-1, low:high] += product[:-1, -1]
            self.form[-1, -1] += product[-1, -1]


def sums_by_code(codes: T, count: int, columns: T, scaled: T) -> T:
    """U (tokens, count, outputs): rows of `columns` (channels, outputs) times `scaled` (tokens, channels), summed by
    the channel's code.
    """
    tokens = len(codes)
    order = codes.argsort(1)
    keys = (codes.gather(1, order) + count * torch.arange(tokens, device=codes.device)[:, None]).flatten()
    offsets = torch.searchsorted(keys, torch.arange(tokens * count, device=codes.device))
    sums = F.embedding_bag(
        order.flatten(), columns, offsets, mode="sum", per_sample_weights=scaled.gather(1, order).flatten()
    )
    return sums.view(tokens, count, -1)
