"""Genetic search for the error that a model's next layer feels: e' H e, e the table's error at every input code, H
dense.

No dynamic program solves it: the lines of all segments depend on one another. For given cuts they are one joint least
squares over representable slopes and intercepts, solved and rounded by `lutc.search.quadratic_kernels`. The search over
cuts is that of `lutc.search.genetic`, seeded with the exact optimum of H's diagonal, and ends in a descent over every
place of every cut.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from lutc.costs.points import Points
from lutc.costs.segments import squared_costs
from lutc.errors import LutcError
from lutc.formats.format import Format
from lutc.functions import Line
from lutc.samples.samples import Samples
from lutc.search.exact import exact
from lutc.search.genetic import check_budget, creator, evolve, seeded
from lutc.search.problem import SearchProblem
from lutc.search.result import SearchResult
from lutc.search.search import Search

_QUICK, _THOROUGH = 60, 200_000  # nodes of the search for lines: of a candidate, of the winner


@dataclass(frozen=True)
class QuadraticSettings:
    """Population and budget. `steps` are the moves of a cut that every individual tries; the winner
    tries every place.
    """

    population: int = 30
    generations: int = 25
    patience: int = 8
    restarts: int = 2
    tournament: int = 3
    elite: int = 2
    crossover: float = 0.7
    mutation: float = 0.8
    sweeps: int = 1
    steps: tuple[int, ...] = (1, 2, 4, 8)

    def __post_init__(self):
        check_budget(self)


class QuadraticCosts:
    """Cost of whole tables: e' H e + 2 offset' e + constant, e = table - f at the samples.

    samples: n codes; their weights are not used. matrix: (n, n) float64, symmetric, positive semi-definite, not 0.
    offset: (n,) float64, what the quantisation of the inputs does to the layer's output already, or None. fmt: fixed
    point. left, right: tails in that format. between: points with next to no weight between the codes, which choose
    among tables of the same cost.
    """

    def __init__(
        self,
        samples: Samples,
        matrix: np.ndarray,
        fmt: Format,
        left: Line | None,
        right: Line | None,
        offset: np.ndarray | None = None,
        constant: float = 0.0,
        between: Samples | None = None,
    ):
        if not fmt.is_fixed:
            raise LutcError(f"the objective layer takes fixed-point coefficients such as q1.6; given {fmt.name}")
        n = len(samples)
        matrix = np.asarray(matrix, np.float64)
        if matrix.shape != (n, n) or not np.isfinite(matrix).all():
            raise LutcError(
                f"the objective layer takes a finite matrix of {n} x {n}, one row for each input code; given "
                f"{matrix.shape}"
            )
        scale = np.trace(matrix)
        if not scale > 0:
            raise LutcError(
                "the matrix of the layer is 0: none of its calibration tokens reached a code; calibrate on more text"
            )
        self.samples, self.format, self.matrix = samples, fmt, matrix
        self.offset = np.zeros(n) if offset is None else np.asarray(offset, np.float64)
        self.constant, self.tails, self.tail_lines = constant, (left is not None, right is not None), (left, right)
        x, y = samples.x, samples.y
        products = np.stack([matrix, x[:, None] * matrix, x[:, None] * matrix * x])
        target = matrix @ y - self.offset
        linear = np.stack([target, x * target])
        rest = float(y @ matrix @ y - 2 * self.offset @ y + constant)
        if between is not None:
            cell = np.searchsorted(x, between.x)
            weight = between.weight * (scale / samples.weight.sum())
            at = np.arange(n)
            for k, power in enumerate((np.ones_like(between.x), between.x, between.x**2)):
                products[k, at, at] += np.bincount(cell, weight * power, n)
            linear += np.stack([np.bincount(cell, weight * between.y * power, n) for power in (1.0, between.x)])
            rest += float(weight @ between.y**2)
        self._sums = np.zeros((3, n + 1, n + 1))
        self._sums[:, 1:, 1:] = products.cumsum(axis=1).cumsum(axis=2)
        self._linear = np.zeros((2, n + 1))
        self._linear[:, 1:] = linear.cumsum(axis=1)
        self._rest = rest
        ends = [(0.0, 0.0) if tail is None else (tail.slope, tail.intercept) for tail in (left, right)]
        self._problem = (
            self._sums,
            self._linear,
            np.rint(np.array(ends) / fmt.step),
            fmt.step,
            round(fmt.min / fmt.step),
            round(fmt.max / fmt.step),
        )

    @property
    def size(self) -> int:
        return len(self.samples)

    def segments(self, entries: int) -> int:
        """Segments left for the search when `entries` include the tails."""
        inner = entries - sum(self.tails)
        if inner < 1:
            raise LutcError(
                f"the objective layer needs an entry beside {sum(self.tails)} tails; given {entries}: use more entries "
                "or free `tails`"
            )
        return inner

    def lines(self, cuts: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Slopes, intercepts (representable, (m,) each) and cost of the best lines found for ascending
        cuts (m + 1,).
        """
        from lutc.search.quadratic_kernels import fit  # brings numba

        cost, theta, _ = fit(np.ascontiguousarray(cuts, np.int64), *self._problem, _THOROUGH)
        return theta[::2] * self.format.step + 0.0, theta[1::2] * self.format.step + 0.0, cost + self._rest

    def error(self, values: np.ndarray) -> float:
        """The cost of a table with these values (n,) at the samples, straight from its definition."""
        e = np.asarray(values, np.float64) - self.samples.y
        return float(e @ self.matrix @ e + 2 * self.offset @ e + self.constant)

    def descend(self, cuts: np.ndarray, steps: Sequence[int], sweeps: int) -> float:
        """Move cuts (int64, in place) by any of `steps`, each to the best place between its neighbours; the cost."""
        from lutc.search.quadratic_kernels import descend_cuts  # brings numba

        offsets = np.array(sorted({-s for s in steps} | set(steps)), np.int64)
        sums, linear, tails, *rest = self._problem
        return self._rest + descend_cuts(
            cuts, offsets, sums, linear, tails, np.array(self.tails), *rest, _QUICK, sweeps
        )

    def diagonal(self, entries: int) -> SearchResult:
        """The optimum of the diagonal alone, by dynamic programming; its cost is in the diagonal's unit."""
        points = Points.of(Samples(self.samples.x, self.samples.y, np.diag(self.matrix).copy()))
        return exact(squared_costs(points, self.format, *self.tail_lines), entries)


