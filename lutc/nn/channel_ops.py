"""Torch operators for tensors with a scale, a zero point and so a table for every channel, in one pass:

    codes_by_channel(q, tables, rows, axis)          tables[row, code], codes to codes or float32
    through_channels(x, given...)                    values[row, code of x]; without values scale * (code - zero point)
    through_channels_kept(..., with_codes)           the same, and what the backward pass needs, as
                                                     `lutc.nn.through_codes` has it
    through_channels_backward(gradient, codes, within, slopes, rows, axis)
                                                     gradient * slopes[row, code], 0 where x was clamped
    through_channels_backward_with_scales(gradient, x, given...)
                                                     the same from x itself, slopes in place of values, and the
                                                     gradients of all scales

A channel is an index of dimension `axis` >= 0; rows (int32, (channels,)) say which of the tables is a channel's, for
many share one. tables: (rows, 256 or 65,536), in the order of unsigned codes. given: scales, (channels,), any float;
zero points, int32 (channels,); values or slopes, (rows, codes + 1), of all codes ascending and then of NaN, or None;
rows; axis; smallest and largest code. On a CPU they run `lutc.nn.cpu.channels`, on a GPU `lutc.kernels.channels`;
elsewhere, and for float64, plain torch operations do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from lutc.errors import LutcError
from lutc.nn import batched_codes
from lutc.nn import channel_plain as plain
from lutc.nn.batched import one_by_one
from lutc.nn.cpu import channel_codes
from lutc.nn.cpu import channel_gradients as cpu_gradients
from lutc.nn.cpu import channels as cpu
from lutc.nn.lowered import DTYPES, has_triton
from lutc.nn.nearest import wide_dtype
from lutc.nn.through_codes import _room_for_codes

library = torch.library.Library("lutc", "FRAGMENT")
_GIVEN = "Tensor scales, Tensor zeros, Tensor? {}, Tensor rows, int axis, int lowest, int highest"
library.define("codes_by_channel(Tensor q, Tensor tables, Tensor rows, int axis) -> Tensor")
library.define(f"through_channels(Tensor x, {_GIVEN.format('values')}) -> Tensor")
library.define(
    f"through_channels_kept(Tensor x, {_GIVEN.format('values')}, bool with_codes) -> (Tensor, Tensor, Tensor)"
)
library.define(
    "through_channels_backward(Tensor gradient, Tensor codes, Tensor within, Tensor slopes, Tensor rows, int axis)"
    " -> Tensor"
)
library.define(
    f"through_channels_backward_with_scales(Tensor gradient, Tensor x, {_GIVEN.format('slopes')}) -> (Tensor, Tensor)"
)


def _sides(x: torch.Tensor, axis: int) -> tuple[int, int, int]:
    """Elements before, along and behind the axis."""
    return math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])


def _check(name: str, x: torch.Tensor, axis: int, what: str, given: torch.Tensor, wanted: tuple[int, ...]) -> None:
    """The kernels look up without asking: tensors of another shape would be read out of bounds."""
    if not 0 <= axis < x.ndim or given.shape != wanted:
        raise LutcError(
            f"{name} takes {what} of shape {wanted} for the channels along axis {axis}; given {tuple(given.shape)} for "
            f"a tensor of shape {tuple(x.shape)}"
        )


def _in_memory(x: torch.Tensor, axis: int, dtype: torch.dtype | None = None):
    """x without gaps in the order of its memory, where the axis stands in it, an empty tensor laid out as x, of `dtype`
    where given, and the same in the order of the first.
    """
    out = torch.empty_like(x, dtype=dtype)
    order = sorted(range(x.ndim), key=lambda dim: -x.stride()[dim])
    source, target = x.permute(order), out.permute(order)
    if source.is_contiguous() and target.is_contiguous():
        return source, order.index(axis), out, target
    target = out if out.is_contiguous() else torch.empty_like(out, memory_format=torch.contiguous_format)
    return x.contiguous(), axis, out, target


def _filled(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return out if target.data_ptr() == out.data_ptr() else out.copy_(target)


# --- codes


def _check_codes(q, tables, rows, axis):
    _check("codes_by_channel", q, axis, "tables", tables, (len(tables), 1 << 8 * q.itemsize))
    _check("codes_by_channel", q, axis, "rows", rows, (q.shape[axis],))


def _codes_cpu(q, tables, rows, axis):
    _check_codes(q, tables, rows, axis)
    source, at, out, target = _in_memory(q, axis, tables.dtype)
    tables, rows = tables.contiguous(), rows.contiguous()
    given = source.data_ptr(), target.data_ptr(), tables.data_ptr(), rows.numpy()
    channel_codes.look_up(*given, _sides(source, at), (q.itemsize, tables.itemsize), torch.get_num_threads())
    return _filled(out, target)


def _codes_cuda(q, tables, rows, axis):
    _check_codes(q, tables, rows, axis)
    if not has_triton() or not q.numel() or tables.numel() > 1 << 32:
        return plain.codes(q, tables, rows, axis)
    from lutc.kernels import channels as kernels  # brings triton

    source, at, out, target = _in_memory(q, axis, tables.dtype)
    kernels.codes(source, tables.contiguous(), rows, target, _sides(source, at))
    return _filled(out, target)


# --- floats


def _tensors(name, x, scales, zeros, values, rows, axis, lowest, highest):
    """Scales, zero points, rows and values as kernels read them; checked."""
    channels = x.shape[axis] if 0 <= axis < x.ndim else -1
    for what, given in (("scales", scales), ("zero points", zeros), ("rows", rows)):
        _check(name, x, axis, what, given, (channels,))
    if values is not None:
        _check(name, x, axis, "values", values, (len(values), highest - lowest + 2))
        values = values.to(torch.float32).contiguous()
    return scales.to(torch.float32).contiguous(), zeros.to(torch.int32).contiguous(), rows.contiguous(), values


def _served(x, values) -> bool:
    """Whether the kernels take it: places in all tables are int32."""
    return x.dtype in DTYPES and x.dtype != torch.float64 and (values is None or values.numel() < 1 << 31)


def _address(tensor) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _channels(of_channels, table, lowest, highest) -> cpu.Channels:
    """Scales, zero points and rows as the kernels on a CPU are told them."""
    scales, zeros, rows = (side.numpy() for side in of_channels)
    return cpu.Channels(scales, zeros, rows, (lowest, highest), 0 if table is None else 4)


def _through_cpu(x, scales, zeros, values, rows, axis, lowest, highest):
    *of_channels, table = _tensors("through_channels", x, scales, zeros, values, rows, axis, lowest, highest)
    if not _served(x, values):
        return plain.through_as_x(x, scales, zeros, values, rows, axis, lowest, highest)
    source, at, out, target = _in_memory(x, axis)
    given = source.data_ptr(), target.data_ptr(), _address(table), _channels(of_channels, table, lowest, highest)
    cpu.through(*given, _sides(source, at), torch.get_num_threads(), DTYPES[x.dtype])
    return _filled(out, target)


def _kept_cpu(x, scales, zeros, values, rows, axis, lowest, highest, with_codes):
    *of_channels, table = _tensors("through_channels_kept", x, scales, zeros, values, rows, axis, lowest, highest)
    if not _served(x, values) or with_codes and values is None:
        return plain.kept(x, scales, zeros, values, rows, axis, lowest, highest, with_codes)
    source, out = x.contiguous(), torch.empty_like(x)  # what is kept stands in the order of indices
    target = out if out.is_contiguous() else torch.empty_like(source)
    codes = _room_for_codes(source, lowest, highest, with_codes)
    within = torch.empty((x.numel() + 7) // 8, dtype=torch.uint8)
    kept = codes.data_ptr() if with_codes else 0, within.data_ptr(), codes.itemsize
    given = source.data_ptr(), target.data_ptr(), _address(table), _channels(of_channels, table, lowest, highest)
    cpu.through(*given, _sides(source, axis), torch.get_num_threads(), DTYPES[x.dtype], kept)
    return _filled(out, target), codes, within


def _check_kept(gradient, codes, within, slopes, rows, axis):
    name, bits = "through_channels_backward", ((gradient.numel() + 7) // 8,)
    for what, given, wanted in (
        ("bits", within, bits),
        ("codes", codes, tuple(gradient.shape)),
        ("rows", rows, (gradient.shape[axis] if 0 <= axis < gradient.ndim else -1,)),
    ):
        _check(name, gradient, axis, what, given, wanted)


def _backward_cpu(gradient, codes, within, slopes, rows, axis):
    _check_kept(gradient, codes, within, slopes, rows, axis)
    if not _served(gradient, slopes):
        return plain.backward(gradient, codes, within, slopes, rows, axis)
    source, codes, within, rows = (tensor.contiguous() for tensor in (gradient, codes, within, rows))
    out, table, zeros = torch.empty_like(source), slopes.to(torch.float32).contiguous(), torch.zeros_like(rows)
    channels = _channels((zeros.to(torch.float32), zeros, rows), table, 0, table.shape[1] - 2)
    kept = codes.data_ptr(), within.data_ptr(), codes.itemsize
    given = source.data_ptr(), out.data_ptr(), table.data_ptr(), channels
    cpu_gradients.backward(*given, _sides(source, axis), kept, torch.get_num_threads(), DTYPES[source.dtype])
    return out


def _backward_with_scales_cpu(gradient, x, scales, zeros, slopes, rows, axis, lowest, highest):
    name = "through_channels_backward_with_scales"
    *of_channels, table = _tensors(name, x, scales, zeros, slopes, rows, axis, lowest, highest)
    if not _served(x, slopes):
        return plain.backward_with_scales(gradient, x, scales, zeros, slopes, rows, axis, lowest, highest)
    source, at, out, target = _in_memory(x, axis)
    given = _laid_out(gradient, x, source)
    addresses = given.data_ptr(), source.data_ptr(), target.data_ptr(), _address(table)
    channels = _channels(of_channels, table, lowest, highest)
    threads = torch.get_num_threads()
    sums = cpu_gradients.backward_with_scales(*addresses, channels, _sides(source, at), threads, DTYPES[x.dtype])
    return _filled(out, target), torch.from_numpy(sums)


def _laid_out(gradient: torch.Tensor, x: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """The gradient in memory as x is in `source`."""
    if source.data_ptr() != x.data_ptr():  # a copy in the order of indices
        return gradient.to(x.dtype).contiguous()
    alike = (gradient.stride(), gradient.dtype) == (x.stride(), x.dtype)
    return gradient if alike else torch.empty_like(x).copy_(gradient)


def _through_cuda(x, scales, zeros, values, rows, axis, lowest, highest):
    *of_channels, table = _tensors("through_channels", x, scales, zeros, values, rows, axis, lowest, highest)
    if not _served(x, values) or not has_triton() or not x.numel():
        return plain.through_as_x(x, scales, zeros, values, rows, axis, lowest, highest)
    from lutc.kernels import channels as kernels  # brings triton

    source, at, out, target = _in_memory(x, axis)
    kernels.through(source, of_channels, table, target, _sides(source, at), (lowest, highest))
    return _filled(out, target)


def _kept_cuda(x, scales, zeros, values, rows, axis, lowest, highest, with_codes):
    *of_channels, table = _tensors("through_channels_kept", x, scales, zeros, values, rows, axis, lowest, highest)
    if not _served(x, values) or not has_triton() or not x.numel() or with_codes and values is None:
        return plain.kept(x, scales, zeros, values, rows, axis, lowest, highest, with_codes)
    from lutc.kernels import channels as kernels  # brings triton

    source, out = x.contiguous(), torch.empty_like(x)
    target = out if out.is_contiguous() else torch.empty_like(source)
    codes = _room_for_codes(source, lowest, highest, with_codes)
    within = x.new_empty(((x.numel() + 7) // 8,), dtype=torch.uint8)
    kept = codes if with_codes else None, within
    kernels.through(source, of_channels, table, target, _sides(source, axis), (lowest, highest), *kept)
    return _filled(out, target), codes, within


def _backward_cuda(gradient, codes, within, slopes, rows, axis):
    _check_kept(gradient, codes, within, slopes, rows, axis)
    if not _served(gradient, slopes) or not has_triton() or not gradient.numel():
        return plain.backward(gradient, codes, within, slopes, rows, axis)
    from lutc.kernels import channels as kernels  # brings triton

    source, codes, within = (tensor.contiguous() for tensor in (gradient, codes, within))
    out = torch.empty_like(source)
    kernels.backward(source, codes, within, slopes.to(torch.float32).contiguous(), rows, out, _sides(source, axis))
    return out


def _backward_with_scales_cuda(gradient, x, scales, zeros, slopes, rows, axis, lowest, highest):
    name = "through_channels_backward_with_scales"
    *of_channels, table = _tensors(name, x, scales, zeros, slopes, rows, axis, lowest, highest)
    if not _served(x, slopes) or not has_triton() or not x.numel():
        return plain.backward_with_scales(gradient, x, scales, zeros, slopes, rows, axis, lowest, highest)
    from lutc.kernels import channels as kernels  # brings triton

    source, at, out, target = _in_memory(x, axis)
    given = _laid_out(gradient, x, source)
    sides, ends = _sides(source, at), (lowest, highest)
    sums = kernels.backward_with_scales(given, source, of_channels, table, target, sides, ends)
    return _filled(out, target), sums


_NAMES = (
    "codes_by_channel",
    "through_channels",
    "through_channels_kept",
    "through_channels_backward",
    "through_channels_backward_with_scales",
)
_PLAIN = plain.codes, plain.through_as_x, plain.kept, plain.backward, plain.backward_with_scales
for _key, *_kernels in (
    ("CompositeExplicitAutograd", *_PLAIN),
    ("CPU", _codes_cpu, _through_cpu, _kept_cpu, _backward_cpu, _backward_with_scales_cpu),
    ("CUDA", _codes_cuda, _through_cuda, _kept_cuda, _backward_cuda, _backward_with_scales_cuda),
):
    for _name, _kernel in zip(_NAMES, _kernels, strict=True):
        library.impl(_name, _kernel, _key)


def _fake_codes(q, tables, rows, axis):
    return torch.empty_like(q, dtype=tables.dtype)


def _fake_through(x, *given):
    return torch.empty_like(x)


def _fake_kept(x, scales, zeros, values, rows, axis, lowest, highest, with_codes):
    within = x.new_empty(((x.numel() + 7) // 8,), dtype=torch.uint8)
    codes = _room_for_codes(x, lowest, highest, with_codes)
    return torch.empty_like(x), codes.contiguous(), within


def _fake_backward(gradient, codes, within, slopes, rows, axis):
    return torch.empty_like(gradient, memory_format=torch.contiguous_format)


def _fake_backward_with_scales(gradient, x, scales, zeros, slopes, rows, axis, lowest, highest):
    return torch.empty_like(x), x.new_empty((x.shape[axis],), dtype=wide_dtype(x))


_FAKES: tuple[Callable[..., Any], ...] = (
    _fake_codes,
    _fake_through,
    _fake_kept,
    _fake_backward,
    _fake_backward_with_scales,
)
for _name, _fake in zip(_NAMES, _FAKES, strict=True):
    torch.library.register_fake(f"lutc::{_name}", _fake, lib=library)


def _alone(info, dims, *arguments):
    return one_by_one(torch.ops.lutc.through_channels_backward_with_scales.default, info, dims, *arguments)


_RULES: tuple[Callable[..., Any], ...] = (
    batched_codes.along_one_more(torch.ops.lutc.codes_by_channel.default, 3),
    batched_codes.along_one_more(torch.ops.lutc.through_channels.default, 5),
    batched_codes.kept_of_channels,
    batched_codes.backward_of_channels,
    _alone,
)
for _name, _rule in zip(_NAMES, _RULES, strict=True):
    torch.library.register_vmap(f"lutc::{_name}", _rule, lib=library)
