"""Powers of two as scales: the one of least squared error on a sample, `torch.ops.lutc.least_squares_power`, in one
pass on a CPU.
"""

from __future__ import annotations

import torch

from lutc.nn import portable, transforms
from lutc.nn.cpu import powers as cpu
from lutc.nn.nearest import nearest_code

LOWEST, HIGHEST = -20, 15  # powers that a scale can be: a table's int32 accumulator holds 8-bit codes at all of them
_CANDIDATES = 8  # powers that are tried, from the one whose codes reach all of x down

library = torch.library.Library("lutc", "FRAGMENT")
library.define("least_squares_power(Tensor x, int lowest, int highest) -> Tensor")


def least_squares(x: torch.Tensor, lowest: int, highest: int) -> torch.Tensor:
    """The power of least squared error on x, floats (n,) or (rows, n), for codes lowest..highest with zero point 0, as
    float32, 0-d or (rows,), each its own; what is not finite counts as 0.
    """
    if portable.wanted() or transforms.active():
        return _plain(x, lowest, highest)
    return torch.ops.lutc.least_squares_power(x, lowest, highest)


def _plain(x: torch.Tensor, lowest: int, highest: int) -> torch.Tensor:
    x = torch.where(x.isfinite(), x, 0.0).float()
    powers = _covering(x, highest)[..., None] - torch.arange(_CANDIDATES, device=x.device, dtype=torch.int32)
    scales, x = power_of_two(powers)[..., None], x[..., None, :]
    errors = (nearest_code(x, scales, (lowest, highest, 0)) * scales - x).square().mean(-1)
    return powers.gather(-1, errors.argmin(-1, keepdim=True))[..., 0].float()


def _cpu(x: torch.Tensor, lowest: int, highest: int) -> torch.Tensor:
    x, answer = x.to(torch.float32).contiguous(), torch.zeros(x.shape[:-1], dtype=torch.float32)
    if x.numel():
        limits, powers, shape = (lowest, highest), (LOWEST, HIGHEST), (answer.numel(), x.shape[-1])
        cpu.least_squares(x.data_ptr(), shape, answer.data_ptr(), limits, powers, _CANDIDATES, torch.get_num_threads())
    return answer


library.impl("least_squares_power", _plain, "CompositeExplicitAutograd")
library.impl("least_squares_power", _cpu, "CPU")
torch.library.register_fake(
    "lutc::least_squares_power", lambda x, *limits: x.new_empty(x.shape[:-1], dtype=torch.float32), lib=library
)


def _covering(x: torch.Tensor, maximum: int) -> torch.Tensor:
    """The least power with 2**power * maximum >= max |x| of each row, within LOWEST..HIGHEST, int32: the float's
    exponent, and one more for a mantissa.
    """
    if not x.numel():
        return torch.zeros(x.shape[:-1], dtype=torch.int32, device=x.device)
    if portable.wanted():
        return portable.covering_power(x.abs().amax(-1) / maximum).clamp(LOWEST, HIGHEST).to(torch.int32)
    bits = (x.abs().amax(-1) / maximum).view(torch.int32)
    return (((bits + 0x7FFFFF) >> 23) - 127).clamp(LOWEST, HIGHEST)


def power_rows(scales: torch.Tensor) -> torch.Tensor:
    """Of powers of two their places from LOWEST on, int64; NaN is taken for 1."""
    power = torch.log2(scales.detach()).round().nan_to_num(0.0).clamp(LOWEST, HIGHEST)
    return power.to(torch.int64) - LOWEST


def power_of_two(power: torch.Tensor) -> torch.Tensor:
    """2**power as float32 from its bits, power clamped to LOWEST..HIGHEST; NaN gives NaN."""
    if portable.wanted():
        return portable.power_of_two(power.to(torch.float32).clamp(LOWEST, HIGHEST))
    whole = power.nan_to_num(0.0) if power.is_floating_point() else power
    value = ((whole.to(torch.int32).clamp(LOWEST, HIGHEST) + 127) << 23).view(torch.float32)
    return torch.where(power.isnan(), torch.nan, value) if power.is_floating_point() else value
