"""Genetic search over cuts with DEAP, the default: GQA-LUT's idea (arXiv:2403.19591) on exact segment costs.

A genome is a sorted list of cut positions on the sample lattice; slopes and intercepts follow from the costs, so rounding is part of the
fitness. Two operators make it reach the optimum: coordinate descent (each cut moves to its best place between its neighbours) and
relocation (a cut leaves its place and splits a segment elsewhere).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
from deap import base, creator, tools

from lutc.costs import SegmentCosts
from lutc.errors import LutcError
from lutc.search.result import SearchResult

if not hasattr(creator, "LutcMinimum"):  # creator writes module globals: once is enough
    creator.create("LutcMinimum", base.Fitness, weights=(-1.0,))
    creator.create("LutcCuts", list, fitness=creator.LutcMinimum)


@dataclass(frozen=True)
class GeneticSettings:
    """Population and budget; a restart begins afresh with the best kept, and ends early after `patience` generations without progress."""

    population: int = 50
    generations: int = 40
    restarts: int = 5
    patience: int = 10
    tournament: int = 3
    elite: int = 2
    crossover: float = 0.7
    mutation: float = 0.8
    sweeps: int = 2

    def __post_init__(self):
        for name in ("population", "generations", "restarts", "patience", "tournament", "elite", "sweeps"):
            if getattr(self, name) < (0 if name in ("elite", "sweeps") else 1):
                raise LutcError(f"the genetic search needs a positive {name}; given {getattr(self, name)}")
        if self.elite >= self.population:
            raise LutcError(f"the elite ({self.elite}) must be smaller than the population ({self.population})")


@contextmanager
def seeded(seed: int):
    """DEAP draws from Python's global generator: seed it for the block and restore it afterwards."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def genetic(
    costs: SegmentCosts,
    entries: int,
    seed: int = 42,
    settings: GeneticSettings = GeneticSettings(),
    start: np.ndarray | None = None,
    progress: Callable[[int], object] | None = None,
) -> SearchResult:
    """Best table found of at most `entries` entries. The same seed gives the same result.

    start: cuts (segments + 1,) to begin with beside random ones. progress(generations) is called as the search goes on.
    """
    segments = costs.segments(entries)
    record = {"name": "genetic", "seed": seed, **asdict(settings)}
    if segments == 0:
        cuts = np.array([int(np.argmin(costs.combine(costs.left, costs.right)))])
        return SearchResult(cuts, float(costs.total(cuts)), record)
    with seeded(seed):
        hall = tools.HallOfFame(1)
        best = [] if start is None else [creator.LutcCuts(map(int, start))]
        for _ in range(settings.restarts):
            hall.update(_evolve(costs, segments, settings, best, progress))
            best = [_clone(hall[0])]
    cuts = np.array(hall[0])
    return SearchResult(cuts, float(costs.total(cuts)), record)


def _clone(individual):
    copy = creator.LutcCuts(individual)
    copy.fitness.values = individual.fitness.values
    return copy


def _evolve(costs: SegmentCosts, segments: int, settings: GeneticSettings, start: list, progress) -> list:
    """One run from a random population; returns the last population, every individual evaluated."""
    toolbox = base.Toolbox()
    toolbox.register("mate", tools.cxTwoPoint)
    toolbox.register("mutate", _mutate, size=costs.size)
    toolbox.register("select", tools.selTournament, tournsize=settings.tournament)
    population = [*start, *(_random(costs, segments) for _ in range(settings.population - len(start)))]
    _improve(costs, population, settings.sweeps)
    best, stalled = min(p.fitness.values for p in population), 0
    for _ in range(settings.generations):
        elite = [_clone(p) for p in tools.selBest(population, settings.elite)]
        children = [_clone(p) for p in toolbox.select(population, settings.population - settings.elite)]
        for first, second in zip(children[::2], children[1::2]):
            if len(first) > 2 and random.random() < settings.crossover:
                toolbox.mate(first, second)
        for child in children:
            if random.random() < settings.mutation:
                toolbox.mutate(child)
        _improve(costs, children, settings.sweeps)
        population = elite + children
        found = min(p.fitness.values for p in population)
        best, stalled = (found, 0) if found < best else (best, stalled + 1)
        if progress is not None:
            progress(1)
        if stalled >= settings.patience:
            break
    return population


def _random(costs: SegmentCosts, segments: int):
    """Half of the individuals uniform, half at jittered quantiles of the positions."""
    if random.random() < 0.5:
        return creator.LutcCuts(random.randint(0, costs.size) for _ in range(segments + 1))
    return creator.LutcCuts(int((i + random.random()) * costs.size / (segments + 1)) for i in range(segments + 1))


def _mutate(individual, size: int):
    """Shift a cut by a few positions, or relocate it: a cut leaves its place and stands anywhere else."""
    at = random.randrange(len(individual))
    if random.random() < 0.5:
        individual[at] += round(random.gauss(0.0, 1.0 + size / 50))
    else:
        individual[at] = random.randint(0, size)
    return (individual,)


def _improve(costs: SegmentCosts, individuals: list, sweeps: int) -> None:
    """Repair, descend along each cut and evaluate all individuals at once: a genome is a row."""
    cuts = np.sort(np.clip(np.array(individuals), 0, costs.size), axis=1)
    if not costs.tails[0]:
        cuts[:, 0] = 0
    if not costs.tails[1]:
        cuts[:, -1] = costs.size
    for _ in range(sweeps):
        for at in range(cuts.shape[1]):
            before = costs.left if at == 0 else costs.matrix[cuts[:, at - 1]]
            after = costs.right if at == cuts.shape[1] - 1 else costs.matrix.T[cuts[:, at + 1]]
            cuts[:, at] = costs.combine(before, after).argmin(axis=1)
    for individual, row, cost in zip(individuals, cuts.tolist(), costs.total(cuts).tolist()):
        individual[:] = row
        individual.fitness.values = (cost,)
