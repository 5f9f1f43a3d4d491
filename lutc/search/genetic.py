"""Genetic search over cuts with DEAP, the default: GQA-LUT's idea (arXiv:2403.19591) on exact segment costs.

A genome is a sorted list of cut positions on the sample lattice; slopes and intercepts follow from the costs, so
rounding is part of the fitness. Two operators make it reach the optimum: coordinate descent (each cut moves to its best
place between its neighbours) and relocation (a cut leaves its place and splits a segment elsewhere).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from deap import base, creator, tools

from lutc.costs.segments import SegmentCosts
from lutc.errors import LutcError
from lutc.search.problem import SearchProblem
from lutc.search.result import SearchResult
from lutc.search.search import Search

if not hasattr(creator, "LutcMinimum"):  # creator writes module globals: once is enough
    creator.create("LutcMinimum", base.Fitness, weights=(-1.0,))
    creator.create("LutcCuts", list, fitness=creator.LutcMinimum)


@dataclass(frozen=True)
class GeneticSettings:
    """Population and budget. Restarts are independent and end once `agreement` of them (by default 2 + entries / 8)
    have found the same best cost; one restart ends after `patience` generations without progress.
    """

    population: int = 50
    generations: int = 40
    restarts: int = 12
    agreement: int | None = None
    patience: int = 10
    tournament: int = 3
    elite: int = 2
    crossover: float = 0.7
    mutation: float = 0.8
    sweeps: int = 2

    def __post_init__(self):
        if self.agreement is not None and self.agreement < 1:
            raise LutcError(f"the genetic search needs a positive agreement; given {self.agreement}")
        check_budget(self)


def check_budget(settings: Any) -> None:
    """LutcError for settings of a genetic search that leave nothing to search with."""
    for name in ("population", "generations", "restarts", "patience", "tournament", "elite", "sweeps"):
        if getattr(settings, name) < (0 if name in ("elite", "sweeps") else 1):
            raise LutcError(f"the genetic search needs a positive {name}; given {getattr(settings, name)}")
    if settings.elite >= settings.population:
        raise LutcError(f"the elite ({settings.elite}) must be smaller than the population ({settings.population})")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
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
    if settings.agreement is None:
        settings = replace(settings, agreement=2 + entries // 8)
    record = {"name": "genetic", "seed": seed, **asdict(settings)}
    if segments == 0:
        cuts = np.array([int(np.argmin(costs.combine(costs.left, costs.right)))])
        return SearchResult(cuts, float(costs.total(cuts)), record)
    with seeded(seed):
        hall = tools.HallOfFame(1)
        given = [] if start is None else [creator.LutcCuts(map(int, start))]
        winners = []
        for _ in range(settings.restarts):
            population = _evolve(costs, segments, settings, given, progress)
            hall.update(population)
            winners.append(min(population, key=lambda p: p.fitness.values))
            if (
                sum(math.isclose(w.fitness.values[0], hall[0].fitness.values[0], rel_tol=1e-9) for w in winners)
                >= settings.agreement
            ):
                break
    cuts = np.array(hall[0])
    return SearchResult(cuts, float(costs.total(cuts)), record)


def _clone(individual):
    copy = creator.LutcCuts(individual)
    copy.fitness.values = individual.fitness.values
    return copy


def _evolve(costs: SegmentCosts, segments: int, settings: GeneticSettings, start: list, progress) -> list:
    """One run from a random population; returns the last population, every individual evaluated."""

    def mutate(child):
        if random.random() < settings.mutation:
            _mutate(child, costs.size)

    population = [*start, *(_random(costs, segments) for _ in range(settings.population - len(start)))]
    return evolve(
        population, lambda individuals: _improve(costs, individuals, settings.sweeps), mutate, settings, progress
    )


def evolve(
    population: list,
    improve: Callable[[list], None],
    mutate: Callable[[list], None],
    settings: Any,
    progress: Callable[[int], object] | None,
) -> list:
    """Generations of tournament, two-point crossover, mutation and improvement, the elite kept; the last population,
    evaluated.

    improve(individuals) repairs, descends and evaluates them, mutate(individual) changes one, both in place. settings:
    generations, patience, population, tournament, elite and crossover.
    """
    improve(population)
    best, stalled = min(p.fitness.values for p in population), 0
    for _ in range(settings.generations):
        elite = [_clone(p) for p in tools.selBest(population, settings.elite)]
        children = [
            _clone(p)
            for p in tools.selTournament(population, settings.population - settings.elite, settings.tournament)
        ]
        for first, second in zip(children[::2], children[1::2]):
            if len(first) > 2 and random.random() < settings.crossover:
                tools.cxTwoPoint(first, second)
        for child in children:
            mutate(child)
        improve(children)
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


def _mutate(individual, size: int) -> None:
    """Shift cuts by a few positions or set them anywhere else; one cut, or half as often two, a quarter as often three,
    ...
    """
    while True:
        at = random.randrange(len(individual))
        if random.random() < 0.5:
            individual[at] += round(random.gauss(0.0, 1.0 + size / 50))
        else:
            individual[at] = random.randint(0, size)
        if random.random() < 0.5:
            return


def _relocate(costs: SegmentCosts, cuts: np.ndarray) -> None:
    """In every row, in place: the inner cut whose loss costs least moves to where one more cut gains most, if that is a
    gain on balance.
    """
    segments = cuts.shape[1] - 1
    if segments < 4:
        return
    rows = np.arange(len(cuts))[:, None]
    start, stop = cuts[:, :-1], cuts[:, 1:]
    here = costs.matrix[start, stop]
    loss = costs.matrix[start[:, :-1], stop[:, 1:]] - costs.combine(
        here[:, :-1], here[:, 1:]
    )  # of inner cut c + 1, between segments c and c + 1
    gain, place = np.empty_like(here), np.empty_like(start)
    for s in range(segments):
        split = costs.combine(costs.matrix[start[:, s]], costs.matrix.T[stop[:, s]])
        place[:, s] = split.argmin(axis=1)
        gain[:, s] = here[:, s] - split[rows[:, 0], place[:, s]]
    balance = loss[:, :, None] - gain[:, None, :]
    inner = np.arange(segments - 1)
    balance[:, inner, inner] = balance[:, inner, inner + 1] = np.inf  # a segment beside the cut changes when it goes
    best = balance.reshape(len(cuts), -1).argmin(axis=1)
    cut, segment = best // segments, best % segments
    moved = np.flatnonzero(balance[rows[:, 0], cut, segment] < 0)
    cuts[moved, cut[moved] + 1] = place[moved, segment[moved]]
    cuts[moved] = np.sort(cuts[moved], axis=1)


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
        _relocate(costs, cuts)
    for individual, row, cost in zip(individuals, cuts.tolist(), costs.total(cuts).tolist()):
        individual[:] = row
        individual.fitness.values = (cost,)


def solve(problem: SearchProblem, settings: GeneticSettings) -> SearchResult:
    """`genetic` over the problem's segment costs; one run refines cuts that are given."""
    if problem.start is not None:
        settings = replace(settings, restarts=1)
    return genetic(problem.costs, problem.entries, problem.seed, settings, problem.start, problem.progress)


SEARCH = Search(
    "genetic",
    "evolution over exact segment costs, as GQA-LUT's idea has it",
    GeneticSettings,
    solve,
    takes="segments",
    objectives=("squared", "relative", "absolute", "maximum", "codes", "layer", "layer-diagonal", "layer-total"),
    shares=("none", "all", "coefficients"),
)
