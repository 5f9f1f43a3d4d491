"""The samples and the norm that an interval is priced by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lutc.functions import Line

NORMS = ("l1", "l2", "max")
PENALTY = 100.0


@dataclass(frozen=True, eq=False)
class Targets:
    """Samples a table is judged on: x (float64, strictly increasing), y = f(x), weight >= 0, region; each of shape
    (n,).

    An error e at a sample costs weight * |e| (norms l1 and max) or weight * e^2 (l2). In l1, what a cost has above
    `cap` counts `PENALTY` times more, so that a small mean is not bought with a large error somewhere. Samples of one
    `region` lie where f is convex or where it is concave; None where that is not known.
    """

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    region: np.ndarray | None = None
    cap: float = np.inf

    def __len__(self) -> int:
        return self.x.size

    def line_cost(self, line: Line, norm: str) -> np.ndarray:
        """Cost of each sample under a line, shape (n,)."""
        error = np.abs(line.slope * self.x + line.intercept - self.y)
        cost = self.weight * (error * error if norm == "l2" else error)
        return cost + PENALTY * np.maximum(cost - self.cap, 0.0) if norm == "l1" else cost


def regions(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Numbers the runs of samples on which the slopes between them rise, or fall; changes below rounding errors
    continue a run.
    """
    slope = np.diff(y) / np.diff(x)
    noise = 4 * np.finfo(np.float64).eps * np.abs(y[1:]) / np.diff(x)
    bend = np.diff(slope)
    sign = np.where(np.abs(bend) > noise[1:] + noise[:-1], np.sign(bend), 0.0)
    last = np.maximum.accumulate(np.where(sign != 0, np.arange(sign.size), 0))
    sign = sign[last]
    change = np.append(False, (sign[1:] != sign[:-1]) & (sign[:-1] != 0))
    return np.concatenate([[0], np.cumsum(change), [change.sum()]])
