"""Ridge regression per centre from sums of products, so that one pass over any number of samples takes fixed memory."""

from __future__ import annotations

import torch
from torch import Tensor

from lutc.errors import LutcError
from lutc.taylor.expansion import format_bytes
from lutc.taylor.table import TaylorTable

# Strengths that are tried: how many average samples the prior counts as. Infinity is the prior alone.
STRENGTHS = (0.1, 1.0, 5.0, 20.0, 100.0, 400.0, 2e3, 1e4, 1e5, float("inf"))
# One strength serves all centres, so a choice of centres, spread evenly, is enough to find it.
_JUDGES = 16
# The constant term is not penalised; this only keeps a centre without samples solvable.
_CONSTANT = 1e-6


class RidgeSums:
    """Sums over samples, per centre: A = sum w f f^T [k, p, p], B = sum w f r^T [k, p, o], R = sum w |r|^2 [k], n = sum
    w [k].

    f = (z, 1) with z the table's features about the centre, p = their number + 1, r what the prior leaves of the
    target, w a weight. float64.
    """

    def __init__(self, k: int, p: int, o: int, memory: int):
        size = 8 * k * p * (p + o)
        if size > memory:
            raise LutcError(
                f"the ridge's sums for {k} centres need {format_bytes(size)}, but {format_bytes(memory)} are given; "
                "give more memory, fewer centres (k), order 1 or fit='taylor'"
            )
        self.a = torch.zeros(k, p, p, dtype=torch.float64)
        self.b = torch.zeros(k, p, o, dtype=torch.float64)
        self.r = torch.zeros(k, dtype=torch.float64)
        self.n = torch.zeros(k, dtype=torch.float64)
        self.count = torch.zeros(k, dtype=torch.int64)

    def add(self, x: Tensor, y: Tensor, owner: Tensor, weight: Tensor, prior: TaylorTable) -> None:
        """Take in samples x [n, d] with targets y [n, o], weights [n] and their centres' numbers `owner` [n]; `prior`
        is stored in fp32.
        """
        sequence = torch.argsort(owner, stable=True)
        counts = torch.bincount(owner, minlength=prior.k)
        for index, rows in enumerate(sequence.split(counts.tolist())):
            if not len(rows):
                continue
            z = prior.features(x[rows], index)
            residual = y[rows] - prior.values[index] - z @ prior.slopes[index].T
            f = torch.cat([z, torch.ones(len(z), 1)], 1)
            w = weight[rows, None]
            fw = (f * w).T
            self.a[index] += fw @ f
            self.b[index] += fw @ residual
            self.r[index] += (residual.square() * w).sum(dtype=torch.float64)
            self.n[index] += w.sum(dtype=torch.float64)
        self.count += counts

    def solve(self, strength: float, centres: Tensor) -> Tensor:
        """Corrections [len(centres), p, o] that minimise sum w |r - f D|^2 + strength * sum_i s_i^2 |D_i|^2, s_i^2 the
        mean square of feature i.
        """
        if strength == float("inf"):
            return torch.zeros_like(self.b[centres])
        ridge = torch.diag(self.penalty(strength))
        return torch.stack([torch.linalg.solve(self.a[index] + ridge, self.b[index]) for index in centres.tolist()])

    def penalty(self, strength: float) -> Tensor:
        """strength * s_i^2 [p], almost nothing for the constant term."""
        scale = self.a.diagonal(dim1=1, dim2=2).sum(0) / self.n.sum().clamp_min(1e-300)
        penalty = strength * scale.clamp_min(1e-9 * float(scale.max()))
        penalty[-1] = _CONSTANT
        # The mean weight makes a strength count samples whatever the weights' unit.
        return penalty * (self.n.sum() / self.count.sum().clamp_min(1))

    def error(self, correction: Tensor, centres: Tensor) -> Tensor:
        """sum w |r - f D|^2 of each of `centres` under its correction D [len(centres), p, o]."""
        quadratic = torch.stack(
            [(one * (self.a[index] @ one)).sum() for one, index in zip(correction, centres.tolist())]
        )
        return (self.r[centres] - 2 * (correction * self.b[centres]).sum((1, 2)) + quadratic).clamp_min(0)


def choose_strength(train: RidgeSums, held_out: RidgeSums, strengths: tuple[float, ...] = STRENGTHS) -> float:
    """The strength with the least held-out error; infinity, the prior alone, where nothing is held out."""
    k = len(train.a)
    judges = torch.linspace(0, k - 1, min(k, _JUDGES)).round().long()
    if not int(held_out.count[judges].sum()):
        return float("inf")
    errors = {
        strength: float(held_out.error(train.solve(strength, judges), judges).sum())
        for strength in sorted(strengths, reverse=True)
    }
    return min(errors, key=lambda strength: errors[strength])
