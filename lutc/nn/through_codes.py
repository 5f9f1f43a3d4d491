"""Torch operators that take floats through their codes in one pass, and gradients back:

    through_codes(x, scale, values, limits...)               values[code of x]
    through_codes_kept(..., with_codes)                      the same, and what the backward pass needs: the codes,
                                                             counted from the smallest (uint8, int16 above 8 bits;
                                                             empty without `with_codes`), and a bit for each x (in
                                                             uint8, element i is bit i % 8), whether it rounds to a
                                                             code without being clamped
    through_codes_backward(gradient, codes, within, slopes)  gradient * slopes[code], 0 where x was clamped
    through_codes_backward_with_scale(gradient, x, scale, slopes, limits...)
                                                             the same from x itself, and the gradient of the scale

limits: smallest code, largest code, zero point; scale: one element on the device of x; values, slopes: of all codes
ascending and then of NaN; without slopes they are 1. On a CPU they run `lutc.nn.cpu.through_codes`, on a GPU
`lutc.kernels.codes`; elsewhere, for float64, and for a scale that is no positive number plain torch operations do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from lutc.nn import batched_codes
from lutc.nn.code_ops import check_length, dense
from lutc.nn.cpu import through_codes as cpu
from lutc.nn.lowered import DTYPES, has_triton
from lutc.nn.nearest import index, nearest_code, wide_dtype

library = torch.library.Library("lutc", "FRAGMENT")
_ops = torch.ops.lutc
_LIMITS = "int lowest, int highest, int zero_point"
library.define(f"through_codes(Tensor x, Tensor scale, Tensor values, {_LIMITS}) -> Tensor")
library.define(
    f"through_codes_kept(Tensor x, Tensor scale, Tensor values, {_LIMITS}, bool with_codes) -> (Tensor, Tensor, Tensor)"
)
library.define("through_codes_backward(Tensor gradient, Tensor codes, Tensor within, Tensor? slopes) -> Tensor")
library.define(
    "through_codes_backward_with_scale(Tensor gradient, Tensor x, Tensor scale, Tensor? slopes, "
    f"{_LIMITS}) -> (Tensor, Tensor)"
)


def inside(x: torch.Tensor, scale: torch.Tensor, lowest: int, highest: int, zero_point: int) -> torch.Tensor:
    """Whether x rounds to a code without being clamped, as torch's own fake quantisation has it; not NaN. LSQ's ends
    lie half a step earlier.
    """
    steps = x.to(wide_dtype(x)) / scale.to(wide_dtype(x))
    return (steps >= lowest - zero_point - 0.5) & (steps <= highest - zero_point + 0.5)


def deviation(x: torch.Tensor, scale: torch.Tensor, lowest: int, highest: int, zero_point: int) -> torch.Tensor:
    """The derivative of the quantised x by the scale, eq. 3 of LSQ (arXiv:1902.08153): code - x / scale, the code less
    the zero point where it is clamped; 0 for NaN.
    """
    limits = lowest, highest, zero_point
    code, steps = nearest_code(x, scale, limits), x.to(wide_dtype(x)) / scale.to(wide_dtype(x))
    return torch.where(x.isnan(), 0.0, torch.where(inside(x, scale, *limits), code - steps, code))


# --- plain torch operations


def _plain(x, scale, values, lowest, highest, zero_point):
    return values.to(wide_dtype(x))[index(x, scale, (lowest, highest, zero_point))].to(x.dtype)


def _kept_plain(x, scale, values, lowest, highest, zero_point, with_codes):
    limits, flat = (lowest, highest, zero_point), x.reshape(-1)
    bits = torch.nn.functional.pad(inside(flat, scale, *limits).to(torch.uint8), (0, -flat.numel() % 8))
    weights = 1 << torch.arange(8, dtype=torch.uint8, device=x.device)
    within = (bits.reshape(-1, 8) * weights).sum(1, dtype=torch.uint8)
    out, codes = torch.empty_like(x), _room_for_codes(x, lowest, highest, with_codes)
    if with_codes:
        codes.copy_(index(x, scale, limits))
    return out.copy_(_plain(x, scale, values, *limits)), codes, within


def _backward_plain(gradient, codes, within, slopes):
    bits = (within[:, None] >> torch.arange(8, dtype=torch.uint8, device=within.device)) & 1
    kept = bits.reshape(-1)[: gradient.numel()].reshape(gradient.shape) != 0
    if slopes is not None:
        wide = wide_dtype(gradient)
        places = codes.to(torch.int32) & ((1 << 8 * codes.itemsize) - 1)
        gradient = (gradient.to(wide) * slopes.to(wide)[places]).to(gradient.dtype)
    return torch.where(kept, gradient, 0.0).contiguous()


def _backward_with_scale_plain(gradient, x, scale, slopes, lowest, highest, zero_point):
    limits, wide = (lowest, highest, zero_point), wide_dtype(x)
    product = gradient.to(wide)
    if slopes is not None:
        product = product * slopes.to(wide)[index(x, scale, limits)]
    to_x = torch.where(inside(x, scale, *limits), product, 0.0).to(x.dtype)
    return torch.empty_like(x).copy_(to_x), (product * deviation(x, scale, *limits)).sum()


def _room_for_codes(x, lowest, highest, with_codes):
    dtype = torch.uint8 if highest - lowest < 256 else torch.int16
    return torch.empty(x.shape if with_codes else (0,), dtype=dtype, device=x.device)


# --- CPU


def _number(x, scale) -> np.float32 | None:
    """The scale where the kernels serve x."""
    step = np.float32(scale.item())
    return step if x.dtype != torch.float64 and np.isfinite(step) and step > 0 else None


def _room(x: torch.Tensor, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(what is returned for x, where a kernel that reads `source` writes it)"""
    out = torch.empty_like(x)
    return out, out if out.stride() == source.stride() else torch.empty_like(source)


