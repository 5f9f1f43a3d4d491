"""The tables of a `QuantLUT` at scales that a call gives: made in one pass on a CPU (`lutc.nn.cpu.scale_tables`), in
plain torch operations elsewhere, and kept until other scales are given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch

from lutc.formats.requantise import INT32_MAX
from lutc.functions import in_torch
from lutc.nn import code_ops, transforms
from lutc.nn.cpu import scale_tables as cpu
from lutc.nn.responses import LARGEST_RATIO, SIDES, derivatives

_AT_ONCE = 1 << 20  # codes whose responses are computed together
_KEPT = 1 << 26  # bytes of tables that are worth keeping
_last: WeakKeyDictionary[Any, dict[str, tuple]] = WeakKeyDictionary()  # of modules, beside them: no copy carries them


def responses_of(module: Any, scales: torch.Tensor, zeros: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """`_responses` of the module at many scales, some at a time."""
    step = max(1, _AT_ONCE >> module.bits)
    parts = [module._responses(*part) for part in zip(scales.split(step), zeros.split(step), strict=True)]
    return parts[0] if len(parts) == 1 else tuple(torch.cat(sides) for sides in zip(*parts, strict=True))


def outputs_at(module: Any, scales: torch.Tensor, zeros: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs by bit pattern (n, patterns), codes or float32, and whether the rule holds (n,), at scales (float64) and
    zero points (int32).
    """
    if not _in_one_pass(scales):
        outputs, _, _, held = responses_of(module, scales, zeros)
        return code_ops.by_bits(outputs, module.minimum, module.dtype), held
    return _kept(module, "outputs", scales, zeros, lambda: _made(module, scales, zeros, of_floats=False))


def values_at(
    module: Any, scales: torch.Tensor, zeros: torch.Tensor, dtype: torch.dtype, with_slopes: bool
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Real values of all codes and of NaN, for floats of a dtype, derivatives where they are wanted (else anything),
    both (n, codes + 1), and whether the rule holds (n,). float64, or float32 where kernels would round them to that.
    """
    if not _in_one_pass(scales) or dtype == torch.float64 or not in_torch.known(module.tables.function):
        _, values, slopes, held = responses_of(module, scales, zeros)
        return values, slopes, held
    values, held = _kept(module, "values", scales, zeros, lambda: _made(module, scales, zeros, of_floats=True))
    if not with_slopes:
        return values, None, held
    return values, _kept(module, "slopes", scales, zeros, lambda: _slopes(module, scales, zeros))[0], held


def forget(module: Any) -> None:
    """Of a module that has another table."""
    _last.pop(module, None)


def _in_one_pass(scales: torch.Tensor) -> bool:
    """Whether there are numbers in memory to work on."""
    plain = type(scales) is torch.Tensor and scales.device.type == "cpu"
    return plain and not (torch.compiler.is_compiling() or transforms.active())


def _kept(module: Any, what: str, scales: torch.Tensor, zeros: torch.Tensor, made: Callable[[], tuple]) -> tuple:
    """What was made for the same numbers in an earlier call, or what `made` makes."""
    kept = _last.get(module, {}).get(what)
    if kept is not None and torch.equal(kept[0], scales) and torch.equal(kept[1], zeros):
        return kept[2]
    found = made()
    if sum(tensor.nbytes for tensor in found) <= _KEPT:
        _last.setdefault(module, {})[what] = scales.clone(), zeros.clone(), found
    return found


def _slopes(module: Any, scales: torch.Tensor, zeros: torch.Tensor) -> tuple[torch.Tensor]:
    codes = torch.arange(module.minimum, module.maximum + 1)
    outputs = None
    if module.out is not None:
        table, _ = outputs_at(module, scales, zeros)
        outputs = table[:, codes & (table.shape[1] - 1)]
    step, parts = max(1, _AT_ONCE >> module.bits), []
    for start in range(0, len(scales), step):
        some = slice(start, start + step)
        x = (codes.to(torch.float64) - zeros[some, None]) * scales[some, None]
        part = None if outputs is None else outputs[some]
        parts.append(derivatives(module.tables.function, module.coding, x, part).to(torch.float32))
    return (torch.cat(parts),)


def _made(module: Any, scales: torch.Tensor, zeros: torch.Tensor, of_floats: bool) -> tuple:
    """(outputs by bit pattern, or values of all codes and of NaN; whether the rule holds)"""
    keys, steps, *sides = (module.get_buffer(f"key_{name}").view(torch.float64) for name in SIDES)
    key = (keys - torch.log2(scales)[:, None]).abs().argmin(1)
    unit = scales * steps.index_select(0, key)
    slopes, intercepts = (side.index_select(0, key) for side in sides[1:])
    reach = torch.maximum((module.minimum - zeros).abs(), (module.maximum - zeros).abs()).to(torch.float64)
    most = slopes.abs() * reach[:, None] + torch.floor(intercepts / scales[:, None] + 0.5).abs()
    fits = held = (scales > 0) & (most.amax(1) <= INT32_MAX)
    multiplier, shift, coded = torch.zeros_like(key), torch.ones_like(key), None
    if module.out is not None:
        out, ratio = module.out, unit / module.out.scale
        held = fits & (ratio < LARGEST_RATIO)
        mantissa, exponent = torch.frexp(ratio)
        shift = 31 - exponent.to(torch.int64)
        multiplier = torch.where(shift > 62, 0, torch.round(mantissa * 2.0**31).to(torch.int64))
        coded = out.rounding, out.zero_point, out.minimum, out.maximum, module.zero_point_offset, out.scale
    codes, patterns = module.maximum - module.minimum + 1, 1 << 8 * module.dtype.itemsize
    dtype = torch.float32 if of_floats or module.out is None else module.dtype
    table = torch.empty((len(scales), codes + 1 if of_floats else patterns), dtype=dtype)
    computed = held if of_floats else fits  # codes beyond the largest ratio saturate, values there are NaN
    of_rows = scales, unit, zeros.to(torch.int64), key, multiplier, shift.clamp(1, 62), computed.to(torch.int64)
    cpu.tables_of(
        tuple(side.contiguous().numpy() for side in of_rows),
        tuple(side.contiguous().numpy() for side in sides),
        (module.minimum, codes, patterns),
        coded,
        (0, table.data_ptr(), 4) if of_floats else (table.data_ptr(), 0, table.itemsize),
        torch.get_num_threads(),
    )
    return table, held
