"""Taylor tables with neurons of each centre's own and Jacobians of a rank, drawn at random."""

from __future__ import annotations

import torch

from lutc.taylor.table import TaylorTable


def drawn(format="fp32", function="gelu", k=3, d=19, o=6, n=5, m=11, r=4):
    """A table with both, drawn at random."""
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "centres": (k, d),
        "values": (k, o),
        "slopes": (k, o, r + n),
        "weights": (m, d),
        "offsets": (m,),
        "projections": (k, r, d),
    }
    tensors = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    chosen = torch.stack([torch.randperm(m, generator=generator)[:n] for _ in range(k)]).int()
    return TaylorTable(**tensors, counts=torch.ones(k).long(), chosen=chosen, activation=function).stored(format)