def _laid_out(gradient: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """The gradient in memory as the x that it belongs to."""
    alike = (gradient.stride(), gradient.dtype) == (source.stride(), source.dtype)
    return gradient if alike else torch.empty_like(source).copy_(gradient)


def _filled(out: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return out if target is out else out.copy_(target)


def _cpu(x, scale, values, lowest, highest, zero_point):
    check_length("through_codes: values", values, highest - lowest + 2)
    limits, step = (lowest, highest, zero_point), _number(x, scale)
    if step is None:
        return _plain(x, scale, values, *limits)
    source = dense(x)
    out, target = _room(x, source)
    table = values.to(torch.float32).to(x.dtype).contiguous()
    addresses = source.data_ptr(), target.data_ptr(), source.numel(), table.data_ptr()
    cpu.through_codes(*addresses, step, limits, torch.get_num_threads(), DTYPES[x.dtype])
    return _filled(out, target)


def _kept_cpu(x, scale, values, lowest, highest, zero_point, with_codes):
    check_length("through_codes_kept: values", values, highest - lowest + 2)
    limits, step = (lowest, highest, zero_point), _number(x, scale)
    if step is None:
        return _kept_plain(x, scale, values, *limits, with_codes)
    source = x.contiguous()  # what is kept stands in the order of indices
    out, target = _room(x, source)
    table = values.to(torch.float32).to(x.dtype).contiguous()
    codes = _room_for_codes(x, lowest, highest, with_codes)
    within = torch.empty((x.numel() + 7) // 8, dtype=torch.uint8)
    kept = codes.data_ptr() if with_codes else 0, within.data_ptr(), codes.itemsize
    addresses = source.data_ptr(), target.data_ptr(), source.numel(), table.data_ptr()
    cpu.through_codes(*addresses, step, limits, torch.get_num_threads(), DTYPES[x.dtype], kept)
    return _filled(out, target), codes, within


def _check_kept(gradient, codes, within, slopes) -> None:
    n = gradient.numel()
    check_length("through_codes_backward: within", within, (n + 7) // 8)
    if slopes is not None:
        check_length("through_codes_backward: codes", codes.reshape(-1), n)


def _backward_cpu(gradient, codes, within, slopes):
    _check_kept(gradient, codes, within, slopes)
    if gradient.dtype == torch.float64:
        return _backward_plain(gradient, codes, within, slopes)
    source, codes, within = gradient.contiguous(), codes.contiguous(), within.contiguous()
    out = torch.empty_like(source)
    table = None if slopes is None else _all_places(slopes, codes)
    kept = codes.data_ptr(), within.data_ptr(), codes.itemsize
    addresses = source.data_ptr(), out.data_ptr(), source.numel(), 0 if table is None else table.data_ptr()
    cpu.backward(*addresses, kept, torch.get_num_threads(), DTYPES[gradient.dtype])
    return out


def _all_places(slopes, codes):
    """Slopes as float32 for whatever stands in a code's bits, so that nothing is read beyond them."""
    missing = max(0, (1 << 8 * codes.itemsize) - len(slopes))
    return torch.nn.functional.pad(slopes.to(torch.float32), (0, missing))


def _backward_with_scale_cpu(gradient, x, scale, slopes, lowest, highest, zero_point):
    if slopes is not None:
        check_length("through_codes_backward_with_scale: slopes", slopes, highest - lowest + 2)
    limits, step = (lowest, highest, zero_point), _number(x, scale)
    if step is None:
        return _backward_with_scale_plain(gradient, x, scale, slopes, *limits)
    source = dense(x)
    out, target = _room(x, source)
    given = _laid_out(gradient, source)
    table = None if slopes is None else slopes.to(torch.float32).contiguous()
    addresses = given.data_ptr(), source.data_ptr(), target.data_ptr(), source.numel()
    total = cpu.backward_with_scale(
        *addresses,
        0 if table is None else table.data_ptr(),
        step,
        limits,
        torch.get_num_threads(),
        DTYPES[x.dtype],
    )
    return _filled(out, target), torch.full((), total, dtype=torch.float32)


# --- GPU


def _has_kernel(x: torch.Tensor) -> bool:
    return x.dtype != torch.float64 and has_triton() and x.numel() > 0


def _cuda(x, scale, values, lowest, highest, zero_point):
    check_length("through_codes: values", values, highest - lowest + 2)
    limits = lowest, highest, zero_point
    if not _has_kernel(x):
        return _plain(x, scale, values, *limits)
    from lutc.kernels import codes as kernels  # brings triton

    source = dense(x)
    out, target = _room(x, source)
    kernels.through_codes(source, _single(scale, x), _single(values, x).to(x.dtype), target, limits)
    return _filled(out, target)


def _kept_cuda(x, scale, values, lowest, highest, zero_point, with_codes):
    check_length("through_codes_kept: values", values, highest - lowest + 2)
    limits = lowest, highest, zero_point
    if not _has_kernel(x):
        return _kept_plain(x, scale, values, *limits, with_codes)
    from lutc.kernels import codes as kernels  # brings triton

    source, codes = x.contiguous(), _room_for_codes(x, lowest, highest, with_codes)
    out, target = _room(x, source)
    within = x.new_empty(((x.numel() + 7) // 8,), dtype=torch.uint8)
    places = codes if with_codes else None
    kernels.through_codes(source, _single(scale, x), _single(values, x).to(x.dtype), target, limits, places, within)
    return _filled(out, target), codes, within


def _backward_cuda(gradient, codes, within, slopes):
    _check_kept(gradient, codes, within, slopes)
    if not _has_kernel(gradient):
        return _backward_plain(gradient, codes, within, slopes)
    from lutc.kernels import codes as kernels  # brings triton

    source = gradient.contiguous()
    out = torch.empty_like(source)
    table = None if slopes is None else _all_places(slopes, codes)
    kernels.backward(source, codes.contiguous(), within.contiguous(), table, out)
    return out


def _backward_with_scale_cuda(gradient, x, scale, slopes, lowest, highest, zero_point):
    if slopes is not None:
        check_length("through_codes_backward_with_scale: slopes", slopes, highest - lowest + 2)
    limits = lowest, highest, zero_point
    if not _has_kernel(x):
        return _backward_with_scale_plain(gradient, x, scale, slopes, *limits)
    from lutc.kernels import codes as kernels  # brings triton

    source = dense(x)
    out, target = _room(x, source)
    given = _laid_out(gradient, source)
    table = None if slopes is None else _single(slopes, x)
    total = kernels.backward_with_scale(given, source, _single(scale, x), table, target, limits)
    return _filled(out, target), total


def _single(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return values.to(device=x.device, dtype=torch.float32).contiguous()


_NAMES = "through_codes", "through_codes_kept", "through_codes_backward", "through_codes_backward_with_scale"
for _key, *_kernels in (
    ("CompositeExplicitAutograd", _plain, _kept_plain, _backward_plain, _backward_with_scale_plain),
    ("CPU", _cpu, _kept_cpu, _backward_cpu, _backward_with_scale_cpu),
    ("CUDA", _cuda, _kept_cuda, _backward_cuda, _backward_with_scale_cuda),
):
    for _name, _kernel in zip(_NAMES, _kernels, strict=True):
        library.impl(_name, _kernel, _key)


def _fake_kept(x, scale, values, lowest, highest, zero_point, with_codes):
    within = x.new_empty(((x.numel() + 7) // 8,), dtype=torch.uint8)
    return torch.empty_like(x), _room_for_codes(x, lowest, highest, with_codes), within


def _fake_backward(gradient, codes, within, slopes):
    return torch.empty_like(gradient, memory_format=torch.contiguous_format)


def _fake_backward_with_scale(gradient, x, *rest):
    return torch.empty_like(x), x.new_empty((), dtype=wide_dtype(x))


torch.library.register_fake("lutc::through_codes", lambda x, *rest: torch.empty_like(x), lib=library)
torch.library.register_fake("lutc::through_codes_kept", _fake_kept, lib=library)
torch.library.register_fake("lutc::through_codes_backward", _fake_backward, lib=library)
torch.library.register_fake("lutc::through_codes_backward_with_scale", _fake_backward_with_scale, lib=library)

_RULES: tuple[Callable[..., Any], ...] = (
    batched_codes.through,
    batched_codes.kept,
    batched_codes.backward,
    batched_codes.backward_with_scale,
)
for _name, _rule in zip(_NAMES, _RULES, strict=True):
    torch.library.register_vmap(f"lutc::{_name}", _rule, lib=library)
