"""Torch operators of integer softmax and norms along the last axis, one pass: `torch.ops.lutc.integer_softmax` and
`torch.ops.lutc.integer_norm`. Bit for bit `lutc.hardware.rows`.

On a CPU they run `lutc.nn.cpu.integer_rows`, on a GPU `lutc.kernels.integer_rows`; elsewhere plain torch operations
give the same codes. A table of roots comes as int32 cuts, slopes and intercepts; what else is known beforehand as a
list of integers.
"""

from __future__ import annotations

import functools
import math
import warnings

import torch
from torch import Tensor

from lutc.errors import LutcError, ScaleWarning
from lutc.nn import integer_plain as plain
from lutc.nn.batched import is_batched, one_by_one
from lutc.nn.cpu import integer_rows as cpu
from lutc.nn.lowered import has_triton

OUTPUTS = (torch.uint8, torch.int8, torch.uint16, torch.int16)
LONGEST_OF_BYTES = 33025  # elements of a row of int8 whose squares an int32 holds

library = torch.library.Library("lutc", "FRAGMENT")
_ROOTS = "Tensor cuts, Tensor slopes, Tensor intercepts, int[] numbers, ScalarType dtype"
library.define(f"integer_softmax(Tensor q, Tensor? mask, Tensor weights, {_ROOTS}) -> Tensor")
library.define(f"integer_norm(Tensor q, Tensor? weight, Tensor? bias, {_ROOTS}) -> Tensor")


def _check(name: str, q: Tensor, others, roots, numbers, count: int, dtype: torch.dtype) -> None:
    """The kernels take addresses: what does not fit would be read out of bounds."""
    if q.dtype not in (torch.int8, torch.int16) or q.ndim == 0:
        raise LutcError(f"{name} takes int8 or int16 codes of at least one dimension; given {q.dtype} of {q.ndim}")
    if dtype not in OUTPUTS:
        raise LutcError(f"{name}: dtype is one of {', '.join(map(str, OUTPUTS))}; given {dtype}")
    cuts, slopes, intercepts = roots
    if not slopes.shape == intercepts.shape == (cuts.numel() + 1,) or len(numbers) != count:
        raise LutcError(f"{name} takes a slope and an intercept more than cuts, and {count} numbers; given "
                        f"{slopes.numel()}, {intercepts.numel()}, {cuts.numel()} and {len(numbers)}")  # fmt: skip
    if any(t.dtype != torch.int32 for t in roots):
        raise LutcError(f"{name} takes cuts, slopes and intercepts in int32; given {[t.dtype for t in roots]}")
    for other in (*others, *roots):
        if other is not None and other.device != q.device:
            raise LutcError(f"the codes are on {q.device}, the module's table or parameters on {other.device}; move "
                            f"it with .to('{q.device}')")  # fmt: skip


def _check_softmax(q, mask, weights, roots, numbers, dtype) -> None:
    _check("integer_softmax", q, (mask, weights), roots, numbers, 7, dtype)
    if weights.dtype != torch.int16 or weights.shape != (2 << 8 * q.itemsize,):
        raise LutcError(f"integer_softmax takes {2 << 8 * q.itemsize} weights in int16 for {q.dtype}; given "
                        f"{tuple(weights.shape)} in {weights.dtype}")  # fmt: skip
    if mask is not None and (mask.shape != q.shape or mask.dtype != torch.bool):
        raise LutcError(f"integer_softmax takes a bool mask of the codes' shape {tuple(q.shape)}; given "
                        f"{tuple(mask.shape)} in {mask.dtype}")  # fmt: skip


def _check_norm(q, weight, bias, roots, numbers, dtype) -> None:
    _check("integer_norm", q, (weight, bias), roots, numbers, 14, dtype)
    n = q.shape[-1]
    if q.dtype == torch.int8 and n > LONGEST_OF_BYTES:
        raise LutcError(f"integer_norm takes rows of at most {LONGEST_OF_BYTES} int8 codes; given {n}")
    for name, given in (("weight", weight), ("bias", bias)):
        if given is not None and (given.shape != (n,) or given.dtype != torch.int32):
            raise LutcError(f"integer_norm takes {name} in int32 of shape ({n},); given {tuple(given.shape)} in "
                            f"{given.dtype}")  # fmt: skip


@functools.cache
def _say_nothing_is_left(n: int, multiplier: int, shift: int) -> None:
    scale = 2.0**-15 / math.ldexp(multiplier, -shift)
    finer = max(2.0 ** -(math.ceil(math.log2(n)) + 2), 2.0**-24)
    warnings.warn(
        f"a softmax over rows of {n} gave rows whose codes are all 0: none of their probabilities comes up to half of "
        f"out_scale = {scale:g}; take out_scale=2**{round(math.log2(finer))} with out_dtype=torch.uint16",
        ScaleWarning,
        stacklevel=3,
    )


