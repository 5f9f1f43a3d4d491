"""What the numba kernels share: how they are compiled, C functions that call each other by address, and bits as
numbers.

There are two kinds of C functions, both of 64-bit integers alone, so that one of them serves every table and is found
again in the cache on disk (numba never finds a function that closes over another one):

    table kernel   (x, out, n, words, numbers)   addresses of inputs and outputs, their number, addresses of the plan's
                 words and numbers
    task           (first, last, job)            a range of a job's elements or rows; job: the address of an int64
                 vector (`lutc.nn.cpu.team`)
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numba
import numba.extending
import numpy as np
from llvmlite import ir

from lutc.jit import cached

_int64, _word = numba.types.int64, ir.IntType(64)
TABLE_KERNEL = numba.types.void(*[_int64] * 5)
TASK = numba.types.void(*[_int64] * 3)
_NEAR = 1 << 18  # bytes
_MANY = 1 << 40  # length of arrays of which nobody asks it


@functools.cache
def processor_has(feature: str) -> bool:
    """Whether the processor that numba compiles for has a feature, by LLVM's name; no, where numba compiles
    for another one than this.
    """
    config: Any = numba.config
    if config.CPU_NAME or config.CPU_FEATURES:
        return False
    try:
        return bool(llvmlite.binding.get_host_cpu_features().get(feature, False))
    except RuntimeError:
        return False


def compiled(function: Callable | None = None, *, reorder: bool = False) -> Any:
    """numba.njit without the interpreter lock, fused multiply-add allowed, cached on disk where some folder for it is
    writable.

    reorder: sums may be taken in another order, which turns them into vector instructions.
    """
    if function is None:
        return functools.partial(compiled, reorder=reorder)
    # Division as numpy has it: no check for 0, which would keep loops from becoming vector instructions.
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc"} if reorder else {"contract"}}
    return cached(lambda cache: numba.njit(cache=cache, **options)(function))


class Native:
    """A C function, compiled or read from the cache when first asked for its `address` or `call`, which releases the
    interpreter lock.
    """

    _lock = threading.Lock()

    def __init__(self, function: Callable, signature: Any):
        self._function, self._signature = function, signature

    def __getattr__(self, name):
        if name not in ("address", "call"):
            raise AttributeError(name)
        with self._lock:  # a second compilation would replace the first, which may be running
            if "address" not in self.__dict__:
                self._compiled = cached(
                    lambda cache: numba.cfunc(self._signature, cache=cache, fastmath={"contract"}, error_model="numpy")(
                        self._function
                    )
                )
                self.call, self.address = self._compiled.ctypes, self._compiled.address
        return self.__dict__[name]


def native(signature: Any) -> Any:
    """Decorator: a numba function as a C function of a signature of integers."""
    return lambda function: Native(function, signature)


@numba.extending.intrinsic
def pointer(typing: Any, address: Any) -> Any:
    """An integer as a pointer."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(numba.types.voidptr))

    return numba.types.voidptr(address), generate


def _call(context, builder, signature, values):
    function = ir.FunctionType(ir.VoidType(), [_word] * (len(values) - 1))
    builder.call(builder.inttoptr(values[0], function.as_pointer()), values[1:])
    return context.get_dummy_value()


@numba.extending.intrinsic
def call_kernel(typing: Any, address: Any, x: Any, out: Any, n: Any, words: Any, numbers: Any) -> Any:
    """Call the table kernel at an address."""
    return numba.types.void(*[_int64] * 6), _call


@numba.extending.intrinsic
def call_task(typing: Any, address: Any, first: Any, last: Any, job: Any) -> Any:
    """Call the task at an address."""
    return numba.types.void(*[_int64] * 4), _call


@numba.extending.intrinsic
def counted(typing: Any, address: Any) -> Any:
    """The integer at an address, which is one more after it; atomic."""

    def generate(context, builder, signature, values):
        return builder.atomic_rmw(
            "add", builder.inttoptr(values[0], _word.as_pointer()), ir.Constant(_word, 1), "monotonic"
        )

    return _int64(_int64), generate


@numba.extending.intrinsic
def prefetch(typing: Any, address: Any) -> Any:
    """Ask for the line of memory at an address, to be read; it need not be one of ours."""

    def generate(context, builder, signature, values):
        pointer, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [pointer], ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        )
        read, keep, data = (ir.Constant(number, value) for value in (0, 3, 1))
        builder.call(function, [builder.inttoptr(values[0], pointer), read, keep, data])
        return context.get_dummy_value()

    return numba.types.void(_int64), generate


@compiled
def ask_ahead(x: Any, out: Any, distance: Any, size: Any) -> None:
    """Ask for the bytes that are read and written at a distance from two addresses, where the caches hold all of it."""
    if distance <= _NEAR:
        for line in range(distance, distance + size, 64):
            prefetch(x + line)
            prefetch(out + line)


@compiled
def floats(address: Any, n: Any) -> Any:
    return numba.carray(pointer(address), n, np.float32)


@compiled
def codes(address: Any, n: Any) -> Any:
    return numba.carray(pointer(address), n, np.uint16)


@compiled
def integers(address: Any) -> Any:
    return numba.carray(pointer(address), _MANY, np.int64)


@compiled
def plan_words(address: Any) -> Any:
    return numba.carray(pointer(address), _MANY, np.int32)


def bitcast(source: Any, target: Any) -> Any:
    """A numba function that reads the bits of a number of one type as one of another type of the same width."""

    @numba.extending.intrinsic
    def cast(typing, value):
        def generate(context, builder, signature, arguments):
            return builder.bitcast(arguments[0], context.get_value_type(target))

        return target(source), generate

    return cast


float_bits, float_of = bitcast(numba.float32, numba.int32), bitcast(numba.int32, numba.float32)
double_bits, double_of = bitcast(numba.float64, numba.int64), bitcast(numba.int64, numba.float64)


@compiled
def single(number: Any) -> Any:
    """The float32 that stands as its bits in a vector of integers."""
    return float_of(np.int32(number))


def packed(*numbers) -> ctypes.Array:
    """Integers, and float32 and float64 as their bits, as a vector of int64."""
    return (ctypes.c_int64 * len(numbers))(*map(_bits, numbers))


def _bits(number) -> int:
    if isinstance(number, np.floating):
        return int(number.view(np.int32 if number.itemsize == 4 else np.int64))
    return number
