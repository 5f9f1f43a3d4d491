"""Softmax and norms over rows with tables inside: custom operators, their gradients, and the torch form that serves every device.

A table comes as a `RowTable`: float32 plans for the kernels (Triton on CUDA, numba on the CPU) and its float64 plan, which serves float64
inputs and other devices. Arithmetic is float32, or float64 for float64 inputs; results are rounded once to the input's dtype.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from lutc import tablefile
from lutc.coverage import Interval, serving_key
from lutc.errors import LutcError
from lutc.lower import lower
from lutc.nn import plain, rows_cpu
from lutc.nn.lowered import has_triton
from lutc.table import ExponentPrologue, PeriodPrologue, Table
from lutc.tablefile import TableSet

# exp(-87) is the last above float32's smallest normal number, exp(-708) float64's: below, a softmax weight is 0 whatever the table's tail is,
# so masked elements weigh nothing.
EXP_FLOOR = {torch.float32: -87.0, torch.float64: -708.0}
_CHUNK = 1 << 22  # elements that are worked on in torch operations at a time: temporaries of 16 MiB


@dataclass(frozen=True, eq=False)
class RowTable:
    """A table without its range reduction, lowered: words by form. `meta`: of each form of FORMS, behind its length. period: of exp, else 0.

    A few segments are compared one by one on a CPU (`vector`), which is as good as vector instructions; more of them take the GPU's plan.
    """

    words: dict[str, torch.Tensor]
    meta: tuple[int, ...]
    period: float

    @classmethod
    def of(cls, table: Table) -> RowTable:
        """`table` with an exponent prologue is used on its mantissas, where it is the body; a period prologue is taken over by the operator."""
        period = table.prologue.period if isinstance(table.prologue, PeriodPrologue) else 0.0
        if isinstance(table.prologue, (ExponentPrologue, PeriodPrologue)):
            table = Table(table.body, None, table.left, table.right, table.coefficients)
        kinds = ("uniform", "cells", "search")
        plans = lower(table, "fp32", kinds), lower(table, "fp64"), lower(table, "fp32", ("chain", *kinds))
        words = {form: torch.from_numpy(plan.words().copy()) for form, plan in zip(FORMS, plans)}
        return cls(words, tuple(number for plan in plans for number in (len(plan.meta), *plan.meta)), period)


class Plans(NamedTuple):
    """(words, meta) of each form of a table."""

    fast: tuple[torch.Tensor, tuple[int, ...]]
    exact: tuple[torch.Tensor, tuple[int, ...]]
    vector: tuple[torch.Tensor, tuple[int, ...]]


FORMS = Plans._fields


def _plans(words, meta) -> list[Plans]:
    """The plans of each table."""
    plans, start = [], 0
    for plan in words:
        end = start + 1 + meta[start]
        plans.append((plan, tuple(meta[start + 1 : end])))
        start = end
    return [Plans(*plans[i : i + len(FORMS)]) for i in range(0, len(plans), len(FORMS))]


class RowOperator(torch.nn.Module):
    """Holds the tables of an operator over rows: bytes of their files as persistent uint8 buffers, so that a checkpoint carries them, and plans as
    int32 buffers made at construction."""

    def hold(self, name: str, source, interval: Interval) -> None:
        """Take the table of `source` that serves the interval best."""
        tables, key = serving_key(source, interval)
        inputs = {key: tables.inputs[key]} if key in tables.inputs else {}
        self._hold_text(name, TableSet(tables.name, {key: tables[key]}, inputs, tables.function).dumps())

    def _hold_text(self, name: str, text: str) -> None:
        (table,) = tablefile.loads(text).values()
        held = RowTable.of(table)
        device = next((buffer.device for buffer in self.buffers()), torch.device("cpu"))
        self.register_buffer(f"{name}_table", torch.from_numpy(np.frombuffer(text.encode(), np.uint8).copy()).to(device))
        for form, words in held.words.items():
            self.register_buffer(f"{name}_{form}", words.to(device), persistent=False)
        self.tables = {**getattr(self, "tables", {}), name: (held.meta, held.period)}

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        for name in self.tables:
            data = state_dict.get(f"{prefix}{name}_table")
            if isinstance(data, torch.Tensor) and data.dtype == torch.uint8:
                try:
                    self._hold_text(name, bytes(data.cpu().numpy()).decode())
                except (UnicodeDecodeError, LutcError) as error:
                    raise LutcError(f"the checkpoint's entry '{prefix}{name}_table' is no table: {error}") from error
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @property
    def words(self) -> list[torch.Tensor]:
        return [getattr(self, f"{name}_{form}") for name in self.tables for form in FORMS]

    @property
    def meta(self) -> list[int]:
        return [number for meta, _ in self.tables.values() for number in meta]


def check_float(x, who: str) -> None:
    """LutcError for anything but a tensor of a float dtype that the operators take."""
    if not isinstance(x, torch.Tensor) or x.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        given = str(x.dtype).removeprefix("torch.") if isinstance(x, torch.Tensor) else type(x).__name__
        raise LutcError(f"{who} takes float32, float16, bfloat16 and float64 tensors; given {given}")


def check_device(x: torch.Tensor, others) -> None:
    """LutcError where a table or a parameter is not where x is: kernels take addresses, and on the meta device nothing would be computed."""
    for other in others:
        if other is not None and other.device != x.device:
            raise LutcError(f"the input is on {x.device}, the module's table or parameters on {other.device}; move it with .to('{x.device}')")


def _evaluate(x: torch.Tensor, plans: Plans) -> torch.Tensor:
    """A table at x (float32 or float64) in plain torch operations."""
    words, meta = plans.exact
    return plain.evaluate(x.double(), words, meta, False).to(x.dtype)


def _power(exponent: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """2**exponent of int32 exponents of normal numbers, from its bits."""
    if dtype == torch.float64:
        return ((exponent.to(torch.int64).clamp(-1022, 1023) + 1023) << 52).view(torch.float64)
    return ((exponent.clamp(-126, 127) + 127) << 23).view(torch.float32)


def _exp(d: torch.Tensor, plans, period: float) -> torch.Tensor:
    """Weights exp(d), d <= 0 or NaN: never negative, 0 below the floor."""
    if period:
        n = torch.floor(torch.where(d.isfinite(), d, 0.0) / period)
        # period in two parts, the first short enough for an exact product with n
        high = math.ldexp(round(math.ldexp(period, 14)), -14)
        r = ((d - n * high) - n * (period - high)).clamp(0.0, math.nextafter(period, 0.0) if d.dtype == torch.float64 else period * (1 - 2.0**-24))
        weights = _evaluate(r, plans) * _power(n.to(torch.int32), d.dtype)
    else:
        weights = _evaluate(d, plans)
    return weights.clamp(min=0.0).masked_fill(d < EXP_FLOOR[d.dtype], 0.0)


def _reciprocal(s: torch.Tensor, plans) -> torch.Tensor:
    """1 / s by the table on [1, 2) and the exponent, s positive, finite or NaN."""
    mantissa, exponent = torch.frexp(s)
    return _evaluate(2 * mantissa, plans) * _power(1 - exponent, s.dtype)


def _rsqrt(v: torch.Tensor, plans) -> torch.Tensor:
    """1 / sqrt(v) by the table on [1, 4) and the exponent, v >= 0; 0 gives inf, inf gives 0, NaN and negative v NaN."""
    regular = (v > 0) & v.isfinite()
    mantissa, exponent = torch.frexp(torch.where(regular, v, 1.0))
    half = torch.div(exponent - 1, 2, rounding_mode="floor")
    value = _evaluate(mantissa * _power(exponent - 2 * half, v.dtype), plans) * _power(-half, v.dtype)
    return torch.where(regular, value, torch.rsqrt(v))


def _softmax_rows(x, plans, period):
    weights = _exp(x - x.amax(-1, keepdim=True), plans[0], period)
    total = weights.sum(-1, keepdim=True)
    return weights * _reciprocal(total, plans[1]) if len(plans) > 1 else weights / total


def _norm_rows(x, weight, bias, eps, centred, plans):
    mean = x.mean(-1, keepdim=True) if centred else torch.zeros_like(x[:, :1])
    deviation = x - mean if centred else x
    variance = deviation.square().mean(-1, keepdim=True)
    y = deviation * _rsqrt(variance + eps, plans[0])
    y = y if weight is None else y * weight.to(x.dtype)
    return y if bias is None else y + bias.to(x.dtype), mean, variance


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _fused(x: torch.Tensor) -> bool:
    return x.is_cuda and x.dtype != torch.float64 and has_triton()


def _compiled(x: torch.Tensor) -> bool:
    """Whether numba serves x; what it computes is float32."""
    return x.device.type == "cpu" and x.dtype != torch.float64


def _chunks(x: torch.Tensor):
    """Ranges of rows that are worked on together in torch operations."""
    rows, n = x.shape
    step = max(1, _CHUNK // n)
    return ((start, min(start + step, rows)) for start in range(0, rows, step))


@torch.library.custom_op("lutc::softmax", mutates_args=())
def softmax(x: torch.Tensor, words: list[torch.Tensor], meta: list[int], period: float) -> torch.Tensor:
    """Rows of a (rows, n) tensor; the result is contiguous. words, meta: of the exp table and perhaps the reciprocal's, in all their forms."""
    check_device(x, words)
    x, plans = x.contiguous(), _plans(words, meta)
    out = torch.empty_like(x)
    if x.numel() == 0:
        return out
    if _fused(x):
        from lutc.kernels.softmax import softmax as launch

        with torch.cuda.device_of(x):
            launch(x, out, plans[0].fast, plans[1].fast if len(plans) > 1 else None, period)
        return out
    if _compiled(x):
        rows_cpu.softmax(x, out, plans[0].vector, plans[1].vector if len(plans) > 1 else None, period)
        return out
    for start, end in _chunks(x):
        out[start:end] = _softmax_rows(x[start:end].to(_wide(x.dtype)), plans, period)
    return out


