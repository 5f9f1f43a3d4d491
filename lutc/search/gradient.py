"""NN-LUT (arXiv:2112.02191): breakpoints learned by gradient. One hidden ReLU layer is piecewise linear, so it is read
off as a table.

Adam trains several networks side by side as one batched model. Each is read off exactly; its breakpoints are kept, its
lines are replaced by the best representable ones between them, its ends by the exact tails, which begin where they pay,
and the network that makes the best table wins. The only search that needs torch, which is imported inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np

from lutc.costs.lines import Moments, Ordinals, best_lines
from lutc.costs.points import Points
from lutc.costs.rules import Ends, Rules, ruled_lines
from lutc.errors import LutcError
from lutc.formats.format import Format
from lutc.functions import Line
from lutc.samples.samples import Samples
from lutc.search.problem import SearchProblem
from lutc.search.result import SearchResult
from lutc.search.search import Search
from lutc.table.bodies import Lines, without_empty_segments

OBJECTIVES = ("squared", "relative", "absolute")
INITIALISATIONS = ("curvature", "random")
_DENSITY = 0.4  # least squares wants segments in proportion to |f''|^(2/5) weight^(1/5) (de Boor 1973)
_PLACES = 4096  # at which curvature is measured
_FLAT = 1e-3  # share of the largest density that a place without curvature has
_REWEIGHTINGS = 40


@dataclass(frozen=True)
class GradientSettings:
    """init: breakpoints begin where the curvature wants them, in all restarts but the first moved by up to half a
    segment; or "random", evenly over the range. batch: samples drawn for each step, as often as they weigh. rate: of
    Adam, falling to 0 along a cosine.
    """

    init: str = "curvature"
    restarts: int = 8
    steps: int = 1500
    batch: int = 256
    rate: float = 0.005

    def __post_init__(self):
        if self.init not in INITIALISATIONS:
            raise LutcError(f"unknown initialisation {self.init!r}; choose one of {', '.join(INITIALISATIONS)}")
        for name in ("restarts", "steps", "batch", "rate"):
            if not getattr(self, name) > 0:
                raise LutcError(f"the gradient search needs positive {name}; given {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class Network:
    """y = outputs . relu(weights x + biases) + slope x + offset: weights, biases and outputs of shape (hidden,),
    float64.
    """

    weights: np.ndarray
    biases: np.ndarray
    outputs: np.ndarray
    slope: float
    offset: float

    def __call__(self, x) -> np.ndarray:
        """Values at x, float64, shape of x."""
        hidden = np.maximum(np.multiply.outer(np.asarray(x, np.float64), self.weights) + self.biases, 0.0)
        return hidden @ self.outputs + self.slope * np.asarray(x, np.float64) + self.offset

    def read_off(self) -> Lines:
        """The same function as a table of up to hidden + 1 segments.

        A neuron of positive weight is active to the right of its breakpoint -bias / weight, one of negative weight to
        the left; one without weight is a constant. Neurons with the same breakpoint share it.
        """
        bent = self.weights != 0
        constant = float(np.maximum(self.biases[~bent], 0.0) @ self.outputs[~bent])
        order = np.argsort(-self.biases[bent] / self.weights[bent], kind="stable")
        weights, biases, outputs = (values[bent][order] for values in (self.weights, self.biases, self.outputs))
        segment = np.arange(weights.size + 1)[:, None]
        place = np.arange(weights.size)
        active = np.where(weights > 0, place < segment, place >= segment)
        slopes = active @ (outputs * weights) + self.slope
        intercepts = active @ (outputs * biases) + self.offset + constant
        return without_empty_segments(-biases / weights, slopes, intercepts)


def gradient(
    samples: Samples,
    entries: int,
    fmt: Format,
    left: Line | None = None,
    right: Line | None = None,
    objective: str = "squared",
    seed: int = 42,
    settings: GradientSettings = GradientSettings(),
    progress: Callable[[int], object] | None = None,
    rules: Rules | None = None,
) -> SearchResult:
    """Best table of at most `entries` entries that the trained networks of entries - 1 hidden neurons give.

    Cuts are sample indices; lines (representable in `fmt`) come with the result. objective: "absolute" is the mean
    absolute error, the others the mean squared one (relative by the weights of the samples). The same seed gives the
    same result on the same machine. progress(steps) is called as training goes on. LutcError for an objective without a
    gradient, too few entries, and where torch is not installed.
    """
    if objective not in OBJECTIVES:
        raise LutcError(f"the gradient search takes the objective {', '.join(OBJECTIVES)}; given {objective!r}")
    if entries < 2 or entries < (left is not None) + (right is not None):
        raise LutcError(f"a learned table has at least 2 entries; given {entries}")
    candidates = [
        _table(samples, network.read_off().breakpoints, fmt, left, right, objective, rules)
        for network in train(samples, entries - 1, left, right, objective, seed, settings, progress)
    ]
    cost, cuts, lines = min(candidates, key=lambda candidate: candidate[0])
    return SearchResult(cuts, cost, {"name": "gradient", "seed": seed, **asdict(settings)}, lines)


def train(
    samples: Samples,
    hidden: int,
    left: Line | None,
    right: Line | None,
    objective: str,
    seed: int,
    settings: GradientSettings,
    progress: Callable[[int], object] | None = None,
) -> list[Network]:
    """One trained network per restart. Inputs are scaled to [-1, 1] and outputs by their spread while training.

    A network that leaves its tails is punished as if that were an error at the ends of the scaled range.
    """
    torch = _torch()
    rng = np.random.default_rng(seed)
    middle, half = (
        (samples.x[0] + samples.x[-1]) / 2,
        max((samples.x[-1] - samples.x[0]) / 2, np.finfo(np.float64).tiny),
    )
    spread = float(np.std(samples.y)) or 1.0
    u, y = (samples.x - middle) / half, samples.y / spread
    share = np.cumsum(samples.weight)
    share = share / share[-1]
    breakpoints = _start(u, y, share, hidden, settings, rng)
    tails = [
        None if t is None else (t.slope * half / spread, (t.slope * middle + t.intercept) / spread)
        for t in (left, right)
    ]
    with _one_thread(torch), torch.enable_grad():
        parameters = [torch.from_numpy(p).requires_grad_() for p in _least_squares(u, y, breakpoints)]
        weights, biases, outputs, slope, offset = parameters
        adam = torch.optim.Adam(parameters, lr=settings.rate)
        for step in range(settings.steps):
            adam.param_groups[0]["lr"] = settings.rate * (1 + np.cos(np.pi * step / settings.steps)) / 2
            # one sample from each of `batch` equal shares of the weight
            drawn = np.searchsorted(share, (np.arange(settings.batch) + rng.random(settings.batch)) / settings.batch)
            drawn = np.minimum(drawn, u.size - 1)
            x, target = torch.from_numpy(u[drawn]), torch.from_numpy(y[drawn])
            active = torch.relu(weights[:, :, None] * x + biases[:, :, None])
            error = (outputs[:, None, :] @ active)[:, 0] + slope * x + offset - target
            loss = (error.abs() if objective == "absolute" else error.square()).mean()
            for tail, outward in zip(tails, (weights < 0, weights > 0)):
                if tail is not None:
                    at_end = (
                        slope[:, 0] + (outputs * weights * outward).sum(1),
                        offset[:, 0] + (outputs * biases * outward).sum(1),
                    )
                    loss = loss + sum((found - wanted).square().mean() for found, wanted in zip(at_end, tail))
            adam.zero_grad()
            loss.backward()
            adam.step()
            if progress is not None:
                progress(1)
    weights, biases, outputs, slope, offset = (p.detach().numpy() for p in parameters)
    return [  # back to x and y
        Network(
            w / half,
            b - w * middle / half,
            m * spread,
            float(k[0] * spread / half),
            float((t[0] - k[0] * middle / half) * spread),
        )
        for w, b, m, k, t in zip(weights, biases, outputs, slope, offset)
    ]


def _torch():
    try:
        import torch
    except ModuleNotFoundError as error:
        raise LutcError(
            "the gradient search trains with torch, which is not installed: pip install 'lutc[torch]'"
        ) from error
    return torch


@contextmanager
def _one_thread(torch) -> Iterator[None]:
    """Sums in one order, whatever the machine is busy with; the number of threads is restored."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _start(u: np.ndarray, y: np.ndarray, share: np.ndarray, hidden: int, settings: GradientSettings, rng) -> np.ndarray:
    """Breakpoints (restarts, hidden) to begin with, in scaled x. share: of the weight up to each sample."""
    if settings.init == "random" or u.size < 3:
        return np.sort(rng.uniform(-1.0, 1.0, (settings.restarts, hidden)), axis=1)
    even = np.linspace(
        -1.0, 1.0, min(u.size, _PLACES)
    )  # floats crowd around 0, where differences of neighbours are noise
    curvature = np.abs(np.gradient(np.gradient(np.interp(even, u, y), even), even))
    crowd = np.gradient(np.interp(even, u, share), even)
    density = curvature**_DENSITY * crowd ** (_DENSITY / 2)
    density = density + _FLAT * (density.max() or 1.0)
    quantile = np.append(0.0, np.cumsum((density[1:] + density[:-1]) / 2))
    jitter = rng.uniform(-0.5, 0.5, (settings.restarts, hidden)) * np.linspace(0.0, 1.0, settings.restarts)[:, None]
    return np.interp((np.arange(hidden) + 0.5 + jitter) / hidden, quantile / quantile[-1], even)


