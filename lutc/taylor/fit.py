"""Fitting one block: centres, expansion, ridge, radii, rounding, certificate, in this order."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from dataclasses import replace as changed

import torch
from torch import Tensor, nn

from lutc.errors import LutcError
from lutc.taylor.blocks import Block, check_block, evaluation_mode
from lutc.taylor.certificate import certify
from lutc.taylor.cluster import SAMPLES_LEAST, SAMPLES_PER_CENTRE, check_samples, find_centres, nearest
from lutc.taylor.expand import expand
from lutc.taylor.inputs import HELD_OUT, Inputs
from lutc.taylor.radius import find_radii
from lutc.taylor.ridge import Moments, choose_strength
from lutc.taylor.table import FORMATS, TaylorTable

CHUNK = 32768


@dataclass(frozen=True)
class Settings:
    """How a block is fitted.

    k: number of centres. order: 1 or 2 (diagonal Hessian). fit: "ridge" (the expansion is the prior of a regression) or "taylor".
    format: fp32, fp16, bf16 or int8. fallback: share of held-out inputs to run exactly, 0 for none. post_norm: the block's output is added to
    its input and layer-normalised (BERT), so errors are weighted by 1 / variance of that sum. memory: bytes for Jacobians and for sums.
    """

    k: int = 16
    order: int = 1
    fit: str = "ridge"
    format: str = "fp32"
    fallback: float = 0.0
    post_norm: bool = False
    seed: int = 0
    memory: int = 2 << 30

    def __post_init__(self):
        if self.k < 1 or self.order not in (1, 2):
            raise LutcError(f"k = {self.k}, order = {self.order} are not possible; k >= 1, order is 1 or 2 (diagonal Hessian)")
        if self.fit not in ("ridge", "taylor"):
            raise LutcError(f"fit {self.fit!r} is unknown; it is 'ridge' (expansion and regression) or 'taylor' (expansion alone)")
        if self.format not in FORMATS:
            raise LutcError(f"format {self.format!r} is unknown; storage formats are {', '.join(FORMATS)}")
        if not 0 <= self.fallback < 1:
            raise LutcError(f"fallback = {self.fallback} must be a share of the inputs in [0, 1)")


class Samples:
    """Pairs of inputs and targets of one block, in chunks; a tenth of the documents is held out.

    `inputs` are collected `Inputs` or a tensor [n, d] (each tenth row is then held out). `target(x, y, start)` may put another target in the
    place of the block's own output y; start is the number of the first row among the rows of this kind.
    """

    def __init__(self, block: Block, inputs: Inputs | Tensor, target: Callable[[Tensor, Tensor, int, bool], Tensor] | None = None):
        self.block, self.inputs, self.target = block, inputs, target

    def inputs_only(self, held_out: bool) -> Iterator[Tensor]:
        if isinstance(self.inputs, Inputs):
            yield from self.inputs.chunks(self.block.name, held_out, CHUNK)
        else:
            rows = torch.arange(len(self.inputs)) % HELD_OUT == HELD_OUT - 1
            yield from self.inputs[rows == held_out].float().split(CHUNK)

    def pairs(self, held_out: bool) -> Iterator[tuple[Tensor, Tensor]]:
        start = 0
        with evaluation_mode(self.block), torch.no_grad():
            for x in self.inputs_only(held_out):
                y = torch.cat([self.block(part) for part in x.split(4096)]).float()
                yield x, y if self.target is None else self.target(x, y, start, held_out)
                start += len(x)

    def sample(self, count: int) -> Tensor:
        if isinstance(self.inputs, Inputs):
            return self.inputs.sample(self.block.name, count)
        x = torch.cat(list(self.inputs_only(False)))
        return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:count]]


def fit(block: Block | nn.Module, inputs: Inputs | Tensor, settings: Settings = Settings(), *, centres: Tensor | None = None, target=None) -> TaylorTable:
    """Compile `block` on the inputs it really sees; returns a table in `settings.format` with its certificate in `info`.

    `inputs` holds the block's samples (float32, any number; memory stays fixed) or is a tensor [n, d]. `centres` [k, d] replaces K-means
    (from `OnlineKMeans`, say). Raises LutcError for blocks that are no function of one row, too few or non-finite samples, too little memory.
    """
    if isinstance(block, nn.Module):
        block = Block("block", ("",), (block,))
    settings = settings if centres is None else changed(settings, k=len(centres))
    samples = Samples(block, inputs, target)
    parameter = next(block.as_module.parameters(), torch.zeros(0))
    if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
        raise LutcError(f"{block.name} has {parameter.dtype} weights on {parameter.device}; it is fitted in float32 on the CPU: call .float().cpu() first")
    points = samples.sample(max(SAMPLES_LEAST, SAMPLES_PER_CENTRE * settings.k))
    check_samples(points, settings.k)
    check_block(block, points[:8])
    centres = find_centres(points, settings.k, settings.seed) if centres is None else centres.float()
    # The centres that will be stored are the ones to expand at and to route by.
    centres = centres.to(FORMATS[settings.format][1]).float()
    with evaluation_mode(block):
        expansion = expand(block, centres, settings.order, settings.memory)
    slopes = expansion.jacobians if expansion.hessians is None else torch.cat([expansion.jacobians, expansion.hessians], 2)
    table = TaylorTable(centres, expansion.values, slopes, torch.zeros(settings.k, dtype=torch.int64))
    table, strength = _regressed(table, samples, settings)
    table = changed(table, radii=find_radii(table, samples, settings.fallback) if settings.fallback else None).stored(settings.format)
    info = {
        "block": block.name,
        "modules": [str(module) for module in block.modules],
        "settings": asdict(settings),
        # JSON has no infinity: null says that the expansion alone was the best.
        "strength": None if strength == float("inf") else strength,
    }
    return changed(table, info={**info, **certify(table, block, samples)})


def _regressed(table: TaylorTable, samples: Samples, settings: Settings) -> tuple[TaylorTable, float]:
    """The table with the residual of its expansion regressed per centre, and with counts; and the strength of the prior."""
    k, o, p = table.slopes.shape
    if settings.fit == "taylor":
        counts = sum((torch.bincount(nearest(x, table.centres), minlength=k) for x in samples.inputs_only(False)), torch.zeros(k, dtype=torch.int64))
        return changed(table, counts=counts), float("inf")
    moments = {}
    for held_out in (False, True):
        moments[held_out] = Moments(k, p + 1, o, settings.memory // 2)
        for x, y in _progress(samples.pairs(held_out), samples.block.name):
            weight = 1 / (x + y).var(1).clamp_min(1e-6) if settings.post_norm else torch.ones(len(x))
            moments[held_out].add(x, y, nearest(x, table.centres), weight, table.centres, table.values, table.slopes)
    strength = choose_strength(moments[False], moments[True])
    correction = moments[False].solve(strength, torch.arange(k)).float()
    slopes = table.slopes + correction[:, :-1].transpose(1, 2)
    return changed(table, values=table.values + correction[:, -1], slopes=slopes, counts=moments[False].count), strength


def _progress(items: Iterator, name: str) -> Iterator:
    from tqdm import tqdm

    return tqdm(items, desc=f"fit {name}", unit=" chunks", disable=not sys.stderr.isatty(), leave=False)