@softmax.register_fake
def _(x, words, meta, period):
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _save_softmax(ctx, inputs, output):
    ctx.plans = len(inputs[1])
    ctx.save_for_backward(output)


def _softmax_backward(ctx, gradient):
    """The exact softmax's derivative at the table's result."""
    (y,) = ctx.saved_tensors
    y, gradient = y.to(_wide(y.dtype)), gradient.to(_wide(gradient.dtype))
    return (y * (gradient - (gradient * y).sum(-1, keepdim=True))).to(ctx.saved_tensors[0].dtype), [None] * ctx.plans, None, None


softmax.register_autograd(_softmax_backward, setup_context=_save_softmax)


@torch.library.custom_op("lutc::norm", mutates_args=())
def norm(
    x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float, centred: bool, words: list[torch.Tensor], meta: list[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """LayerNorm (`centred`) or RMSNorm of the rows of a (rows, n) tensor, contiguous: (y, mean, variance), the latter two (rows, 1)."""
    check_device(x, (*words, weight, bias))
    x, wide, plans = x.contiguous(), _wide(x.dtype), _plans(words, meta)
    weight, bias = (None if p is None else p.contiguous() for p in (weight, bias))
    out = torch.empty_like(x)
    mean, variance = (torch.empty(x.shape[0], 1, dtype=wide, device=x.device) for _ in range(2))
    if x.numel() == 0:
        return out, mean.fill_(torch.nan), variance.fill_(torch.nan)
    if _fused(x):
        from lutc.kernels.norm import norm as launch

        with torch.cuda.device_of(x):
            launch(x, weight, bias, out, mean, variance, eps, centred, plans[0].fast)
        return out, mean, variance
    if _compiled(x):
        rows_cpu.norm(x, weight, bias, out, mean, variance, eps, centred, plans[0].vector)
        return out, mean, variance
    for start, end in _chunks(x):
        rows = _norm_rows(x[start:end].to(wide), weight, bias, eps, centred, plans)
        out[start:end], mean[start:end], variance[start:end] = rows
    return out, mean, variance


@norm.register_fake
def _(x, weight, bias, eps, centred, words, meta):
    return torch.empty_like(x, memory_format=torch.contiguous_format), *(x.new_empty((x.shape[0], 1), dtype=_wide(x.dtype)) for _ in range(2))


def _save_norm(ctx, inputs, output):
    x, weight, bias, ctx.eps, ctx.centred, words, _ = inputs
    ctx.plans = len(words)
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.set_materialize_grads(True)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(x, weight, *output[1:])


def _norm_backward(ctx, gradient, *_):
    """The exact norm's derivative."""
    x, weight, mean, variance = ctx.saved_tensors
    wide, gradient = x.to(mean.dtype), gradient.to(mean.dtype)
    root = torch.rsqrt(variance + ctx.eps)
    normal = (wide - mean) * root
    inner = gradient if weight is None else gradient * weight.to(mean.dtype)
    to_x = inner - normal * (inner * normal).mean(-1, keepdim=True)
    to_x = (to_x - inner.mean(-1, keepdim=True) if ctx.centred else to_x) * root
    to_weight = None if weight is None else (gradient * normal).sum(0).to(weight.dtype)
    to_bias = None if ctx.bias_dtype is None else gradient.sum(0).to(ctx.bias_dtype)
    return to_x.to(x.dtype), to_weight, to_bias, None, None, [None] * ctx.plans, None


norm.register_autograd(_norm_backward, setup_context=_save_norm)

