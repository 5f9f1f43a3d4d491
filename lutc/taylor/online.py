"""Online K-means for streams that are never stored: fixed memory, one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lutc.errors import LutcError
from lutc.taylor.cluster import nearest

# Samples that found the first centres and the threshold; the only ones that are ever held.
WARM_UP_PER_CENTRE = 20


class OnlineKMeans:
    """Centres that follow a stream.

    A sample within `threshold` of its nearest centre moves that centre by an exponential average: c += rate (x - c),
    with rate max(1 / n, `least_rate`) for the n-th sample of the centre, so that early samples average and late ones
    forget. A sample farther away founds a new centre while there are fewer than k, and afterwards replaces the least
    active centre with `probability`; activity is the count of a centre's samples, halved every `half_life` samples of
    the stream. Memory: k centres, k activities, and a warm-up of 20 k samples that seeds the centres by k-means++ and
    sets the threshold (3 times their median distance) where none is given.

    `partial_fit(x)` takes chunks [n, d] of any size; `centres` is [k, d] and `assign(x)` gives the nearest.
    """

    def __init__(
        self,
        k: int,
        *,
        threshold: float | None = None,
        least_rate: float = 1e-4,
        probability: float = 0.1,
        half_life: int = 100_000,
        seed: int = 0,
    ):
        if k < 1 or not 0 < least_rate <= 1 or not 0 <= probability <= 1 or half_life < 1:
            given = f"k = {k}, least_rate = {least_rate}, probability = {probability}, half_life = {half_life}"
            raise LutcError(f"{given}: give k >= 1, a rate in (0, 1], a probability in [0, 1], a half-life >= 1")
        self.k = k
        self.threshold = threshold or 0.0  # 0 until the warm-up sets it
        self.least_rate, self.probability, self.half_life = least_rate, probability, half_life
        self.seen = 0
        self.replaced = 0
        self._generator = torch.Generator().manual_seed(seed)
        self._warm_up: list[Tensor] = []
        self._centres = torch.zeros(0, 0)
        self._activity = torch.zeros(0)
        self._counts = torch.zeros(0)

    @classmethod
    def merged(cls, parts: Sequence[OnlineKMeans]) -> OnlineKMeans:
        """What several have learned, each from its share of a stream, in one: their centres, weighted by activity,
        clustered to k again. The same for the same parts in the same order.
        """
        first = parts[0]
        whole = cls(
            first.k,
            threshold=sum(part.threshold for part in parts) / len(parts),
            least_rate=first.least_rate,
            probability=first.probability,
            half_life=first.half_life,
        )
        centres = torch.cat([part.centres for part in parts])
        activity, counts = (torch.cat([getattr(part, name) for part in parts]) for name in ("_activity", "_counts"))
        if len(centres) > whole.k:
            from sklearn.cluster import KMeans

            weights = activity.clamp_min(1e-6).numpy()
            means = KMeans(whole.k, n_init=3, random_state=0).fit(centres.numpy(), sample_weight=weights)
            owner = torch.from_numpy(means.labels_).long()
            zeros = torch.zeros(whole.k)
            activity, counts = zeros.index_add(0, owner, activity), zeros.index_add(0, owner, counts)
            centres = torch.from_numpy(means.cluster_centers_).to(centres)
        whole._centres, whole._activity, whole._counts = centres, activity, counts
        whole.seen, whole.replaced = sum(part.seen for part in parts), sum(part.replaced for part in parts)
        return whole

    def across_ranks(self) -> OnlineKMeans:
        """What all processes of torch.distributed have learned, `merged`; each calls it and gets the same. Without a
        process group it is this one.
        """
        import torch.distributed as dist

        if not dist.is_available() or not dist.is_initialized():
            return self
        parts: list[OnlineKMeans | None] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, self)
        return OnlineKMeans.merged([part for part in parts if part is not None])

    @property
    def centres(self) -> Tensor:
        """The centres so far [<= k, d]; LutcError before the first sample."""
        if not len(self._centres):
            if not self._warm_up:
                raise LutcError("no samples were seen; call partial_fit first")
            self._start()
        return self._centres

    @property
    def activity(self) -> Tensor:
        """Decayed count of samples per centre [<= k]."""
        return self._activity

    def assign(self, x: Tensor) -> Tensor:
        return nearest(x, self.centres)

    def partial_fit(self, x: Tensor) -> OnlineKMeans:
        """Learn from a chunk x [n, d]; returns self. Raises LutcError for another width, NaN or infinity."""
        if x.ndim != 2 or not torch.isfinite(x).all():
            raise LutcError(f"samples of shape {list(x.shape)} must be [n, d] and finite")
        width = (
            self._centres.shape[1] if len(self._centres) else self._warm_up[0].shape[1] if self._warm_up else x.shape[1]
        )
        if x.shape[1] != width:
            raise LutcError(f"samples are {x.shape[1]} wide, earlier ones {width}; give samples of one width")
        if not len(self._centres):
            missing = WARM_UP_PER_CENTRE * self.k - sum(map(len, self._warm_up))
            self._warm_up.append(x[:missing].clone())
            x = x[missing:]
            if missing > len(self._warm_up[-1]):
                return self
            self._start()
        # Small pieces, so that a centre founded or moved is seen by the samples that follow.
        for piece in x.split(max(64, 4 * self.k)):
            self._learn(piece)
        return self

    def _start(self) -> None:
        x = torch.cat(self._warm_up)
        self._warm_up = []
        self._centres = plus_plus(x, min(self.k, len(x)), self._generator)
        self._activity = torch.zeros(len(self._centres))
        self._counts = torch.zeros(len(self._centres))
        if not self.threshold:
            distance = (x - self._centres[nearest(x, self._centres)]).norm(dim=1)
            # With as many centres as samples every distance is 0; any positive threshold then starts the averages.
            self.threshold = 3 * float(distance.median()) or float(x.std()) or 1.0
        for piece in x.split(max(64, 4 * self.k)):
            self._learn(piece)

    def _learn(self, x: Tensor) -> None:
        owner = nearest(x, self._centres)
        near = (x - self._centres[owner]).norm(dim=1) <= self.threshold
        self._move(x[near], owner[near])
        self.seen += len(x)
        self._activity *= 0.5 ** (len(x) / self.half_life)
        far = x[~near]
        if len(self._centres) == self.k:
            far = far[torch.rand(len(far), generator=self._generator) < self.probability]
        for sample in far:
            self._found(sample)

    def _move(self, x: Tensor, owner: Tensor) -> None:
        """n samples of a centre at once: the average of their exponential steps, 1 - (1 - rate)^n
        towards their mean.
        """
        n = torch.bincount(owner, minlength=len(self._centres)).to(x.dtype)
        mean = torch.zeros_like(self._centres).index_add_(0, owner, x) / n.clamp_min(1)[:, None]
        self._counts += n
        self._activity += n
        exact = n / self._counts.clamp_min(1)
        forgetting = 1 - (1 - self.least_rate) ** n
        self._centres += torch.maximum(exact, forgetting)[:, None] * (mean - self._centres)

    def _found(self, sample: Tensor) -> None:
        one = torch.ones(1)
        if len(self._centres) < self.k:
            self._centres = torch.cat([self._centres, sample[None]])
            self._activity, self._counts = torch.cat([self._activity, one]), torch.cat([self._counts, one])
            return
        if float((self._centres - sample).norm(dim=1).min()) <= self.threshold:
            return  # an earlier sample of this piece has founded a centre here
        least = int(self._activity.argmin())
        self._centres[least] = sample
        # A founder starts with an average activity, or the next far sample would replace it again.
        self._activity[least], self._counts[least] = self._activity.mean(), 1
        self.replaced += 1


def plus_plus(x: Tensor, k: int, generator: torch.Generator | None = None) -> Tensor:
    """k-means++ seeding: each next centre is a sample of x [n, d], drawn in proportion to its squared distance to those
    chosen.
    """
    chosen = [int(torch.randint(len(x), (1,), generator=generator))]
    distance = (x - x[chosen[0]]).square().sum(1)
    while len(chosen) < k:
        if float(distance.max()) == 0:
            break  # fewer distinct samples than k: later samples found the rest
        chosen.append(int(torch.multinomial(distance.double(), 1, generator=generator)))
        distance = torch.minimum(distance, (x - x[chosen[-1]]).square().sum(1))
    return x[chosen].clone()
