"""Entries by a budget: of every table over codes the fewest that keep the model within a Kullback-Leibler divergence
from the exact one.

What a place costs the model is nearly proportional to its mean squared error, and what places cost adds up. So each
place is measured once, alone, with its smallest table; that gives a price per error. Entries then go where they save
most, one rung of the ladder after the other, until the sum lies within the budget. The whole is measured, the sum
corrected by what it was off, and the choice made again; between a sum that kept the budget and one that did not, the
middle is tried next.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from lutc.calibration.file import Calibration
from lutc.errors import LutcError
from lutc.evaluation.running import evaluate
from lutc.folder.applying import FolderVariant, exact_on_codes
from lutc.folder.entries import entries_of
from lutc.folder.jobs import Job, TableChoice, jobs_of
from lutc.folder.manifest import Entry, Folder
from lutc.models.loading import Loaded
from lutc.table.table_set import read as read_tables

LADDER = (4, 6, 8, 12, 16, 24, 32, 64)  # entries that a table may have, up to half as many as codes
TRIES = "tries"
_ROUNDS = 6
Progress = Callable[[str, int], object]


@dataclass
class Ladder:
    """Tables of every rung for a model, made by `jobs`. fixed: jobs of places whose tables serve every input."""

    calibration: Calibration
    choice: TableChoice
    folder: Path
    rungs: Mapping[int, Mapping[str, Job]]
    fixed: Mapping[str, Job]
    _entries: dict[int, dict[str, Entry]] = field(default_factory=dict)

    @classmethod
    def of(cls, calibration: Calibration, choice: TableChoice, folder: Path) -> Ladder:
        """LutcError where no table is over codes."""
        rungs, fixed = {}, {}
        for entries in LADDER:
            capped = replace(choice, entries=min(entries, 1 << choice.bits - 1), max_kl=None, own={})
            jobs = jobs_of(calibration, capped)
            fixed = {path: job for path, job in jobs.items() if job.inputs is None}
            rungs[entries] = {
                path: replace(job, file=f"{TRIES}/{entries:03d}_{Path(job.file).name}")
                for path, job in jobs.items()
                if job.inputs is not None
            }
        if not rungs[LADDER[0]]:
            raise LutcError(
                "`max_kl` chooses the entries of tables over codes, and here are none: give `activations`, `softmax` "
                "or `norms` int8"
            )
        return cls(calibration, choice, folder, rungs, fixed)

    @property
    def jobs(self) -> list[Job]:
        """All that are to be compiled, each once."""
        wanted = [*self.fixed.values(), *(job for rung in self.rungs.values() for job in rung.values())]
        return list({job.file: job for job in wanted}.values())

    def entry(self, path: str, entries: int) -> Entry:
        """What the manifest would say of a place with so many entries."""
        if entries not in self._entries:
            jobs = {**self.fixed, **self.rungs[entries]}
            self._entries[entries] = {e.path: e for e in entries_of(self.calibration, jobs, self.folder)}
        return self._entries[entries][path]

    def error(self, path: str, entries: int) -> float:
        """Mean squared, on the inputs that the place was fed with."""
        return self.entry(path, entries).mean_squared or 0.0

    def chosen(self, own: Mapping[str, int]) -> Folder:
        """The folder with so many entries at each place, in memory."""
        made = [self.entry(path, own.get(path, LADDER[0])) for path in self.calibration.layers if self._has(path)]
        tables = {entry.table: read_tables(self.folder / entry.table) for entry in made}
        return Folder(self.folder, {}, {}, {}, tuple(made), tables, {}, ())

    def _has(self, path: str) -> bool:
        return path in self.fixed or path in self.rungs[LADDER[0]]

    def keep(self, own: Mapping[str, int]) -> TableChoice:
        """The choice with these entries; their tables go to where its jobs expect them, the others are removed."""
        choice = replace(self.choice, own=dict(own))
        for path, job in jobs_of(self.calibration, choice).items():
            if path in own:
                shutil.copyfile(self.folder / self.rungs[own[path]][path].file, self.folder / job.file)
        return choice


@dataclass(frozen=True)
class Spent:
    """own: entries by place. kl: of the whole on `tokens` tokens. codes: of the exact functions on the same codes."""

    own: dict[str, int]
    kl: float
    codes: float
    tokens: int


def spend(model: nn.Module | Loaded, batch: Any, few: Any, ladder: Ladder, told: Progress) -> Spent:
    """The fewest entries within the budget of `ladder.choice`. batch: on which the whole is measured; few: on which
    every place is, alone. LutcError where the budget cannot be kept.
    """
    budget = ladder.choice.max_kl or 0.0
    places = list(ladder.rungs[LADDER[0]])
    top = dict.fromkeys(places, LADDER[-1])
    most, codes, tokens = _measured(model, batch, ladder, top, told, codes=True)
    if most > budget:
        raise LutcError(
            f"with {LADDER[-1]} entries everywhere KL is {most:.3g}, above `max_kl` {budget:g}; the exact functions on "
            f"the same codes have {codes:.3g}: take more `bits`, floating-point tables (fplut) for some kinds, or a "
            "larger `max_kl`"
        )
    prices = _prices(model, few, ladder, places, told)
    best, found = Spent(top, most, codes, tokens), {tuple(top.values()): most}
    allowed, kept, broken = budget, 0.0, math.inf  # sums of prices: of this round, that kept the budget, that did not
    for _ in range(_ROUNDS):
        own = fewest(places, allowed, lambda path, n: prices[path] * ladder.error(path, n))
        choice = tuple(own.values())
        if choice not in found:
            found[choice] = _measured(model, batch, ladder, own, told)[0]
        kl = found[choice]
        if kl <= budget:
            kept = max(kept, allowed)
            if sum(own.values()) < sum(best.own.values()):
                best = Spent(own, kl, codes, tokens)
        else:
            broken = min(broken, allowed)
        # most stays whatever the entries: codes cost it by themselves
        used = (kl - most) / max(budget - most, 1e-12)
        allowed = math.sqrt(kept * broken) if 0 < kept and broken < math.inf else allowed * 0.9 / max(used, 0.25)
    return best


def fewest(places: list[str], budget: float, cost: Callable[[str, int], float]) -> dict[str, int]:
    """Entries by place, from LADDER, whose costs add up to no more than the budget (all the most, where they cannot):
    from the smallest tables on, always the step that saves most cost for an entry.
    """
    own = dict.fromkeys(places, LADDER[0])
    total = sum(cost(path, LADDER[0]) for path in places)
    while total > budget:
        steps = [
            ((cost(path, here) - cost(path, n)) / (n - here), path, n)
            for path, here in own.items()
            for n in LADDER
            if n > here and cost(path, n) < cost(path, here)
        ]
        if not steps:
            return dict.fromkeys(places, LADDER[-1])
        _, path, n = max(steps)
        total += cost(path, n) - cost(path, own[path])
        own[path] = n
    return own


def _measured(model, batch, ladder: Ladder, own, told: Progress, codes: bool = False) -> tuple[float, float, int]:
    """KL with these entries, of the exact functions on the same codes, tokens."""
    folder = ladder.chosen(own)
    variants: list[Any] = [FolderVariant("tables", folder)]
    variants += [FolderVariant("codes", folder, exact_on_codes)] if codes else []
    found = evaluate(model, [batch], variants, layers=False, progress=lambda n=1, total=None: told("measure", n))
    kls = [math.inf if (kl := found[variant.name].kl) is None else kl for variant in variants]  # None: NaN
    return kls[0], kls[-1], found.tokens


def _prices(model, few, ladder: Ladder, places: list[str], told: Progress) -> dict[str, float]:
    """KL per mean squared error of each place: measured with its smallest table, alone. Places of one module, which
    cannot be told apart, share a price; those of the model itself have the largest.
    """
    folder = ladder.chosen({})
    modules = list(dict.fromkeys(module for path in places if (module := path.split(" ")[0])))
    variant: Any = FolderVariant("tables", folder)
    report = lambda n=1, total=None: told("measure", n)  # noqa: E731
    found = evaluate(model, [few], [variant], layers=False, each_layer=modules, progress=report)
    measured = {layer.name: layer.kl for layer in found["tables"].layers}
    prices: dict[str, float] = {}
    for name in modules:
        here = [path for path in places if path.split(" ")[0] == name]
        error = sum(ladder.error(path, LADDER[0]) for path in here)
        kl = measured.get(name)
        prices |= dict.fromkeys(here, kl / error if kl is not None and error > 0 else 0.0)
    return {path: prices.get(path, max(prices.values(), default=1.0)) for path in places}
