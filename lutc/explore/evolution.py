"""Error against hardware cost: which table is worth its bits?

NSGA-II (Deb et al. 2002, with DEAP) evolves the choices that a designer has: entries, integer and fraction bits of the
coefficients, a whole or a half table, own or shared tables where there are several scales.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from deap import base, tools

from lutc import formats
from lutc.compiler import pipeline
from lutc.errors import LutcError
from lutc.explore.baselines import Baseline, baselines
from lutc.explore.designs import Choice, Design, Space, Workbench
from lutc.hardware.bits import FIGURES
from lutc.search.genetic import seeded
from lutc.table.table_set import TableSet

SLOPES = ("", "pot", "apot:2")  # of designs that are judged by their gates
STEPS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class EvolutionSettings:
    """Population and budget of NSGA-II; it ends early after `patience` generations that add nothing to the front.

    gain: share by which a design has to lower the error to be worth a higher cost; 0 gives every design that no other
    dominates.
    """

    population: int = 64
    generations: int = 100
    patience: int = 15
    crossover: float = 0.7
    mutation: float = 0.4
    gain: float = 0.1

    def __post_init__(self):
        if self.population < 8 or self.population % 4:
            raise LutcError(
                "the population of NSGA-II is a multiple of 4 (its tournament pairs parents), at least 8; given "
                f"{self.population}"
            )
        if self.generations < 1:
            raise LutcError(f"an evolution takes at least 1 generation; given {self.generations}")
        if not 0.0 <= self.gain < 1.0:
            raise LutcError(
                f"the gain that makes a design worth its cost is a share from 0 to below 1; given {self.gain:g}"
            )


@dataclass(frozen=True)
class Exploration:
    """front: designs that no other beats, cheapest first. evaluations: designs searched. objectives: "error" and the
    costs minimised.
    """

    space: Space
    minimise: tuple[str, ...]
    front: tuple[Design, ...]
    baselines: tuple[Baseline, ...]
    evaluations: int
    record: dict


def explore(
    space: Space,
    minimise: Sequence[str] = ("bits",),
    seed: int = 42,
    settings: EvolutionSettings = EvolutionSettings(),
    progress: Callable[[int], object] | None = None,
) -> Exploration:
    """The front of error against the costs named in `minimise` (keys of `lutc.hardware.FIGURES`). The same seed gives
    the same front.

    progress(1) is called after each generation. LutcError for what cannot be explored.
    """
    minimise = tuple(minimise)
    unknown = [name for name in minimise if name not in FIGURES]
    if unknown or not minimise or len(set(minimise)) < len(minimise):
        raise LutcError(
            f"costs to minimise are one or more of {', '.join(FIGURES)}, each once; given "
            f"{', '.join(minimise) or 'none'}"
        )
    if "gates" in minimise:
        if space.out is None or len(space.inputs) > 1:
            raise LutcError(
                "gates are estimated of a unit of one scale that gives output codes; give `out` and one scale"
            )
        space = replace(space, symmetry=False)  # a unit has a stored half written out whole
    bench = Workbench(space, spared="gates" in minimise)
    with seeded(seed):
        front, generations = _evolve(bench, minimise, settings, progress)
    record = {"name": "nsga2", "seed": seed, "population": settings.population, "generations": generations}
    return Exploration(space, minimise, tuple(front), tuple(baselines(bench)), len(bench.designs), record)


def objectives(design: Design, minimise: Sequence[str]) -> tuple[float, ...]:
    """Error first, then the costs."""
    return (design.error, *(float(FIGURES[name][1](design.cost)) for name in minimise))


def front_of(designs: Iterable[Design], minimise: Sequence[str]) -> list[Design]:
    """Designs that no other dominates, cheapest first; of several with the same objectives the one with the simplest
    choice.
    """
    unique: dict[tuple, Design] = {}
    for design in sorted(designs, key=lambda d: d.choice):
        unique.setdefault(objectives(design, minimise), design)
    values = np.array(sorted(unique))
    # row a dominates row b if it is nowhere larger; rows differ, so it is smaller somewhere
    dominated = ((values[:, None, :] <= values[None, :, :]).all(axis=2).sum(axis=0)) > 1
    kept = [tuple(row) for row in values[~dominated].tolist()]
    return [unique[row] for row in sorted(kept, key=lambda row: (row[1:], row[0]))]


def worthwhile(front: Sequence[Design], minimise: Sequence[str], gain: float) -> list[Design]:
    """The front without designs whose error is less than `gain` (relative) below that of one that costs no more."""
    kept: list[tuple] = []
    for design in front:  # cheapest first
        error, *costs = objectives(design, minimise)
        if not any(
            all(a <= b for a, b in zip(known[1:], costs)) and known[0] * (1.0 - gain) <= error for known, _ in kept
        ):
            kept.append(((error, *costs), design))
    return [design for _, design in kept]


def compile_design(space: Space, design: Design, name: str | None = None) -> TableSet:
    """The table set of a design, by `lutc.compiler.pipeline.compile` with the exact search: what `lutc compile` would
    write.
    """
    bench = Workbench(space)
    return pipeline.compile(
        space.function, design.choice.entries, name=name, force=True, **bench.options(design.choice)
    )


class _Genome(list):
    """[entries, integer bits, fraction bits, half, shared, slopes, cut step] with a fitness of its own."""

    def __init__(self, genes, fitness: type[base.Fitness]):
        super().__init__(genes)
        self.fitness = fitness()


def _evolve(
    bench: Workbench, minimise: tuple[str, ...], settings: EvolutionSettings, progress
) -> tuple[list[Design], int]:
    """(front of all designs seen, generations run)."""
    fitness = type("Fitness", (base.Fitness,), {"weights": (-1.0,) * (1 + len(minimise))})
    bounds = _bounds(bench)

    def evaluate(population) -> list[Design]:
        designs = [bench.design(_choice(bench, genome)) for genome in population]
        for genome, design in zip(population, designs):
            genome.fitness.values = objectives(design, minimise)
        return designs

    population = [
        _Genome([random.randint(low, high) for low, high in bounds], fitness) for _ in range(settings.population)
    ]
    archive = front_of(evaluate(population), minimise)
    front, stalled, generation = archive, 0, 0
    population = tools.selNSGA2(population, settings.population)  # ranks and crowding distances for the tournament
    while generation < settings.generations and stalled < settings.patience:
        children = [_Genome(parent, fitness) for parent in tools.selTournamentDCD(population, settings.population)]
        for first, second in zip(children[::2], children[1::2]):
            if random.random() < settings.crossover:
                tools.cxUniform(first, second, 0.5)
        for child in children:
            _mutate(child, bounds, settings.mutation)
        archive = front_of([*archive, *evaluate(children)], minimise)
        population = tools.selNSGA2([*population, *children], settings.population)
        known, front = front, worthwhile(archive, minimise, settings.gain)
        stalled = stalled + 1 if front == known else 0
        generation += 1
        if progress is not None:
            progress(1)
    return front, generation


def _bounds(bench: Workbench) -> list[tuple[int, int]]:
    """Least and greatest value of each gene."""
    every = [formats.get(name) for names in bench.formats.values() for name in names]
    halves, entries = sorted(bench.formats), (bench.space.entries[0], max(bench.most_entries.values()))
    bits = [
        (min(values), max(values)) for values in ([f.integer_bits for f in every], [f.fraction_bits for f in every])
    ]
    spared = [(0, len(SLOPES) - 1), (0, len(STEPS) - 1)] if bench.spared else [(0, 0), (0, 0)]
    return [entries, *bits, (int(halves[0]), int(halves[-1])), (0, len(bench.sharing) - 1), *spared]


def _choice(bench: Workbench, genome: _Genome) -> Choice:
    """The choice a genome stands for: the nearest format that serves the half, no more entries than it has samples."""
    entries, integer, fraction, half, shared, slopes, step = genome
    known = [formats.get(name) for name in bench.formats[bool(half)]]
    fmt = min(known, key=lambda f: (abs(f.fraction_bits - fraction), abs(f.integer_bits - integer)))
    entries, share = min(entries, bench.most_entries[bool(half)]), bench.sharing[shared]
    return Choice(entries, fmt.name, bool(half), share, SLOPES[slopes], STEPS[step])


def _mutate(genome: _Genome, bounds: list[tuple[int, int]], probability: float) -> None:
    """Each gene may take a small step or any other value."""
    for at, (low, high) in enumerate(bounds):
        if random.random() < probability:
            step = random.randint(low, high) if random.random() < 0.5 else genome[at] + random.choice((-2, -1, 1, 2))
            genome[at] = min(max(step, low), high)
