"""Counting multiply-adds and bytes, of a block by running it and of Taylor tables by their shapes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lutc.taylor.blocks import Block, evaluation_mode


def exact_multiply_adds(block: Block, width: int) -> int:
    """Multiply-adds of all matrix products and convolutions of `block` for one input of `width`,
    counted while it runs.
    """
    from torch.utils.flop_counter import FlopCounterMode

    parameter = next(block.as_module.parameters(), torch.zeros(0))
    counter = FlopCounterMode(display=False)
    with counter, evaluation_mode(block), torch.no_grad():
        block(torch.zeros(1, width, dtype=parameter.dtype, device=parameter.device))
    return counter.get_total_flops() // 2


@dataclass(frozen=True)
class Account:
    """Bytes in fp32: per centre, and for all centres of all layers."""

    what: str
    per_centre: int
    total: int


def account(d: int, k: int, layers: int, o: int | None = None) -> list[Account]:
    """Storage of the expansion of `layers` blocks from d to o (default d) features at k centres each, per kind of term,
    in fp32.

    The full Hessian of one centre has o d^2 entries; its total shows why only the diagonal (o d, as many as the
    Jacobian) is stored.
    """
    o = d if o is None else o
    terms = {
        "Jacobian (first order)": o * d,
        "diagonal Hessian (second order)": o * d,
        "full Hessian": o * d * d,
        "centre and value": d + o,
    }
    return [Account(what, 4 * entries, 4 * entries * k * layers) for what, entries in terms.items()]