def _least_squares(u: np.ndarray, y: np.ndarray, breakpoints: np.ndarray) -> list[np.ndarray]:
    """Parameters of networks with these breakpoints, all neurons open to the right, outputs by least squares over an
    even choice of samples.
    """
    chosen = np.unique(np.linspace(0, u.size - 1, 1024).round().astype(np.int64))
    x, target = u[chosen], y[chosen]
    solved = np.array(
        [
            np.linalg.lstsq(
                np.column_stack([np.maximum(x[:, None] - points, 0.0), x, np.ones_like(x)]), target, rcond=1e-9
            )[0]
            for points in breakpoints
        ]
    )
    return [
        np.ones_like(breakpoints),
        -breakpoints,
        solved[:, :-2].copy(),
        solved[:, -2:-1].copy(),
        solved[:, -1:].copy(),
    ]


def _table(
    samples: Samples,
    breakpoints: np.ndarray,
    fmt: Format,
    left: Line | None,
    right: Line | None,
    objective: str,
    rules: Rules | None = None,
):
    """(cost, cuts, lines) of the table with these breakpoints: best lines between them, tails outside, whose own cuts
    are put where they pay.
    """
    n, weight = len(samples), samples.weight / samples.weight.sum()
    inner = np.searchsorted(samples.x, breakpoints, side="right")
    cuts = np.concatenate([[0] * (left is None), inner, [n] * (right is None)]).astype(np.int64)
    if cuts.size > 1:
        x, y = samples.x, samples.y
        if left is not None:
            cuts[0] = _tail_ends(x[: cuts[1]], y[: cuts[1]], weight[: cuts[1]], left)
        if right is not None:
            cuts[-1] = n - _tail_ends(x[cuts[-2] :][::-1], y[cuts[-2] :][::-1], weight[cuts[-2] :][::-1], right)
    bounds = np.concatenate([[0], cuts, [n]])  # a segment without samples at an end that has no tail, else the tail's
    cell = np.searchsorted(bounds[1:-1], np.arange(n), side="right")
    slopes, intercepts = _lines(samples, weight, cell, bounds.size - 1, fmt, objective, rules)
    for tail, end in ((left, 0), (right, -1)):
        if tail is not None:
            slopes[end], intercepts[end] = tail.slope, tail.intercept
    error = slopes[cell] * samples.x + intercepts[cell] - samples.y
    cost = weight @ (np.abs(error) if objective == "absolute" else error**2)
    return float(cost), cuts, (slopes[1:-1], intercepts[1:-1])


