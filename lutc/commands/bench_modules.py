"""What `lutc bench` times beside tables on floats: codes, rows and training steps, each beside torch's own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
import torch.nn.functional as F

from lutc.commands.bench_timing import Contender
from lutc.errors import LutcError
from lutc.functions import in_torch
from lutc.nn.fake_quant import FakeQuantize, QuantActivation
from lutc.nn.integer_norm import IntegerLayerNorm, IntegerRMSNorm
from lutc.nn.integer_softmax import IntegerSoftmax
from lutc.nn.lowered import DTYPES
from lutc.nn.norm import LUTLayerNorm, LUTRMSNorm
from lutc.nn.quant import QuantLUT
from lutc.nn.softmax import LUTSoftmax
from lutc.table.table_set import TableSet

INT8 = "int8"
LENGTHS = (512, 8192)  # of rows
_MOST_IN_ROWS, _MOST_IN_TRAINING = 1 << 21, 1 << 23  # elements
_SCALE = 2.0**-4  # of codes in rows
_DTYPES = {name: dtype for dtype, name in DTYPES.items()}


def contenders(
    section: str, tables: TableSet | None, dtype: str, size: int, device: torch.device
) -> Iterator[tuple[str, list[Contender]]]:
    """(shape, contenders, the first of them a copy) of a section: "codes" and "training" of a table set over codes,
    "rows" of every length that `size` holds. dtype: "fp32", "fp16", "bf16", and but for training INT8.
    """
    if section == "rows":
        whole = min(size, _MOST_IN_ROWS)
        for n in LENGTHS:
            if whole >= n:
                of = _integer_rows if dtype == INT8 else _float_rows
                yield f"{whole // n} x {n}", of(whole // n, n, dtype, device)
    elif tables is not None and tables.inputs:
        key = tables.default_key
        scale = tables.inputs[key].scale
        try:
            module = QuantLUT(tables, scale).to(device)
        except LutcError:  # of coefficients that are no integers
            return
        name = f"{tables.name}[{key}] {tables[key].entries}"
        if section == "training":
            size = min(size, _MOST_IN_TRAINING)
            yield str(size), _training(module, name, scale, dtype, size, device)
        elif dtype == INT8:
            yield str(size), _codes(module, name, scale, size, device)
        else:
            yield str(size), _floats(module, name, scale, dtype, size, device)


def _values(size: int, dtype: str, scale: float, device: torch.device) -> torch.Tensor:
    """Normal numbers that use all codes of the scale, and a few beyond."""
    return (torch.randn(size) * (48 * scale)).to(_DTYPES[dtype]).to(device)


def _as_codes(x: torch.Tensor, scale: float) -> torch.Tensor:
    return (x / scale).round().clamp(-128, 127).to(torch.int8)


def _function(tables: TableSet, dtype: str, x: torch.Tensor) -> list[Contender]:
    """The exact function, where torch has it."""
    name = tables.function or ""
    return [Contender(f"exact {name}", dtype, lambda: in_torch.value(name, x))] if in_torch.known(name) else []


def _codes(module: QuantLUT, name: str, scale: float, size: int, device: torch.device) -> list[Contender]:
    x = _values(size, "fp32", scale, device)
    q, to_codes = _as_codes(x, scale), QuantLUT(module.tables, scale, out_scale=scale).to(device)
    found = [
        Contender("copy", INT8, q.clone),
        Contender("QuantLUT to int8", INT8, lambda: to_codes(q), name),
        Contender("QuantLUT to fp32", INT8, lambda: module(q), name),
        Contender("q.float()", INT8, q.float),
    ]
    return [*found, *_function(module.tables, "fp32", x), *_quantised(module.tables, x, scale)]


def _quantised(tables: TableSet, x: torch.Tensor, scale: float) -> list[Contender]:
    """torch's own function on quantised tensors, where it has one."""
    name = tables.function or ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is about to go
            given = torch.quantize_per_tensor(x, scale, 0, torch.qint8)
        in_torch.value(name, given)
    except (RuntimeError, NotImplementedError, KeyError, AttributeError, TypeError):
        return []
    return [Contender(f"torch's {name}, quantised", INT8, lambda: in_torch.value(name, given))]


def _floats(module: QuantLUT, name: str, scale: float, dtype: str, size: int, device: torch.device) -> list[Contender]:
    x = _values(size, dtype, scale, device)
    dynamic, quantise = QuantLUT(module.tables, "dynamic").to(device), FakeQuantize(scale).to(device)
    return [
        Contender("copy", dtype, x.clone),
        Contender("QuantLUT", dtype, lambda: module(x), name),
        Contender("QuantLUT, dynamic", dtype, lambda: dynamic(x), name),
        Contender("FakeQuantize", dtype, lambda: quantise(x)),
        *_fake_quantised(x, scale, dtype),
        *_function(module.tables, dtype, x),
    ]


