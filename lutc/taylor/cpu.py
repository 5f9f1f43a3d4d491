"""numba kernels for a CPU. Small batches: routing and product in one call, without a dispatch's fixed cost. Larger
ones: the product.

fp16 and bf16 slopes are read as their 16-bit codes and widened in registers, int8 slopes likewise, so that a batch
moves half or a quarter of the bytes: at small batches the slopes' bytes are the time. All arithmetic is float32.
"""

from __future__ import annotations

import ctypes
import sys

import numpy as np
import torch
from torch import Tensor

from lutc.functions.in_torch import value

# Up to this many rows one numba call both routes and multiplies; beyond, torch's matrix product routes.
SMALL_BATCH = 64
# The numba product runs on one thread. From this many rows per centre and thread on, a matrix product of torch's per
# centre uses all threads better.
ROWS_PER_CENTRE = 16

_HUGE_PAGE = 2 << 20
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25


def serves(rows: int, k: int) -> bool:
    """Whether the numba product is the faster one for so many rows of k centres."""
    threads = torch.get_num_threads()
    return threads == 1 or rows <= SMALL_BATCH or rows < ROWS_PER_CENTRE * k * threads


class SharedMemory:
    """Of arrays that share tensors' memory, so that training shows; `valid` tells whether the tensors still lie where
    they did.
    """

    def __init__(self, tensors: list[Tensor]):
        self.tensors = tensors
        self.places = self._places()

    def _places(self) -> list[int]:
        return [tensor.data_ptr() for tensor in self.tensors]

    def valid(self) -> bool:
        return self._places() == self.places


class Bound(SharedMemory):
    """Routing and product of one table in a single call, with the table's arrays at hand: at batch 1 each look-up of a
    tensor counts.
    """

    def __init__(
        self,
        centres: Tensor,
        half_norms: Tensor,
        slopes: Tensor,
        scales: Tensor | None,
        bias: Tensor,
        columns: Tensor | None = None,
        neurons: tuple[Tensor, Tensor, str] | None = None,
    ):
        """`columns`; `neurons`: weights [n, d], offsets [n] and activation of kept neurons, as in TaylorTable."""
        super().__init__([centres, slopes, bias, *(() if neurons is None else neurons[:2])])
        self.outputs, self.width = slopes.shape[1], centres.shape[1]
        slopes, shifts = slopes.detach(), bias.detach().numpy()
        codes = slopes.view(torch.uint16) if slopes.dtype in (torch.float16, torch.bfloat16) else slopes
        self.arrays = (
            centres.numpy(),
            half_norms.numpy(),
            codes.numpy(),
            shifts if scales is None else scales.numpy(),
            shifts,
        )
        self.columns = None if columns is None else columns.numpy()
        self.neurons = None
        if neurons is not None:
            weights, offsets, activation = neurons
            self.neurons = weights.detach().numpy(), offsets.detach().numpy(), activation
        kernels = _kernels()
        self.kernel, self.fused = kernels.WHOLE[slopes.dtype], None
        if self.neurons is not None and self.neurons[2] in kernels.ACTIVATIONS:
            self.fused = kernels.whole_with_neurons(slopes.dtype, self.neurons[2])
            self.before = (*self.neurons[:2], np.empty(0, np.float32) if self.columns is None else self.columns)
        use_huge_pages(slopes)

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., d] float32 and contiguous, at most SMALL_BATCH rows -> [..., o]."""
        rows = x.numpy().reshape(-1, self.width)
        y = np.empty((len(rows), self.outputs), np.float32)
        if self.fused is not None:
            self.fused(rows, *self.before, *self.arrays, y)
        else:
            z = rows if self.neurons is None else self._with_neurons(rows, *self.neurons)
            self.kernel(rows, z if self.columns is None else z * self.columns, *self.arrays, y)
        return torch.from_numpy(y.reshape(*x.shape[:-1], self.outputs) if x.ndim != 2 else y)

    def _with_neurons(self, rows: np.ndarray, weights: np.ndarray, offsets: np.ndarray, activation: str) -> np.ndarray:
        z = np.empty((len(rows), self.width + len(weights)), np.float32)
        _kernels().joined(rows, weights, offsets, z)
        z[:, self.width :] = value(activation, torch.from_numpy(z[:, self.width :])).numpy()
        return z


def use_huge_pages(tensor: Tensor) -> None:
    """Ask Linux to keep a large tensor in pages of 2 MiB, in place: a random centre's slopes then miss the TLB once,
    not once every 4 KiB.

    Only a request: on other systems, and on kernels that cannot (before 6.1), nothing happens.
    """
    first = -(-tensor.data_ptr() // _HUGE_PAGE) * _HUGE_PAGE
    size = (tensor.data_ptr() + tensor.nbytes) // _HUGE_PAGE * _HUGE_PAGE - first
    if sys.platform == "linux" and size > 0:
        madvise = ctypes.CDLL(None).madvise
        for advice in (_MADV_HUGEPAGE, _MADV_COLLAPSE):
            madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), advice)


def route(x: Tensor, centres: Tensor, half_norms: Tensor) -> Tensor:
    """Nearest centre (int64 [n]) of each row of x [n, d], all float32 and contiguous."""
    owner = np.empty(len(x), np.int64)
    _kernels().routed(x.numpy(), centres.numpy(), half_norms.numpy(), owner)
    return torch.from_numpy(owner)


def product(z: Tensor, owner: Tensor, slopes: Tensor, scales: Tensor | None, bias: Tensor) -> Tensor:
    """y[n] = bias[owner[n]] + scales * slopes[owner[n]] @ z[n] for z [n, p] float32, slopes [k, o, p] in any storage
    format.
    """
    where = owner.numpy()
    y = np.empty((len(z), slopes.shape[1]), np.float32)
    codes = slopes.view(torch.uint16) if slopes.dtype in (torch.float16, torch.bfloat16) else slopes
    # Rows of one centre follow each other, so that its slopes are still in the cache.
    sequence = np.argsort(where, kind="stable")
    offsets = bias.numpy()
    # Without int8 the scales are never read; the bias stands in so that the kernel has one signature.
    _kernels().PRODUCT[slopes.dtype](
        z.numpy(), where, sequence, codes.numpy(), offsets if scales is None else scales.numpy(), offsets, y
    )
    return torch.from_numpy(y)


def _kernels():
    """The jitted functions; numba is imported on first use."""
    from lutc.taylor import cpu_kernels  # brings numba

    return cpu_kernels
