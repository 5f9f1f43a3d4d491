"""The values stored at the piece edges: samples of the function, or fitted so that the table as a whole errs least."""

from __future__ import annotations

import numpy as np

from lutc import formats
from lutc.costs.targets import NORMS, Targets
from lutc.fplut.problem import IntervalProblem


def _cast(dtype):
    def store(values):
        with np.errstate(over="ignore"):
            return np.asarray(values).astype(dtype).astype(np.float64)

    return store


# Rounding of stored values, float64 to float64, overflow to infinity; to bf16 in one step, which a cast does not do.
STORE = {"fp16": _cast(np.float16), "bf16": formats.get("bf16").round, "fp32": _cast(np.float32)}
_STEPS = np.array([-64, -8, -2, -1, 0, 1, 2, 8, 64])  # stored values tried around each
_REACH = 2  # options to each side of a value
_HALVINGS = 12  # of the step, which starts at a quarter of the error: steps end at a 1e-4th of it
_ROUNDS = 8  # at most, per step


def fitted(
    problem: IntervalProblem, edges: np.ndarray, values: np.ndarray, key: str, zero: bool = False
) -> tuple[np.ndarray, float]:
    """Values of format `key` (edges,) that cost least over the samples within the edges, and that cost; `values`
    (float64): where to start.

    The chain of values is improved by dynamic programming over a few options for each at once, on steps that shrink;
    for a nonsmooth convex cost this moves values together where moving one alone would get stuck. In a 16-bit format
    the same goes on over stored values until none improves, from the fitted values and from the rounded samples. zero:
    the value at the edge 0 stays 0.
    """
    chain = _Chain(problem.targets, edges, problem.norm, np.zeros(edges.size, bool))
    smooth = chain.relaxed(values)
    if zero:  # from the best values without: held from the beginning it would keep its neighbours
        chain = _Chain(problem.targets, edges, problem.norm, edges == 0.0)
        smooth = chain.relaxed(np.where(chain.zeros, 0.0, smooth))
    if key == "fp32":
        return chain.improve(STORE[key](smooth)[:, None])
    candidates = [chain.stepped(STORE[key](start), formats.get(key).values()) for start in (smooth, values)]
    return min(candidates, key=lambda result: result[1])


class _Chain:
    """The samples of each piece, and how to choose among options for the value at each edge."""

    def __init__(self, targets: Targets, edges: np.ndarray, norm: str, zeros: np.ndarray):
        self.targets, self.edges, self.kind, self.zeros = targets, edges, NORMS.index(norm), zeros
        self.start = np.searchsorted(targets.x, edges)
        self.start[-1] = np.searchsorted(targets.x, edges[-1], side="right")

    def improve(self, options: np.ndarray) -> tuple[np.ndarray, float]:
        """The best of options (edges, n) and its cost."""
        from lutc.costs import interval_kernels  # brings numba

        t, options = self.targets, np.where(self.zeros[:, None], 0.0, options)
        choice, cost = interval_kernels.best_values(
            t.x, t.y, t.weight, self.start, self.edges, options, self.kind, t.cap
        )
        return options[np.arange(self.edges.size), choice], cost

    def relaxed(self, values: np.ndarray) -> np.ndarray:
        """Float64 values of (nearly) least cost."""
        errors = self._largest_errors(values)
        if NORMS[self.kind] == "max":
            errors = np.full_like(
                errors, errors.max()
            )  # under a maximum, values far from the worst error move for its sake
        step = errors[:, None] / 4 * np.arange(-_REACH, _REACH + 1)
        values, cost = self.improve(values[:, None])
        for _ in range(_HALVINGS):
            for _ in range(_ROUNDS):
                better, new = self.improve(values[:, None] + step)
                if not new < cost * (1 - 1e-9):
                    break
                values, cost = better, new
            step = step / 2
        return values

    def stepped(self, values: np.ndarray, stored: np.ndarray) -> tuple[np.ndarray, float]:
        """Values among `stored` (ascending) that no change by a few neighbours each improves, and their cost."""
        values, cost = self.improve(values[:, None])
        while True:
            near = np.searchsorted(stored, values)[:, None] + _STEPS
            better, new = self.improve(stored[np.clip(near, 0, stored.size - 1)])
            if not new < cost:
                return values, cost
            values, cost = better, new

    def _largest_errors(self, values) -> np.ndarray:
        """Largest |error| in the two pieces that meet at each edge (edges,)."""
        inside = slice(self.start[0], self.start[-1])
        x, y = self.targets.x[inside], self.targets.y[inside]
        piece = np.clip(np.searchsorted(self.edges, x, side="right") - 1, 0, self.edges.size - 2)
        largest = np.zeros(self.edges.size - 1)
        np.maximum.at(largest, piece, np.abs(np.interp(x, self.edges, values) - y))
        return np.maximum(np.append(largest, 0.0), np.append(0.0, largest))
