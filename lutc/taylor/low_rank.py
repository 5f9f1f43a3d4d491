"""Jacobians as products of two narrow matrices: what they cost less buys kept neurons."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lutc.taylor.ridge import RidgeSums
from lutc.taylor.table import TaylorTable

# Of a prior that nothing beats: neurons take up next to nothing.
_STRONGEST = 1e6


def reduced(table: TaylorTable, sums: RidgeSums, rank: int, strength: float, root: Tensor | None = None) -> TaylorTable:
    """`table` (fp32, order 1, Jacobians J [k, o, d]) with Jacobians of `rank`: of all such the nearest on the samples
    in `sums`, J (x - c) and its replacement compared after kept neurons and the constant have taken up what they can of
    the difference (ridge of `strength`), errors e as |root e|^2 (`root` [o, o]; default: |e|^2). Projections are rows
    of length 1.
    """
    d = table.in_features
    root = torch.eye(table.out_features, dtype=torch.float64) if root is None else root.double()
    penalty = sums.penalty(min(strength, _STRONGEST))
    values, slopes, projections = [], [], []
    for index in range(table.k):
        jacobian = table.slopes[index, :, :d].double()
        a = sums.a[index]
        # x - c by regression on the neurons and the constant, and the covariance of what that leaves.
        taken = torch.linalg.solve(a[d:, d:] + torch.diag(penalty[d:]), a[d:, :d])
        left_over = a[:d, :d] - a[:d, d:] @ taken
        # The principal directions of J (x - c): J's projection on the first of them is the nearest of its rank.
        felt = root @ jacobian
        directions = torch.linalg.eigh(felt @ left_over @ felt.T).eigenvectors[:, -rank:]
        right = directions.T @ felt
        # Rows of length 1 fit into every format, also where no sample of the centre varies along them.
        lengths = right.norm(dim=1, keepdim=True).clamp_min(1e-12)
        left, right = torch.linalg.solve(root, directions) * lengths.T, right / lengths
        moved = (jacobian - left @ right) @ taken.T
        values.append(table.values[index].double() + moved[:, -1])
        slopes.append(torch.cat([left, table.slopes[index, :, d:].double() + moved[:, :-1]], 1))
        projections.append(right)
    return replace(
        table,
        values=torch.stack(values).float(),
        slopes=torch.stack(slopes).float(),
        projections=torch.stack(projections).float(),
    )
