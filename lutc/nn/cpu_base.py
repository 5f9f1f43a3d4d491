"""What the numba kernels share: how they are compiled, and addresses as arrays."""

from __future__ import annotations

import functools

import numba
import numba.extending
import numpy as np


def compiled(function=None, *, reorder: bool = False):
    """numba.njit without the interpreter lock, fused multiply-add allowed, cached on disk where some folder for it is writable.

    reorder: sums may be taken in another order, which turns them into vector instructions.
    """
    if function is None:
        return functools.partial(compiled, reorder=reorder)
    options = {"nogil": True, "fastmath": {"contract", "reassoc"} if reorder else {"contract"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # "cannot cache function: no locator available": neither the package nor the user's cache folder is writable
        return numba.njit(**options)(function)


@numba.extending.intrinsic
def pointer(typing, address):
    """An integer as a pointer."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(numba.types.voidptr))

    return numba.types.voidptr(address), generate


@compiled
def arrays(x, out, n, words, length):
    """Addresses as arrays: x and out float32, words int32."""
    source, target = numba.carray(pointer(x), n, np.float32), numba.carray(pointer(out), n, np.float32)
    return source, target, numba.carray(pointer(words), length, np.int32)


def bitcast(source, target):
    """A numba function that reads the bits of a number of one type as one of another type of the same width."""

    @numba.extending.intrinsic
    def cast(typing, value):
        def generate(context, builder, signature, arguments):
            return builder.bitcast(arguments[0], context.get_value_type(target))

        return target(source), generate

    return cast


float_bits, float_of = bitcast(numba.float32, numba.int32), bitcast(numba.int32, numba.float32)
double_bits, double_of = bitcast(numba.float64, numba.int64), bitcast(numba.int64, numba.float64)
