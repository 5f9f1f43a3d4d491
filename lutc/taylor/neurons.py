"""The neurons of a two-layer MLP W2 act(W1 x) that are far from a line: kept exactly, they are further inputs of every
local map. The others are replaced by their lines of regression.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lutc.errors import LutcError
from lutc.functions.in_torch import known
from lutc.functions.recognise import functions_of
from lutc.taylor.blocks import Block

# Rows whose hidden layer is held at once.
_ROWS = 4096


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
    """How far each neuron is from a line about each centre, from one pass over samples.

    For centre i and neuron j, the line of regression of h = act(a) on a = w_j . x + b_j: `gains` [k, h], `mean_a` and
    `mean_h`; and `shares` [k, h], what is left of h times the square of the neuron's column in W2: the mean square
    error of the output if the neuron were its line. (If x were Gaussian, no linear map of all of x would do better
    than the line: Stein's lemma.) Raises LutcError where the block is no W2 act(W1 x) of a known elementwise function.
    """

    def __init__(self, block: Block, k: int):
        layers = two_layers(block)
        function = None if layers is None else activation_name(layers[1])
        if layers is None or function is None:
            raise LutcError(
                f"{block.name} is not two linear layers about a function that `lutc functions` lists; use neurons = 0"
            )
        self.name, self.function = block.name, function
        self.first, self.activation, self.last = layers
        self.weight = self.first.weight.detach()
        self.bias = torch.zeros(len(self.weight)) if self.first.bias is None else self.first.bias.detach()
        self.sums = torch.zeros(5, k, len(self.weight), dtype=torch.float64)
        self.n = torch.zeros(k, dtype=torch.float64)

    @torch.no_grad()
    def add(self, x: Tensor, owner: Tensor, weight: Tensor) -> None:
        """Take in samples x [n, d] with their centres' numbers `owner` [n] and weights [n]."""
        for rows in torch.arange(len(x)).split(_ROWS):
            a = torch.nn.functional.linear(x[rows], self.weight, self.bias)
            h = self.activation(a)
            belongs = torch.zeros(len(self.n), len(rows))
            belongs[owner[rows], torch.arange(len(rows))] = weight[rows]
            self.n += belongs.sum(1)
            for total, value in zip(self.sums, (a, h, a * a, a * h, h * h)):
                total += belongs @ value

    def lines(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`gains`, `mean_a`, `mean_h` and `shares`, each [k, h] float32."""
        # All samples count as one more of each centre, so that a centre with few has lines too.
        sums = self.sums + self.sums.sum(1, keepdim=True) / self.n.sum().clamp_min(1e-300) * self.n.mean() * 1e-3
        n = (self.n + self.n.mean() * 1e-3).clamp_min(1e-300)
        a, h, aa, ah, hh = sums / n[:, None]
        variance = (aa - a * a).clamp_min(1e-12)
        gains = (ah - a * h) / variance
        left = (hh - h * h - gains * (ah - a * h)).clamp_min(0)
        shares = left * self.last.weight.detach().double().square().sum(0)
        return gains.float(), a.float(), h.float(), shares.float()

    def choose(self, n: int, local: bool) -> Tensor:
        """The `n` neurons with the largest shares [n], over all centres, or, with `local`, about each centre [k, n],
        ascending. LutcError where there are fewer.
        """
        if n > len(self.weight):
            raise LutcError(f"{n} neurons cannot be kept, {self.name} has {len(self.weight)}; keep fewer")
        shares = self.lines()[3]
        shares = shares if local else (shares * self.n[:, None].float()).sum(0)
        return shares.topk(n).indices.sort().values


def activation_name(module: nn.Module) -> str | None:
    """The registry's name of the elementwise function that `module` computes and torch can differentiate; None where it
    is none.
    """
    return next((name for name in functions_of(module) if known(name)), None)