def _tail_ends(x: np.ndarray, y: np.ndarray, weight: np.ndarray, tail: Line) -> int:
    """How many of these samples, from the outermost inwards, the tail serves best when a least-squares line serves the
    others.
    """
    total = weight.sum()
    if not total > 0:
        return 0
    x, off = (
        x - weight @ x / total,
        y - (tail.slope * x + tail.intercept),
    )  # a line fits y as well as it fits y less the tail
    off_mean = weight @ off / total

    def rest(values):
        return np.append(np.cumsum((weight * values)[::-1])[::-1], 0.0)

    dy = off - off_mean
    w, sx, sy, sxx, sxy, syy = (rest(v) for v in (np.ones_like(x), x, dy, x * x, x * dy, dy * dy))
    with np.errstate(invalid="ignore", divide="ignore"):
        xx, xy, yy = sxx - sx * sx / w, sxy - sx * sy / w, syy - sy * sy / w
        line = np.where(xx > 1e-12 * sxx, yy - xy * xy / xx, yy)
    line = np.where(w > 0, np.maximum(line, 0.0), 0.0)
    return int(np.argmin(np.append(0.0, np.cumsum(weight * off * off)) + line))


def _lines(
    samples: Samples,
    weight: np.ndarray,
    cell: np.ndarray,
    size: int,
    fmt: Format,
    objective: str,
    rules: Rules | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Representable lines of all cells by least squares; for least absolute error with weights that undo the square,
    repeated. rules: which lines there are.
    """
    ordinals = Ordinals(fmt)

    def fit(weights):
        points = Points(samples.x, samples.y, weights, cell, size)
        if rules is None:
            return best_lines(Moments.of(points), ordinals)[:2]
        runs = Ends.of(points, rules.whole).of_runs(np.arange(size), np.arange(size) + 1)
        return ruled_lines(Moments.of(points), *runs, rules)[:2]

    best = fit(weight)
    if objective != "absolute":
        return best
    lines, least = best, np.inf
    for _ in range(_REWEIGHTINGS):
        error = np.abs(lines[0][cell] * samples.x + lines[1][cell] - samples.y)
        if weight @ error < least:
            best, least = lines, weight @ error
        lines = fit(weight / np.maximum(error, 1e-3 * (weight @ error) + np.finfo(np.float64).tiny))
    return best


def solve(problem: SearchProblem, settings: GradientSettings) -> SearchResult:
    """`gradient` over the problem's samples."""
    return gradient(
        problem.samples,
        problem.entries,
        problem.format,
        problem.left,
        problem.right,
        problem.objective,
        problem.seed,
        settings,
        problem.progress,
        problem.rules,
    )


SEARCH = Search(
    "gradient",
    "breakpoints learned by a ReLU network (NN-LUT); needs torch",
    GradientSettings,
    solve,
    takes="samples",
    objectives=OBJECTIVES,
)
