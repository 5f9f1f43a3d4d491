"""Torch operators over plans: `torch.ops.lutc.lut`, its slope for training, and the gated product of MLPs.

    lut(x, words, meta, grad)            table(x)
    lut_backward(gradient, x, words, meta)   gradient * slope of the segment of x
    lut_mul(x, y, words, meta, grad)     table(x) * y, equal bit for bit to the product of the two steps

`words` and `meta` are a plan (`lutc.lower.plans`); `grad` is "table" or the name of a function known to
`lutc.functions.in_torch`. Outputs have the shape, strides, dtype and device of x. The operators are registered with
`torch.library`, kernels per dispatch key, since the Python layer of `torch.library.custom_op` alone takes as long as a
small table.
"""

from __future__ import annotations

import torch

from lutc.errors import LutcError
from lutc.functions import in_torch
from lutc.lower.plans import KIND_CODES
from lutc.nn import cpu, plain
from lutc.nn.batched import is_batched, one_by_one
from lutc.nn.lowered import DTYPES, has_triton

library = torch.library.Library("lutc", "DEF")
library.define("lut(Tensor x, Tensor words, int[] meta, str grad) -> Tensor")
library.define("lut_backward(Tensor gradient, Tensor x, Tensor words, int[] meta) -> Tensor")
library.define("lut_mul(Tensor x, Tensor y, Tensor words, int[] meta, str grad) -> Tensor")
_lut, _lut_backward, _lut_mul = (
    torch.ops.lutc.lut.default,
    torch.ops.lutc.lut_backward.default,
    torch.ops.lutc.lut_mul.default,
)

_REFERENCE, _DIRECT = KIND_CODES["reference"], KIND_CODES["direct"]


# --- forward


def _check(x: torch.Tensor, words: torch.Tensor, meta) -> None:
    if x.device != words.device:
        raise LutcError(
            f"the input is on {x.device} and the table on {words.device}; move the module with .to('{x.device}')"
        )
    kind, bits = meta[0], 8 * x.itemsize
    if bits not in ((16,) if kind == _DIRECT else (16, 32, 64) if kind == _REFERENCE else (16, 32)):
        raise LutcError(
            f"this plan ({next(name for name, code in KIND_CODES.items() if code == kind)}) does not serve {x.dtype}"
        )


def _dense(x: torch.Tensor) -> torch.Tensor:
    """x itself if its elements fill their memory in some order, as `torch.empty_like` would lay them out; else a
    contiguous copy.
    """
    return x if x.is_contiguous() or torch.ops.aten.is_non_overlapping_and_dense.default(x) else x.contiguous()


def _run_cpu(x, words, meta, slope_only, factor=None):
    """The plan's values or slopes; with a factor, laid out as x and the result, times it."""
    if meta[0] == _REFERENCE:
        return _run_plain(x, words, meta, slope_only)
    _check(x, words, meta)
    out = torch.empty_like(x)
    if x.itemsize == 2 and meta[0] != _DIRECT:  # a GPU's plan, from a program that was exported there
        return out.copy_(_run_cpu(x.float(), words, meta, slope_only))
    source = _dense(x)
    target = out if out.stride() == source.stride() else torch.empty_like(source)
    addresses = source.data_ptr(), target.data_ptr(), source.numel(), words.data_ptr()
    cpu.run(
        *addresses,
        meta,
        slope_only,
        torch.get_num_threads(),
        0 if factor is None else factor.data_ptr(),
        DTYPES[x.dtype],
    )
    return out if target is out else out.copy_(target)


def _times_cpu(x, y, words, meta, slope_only):
    """The same times y, in one pass where y lies in memory as x does."""
    alike = (y.dtype, y.device, y.shape, y.stride()) == (x.dtype, x.device, x.shape, x.stride())
    if alike and meta[0] != _REFERENCE and (meta[0] == _DIRECT or x.itemsize == 4) and _dense(x) is x:
        return _run_cpu(x, words, meta, slope_only, y)
    return _run_cpu(x, words, meta, slope_only).mul_(y)


def _run_cuda(x, words, meta, slope_only):
    if meta[0] == _REFERENCE or not has_triton():
        return _run_plain(x, words, meta, slope_only)
    from lutc.nn import gpu  # brings triton

    _check(x, words, meta)
    return gpu.slopes(x, words, meta) if slope_only else gpu.values(x, words, meta)


def _run_plain(x, words, meta, slope_only):
    _check(x, words, meta)
    out = torch.empty_like(x)
    return out.copy_(plain.evaluate(x, words, meta, slope_only))


def _times_plain(x, y, words, meta, slope_only):
    return _run_plain(x, words, meta, slope_only).mul_(y)


