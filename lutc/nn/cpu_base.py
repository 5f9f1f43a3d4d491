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


@numba.extending.intrinsic
def float_bits(typing, value):
    """The bits of a float32 as int32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(numba.int32))

    return numba.int32(numba.float32), generate


@numba.extending.intrinsic
def float_of(typing, bits):
    """A float32 from its bits."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(numba.float32))

    return numba.float32(numba.int32), generate
