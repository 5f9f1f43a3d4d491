"""Jacobians as products of two narrow matrices: what they cost less buys kept neurons."""

from __future__ import annotations

from dataclasses import replace

import torch

from lutc.taylor.ridge import RidgeSums
from lutc.taylor.table import TaylorTable


def reduced(table: TaylorTable, sums: RidgeSums, rank: int) -> TaylorTable:
    """`table` (fp32, order 1, Jacobians J [k, o, d]) with Jacobians of `rank`: of all such the nearest on the samples
    in `sums`, J (x - c) and its replacement compared about their means. Projections are rows of length 1.
    """
    d = table.in_features
    values, slopes, projections = [], [], []
    for index in range(table.k):
        jacobian = table.slopes[index, :, :d].double()
        n = sums.n[index].clamp_min(1e-300)
        mean = sums.a[index, :d, -1] / n
        covariance = sums.a[index, :d, :d] / n - torch.outer(mean, mean)
        # The principal directions of J (x - c): J's projection on the first of them is the nearest of its rank.
        directions = torch.linalg.eigh(jacobian @ covariance @ jacobian.T).eigenvectors[:, -rank:]
        right = directions.T @ jacobian
        # Rows of length 1 fit into every format, also where no sample of the centre varies along them.
        lengths = right.norm(dim=1, keepdim=True).clamp_min(1e-12)
        left, right = directions * lengths.T, right / lengths
        values.append(table.values[index].double() + jacobian @ mean - left @ (right @ mean))
        slopes.append(torch.cat([left, table.slopes[index, :, d:].double()], 1))
        projections.append(right)
    return replace(
        table,
        values=torch.stack(values).float(),
        slopes=torch.stack(slopes).float(),
        projections=torch.stack(projections).float(),
    )
