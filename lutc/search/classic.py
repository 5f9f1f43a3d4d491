"""GQA-LUT as its paper describes it (Algorithms 1 and 2 of arXiv:2403.19591), for comparison: a real-valued genome,
rounding mutation, chords.

One set of breakpoints is evolved on a dense grid in real arithmetic; slopes and intercepts are chords of the function
between breakpoints, rounded to the coefficient format; the breakpoints are then rounded per scale, the coefficients
shared by all.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass

import numpy as np
from deap import tools

from lutc.search.genetic import creator, seeded
from lutc.search.problem import SearchProblem
from lutc.search.result import SearchResult
from lutc.search.search import Search


@dataclass(frozen=True)
class ClassicSettings:
    """Defaults of the paper: population 50, crossover 0.7, mutation 0.2, 500 generations, rounding probability 0.05 per
    power of two.
    """

    population: int = 50
    generations: int = 500
    crossover: float = 0.7
    mutation: float = 0.2
    tournament: int = 3
    rounding: float = 0.05
    sigma: float = 0.2


def solve(problem: SearchProblem, settings: ClassicSettings) -> SearchResult:
    """Evolve breakpoints on the problem's samples, an ascending grid (0.01 apart in the paper).

    The cuts of the result are breakpoints, (n - 1,) ascending reals; lines (n,) with the tails', representable; cost:
    mean squared error on the grid.
    """
    x, y, f, fmt = problem.samples.x, problem.samples.y, problem.f, problem.format
    left, right, entries, powers = problem.left, problem.right, problem.entries, problem.powers
    lo, hi = float(x[0]), float(x[-1])

    def lines(points):
        """Chords between neighbouring breakpoints, the tails outside; the chord to the end of the range where there is
        no tail.
        """
        knots = np.concatenate([[lo], points, [hi]])
        values = f(knots)
        width = np.diff(knots)
        slope = np.where(width > 0, np.diff(values) / np.where(width > 0, width, 1.0), 0.0)
        intercept = values[:-1] - slope * knots[:-1]
        for tail, end in ((left, 0), (right, -1)):
            if tail is not None:
                slope[end], intercept[end] = tail.slope, tail.intercept
        return fmt.round(slope), fmt.round(intercept)

    def evaluate(individual):
        individual.sort()
        points = np.array(individual)
        slope, intercept = lines(points)
        index = np.searchsorted(points, x, side="right")  # the paper's search takes a breakpoint to the right segment
        individual.fitness.values = (float(np.mean((slope[index] * x + intercept[index] - y) ** 2)),)

    def mutate(individual):
        low, high = powers
        for i, value in enumerate(individual):
            # rounding mutation: the grids of all scales get their share of breakpoints
            for power in range(low, high + 1):
                draw = random.random()
                if settings.rounding * (power - low) <= draw < settings.rounding * (power - low + 1):
                    value = round(value * 2**power) / 2**power
                elif draw >= 0.9:
                    value += random.gauss(0.0, settings.sigma)
            individual[i] = min(max(value, lo), hi)

    with seeded(problem.seed):
        population = [
            creator.LutcCuts(random.uniform(lo, hi) for _ in range(entries - 1)) for _ in range(settings.population)
        ]
        for individual in population:
            evaluate(individual)
        for _ in range(settings.generations):
            children = [
                creator.LutcCuts(p) for p in tools.selTournament(population, settings.population, settings.tournament)
            ]
            for first, second in zip(children[::2], children[1::2]):
                if entries > 2 and random.random() < settings.crossover:
                    tools.cxTwoPoint(first, second)
            for child in children:
                if random.random() < settings.mutation:
                    mutate(child)
                evaluate(child)
            population = children
            if problem.progress is not None:
                problem.progress(1)
    best = min(population, key=lambda p: p.fitness.values)
    points = np.array(best)
    record = {"name": "classic", "seed": problem.seed, **asdict(settings)}
    return SearchResult(points, float(best.fitness.values[0]), record, lines(points))


SEARCH = Search(
    "classic",
    "GQA-LUT as published, for comparison",
    ClassicSettings,
    solve,
    takes="function",
    objectives=("squared",),
    floats=False,
    symmetry=False,
    weights=False,
    reduction=False,
)
