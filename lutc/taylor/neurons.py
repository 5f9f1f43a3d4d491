"""The neurons of a two-layer MLP W2 act(W1 x) that are far from a line: kept exactly, they are further inputs of every
local map. The others are replaced by their lines of regression.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lutc.errors import LutcError
from lutc.functions.in_torch import known
from lutc.functions.recognise import functions_of
from lutc.taylor.blocks import Block
from lutc.taylor.cluster import nearest, rows_of_centres

# Samples of a centre that its neurons' lines and their choice are estimated on, and the least: a centre with fewer
# takes the nearest of others.
SAMPLES_MOST, SAMPLES_LEAST = 2000, 64
# Of the mean square of an input, and of what is left of a neuron: what a regression on so few samples only seems to
# explain.
_RIDGE, _NOISE = 0.05, 0.02


class NeuronLines(NamedTuple):
    """Of every neuron, [h]: the line of regression mean_h + gains (a - mean_a) of h = act(a) on a = w . x + b, and
    `shares`: what is left of h times the square of the neuron's column in W2, the mean square error of the output if
    the neuron were its line.
    """

    gains: Tensor
    mean_a: Tensor
    mean_h: Tensor
    shares: Tensor


def two_layers(block: Block) -> tuple[nn.Linear, nn.Module, nn.Linear] | None:
    """First linear layer, activation and second linear layer of a block W2 act(W1 x), or None where it is built
    otherwise.
    """
    leaves = [module for module in block.as_module.modules() if not list(module.children())]
    leaves = [module for module in leaves if not isinstance(module, nn.Dropout | nn.Identity)]
    if len(leaves) != 3:
        return None
    first, activation, last = leaves
    if not isinstance(first, nn.Linear) or not isinstance(last, nn.Linear) or first.out_features != last.in_features:
        return None
    return None if any(True for _ in activation.parameters()) else (first, activation, last)


class HiddenLayer:
    """The hidden layer of a block W2 act(W1 x): how far from a line its neurons are on samples about one centre.

    Raises LutcError where the block is built otherwise, of no known elementwise function, or has fewer than `n`
    neurons. Errors e of the output count as |root e|^2 (`root` [o, o]; default: |e|^2).
    """

    def __init__(self, block: Block, n: int, root: Tensor | None = None):
        layers = two_layers(block)
        function = None if layers is None else activation_name(layers[1])
        if layers is None or function is None:
            raise LutcError(
                f"{block.name} is not two linear layers about a function that `lutc functions` lists; use neurons = 0"
            )
        self.function = function
        self.first, self.activation, self.last = layers
        self.weight = self.first.weight.detach()
        self.bias = torch.zeros(len(self.weight)) if self.first.bias is None else self.first.bias.detach()
        columns = self.last.weight.detach()
        self.columns = columns if root is None else root.float() @ columns
        if n > len(self.weight):
            raise LutcError(f"{n} neurons cannot be kept, {block.name} has {len(self.weight)}; keep fewer")

    @torch.no_grad()
    def lines(self, x: Tensor, weight: Tensor) -> NeuronLines:
        """The lines on samples x [m, d] with weights [m]. (If x were Gaussian, no linear map of all of x would do
        better than the line of each neuron: Stein's lemma.)
        """
        a = torch.nn.functional.linear(x, self.weight, self.bias)
        h = self.activation(a)
        weight = (weight / weight.sum())[:, None]
        mean_a, mean_h = (weight * a).sum(0), (weight * h).sum(0)
        a, h = a - mean_a, h - mean_h
        covariance = (weight * a * h).sum(0)
        gains = covariance / (weight * a * a).sum(0).clamp_min(1e-12)
        left = ((weight * h * h).sum(0) - gains * covariance).clamp_min(0)
        return NeuronLines(gains, mean_a, mean_h, left * self.columns.square().sum(0))

    @torch.no_grad()
    def bent(self, x: Tensor, weight: Tensor, n: int) -> Tensor:
        """The `n` neurons [n], ascending, that explain most of what a linear map of the samples x [m, d], with weights
        [m], leaves of the output: one after the other, each the one that takes most off what those before leave.
        """
        h = self.activation(torch.nn.functional.linear(x, self.weight, self.bias))
        weight = (weight / weight.sum())[:, None]
        f = torch.cat([x - (weight * x).sum(0), torch.ones(len(x), 1)], 1)
        fw = (weight * f).T
        square = fw @ f
        square.diagonal()[:-1] += _RIDGE * square.diagonal()[:-1].mean()
        rest = h - f @ torch.linalg.solve(square, fw @ h)
        covariance = (weight * rest).T @ rest
        # A Cholesky factorisation, a row for each neuron taken; `effects` are on the output.
        last = self.columns
        effects, variances = last @ covariance, covariance.diagonal().clone()
        noise = _NOISE * variances.mean() + 1e-30
        factors = covariance.new_zeros(n, len(covariance))
        chosen: list[int] = []
        for before in (factors[:step] for step in range(n)):
            taken = effects.square().sum(0) / (variances + noise)
            taken[chosen] = -1
            j = int(taken.argmax())
            row = (covariance[j] - before[:, j] @ before) / (variances[j] + noise).sqrt()
            factors[len(chosen)] = row
            effects -= torch.outer(last @ row, row)
            variances = (variances - row.square()).clamp_min(0)
            chosen.append(j)
        return torch.tensor(sorted(chosen), dtype=torch.int64)


def about_centres(sample: Tensor, centres: Tensor) -> Iterator[Tensor]:
    """Of `sample` [n, d], for each centre the rows that are nearest to it, SAMPLES_MOST at most; where it has fewer
    than SAMPLES_LEAST, so many of the rows about it.
    """
    parts = rows_of_centres(nearest(sample, centres), len(centres))
    for centre, rows in zip(centres, parts):
        if len(rows) < SAMPLES_LEAST:
            rows = (sample - centre).square().sum(1).topk(min(SAMPLES_LEAST, len(sample)), largest=False).indices
        yield sample[rows[:SAMPLES_MOST]]


def activation_name(module: nn.Module) -> str | None:
    """The registry's name of the elementwise function that `module` computes and torch can differentiate; None where it
    is none.
    """
    return next((name for name in functions_of(module) if known(name)), None)
