"""Taylor expansion of a block at many points: value, Jacobian, diagonal Hessian, and the full Hessian of small blocks.

F(x) = F(c) + J (x - c) + 1/2 diag(H) (x - c)^2: eq. 2 of a multivariate Taylor expansion with the Hessian's
off-diagonal entries dropped. The diagonal takes d second-order Jacobian-vector products per centre, as many as J takes
first-order ones; the full Hessian takes d^2.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jacfwd, jvp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from lutc.errors import LutcError
from lutc.taylor.forward_ad import WrittenOut

# A full Hessian is there to check the diagonal; past this many entries per centre it is refused.
HESSIAN_LIMIT = 1 << 22
DEFAULT_MEMORY = 1 << 30
# One tangent row passes through every layer of the block with its primal, twice for nested products.
_COPIES = 6


@dataclass(frozen=True)
class Expansion:
    """Values [k, o], Jacobians [k, o, d] and, for order 2, diagonal Hessians [k, o, d] (d^2 F_o / d x_i^2) at k
    centres.
    """

    values: Tensor
    jacobians: Tensor
    hessians: Tensor | None


def expand(
    function: Callable[[Tensor], Tensor], centres: Tensor, order: int = 1, memory: int = DEFAULT_MEMORY
) -> Expansion:
    """Expand `function`, which maps [..., d] to [..., o], at `centres` [k, d] to `order` 1 or 2 (diagonal).

    `memory` is in bytes: results and work space stay within it. Raises LutcError where the results alone do not fit, or
    are not finite.
    """
    if order not in (1, 2):
        raise LutcError(
            f"order {order} is not possible; order is 1 (value and Jacobian) or 2 (with the diagonal Hessian)"
        )
    if centres.ndim != 2 or not torch.isfinite(centres).all():
        raise LutcError(f"centres of shape {list(centres.shape)} must be [k, d] and finite")
    with torch.no_grad():
        values = function(centres)
    k, d = centres.shape
    o = values.shape[-1]
    rows = _rows_in_memory(function, centres, k * o * d * order, memory)
    jacobians = centres.new_empty(k, o, d)
    hessians = centres.new_empty(k, o, d) if order == 2 else None
    basis = torch.eye(d, dtype=centres.dtype, device=centres.device)
    with torch.no_grad(), warnings.catch_warnings(), WrittenOut():
        # On first use torch.func imports torch's own deprecated TorchScript decompositions, which say so.
        warnings.simplefilter("ignore", DeprecationWarning)
        for index, centre in enumerate(centres):
            for start in range(0, d, rows):
                chosen = slice(start, start + rows)
                jacobians[index, :, chosen] = vmap(lambda v, c=centre: _slope(function, c, v))(basis[chosen]).T
                if hessians is not None:
                    hessians[index, :, chosen] = vmap(lambda v, c=centre: _curvature(function, c, v))(basis[chosen]).T
    result = Expansion(values, jacobians, hessians)
    for what, tensor in (("value", values), ("Jacobian", jacobians), ("Hessian", hessians)):
        if tensor is not None and not torch.isfinite(tensor).all():
            raise LutcError(
                f"the {what} is not finite at some centre: the block overflows or has no derivative there; check its "
                "weights and inputs"
            )
    return result


def hessian(function: Callable[[Tensor], Tensor], centres: Tensor) -> Tensor:
    """The full Hessian [k, o, d, d] at `centres` [k, d]; LutcError past 4 M entries per centre (use
    `expand(order=2)`).
    """
    d = centres.shape[1]
    with torch.no_grad():
        o = function(centres[:1]).shape[-1]
    if d * d * o > HESSIAN_LIMIT:
        size = d * d * o * centres.element_size()
        raise LutcError(
            f"the full Hessian of a {d} to {o} block takes {format_bytes(size)} per centre, over {HESSIAN_LIMIT} "
            "entries: use order 2, the diagonal"
        )
    with torch.no_grad(), warnings.catch_warnings(), WrittenOut():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.stack([jacfwd(jacfwd(function))(centre) for centre in centres])


def _slope(function: Callable, centre: Tensor, direction: Tensor) -> Tensor:
    return jvp(function, (centre,), (direction,))[1]


def _curvature(function: Callable, centre: Tensor, direction: Tensor) -> Tensor:
    return jvp(lambda x: _slope(function, x, direction), (centre,), (direction,))[1]


def _rows_in_memory(function: Callable, centres: Tensor, entries: int, memory: int) -> int:
    """How many tangent rows fit beside the results."""
    results = entries * centres.element_size()
    row = _COPIES * centres.element_size() * _widths(function, centres[:1])
    if results + row > memory:
        raise LutcError(
            f"the Jacobians at {len(centres)} centres need {format_bytes(results + row)}, but {format_bytes(memory)} "
            "are given; "
            f"give more memory, fewer centres (k) or order 1"
        )
    return max(1, min(centres.shape[1], (memory - results) // row))


def _widths(function: Callable, row: Tensor) -> int:
    """Sum of the widths of all results inside the block for one row: what a tangent has to carry."""
    with torch.no_grad(), _ResultSizes() as sizes:
        function(row)
    return row.shape[-1] + sizes.total


class _ResultSizes(TorchDispatchMode):
    """Adds up the elements that the operations inside put out; views, such as a transposed weight, take no memory."""

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        out = op(*args, **(kwargs or {}))
        taken = {arg.untyped_storage().data_ptr() for arg in args if isinstance(arg, Tensor)}
        if isinstance(out, Tensor) and out.untyped_storage().data_ptr() not in taken:
            self.total += out.numel()
        return out


def format_bytes(count: float) -> str:
    """`2_359_296` -> `2.36 MB`: decimal units, three digits."""
    if count <= 0:
        return "0 B"
    power = min(4, int(math.log10(count) // 3))
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