def local(costs: QuadraticCosts, entries: int) -> SearchResult:
    """From the diagonal's optimum, each cut moves to its best place until none gains."""
    costs.segments(entries)
    cuts = np.array(costs.diagonal(entries).cuts, np.int64)
    costs.descend(cuts, range(1, costs.size + 1), 100)
    slopes, intercepts, cost = costs.lines(cuts)
    return SearchResult(cuts, cost, {"name": "local"}, (slopes, intercepts))


def quadratic(
    costs: QuadraticCosts,
    entries: int,
    seed: int = 42,
    settings: QuadraticSettings = QuadraticSettings(),
    progress: Callable[[int], object] | None = None,
) -> SearchResult:
    """Best table found of at most `entries` entries. The same seed gives the same result; never worse than `local`."""
    segments = costs.segments(entries)
    start = local(costs, entries).cuts
    record = {"name": "genetic", "seed": seed, **asdict(settings), "steps": list(settings.steps)}

    def improve(individuals):
        for individual in individuals:
            cuts = np.array(individual, np.int64)
            cost = costs.descend(cuts, settings.steps, settings.sweeps)
            individual[:] = cuts.tolist()
            individual.fitness.values = (cost,)

    def mutate(child):
        if random.random() < settings.mutation:
            _mutate(child, costs.size)

    winners = []
    with seeded(seed):
        for _ in range(settings.restarts):
            population = [creator.LutcCuts(start.tolist())]
            population += [
                _jittered(start, costs.size) if i % 2 else _random(segments, costs.size)
                for i in range(settings.population - 1)
            ]
            population = evolve(population, improve, mutate, settings, progress)
            winners.append(min(population, key=lambda p: p.fitness.values))
    finished = []
    for winner in winners:
        cuts = np.array(winner, np.int64)
        finished.append((costs.descend(cuts, range(1, costs.size + 1), 100), cuts.tolist()))
    cuts = np.array(min(finished)[1])
    slopes, intercepts, cost = costs.lines(cuts)
    return SearchResult(cuts, cost, record, (slopes, intercepts))


def _random(segments: int, size: int):
    return creator.LutcCuts(sorted(random.randint(0, size) for _ in range(segments + 1)))


def _jittered(start: np.ndarray, size: int):
    """The seed with every cut moved by a few positions."""
    return creator.LutcCuts(
        sorted(min(max(c + round(random.gauss(0.0, 1.0 + size / 50)), 0), size) for c in start.tolist())
    )


def _mutate(individual, size: int) -> None:
    """A cut leaves its place for another, near or anywhere; one cut, or half as often two, ..."""
    while True:
        at = random.randrange(len(individual))
        individual[at] = (
            individual[at] + round(random.gauss(0.0, 1.0 + size / 50))
            if random.random() < 0.5
            else random.randint(0, size)
        )
        if random.random() < 0.5:
            return


def solve(problem: SearchProblem, settings: QuadraticSettings) -> SearchResult:
    """`quadratic` over the problem's costs of whole tables."""
    return quadratic(problem.costs, problem.entries, problem.seed, settings, problem.progress)


SEARCH = Search(
    "quadratic",
    "what genetic becomes under the error of a model's next layer",
    QuadraticSettings,
    solve,
    takes="tables",
    objectives=("layer", "layer-total"),
    floats=False,
    symmetry=False,
    reduction=False,
)
