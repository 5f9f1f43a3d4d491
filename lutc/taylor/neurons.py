"""The neurons of a two-layer MLP W2 act(W1 x) that no linear map explains: kept exactly, they are further inputs of
every local map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lutc.errors import LutcError
from lutc.functions.in_torch import known
from lutc.functions.recognise import functions_of
from lutc.taylor.blocks import Block

# Of the mean square of an input feature; only keeps the regression solvable.
_RIDGE = 1e-6


@dataclass(frozen=True)
class Neurons:
    """n neurons: activation(weights @ x + offsets), weights [n, d], offsets [n], and the columns [o, n] of W2 that they
    are multiplied by.
    """

    weights: Tensor
    offsets: Tensor
    activation: str
    columns: Tensor


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


def choose_neurons(block: Block, x: Tensor, weight: Tensor, n: int, dtype: torch.dtype = torch.float32) -> Neurons:
    """The `n` neurons with the largest share of the output that no linear map of the inputs explains, rounded to
    `dtype` (as float32).

    A neuron's share is the mean square of its residual after regression on the samples x [m, d], weighted by `weight`
    [m], times the square of its column in W2. Raises LutcError where the block is no W2 act(W1 x) of a known
    elementwise function, or has fewer neurons.
    """
    layers = two_layers(block)
    function = None if layers is None else activation_name(layers[1])
    if layers is None or function is None:
        raise LutcError(
            f"{block.name} is not two linear layers about a function that `lutc functions` lists; use neurons = 0"
        )
    first, activation, last = layers
    if n > first.out_features:
        raise LutcError(f"{n} neurons cannot be kept, {block.name} has {first.out_features}; keep fewer")
    with torch.no_grad():
        h = activation(first(x))
        f = torch.cat([x, torch.ones(len(x), 1)], 1)
        fw = (f * weight[:, None]).T
        a, c = (fw @ f).double(), (fw @ h).double()
        # The mean keeps features that are always 0 (after relu, say) solvable. The constant is not penalised.
        size = a.diagonal()[:-1]
        a += torch.diag(torch.cat([_RIDGE * (size + 1e-3 * size.mean()), a.new_zeros(1)]))
        residual = (h.square() * weight[:, None]).sum(0).double() - (c * torch.linalg.solve(a, c)).sum(0)
        share = residual.clamp_min(0) * last.weight.double().square().sum(0)
        chosen = share.topk(n).indices
        offsets = torch.zeros(n) if first.bias is None else first.bias[chosen]
        weights, offsets = (tensor.to(dtype).float() for tensor in (first.weight[chosen], offsets))
        return Neurons(weights, offsets, function, last.weight[:, chosen].clone())


def activation_name(module: nn.Module) -> str | None:
    """The registry's name of the elementwise function that `module` computes and torch can differentiate; None where it
    is none.
    """
    return next((name for name in functions_of(module) if known(name)), None)
