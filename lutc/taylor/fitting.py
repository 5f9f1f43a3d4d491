"""Fitting one block: centres, expansion, ridge, radii, rounding, certificate, in this order."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from dataclasses import replace as changed

import torch
from torch import Tensor, nn

from lutc.errors import LutcError
from lutc.taylor.blocks import Block, check_block, evaluation_mode
from lutc.taylor.certificate import certify
from lutc.taylor.cluster import SAMPLES_LEAST, SAMPLES_PER_CENTRE, check_samples, find_centres, nearest
from lutc.taylor.expansion import expand
from lutc.taylor.inputs import HELD_OUT, BlockInputs
from lutc.taylor.low_rank import reduced
from lutc.taylor.neurons import SAMPLES_MOST, HiddenLayer, about_centres
from lutc.taylor.radius import find_radii
from lutc.taylor.ridge import RidgeSums, choose_strength
from lutc.taylor.table import FORMATS, TaylorTable

CHUNK = 32768


@dataclass(frozen=True)
class TaylorSettings:
    """How a block is fitted.

    k: number of centres. order: 1 or 2 (diagonal Hessian). neurons: how many neurons of a two-layer MLP are computed
    exactly, as further inputs of every local map; the others stand in it with their line of regression. local: each
    centre keeps neurons of its own. rank: the Jacobians' (0: full). fit: "ridge" (the expansion is the prior of a
    regression) or "taylor". format: fp32, fp16, bf16 or int8. fallback: share of held-out inputs to run exactly, 0 for
    none. post_norm: the block's output is added to its input and layer-normalised (BERT), so errors are weighted by 1 /
    variance of that sum. memory: bytes for Jacobians and for sums.
    """

    k: int = 16
    order: int = 1
    fit: str = "ridge"
    format: str = "fp32"
    fallback: float = 0.0
    post_norm: bool = False
    seed: int = 0
    memory: int = 2 << 30
    neurons: int = 0
    local: bool = False
    rank: int = 0

    def __post_init__(self):
        if self.k < 1 or self.order not in (1, 2):
            raise LutcError(
                f"k = {self.k}, order = {self.order} are not possible; k >= 1, order is 1 or 2 (diagonal Hessian)"
            )
        if self.neurons < 0 or self.neurons and self.order == 2:
            raise LutcError(
                f"neurons = {self.neurons} with order {self.order} is not possible; neurons >= 0, and they need order 1"
            )
        if self.local and not self.neurons:
            raise LutcError("local needs kept neurons: say how many each centre has of its own (neurons)")
        if self.rank < 0 or self.rank and (self.order == 2 or self.fit == "taylor"):
            raise LutcError(
                f"rank = {self.rank} with order {self.order} and fit {self.fit!r} is not possible; rank >= 0 (0: "
                "full), and it needs order 1 and the regression"
            )
        if self.fit not in ("ridge", "taylor"):
            raise LutcError(
                f"fit {self.fit!r} is unknown; it is 'ridge' (expansion and regression) or 'taylor' (expansion alone)"
            )
        if self.format not in FORMATS:
            raise LutcError(f"format {self.format!r} is unknown; storage formats are {', '.join(FORMATS)}")
        if not 0 <= self.fallback < 1:
            raise LutcError(f"fallback = {self.fallback} must be a share of the inputs in [0, 1)")


class BlockPairs:
    """Pairs of inputs and targets of one block, in chunks; a tenth of the documents is held out.

    `inputs` are collected `BlockInputs` or a tensor [n, d] (each tenth row is then held out). The target is the block's
    output F(x). With `exact`, the inputs that the unchanged model has at the same places, it is F(x_exact) + x_exact -
    x: what makes the sum x + F(x), the residual stream of a post-norm transformer, right again after the errors of
    earlier layers.
    """

    def __init__(self, block: Block, inputs: BlockInputs | Tensor, exact: BlockInputs | None = None):
        self.block, self.inputs, self.exact = block, inputs, exact

    def inputs_only(self, held_out: bool) -> Iterator[Tensor]:
        if isinstance(self.inputs, BlockInputs):
            yield from self.inputs.chunks(self.block.name, held_out, CHUNK)
        else:
            rows = torch.arange(len(self.inputs)) % HELD_OUT == HELD_OUT - 1
            yield from self.inputs[rows == held_out].float().split(CHUNK)

    def pairs(self, held_out: bool) -> Iterator[tuple[Tensor, Tensor]]:
        with evaluation_mode(self.block), torch.no_grad():
            if self.exact is None:
                for x in self.inputs_only(held_out):
                    yield x, self._output(x)
                return
            for x, exact in aligned(self.inputs_only(held_out), self.exact.chunks(self.block.name, held_out, CHUNK)):
                yield x, self._output(exact) + exact - x

    def _output(self, x: Tensor) -> Tensor:
        return torch.cat([self.block(part) for part in x.split(4096)]).float()

    def sample(self, count: int) -> Tensor:
        if isinstance(self.inputs, BlockInputs):
            return self.inputs.sample(self.block.name, count)
        x = torch.cat(list(self.inputs_only(False)))
        return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:count]]


def aligned(first: Iterator[Tensor], second: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """The same rows of two streams whose chunks end at different places; LutcError where one is longer."""
    a = b = None
    while True:
        a = next(first, None) if a is None or not len(a) else a
        b = next(second, None) if b is None or not len(b) else b
        if a is None and b is None:
            return
        if a is None or b is None:
            raise LutcError(
                "the exact inputs and the inputs of the replaced model differ in number; collect both from the same "
                "batches"
            )
        rows = min(len(a), len(b))
        yield a[:rows], b[:rows]
        a, b = a[rows:], b[rows:]


def fit(
    block: Block | nn.Module,
    inputs: BlockInputs | Tensor,
    settings: TaylorSettings | None = None,
    *,
    centres: Tensor | None = None,
    exact: BlockInputs | None = None,
    metric: Tensor | None = None,
) -> TaylorTable:
    """Compile `block` on the inputs it really sees; returns a table in `settings.format` with its certificate in
    `info`.

    `inputs` holds the block's samples (float32, any number; memory stays fixed) or is a tensor [n, d]. `centres` [k, d]
    replaces K-means (from `OnlineKMeans`, say). `metric` [o, o] says what errors of the output cost (from
    `output_metrics`): neurons and Jacobians of a rank are chosen by it. `exact` is explained at `BlockPairs`;
    `fit_sequential` gives it. Raises LutcError for blocks that are no function of one row, too few or non-finite
    samples, too little memory, a metric of another shape or not positive definite.
    """
    if isinstance(block, nn.Module):
        block = Block("block", ("",), (block,))
    settings = settings or TaylorSettings()
    settings = settings if centres is None else changed(settings, k=len(centres))
    samples = BlockPairs(block, inputs, exact)
    parameter = next(block.as_module.parameters(), torch.zeros(0))
    if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
        raise LutcError(
            f"{block.name} has {parameter.dtype} weights on {parameter.device}; it is fitted in float32 on the CPU: "
            "call .float().cpu()"
        )
    points = samples.sample(max(SAMPLES_LEAST, SAMPLES_PER_CENTRE * settings.k))
    check_samples(points, settings.k)
    check_block(block, points[:8])
    centres = find_centres(points, settings.k, settings.seed) if centres is None else centres.float()
    # The centres that will be stored are the ones to expand at and to route by.
    centres = centres.to(FORMATS[settings.format][1]).float()
    if settings.rank > min(centres.shape[1], len(block(points[:1])[0])):
        raise LutcError(f"rank = {settings.rank} is over the width of {block.name}; leave it out for full Jacobians")
    root = None if metric is None else _root(metric, block, len(block(points[:1])[0]))
    table = _expanded(block, centres, samples, settings, root)
    table, strength = _regressed(table, samples, settings, root)
    table = changed(table, radii=find_radii(table, samples, settings.fallback) if settings.fallback else None)
    table = table.stored(settings.format, points)
    info = {
        "block": block.name,
        "modules": [str(module) for module in block.modules],
        "settings": asdict(settings),
        # JSON has no infinity: null says that the expansion alone was the best.
        "strength": None if strength == float("inf") else strength,
    }
    return changed(table, info={**info, **certify(table, block, samples)})


def _expanded(
    block: Block, centres: Tensor, samples: BlockPairs, settings: TaylorSettings, root: Tensor | None
) -> TaylorTable:
    """The expansion of the block at the centres, the prior of the regression; with kept neurons, these as they are and
    for each other one its line of regression about each centre.
    """
    counts = torch.zeros(settings.k, dtype=torch.int64)
    with evaluation_mode(block):
        if not settings.neurons:
            expansion = expand(block, centres, settings.order, settings.memory)
            parts = [part for part in (expansion.jacobians, expansion.hessians) if part is not None]
            return TaylorTable(centres, expansion.values, torch.cat(parts, 2), counts)
    layer = HiddenLayer(block, settings.neurons, root)
    # A quarter of the memory; reading a sample holds it twice.
    most = settings.memory // (8 * 4 * centres.shape[1])
    sample = samples.sample(max(SAMPLES_LEAST, min(most, SAMPLES_MOST * settings.k)))
    found, own = [], []
    with torch.no_grad(), evaluation_mode(block):
        for x in about_centres(sample, centres):
            weight = _weights(x, block(x), settings)
            found.append(layer.lines(x, weight))
            own += [layer.bent(x, weight, settings.neurons)] if settings.local else []
        gains, mean_a, mean_h, shares = (torch.stack(tensors) for tensors in zip(*found))
        counted = torch.bincount(nearest(sample, centres), minlength=settings.k).float()
        chosen = torch.stack(own) if own else (counted @ shares).topk(settings.neurons).indices.sort().values
        rest = torch.ones_like(gains).scatter_(1, chosen.expand(settings.k, -1), 0)
        last = layer.last.weight
        values = layer.last(rest * (mean_h + gains * (layer.first(centres) - mean_a)))
        jacobians = torch.stack([(last * one) @ layer.weight for one in gains * rest])
        columns = last.T[chosen].transpose(-1, -2).expand(settings.k, -1, -1)
    pool = chosen.unique()
    weights, offsets = (tensor[pool].to(FORMATS[settings.format][1]).float() for tensor in (layer.weight, layer.bias))
    return TaylorTable(
        centres,
        values,
        torch.cat([jacobians, columns], 2),
        counts,
        weights=weights,
        offsets=offsets,
        activation=layer.function,
        chosen=torch.searchsorted(pool, chosen).int() if settings.local else None,
    )


def _root(metric: Tensor, block: Block, o: int) -> Tensor:
    """The symmetric root [o, o] (float64) of a metric."""
    if metric.shape != (o, o) or not torch.isfinite(metric).all():
        raise LutcError(f"the metric of {block.name} must be finite and [{o}, {o}]; it is {list(metric.shape)}")
    values, vectors = torch.linalg.eigh(metric.double())
    if not float(values.min()) > 0:
        raise LutcError(f"the metric of {block.name} must be positive definite; add some of the unit matrix")
    return vectors * values.sqrt() @ vectors.T


def _weights(x: Tensor, y: Tensor, settings: TaylorSettings) -> Tensor:
    """How much the error of each row counts: what the normalisation after the residual sum makes of it, else 1."""
    return 1 / (x + y).var(1).clamp_min(1e-6) if settings.post_norm else torch.ones(len(x))


def _regressed(
    table: TaylorTable, samples: BlockPairs, settings: TaylorSettings, root: Tensor | None
) -> tuple[TaylorTable, float]:
    """The table with the residual of its expansion regressed per centre, and with counts; and the strength of the
    prior.
    """
    k, o, p = table.slopes.shape
    if settings.fit == "taylor":
        counts = sum(
            (torch.bincount(nearest(x, table.centres), minlength=k) for x in samples.inputs_only(False)),
            torch.zeros(k, dtype=torch.int64),
        )
        return changed(table, counts=counts), float("inf")
    moments = {}
    for held_out in (False, True):
        moments[held_out] = RidgeSums(k, p + 1, o, settings.memory // 2)
        for x, y in _progress(samples.pairs(held_out), samples.block.name):
            moments[held_out].add(x, y, nearest(x, table.centres), _weights(x, y, settings), table)
    strength = choose_strength(moments[False], moments[True])
    correction = moments[False].solve(strength, torch.arange(k)).float()
    table = changed(
        table,
        values=table.values + correction[:, -1],
        slopes=table.slopes + correction[:, :-1].transpose(1, 2),
        counts=moments[False].count,
    )
    return (reduced(table, moments[False], settings.rank, strength, root) if settings.rank else table), strength


def _progress(items: Iterator, name: str) -> Iterator:
    from tqdm import tqdm

    return tqdm(items, desc=f"fit {name}", unit=" chunks", disable=not sys.stderr.isatty(), leave=False)