def _torch_quantises(x: torch.Tensor, scale: float) -> bool:
    try:
        torch.fake_quantize_per_tensor_affine(x[:1], scale, 0, -128, 127)
    except (RuntimeError, NotImplementedError):
        return False
    return True


def _fake_quantised(x: torch.Tensor, scale: float, dtype: str) -> list[Contender]:
    if not _torch_quantises(x, scale):
        return []
    return [
        Contender("torch's fake_quantize", dtype, lambda: torch.fake_quantize_per_tensor_affine(x, scale, 0, -128, 127))
    ]


def _integer_rows(rows: int, n: int, dtype: str, device: torch.device) -> list[Contender]:
    x, weight = torch.randn(rows, n, device=device), torch.ones(n, device=device)
    q = _as_codes(x, _SCALE)
    softmax = IntegerSoftmax(scale=_SCALE).to(device)
    rms = IntegerRMSNorm(weight, scale=_SCALE, out_scale=2.0**-5).to(device)
    layer = IntegerLayerNorm(weight, weight, scale=_SCALE, out_scale=2.0**-5).to(device)
    return [
        Contender("copy", dtype, q.clone),
        Contender("IntegerSoftmax", dtype, lambda: softmax(q)),
        Contender("F.softmax", "fp32", lambda: F.softmax(x, -1)),
        Contender("IntegerRMSNorm", dtype, lambda: rms(q)),
        Contender("F.rms_norm", "fp32", lambda: F.rms_norm(x, (n,), weight)),
        Contender("IntegerLayerNorm", dtype, lambda: layer(q)),
        Contender("F.layer_norm", "fp32", lambda: F.layer_norm(x, (n,), weight, weight)),
    ]


def _float_rows(rows: int, n: int, dtype: str, device: torch.device) -> list[Contender]:
    kind = _DTYPES[dtype]
    x, weight = torch.randn(rows, n, device=device).to(kind), torch.ones(n, device=device, dtype=kind)
    joined, lines = LUTSoftmax("exp_fplut").to(device), LUTSoftmax("exp_8", "reci_8").to(device)
    rms, layer = LUTRMSNorm(n, dtype=kind).to(device), LUTLayerNorm(n, dtype=kind).to(device)
    return [
        Contender("copy", dtype, x.clone),
        Contender("LUTSoftmax", dtype, lambda: joined(x), "exp_fplut"),
        Contender("LUTSoftmax", dtype, lambda: lines(x), "exp_8, reci_8"),
        Contender("F.softmax", dtype, lambda: F.softmax(x, -1)),
        Contender("LUTRMSNorm", dtype, lambda: rms(x), "rsqrt_fplut"),
        Contender("F.rms_norm", dtype, lambda: F.rms_norm(x, (n,), weight)),
        Contender("LUTLayerNorm", dtype, lambda: layer(x), "rsqrt_fplut"),
        Contender("F.layer_norm", dtype, lambda: F.layer_norm(x, (n,), weight, weight)),
    ]


def _training(
    module: QuantLUT, name: str, scale: float, dtype: str, size: int, device: torch.device
) -> list[Contender]:
    x = _values(size, dtype, scale, device)
    gradient, leaf, function = torch.randn_like(x), x.clone().requires_grad_(), module.tables.function or ""
    learned, quantise = QuantLUT(module.tables, "learned").to(device), FakeQuantize("learned").to(device)

    def step(forward):
        def call():
            leaf.grad = None
            forward(leaf).backward(gradient)

        return call

    found = [
        Contender("copy", dtype, x.clone),
        Contender("step: QuantLUT, learned", dtype, step(learned), name),
        Contender("step: QuantLUT, fixed", dtype, step(module), name),
        Contender("step: FakeQuantize, learned", dtype, step(quantise)),
    ]
    if in_torch.known(function):
        exact = QuantActivation(function, "learned").to(device)
        found.append(Contender(f"step: exact {function}, learned", dtype, step(exact)))
        found.append(Contender(f"step: exact {function}", dtype, step(lambda x: in_torch.value(function, x))))
        if _torch_quantises(x, scale):

            def theirs(x):
                return in_torch.value(function, torch.fake_quantize_per_tensor_affine(x, scale, 0, -128, 127))

            found.append(Contender(f"step: torch's fake_quantize, {function}", dtype, step(theirs)))
    return found