def _softmax_cpu(q, mask, weights, cuts, slopes, intercepts, numbers, dtype):
    _check_softmax(q, mask, weights, (cuts, slopes, intercepts), numbers, dtype)
    out = torch.empty(q.shape, dtype=dtype)
    if q.numel() == 0:
        return out
    q, mask, weights = q.contiguous(), None if mask is None else mask.contiguous(), weights.contiguous()
    roots = [t.contiguous() for t in (cuts, slopes, intercepts)]
    n = q.shape[-1]
    r_multiplier, r_shift, multiplier, shift, zero_point, _, highest = numbers
    nothing = cpu.softmax(
        q.data_ptr(),
        0 if mask is None else mask.data_ptr(),
        out.data_ptr(),
        (q.numel() // n, n),
        (q.itemsize, out.itemsize),
        weights.data_ptr(),
        (*(t.data_ptr() for t in roots), cuts.numel(), r_multiplier, r_shift, multiplier, shift, zero_point, highest),
        torch.get_num_threads(),
    )
    if nothing:
        _say_nothing_is_left(n, multiplier, shift)
    return out


def _norm_cpu(q, weight, bias, cuts, slopes, intercepts, numbers, dtype):
    _check_norm(q, weight, bias, (cuts, slopes, intercepts), numbers, dtype)
    out = torch.empty(q.shape, dtype=dtype)
    if q.numel() == 0:
        return out
    if dtype in (torch.uint8, torch.uint16):
        return plain.norm(q, weight, bias, cuts, slopes, intercepts, numbers, dtype)
    q, n = q.contiguous(), q.shape[-1]
    weight, bias = (None if p is None else p.contiguous() for p in (weight, bias))
    roots = [t.contiguous() for t in (cuts, slopes, intercepts)]
    cpu.norm(
        q.data_ptr(),
        out.data_ptr(),
        (q.numel() // n, n),
        (q.itemsize, out.itemsize),
        [0 if p is None else p.data_ptr() for p in (weight, bias)],
        (*(t.data_ptr() for t in roots), cuts.numel(), *numbers),
        torch.get_num_threads(),
    )
    return out


def _softmax_cuda(q, mask, weights, cuts, slopes, intercepts, numbers, dtype):
    _check_softmax(q, mask, weights, (cuts, slopes, intercepts), numbers, dtype)
    if not has_triton() or not q.numel():
        return plain.softmax(q, mask, weights, cuts, slopes, intercepts, numbers, dtype)
    from lutc.kernels import integer_rows as kernels  # brings triton

    q, n = q.contiguous(), q.shape[-1]
    out = torch.empty(q.shape, dtype=dtype, device=q.device)
    keep = None if mask is None else mask.contiguous().view(-1, n)
    roots = [t.contiguous() for t in (cuts, slopes, intercepts)]
    kernels.softmax(q.view(-1, n), keep, weights.contiguous(), out.view(-1, n), roots, numbers)
    return out


def _norm_cuda(q, weight, bias, cuts, slopes, intercepts, numbers, dtype):
    _check_norm(q, weight, bias, (cuts, slopes, intercepts), numbers, dtype)
    if not has_triton() or not q.numel():
        return plain.norm(q, weight, bias, cuts, slopes, intercepts, numbers, dtype)
    from lutc.kernels import integer_rows as kernels  # brings triton

    q, n = q.contiguous(), q.shape[-1]
    out = torch.empty(q.shape, dtype=dtype, device=q.device)
    affine = [None if p is None else p.contiguous() for p in (weight, bias)]
    roots = [t.contiguous() for t in (cuts, slopes, intercepts)]
    kernels.norm(q.view(-1, n), *affine, out.view(-1, n), roots, numbers)
    return out


def _softmax_plain(q, mask, weights, cuts, slopes, intercepts, numbers, dtype):
    _check_softmax(q, mask, weights, (cuts, slopes, intercepts), numbers, dtype)
    return plain.softmax(q, mask, weights, cuts, slopes, intercepts, numbers, dtype)


def _norm_plain(q, weight, bias, cuts, slopes, intercepts, numbers, dtype):
    _check_norm(q, weight, bias, (cuts, slopes, intercepts), numbers, dtype)
    return plain.norm(q, weight, bias, cuts, slopes, intercepts, numbers, dtype)


library.impl("integer_softmax", _softmax_cpu, "CPU")
library.impl("integer_softmax", _softmax_plain, "CompositeExplicitAutograd")
library.impl("integer_softmax", _softmax_cuda, "CUDA")
library.impl("integer_norm", _norm_cpu, "CPU")
library.impl("integer_norm", _norm_cuda, "CUDA")
library.impl("integer_norm", _norm_plain, "CompositeExplicitAutograd")
for _name in ("integer_softmax", "integer_norm"):
    torch.library.register_fake(f"lutc::{_name}", lambda q, *rest: q.new_empty(q.shape, dtype=rest[-1]), lib=library)


def _batched(operator):
    """Rows are along the last axis, whatever stands before: a batch is one more dimension there."""

    def rule(info, dims, q, given, *rest):
        mask = operator is torch.ops.lutc.integer_softmax
        if is_batched(dims[2:]) or (dims[1] is not None and not mask):
            return one_by_one(operator, info, dims, q, given, *rest)
        q = q.movedim(dims[0], 0) if dims[0] is not None else q.expand(info.batch_size, *q.shape)
        if mask and given is not None:
            given = given.movedim(dims[1], 0) if dims[1] is not None else given.expand(q.shape)
        return operator(q, given, *rest), 0

    return rule


for _operator in (torch.ops.lutc.integer_softmax, torch.ops.lutc.integer_norm):
    torch.library.register_vmap(f"lutc::{_operator.__name__}", _batched(_operator), lib=library)
