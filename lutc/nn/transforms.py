"""The operators under `torch.func` (grad, vjp, jvp, vmap of them, ...) and in forward-mode differentiation.

Operators of `torch.library` take no part in these: `torch.func.grad` refuses them, and forward mode takes their results
for constants without a word. Modules come here while one of the two is `active`; each function is differentiated as its
operator is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._C import _are_functorch_transforms_active
from torch.autograd import forward_ad

from lutc.functions import in_torch
from lutc.nn import rows

_ops = torch.ops.lutc


def active() -> bool:
    """Whether a transform of `torch.func` or forward-mode differentiation is under way."""
    return (_are_functorch_transforms_active() or forward_ad._current_level >= 0) and not torch.compiler.is_compiling()


def is_batched(x: torch.Tensor) -> bool:
    """Whether x has a number for each call of a `torch.vmap`, so that none of them can be read on the host."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        if torch._C._functorch.is_batchedtensor(x):
            return True
        x = torch._C._functorch.get_unwrapped(x)
    return False


def differentiates() -> bool:
    """Whether `torch.func` differentiates (`vmap` alone does not), or forward mode does."""
    if not active():
        return False
    kinds = {one.key() for one in torch._C._functorch.get_interpreter_stack() or ()}
    return forward_ad._current_level >= 0 or bool(
        kinds & {torch._C._functorch.TransformType.Grad, torch._C._functorch.TransformType.Jvp}
    )


@dataclass(frozen=True)
class _Plain:
    """Arguments that are no tensors, in one: transforms would take tuples and lists of numbers apart."""

    meta: object
    grad: str = "table"
    period: float = 0.0
    eps: float = 0.0
    centred: bool = False


class _Lut(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, words: torch.Tensor, plain: _Plain) -> Any:
        return _ops.lut(x, words, plain.meta, plain.grad)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor | tuple) -> None:
        *tensors, ctx.plain = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _times_derivative(gradient, *ctx.saved_tensors, ctx.plain), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *_) -> Any:
        return _times_derivative(tangent, *ctx.saved_tensors, ctx.plain)


class _Slope(torch.autograd.Function):
    """gradient * slope of the segment of x, which is constant in x."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: torch.Tensor, x: torch.Tensor, words: torch.Tensor, plain: _Plain) -> Any:
        return _ops.lut_backward(gradient, x, words, plain.meta)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor | tuple) -> None:
        _, *tensors, ctx.plain = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _Slope.apply(gradient, *ctx.saved_tensors, ctx.plain), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *_) -> Any:
        x, words = ctx.saved_tensors
        return torch.zeros_like(x) if tangent is None else _Slope.apply(tangent, x, words, ctx.plain)


def _times_derivative(gradient, x, words, plain):
    return (
        _Slope.apply(gradient, x, words, plain) if plain.grad == "table" else in_torch.backward(plain.grad, gradient, x)
    )


def lut(x: torch.Tensor, words: torch.Tensor, meta: Sequence[int], grad: str) -> torch.Tensor:
    """`torch.ops.lutc.lut`."""
    return _Lut.apply(x, words, _Plain(meta, grad))


class _Softmax(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, plain: _Plain, *words) -> Any:
        return _ops.softmax(x, list(words), plain.meta, plain.period)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor | tuple) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)
        ctx.others = len(inputs) - 1

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return rows.softmax_derivative(ctx.saved_tensors[0], gradient), *[None] * ctx.others

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *_) -> Any:
        return rows.softmax_derivative(ctx.saved_tensors[0], tangent)


def softmax(x: torch.Tensor, words: list[torch.Tensor], meta: list[int], period: float) -> torch.Tensor:
    """`torch.ops.lutc.softmax`."""
    return _Softmax.apply(x, _Plain(meta, period=period), *words)


class _Norm(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, plain: _Plain, *words) -> Any:
        return _ops.norm(x, weight, bias, plain.eps, plain.centred, list(words), plain.meta)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor | tuple) -> None:
        x, weight, bias, ctx.plain, *words = inputs
        ctx.bias_dtype, ctx.others = None if bias is None else bias.dtype, len(words) + 1
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(x, weight, *output[1:])
        ctx.save_for_forward(x, weight, *output[1:])

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, *_) -> Any:
        x, weight, *statistics = ctx.saved_tensors
        gradients = rows.norm_gradients(
            gradient, x, weight, ctx.bias_dtype, *statistics, ctx.plain.eps, ctx.plain.centred
        )
        return *gradients, *[None] * ctx.others

    @staticmethod
    def jvp(
        ctx: Any, of_x: torch.Tensor | None, of_weight: torch.Tensor | None, of_bias: torch.Tensor | None, *_
    ) -> Any:
        x, weight, *statistics = ctx.saved_tensors
        y, root = rows.normal(x, *statistics, ctx.plain.eps, ctx.plain.centred)
        tangent = torch.zeros_like(y)
        if of_x is not None:
            tangent = rows.across(of_x.to(y.dtype), y, root, ctx.plain.centred) * (
                1.0 if weight is None else weight.to(y.dtype)
            )
        if of_weight is not None:
            tangent = tangent + y * of_weight.to(y.dtype)
        if of_bias is not None:
            tangent = tangent + of_bias.to(y.dtype)
        return tangent.to(x.dtype), None, None


def norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
    centred: bool,
    words: list[torch.Tensor],
    meta: list[int],
) -> torch.Tensor:
    """`torch.ops.lutc.norm`'s first result."""
    return _Norm.apply(x, weight, bias, _Plain(meta, eps=eps, centred=centred), *words)[0]
