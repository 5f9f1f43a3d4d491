"""What the numba kernels share: how they are compiled, and addresses as arrays."""

from __future__ import annotations

import numba
import numba.extending
import numpy as np


def compiled(function):
    """numba.njit without the interpreter lock, fused multiply-add allowed, cached on disk where some folder for it is writable."""
    options = {"nogil": True, "fastmath": {"contract"}}
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
