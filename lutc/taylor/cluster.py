"""K-means centres on collected inputs, and the one rule by which an input finds its centre."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from lutc.errors import LutcError

# K-means is fitted on at most so many samples per centre (and at least so many in all): more move the centres little.
SAMPLES_PER_CENTRE = 600
SAMPLES_LEAST = 60_000


def nearest(x: Tensor, centres: Tensor) -> Tensor:
    """Index [n] (int64) of the centre nearest to each row of x [n, d] in Euclidean distance; the first one on a tie.

    argmin |x - c|^2 = argmax (x . c - |c|^2 / 2): one matrix product.
    """
    return torch.addmm(half_norms(centres).neg(), x, centres.T).argmax(1)


def rows_of_centres(owner: Tensor, k: int) -> list[Tensor]:
    """For each of k centres the numbers of the rows that it owns, ascending; owner int64 [n]."""
    return list(torch.argsort(owner, stable=True).split(torch.bincount(owner, minlength=k).tolist()))


def half_norms(centres: Tensor) -> Tensor:
    """|c|^2 / 2 [k], from the centres as they are stored."""
    return (centres * centres).sum(1) / 2


def find_centres(x: Tensor, k: int, seed: int = 0) -> Tensor:
    """`k` centres [k, d] of the samples x [n, d] by scikit-learn's MiniBatchKMeans with k-means++ seeding.

    Every centre owns at least one sample: an empty cluster is moved to the sample farthest from its centre.
    Raises LutcError where k exceeds the distinct samples or a sample is not finite.
    """
    check_samples(x, k)
    if k == 1:
        return x.mean(0, keepdim=True)
    from sklearn.cluster import MiniBatchKMeans

    with warnings.catch_warnings():
        # Its advice on threads concerns another platform; duplicates are reported below.
        warnings.simplefilter("ignore")
        means = MiniBatchKMeans(
            k, init="k-means++", n_init=3, batch_size=max(1024, 16 * k), random_state=seed, reassignment_ratio=0.01
        )
        means.fit(x.cpu().float().numpy())
    centres = torch.from_numpy(means.cluster_centers_).to(x)
    return fill_empty(x, centres)


def check_samples(x: Tensor, k: int) -> None:
    if k < 1:
        raise LutcError(f"k = {k} centres are not possible; give k >= 1")
    if len(x) < k:
        raise LutcError(
            f"k = {k} centres need at least {k} samples, but there are {len(x)}; collect more inputs or give a smaller "
            "k"
        )
    if not torch.isfinite(x).all():
        raise LutcError(
            f"{int((~torch.isfinite(x)).any(1).sum())} of {len(x)} samples are NaN or infinite; check the model that "
            "they come from"
        )


def fill_empty(x: Tensor, centres: Tensor) -> Tensor:
    """Move each centre without samples to the sample farthest from its own centre, until none is empty."""
    centres = centres.clone()
    for _ in range(len(centres)):
        owner = nearest(x, centres)
        empty = torch.bincount(owner, minlength=len(centres)).eq(0).nonzero().flatten()
        if not len(empty):
            return centres
        distance = (x - centres[owner]).square().sum(1)
        farthest = int(distance.argmax())
        if float(distance[farthest]) == 0:
            distinct = len(centres) - len(empty)
            raise LutcError(
                f"k = {len(centres)} centres, but there are only {distinct} distinct samples; collect more inputs or "
                "give a smaller k"
            )
        centres[empty[0]] = x[farthest]
    return centres
