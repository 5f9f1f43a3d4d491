"""Genetic search for one set of slopes and intercepts behind several input scales, each with breakpoints of its own.

No dynamic program is known for it: a line's cost depends on the cuts of every scale at once. A genome holds the cuts of
all scales; the best line of an entry follows from the moments of its samples in all scales together. Coordinate descent
moves one cut of one scale within a window, for the whole population at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lutc.costs.lines import Moments, Ordinals, best_lines
from lutc.costs.points import Points
from lutc.costs.segments import tail_costs
from lutc.formats.format import Format
from lutc.functions import Line
from lutc.samples.samples import Samples
from lutc.search.genetic import creator, evolve, seeded
from lutc.search.result import SearchResult


@dataclass(frozen=True)
class SharedSettings:
    """Population and budget; `reach` is how many positions to each side a cut may move in one step of descent."""

    population: int = 24
    generations: int = 40
    patience: int = 12
    tournament: int = 3
    elite: int = 2
    crossover: float = 0.7
    sweeps: int = 2
    reach: int = 6


class SharedCosts:
    """Cost of genomes (q, scales, segments + 1): mean over the scales of each scale's weighted mean squared error."""

    def __init__(self, samples: list[Samples], fmt: Format, left: Line | None, right: Line | None):
        self.sizes = np.array([len(s) for s in samples])
        self.tails = (left is not None, right is not None)
        self.ordinals = Ordinals(fmt)
        self._sums, self._tails = [], []
        for s in samples:
            points = Points.of(s)
            points = Points(points.x, points.y, points.weight / len(samples), points.cell, points.size)
            w, x, y = points.weight, points.x, points.y
            self._sums.append(
                np.concatenate(
                    [np.zeros((6, 1)), np.cumsum([w, w * x, w * y, w * x * x, w * x * y, w * y * y], axis=1)], axis=1
                )
            )
            errors = tail_costs(
                points, left, right, lambda tail, p=points: p.weight * (tail.slope * p.x + tail.intercept - p.y) ** 2
            )
            self._tails.append(errors)

    def sums(self, scale: int, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Raw moments (6, ...) of segments [i, j) of one scale."""
        return self._sums[scale][:, j] - self._sums[scale][:, i]

    def lines(self, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Best slopes, intercepts and costs for raw moments (6, ...); an entry without samples costs nothing."""
        shape = sums.shape[1:]
        w, x, y, xx, xy, yy = sums.reshape(6, -1)
        safe = np.where(w > 1e-15, w, 1.0)
        x, y = x / safe, y / safe
        centred = (np.maximum(xx - w * x * x, 0.0), xy - w * x * y, np.maximum(yy - w * y * y, 0.0))
        slope, intercept, cost, _ = best_lines(Moments(w, x, y, *centred, np.zeros_like(w)), self.ordinals)
        return slope.reshape(shape), intercept.reshape(shape), np.where(w > 1e-15, cost, 0.0).reshape(shape)

    def entry_sums(self, cuts: np.ndarray) -> np.ndarray:
        """(6, q, segments): moments of each entry over all scales."""
        return sum(self.sums(s, cuts[:, s, :-1], cuts[:, s, 1:]) for s in range(len(self._sums)))

    def tail(self, scale: int, end: int, at: np.ndarray) -> np.ndarray:
        """Cost of the left (end 0) or right (end -1) tail of one scale when its cut is `at`."""
        return self._tails[scale][end][at]

    def total(self, cuts: np.ndarray) -> np.ndarray:
        ends = sum(self.tail(s, 0, cuts[:, s, 0]) + self.tail(s, -1, cuts[:, s, -1]) for s in range(len(self._sums)))
        return self.lines(self.entry_sums(cuts))[2].sum(axis=1) + ends

    def descend(self, cuts: np.ndarray, reach: int) -> None:
        """One sweep in place: in each scale first the even, then the odd cuts move to the best place within `reach` and
        their neighbours.
        """
        offsets = np.arange(-reach, reach + 1)
        last = cuts.shape[2] - 1
        for scale in range(cuts.shape[1]):
            for parity in (0, 1):
                at = np.arange(parity, last + 1, 2)
                if not at.size:
                    continue
                here = cuts[:, scale, :]
                entries = self.entry_sums(cuts)
                others = entries - self.sums(scale, here[:, :-1], here[:, 1:])
                lowest = np.where(at > 0, here[:, at - 1], 0)
                highest = np.where(at < last, here[:, np.minimum(at + 1, last)], self.sizes[scale])
                place = np.clip(here[:, at, None] + offsets, lowest[..., None], highest[..., None])
                before = others[:, :, np.maximum(at - 1, 0), None] + self.sums(scale, lowest[..., None], place)
                after = others[:, :, np.minimum(at, last - 1), None] + self.sums(scale, place, highest[..., None])
                cost = np.where((at > 0)[:, None], self.lines(before)[2], self.tail(scale, 0, place))
                cost = cost + np.where((at < last)[:, None], self.lines(after)[2], self.tail(scale, -1, place))
                cuts[:, scale, at] = np.take_along_axis(place, cost.argmin(axis=2)[..., None], axis=2)[..., 0]


def shared_coefficients(
    costs: SharedCosts,
    start: np.ndarray,
    seed: int = 42,
    settings: SharedSettings = SharedSettings(),
    progress: Callable[[int], object] | None = None,
) -> SearchResult:
    """Best genome found; cuts (scales, segments + 1), with the shared lines. start: cuts to begin with, such as one
    shared set of breakpoints.
    """
    shape = start.shape

    def improve(individuals):
        cuts = np.sort(
            np.clip(np.array([list(i) for i in individuals]).reshape(-1, *shape), 0, costs.sizes[:, None]), axis=2
        )
        if not costs.tails[0]:
            cuts[:, :, 0] = 0
        if not costs.tails[1]:
            cuts[:, :, -1] = costs.sizes
        for _ in range(settings.sweeps):
            costs.descend(cuts, settings.reach)
        for individual, genome, cost in zip(
            individuals, cuts.reshape(len(individuals), -1).tolist(), costs.total(cuts).tolist()
        ):
            individual[:] = genome
            individual.fitness.values = (cost,)

    def mutate(child):
        child[:] = _mutated(child, shape, costs.sizes)

    with seeded(seed):
        population = [creator.LutcCuts(start.ravel().tolist())]
        population += [_mutated(population[0], shape, costs.sizes) for _ in range(settings.population - 1)]
        population = evolve(population, improve, mutate, settings, progress)
    winner = min(population, key=lambda p: p.fitness.values)
    cuts = np.array(winner).reshape(shape)
    slope, intercept, _ = costs.lines(costs.entry_sums(cuts[None]))
    return SearchResult(
        cuts,
        float(winner.fitness.values[0]),
        {"name": "genetic", "seed": seed, **vars(settings)},
        (slope[0], intercept[0]),
    )


def _mutated(individual, shape: tuple[int, int], sizes: np.ndarray):
    """A copy with one cut moved by about the same real distance in every scale, or in one scale alone."""
    genome = np.array(individual).reshape(shape)
    at = random.randrange(shape[1])
    if random.random() < 0.5:
        genome[:, at] += np.rint(random.gauss(0.0, 0.05) * sizes).astype(np.int64)
    else:
        scale = random.randrange(shape[0])
        genome[scale, at] += round(random.gauss(0.0, 1.0 + 0.05 * sizes[scale]))
    return creator.LutcCuts(genome.ravel().tolist())