def _register(run, times, key):
    library.impl("lut", lambda x, words, meta, grad: run(x, words, meta, False), key)
    library.impl("lut_backward", lambda gradient, x, words, meta: times(x, gradient, words, meta, True), key)
    library.impl("lut_mul", lambda x, y, words, meta, grad: times(x, y, words, meta, False), key)


_register(_run_cpu, _times_cpu, "CPU")
_register(_run_plain, _times_plain, "CompositeExplicitAutograd")


def _cuda_mul(x, y, words, meta, grad):
    if meta[0] == _REFERENCE or not has_triton() or y.shape != x.shape or y.dtype != x.dtype:
        return _run_cuda(x, words, meta, False).mul_(y)
    from lutc.nn import gpu  # brings triton

    _check(x, words, meta)
    return gpu.products(x, y, words, meta)


def _cuda_backward(gradient, x, words, meta):
    if meta[0] == _REFERENCE or not has_triton():
        return _run_plain(x, words, meta, True).mul_(gradient)
    from lutc.nn import gpu  # brings triton

    _check(x, words, meta)
    return gpu.gradients(gradient, x, words, meta)


library.impl("lut", lambda x, words, meta, grad: _run_cuda(x, words, meta, False), "CUDA")
library.impl("lut_backward", _cuda_backward, "CUDA")
library.impl("lut_mul", _cuda_mul, "CUDA")
torch.library.register_fake("lutc::lut", lambda x, words, meta, grad: torch.empty_like(x), lib=library)
torch.library.register_fake("lutc::lut_backward", lambda gradient, x, words, meta: torch.empty_like(x), lib=library)
torch.library.register_fake("lutc::lut_mul", lambda x, y, words, meta, grad: torch.empty_like(x), lib=library)


# --- gradients


def _times_derivative(gradient, x, words, meta, grad):
    return _lut_backward(gradient, x, words, meta) if grad == "table" else in_torch.backward(grad, gradient, x)


def _save(ctx, inputs, output):
    x, words, ctx.meta, ctx.grad = inputs
    ctx.save_for_backward(x, words)


def _backward(ctx, gradient):
    x, words = ctx.saved_tensors
    return _times_derivative(gradient, x, words, ctx.meta, ctx.grad), None, None, None


def _save_backward(ctx, inputs, output):
    _, x, words, ctx.meta = inputs
    ctx.save_for_backward(x, words)


def _backward_backward(ctx, gradient):
    """The slope is constant within a segment, so the second derivative is 0."""
    x, words = ctx.saved_tensors
    return _lut_backward(gradient, x, words, ctx.meta), torch.zeros_like(x), None, None


def _save_mul(ctx, inputs, output):
    x, y, words, ctx.meta, ctx.grad = inputs
    ctx.save_for_backward(x, y, words)


def _backward_mul(ctx, gradient):
    x, y, words = ctx.saved_tensors
    of_x = _times_derivative(gradient * y, x, words, ctx.meta, ctx.grad) if ctx.needs_input_grad[0] else None
    of_y = _lut_mul(x, gradient, words, ctx.meta, ctx.grad) if ctx.needs_input_grad[1] else None
    return of_x, of_y, None, None, None


torch.library.register_autograd("lutc::lut", _backward, setup_context=_save, lib=library)
torch.library.register_autograd("lutc::lut_backward", _backward_backward, setup_context=_save_backward, lib=library)
torch.library.register_autograd("lutc::lut_mul", _backward_mul, setup_context=_save_mul, lib=library)


# --- vmap: elementwise, so the batch dimension is one like the others


def _vmap(info, dims, x, words, meta, grad):
    if is_batched(dims[1]):
        return one_by_one(_lut, info, dims, x, words, meta, grad)
    return _lut(x, words, meta, grad), dims[0]


def _batched_first(x, dim, size):
    return x.movedim(dim, 0) if dim is not None else x.expand(size, *x.shape)


def _vmap_pair(operator):
    def rule(info, dims, a, b, words, meta, *grad):
        if is_batched(dims[2]):
            return one_by_one(operator, info, dims, a, b, words, meta, *grad)
        a, b = _batched_first(a, dims[0], info.batch_size), _batched_first(b, dims[1], info.batch_size)
        return operator(a, b, words, meta, *grad), 0

    return rule


torch.library.register_vmap("lutc::lut", _vmap, lib=library)
torch.library.register_vmap("lutc::lut_backward", _vmap_pair(_lut_backward), lib=library)
torch.library.register_vmap("lutc::lut_mul", _vmap_pair(_lut_mul), lib=library)
