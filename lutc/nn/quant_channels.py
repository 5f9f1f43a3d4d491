"""What a `QuantLUT` with an axis holds of its channels: for every one the responses of all codes at its scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from lutc.nn import channels, code_ops

_AT_ONCE = 1024  # scales that are evaluated together

Responses = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


def buffers_of(
    responses: Responses,
    scales: Sequence[float],
    zeros: Sequence[int],
    lowest: int,
    dtype: torch.dtype,
    device: torch.device,
) -> dict[str, torch.Tensor]:
    """The buffers that `look_up` reads, floats by their bits, for .half() must not round them.

    responses(scale, zero point), of 0-d float64 and int64: outputs of all codes from `lowest` up, and of these and NaN
    values and derivatives. dtype: of codes.
    """
    places = {pair: place for place, pair in enumerate(dict.fromkeys(zip(scales, zeros, strict=True)))}
    at = torch.tensor([places[pair] for pair in zip(scales, zeros, strict=True)], device=device)
    of_scales = torch.tensor([scale for scale, _ in places], dtype=torch.float64, device=device)
    of_zeros = torch.tensor([zero for _, zero in places], dtype=torch.int64, device=device)
    outputs, values, slopes = torch.vmap(responses, chunk_size=_AT_ONCE)(of_scales, of_zeros)
    outputs = code_ops.by_bits(outputs, lowest, dtype)[at]
    return {
        "channel_outputs": outputs.view(torch.int32) if outputs.is_floating_point() else outputs,
        "channel_responses": channels.with_ends(values, True)[at].view(torch.int32),
        "channel_slopes": channels.with_ends(slopes, False)[at].view(torch.int32),
        "channel_scales": of_scales[at].view(torch.int64),
        "channel_zeros": of_zeros[at].to(torch.int32),
    }


def look_up(module: torch.nn.Module, x: torch.Tensor, axis: int, ends: tuple[int, int]) -> torch.Tensor:
    """Codes or floats through the buffers that a module holds."""
    outputs, values, slopes, bits, zeros = (
        module.get_buffer(f"channel_{name}") for name in ("outputs", "responses", "slopes", "scales", "zeros")
    )
    axis = channels.dimension(x, axis, len(zeros))
    if not x.is_floating_point():
        outputs = outputs.view(torch.float32) if outputs.dtype == torch.int32 else outputs
        return torch.ops.lutc.codes_by_channel(x, outputs, axis)
    scales, tables = bits.view(torch.float64), (values.view(torch.float32), slopes.view(torch.float32))
    return channels.look_up(x, scales, zeros, *tables, axis, ends)
