"""float16 and bfloat16 codes as float32 and back, to nearest, ties to even, for numba kernels.

On the bits, so that loops vectorise anywhere; float16 by the processor's own instructions where it has them, which are
several times as fast.
"""

from __future__ import annotations

import platform
from typing import Any

import llvmlite.binding
import numba
import numba.extending
import numpy as np
from llvmlite import ir

from lutc.nn.cpu.base import codes, compiled, float_bits, float_of, floats

FP32, FP16, BF16 = 0, 1, 2  # what kernels are told
FORMATS = {"fp32": FP32, "fp16": FP16, "bf16": BF16}

_u16, _u32, _i32, _f32 = np.uint16, np.uint32, np.int32, np.float32


@compiled
def from_bf16(code: Any) -> Any:
    return float_of(_i32(_u32(code) << _u32(16)))


@compiled
def to_bf16(value: Any) -> Any:
    bits = _u32(float_bits(value))
    nearest = bits + _u32(0x7FFF) + ((bits >> _u32(16)) & _u32(1))
    return _u16((nearest if value == value else bits | _u32(0x400000)) >> _u32(16))


@compiled
def from_fp16(code: Any) -> Any:
    magnitude = float_of(_i32((_u32(code) & _u32(0x7FFF)) << _u32(13))) * _f32(2.0**112)  # exact, subnormals too
    bits = _u32(float_bits(magnitude))
    bits = bits | _u32(0x7F800000) if magnitude >= _f32(65536.0) else bits  # infinities and NaN
    return float_of(_i32(bits | ((_u32(code) & _u32(0x8000)) << _u32(16))))


@compiled
def to_fp16(value: Any) -> Any:
    bits = _u32(float_bits(value))
    magnitude = bits & _u32(0x7FFFFFFF)
    normal = (magnitude - _u32(0x38000000) + _u32(0xFFF) + ((magnitude >> _u32(13)) & _u32(1))) >> _u32(13)
    subnormal = _u32(float_bits(float_of(_i32(magnitude)) + _f32(0.5))) - _u32(
        0x3F000000
    )  # the addition rounds to multiples of 2^-24
    code = subnormal if magnitude < _u32(0x38800000) else normal
    code = _u32(0x7C00) if magnitude >= _u32(0x477FF000) else code
    code = _u32(0x7E00) if magnitude > _u32(0x7F800000) else code
    return _u16(code | ((bits >> _u32(16)) & _u32(0x8000)))


@numba.extending.intrinsic
def _extended(typing, code):
    def generate(context, builder, signature, values):
        return builder.fpext(builder.bitcast(values[0], ir.HalfType()), ir.FloatType())

    return numba.float32(numba.uint16), generate


@numba.extending.intrinsic
def _truncated(typing, value):
    def generate(context, builder, signature, values):
        return builder.bitcast(builder.fptrunc(values[0], ir.HalfType()), ir.IntType(16))

    return numba.uint16(numba.float32), generate


def _has_instructions() -> bool:
    """Whether the processor that numba compiles for converts float16; LLVM would call a function that
    need not exist.
    """
    if numba.config.CPU_NAME or numba.config.CPU_FEATURES:
        return False
    return platform.machine() in ("aarch64", "arm64") or llvmlite.binding.get_host_cpu_features().get("f16c", False)


bits_from_fp16, bits_to_fp16 = from_fp16, to_fp16
if _has_instructions():
    from_fp16, to_fp16 = _extended, _truncated


@compiled
def widened(at: Any, n: Any, form: Any, room: Any) -> Any:
    """The address of n numbers of a form at an address as float32: where they are, or in `room`."""
    if form == FP32:
        return at
    row = codes(at, n)
    if form == FP16:
        for i in range(n):
            room[i] = from_fp16(row[i])
    else:
        for i in range(n):
            room[i] = from_bf16(row[i])
    return np.int64(room.ctypes.data)


@compiled
def written(values: Any, at: Any, n: Any, form: Any) -> None:
    """Round n float32 to the form at an address; a float32 that is there already is left."""
    if form == FP16:
        row = codes(at, n)
        for i in range(n):
            row[i] = to_fp16(values[i])
    elif form == BF16:
        row = codes(at, n)
        for i in range(n):
            row[i] = to_bf16(values[i])
    elif values.ctypes.data != at:
        words = floats(at, n)
        for i in range(n):
            words[i] = values[i]
