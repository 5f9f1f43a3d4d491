"""A `QuantLUT` with an axis: for every channel the responses of all codes at its scale, held where scales are numbers,
made in every call where they are tensors, and chosen among those of all powers of two where a quantiser gives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lutc.errors import LutcError
from lutc.nn import channels, code_ops, exported_channels, portable
from lutc.nn.power_ops import power_rows
from lutc.nn.scale_tables import outputs_at, responses_of, values_at


def buffers_of(
    module: Any, scales: Sequence[float], zeros: Sequence[int], device: torch.device
) -> dict[str, torch.Tensor]:
    """The buffers that `look_up` reads, floats by their bits, for .half() must not round them: a row for every scale
    and zero point that occur together, and which one is a channel's.
    """
    places = {pair: place for place, pair in enumerate(dict.fromkeys(zip(scales, zeros, strict=True)))}
    rows = torch.tensor([places[pair] for pair in zip(scales, zeros, strict=True)], dtype=torch.int32, device=device)
    of_scales = torch.tensor([scale for scale, _ in places], dtype=torch.float64, device=device)
    of_zeros = torch.tensor([zero for _, zero in places], dtype=torch.int32, device=device)
    outputs, values, slopes, _ = responses_of(module, of_scales, of_zeros)
    outputs = code_ops.by_bits(outputs, module.minimum, module.dtype)
    return {
        "channel_outputs": outputs.view(torch.int32) if outputs.is_floating_point() else outputs,
        "channel_responses": values.to(torch.float32).view(torch.int32),
        "channel_slopes": slopes.to(torch.float32).view(torch.int32),
        "channel_scales": of_scales.view(torch.int64)[rows],
        "channel_zeros": of_zeros[rows],
        "channel_rows": rows,
    }


def look_up(module: Any, x: torch.Tensor, scale: Any) -> torch.Tensor:
    """Codes or floats; scale: of the call, one for each channel, or None."""
    codes, ends = not x.is_floating_point(), (module.minimum, module.maximum)
    axis, count = channels.dimension(x, module.axis, module.channels)
    if portable.wanted():
        return exported_channels.look_up(module, x, axis, scale)
    if scale is None and module._fixed_scales:
        outputs, values, slopes, scales, zeros, rows = (
            module.get_buffer(f"channel_{name}")
            for name in ("outputs", "responses", "slopes", "scales", "zeros", "rows")
        )
        if codes:
            outputs = outputs.view(torch.float32) if outputs.dtype == torch.int32 else outputs
            return torch.ops.lutc.codes_by_channel(x, outputs, rows, axis)
        tables = values.view(torch.float32), slopes.view(torch.float32), rows
        return channels.look_up(x, scales.view(torch.float64), zeros, *tables, axis, ends)
    if scale is None and module.quantise is not None and not codes:
        scales, rate = module.quantise.scale_for(x)
        rows = power_rows(scales).to(torch.int32)
        values, slopes = (module.get_buffer(f"power_{name}").view(torch.float64) for name in ("values", "slopes"))
        return channels.look_up(x, scales, torch.zeros_like(rows), values, slopes, rows, axis, ends, rate)
    given = channels.scales_of_call(_own(module) if scale is None else scale, count, x.device)
    zeros = torch.as_tensor(module.zero_point, dtype=torch.int32, device=x.device).expand(count)
    exact, rows = given.detach().to(torch.float64), torch.arange(count, dtype=torch.int32, device=x.device)
    if codes:
        table, held = outputs_at(module, exact, zeros)
        _refuse(module, exact, zeros, held)
        return torch.ops.lutc.codes_by_channel(x, table, rows, axis)
    needed = torch.is_grad_enabled() and (x.requires_grad or given.requires_grad)
    values, slopes, held = values_at(module, exact, zeros, x.dtype, needed)
    if not (x.is_cuda or torch.compiler.is_compiling()):
        _refuse(module, exact, zeros, held)
    return channels.look_up(x, given, zeros, values, slopes, rows, axis, ends)


def _own(module: Any) -> Any:
    scale = module.scale if module.quantise is None else module.quantise.scale
    if scale is None:
        raise LutcError("this QuantLUT has no scales of its own; give them with every call: forward(x, scales)")
    return scale


def _refuse(module: Any, scales: torch.Tensor, zeros: torch.Tensor, held: torch.Tensor) -> None:
    """LutcError for the first channel at whose scale the integer rule does not hold."""
    held = held & (scales >= channels.LEAST) & (scales <= channels.MOST)
    if bool(held.all()):
        return
    c = int((~held).nonzero()[0])
    scale, zero = float(scales[c]), int(zeros[c])
    channels.check_scales((scale,))
    module._checked(scale, scales.device, zero)
    raise LutcError(f"scale {scale:g} of channel {c} is out of reach of the output scale {module.out.scale:g}")
