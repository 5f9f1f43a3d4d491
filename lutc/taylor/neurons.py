"""A competitor to hold Taylor tables against: the most useful exact neurons of a two-layer MLP plus one linear map for all the others."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lutc.taylor.blocks import Block

# Of the mean square of an input feature; only keeps the linear map solvable.
_RIDGE = 1e-6


class NeuronsMLP(nn.Module):
    """y = W2[:, chosen] act(W1[chosen] x + b1[chosen]) + A x + b, for x [..., d]; with no neuron it is one linear map."""

    def __init__(self, linear: nn.Linear, first: nn.Linear | None = None, activation: nn.Module | None = None, last: nn.Linear | None = None):
        super().__init__()
        self.linear, self.first, self.activation, self.last = linear, first, activation, last

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y if self.first is None else y + self.last(self.activation(self.first(x)))

    @property
    def multiply_adds(self) -> int:
        return sum(module.in_features * module.out_features for module in self.modules() if isinstance(module, nn.Linear))

    @property
    def storage_bytes(self) -> int:
        return sum(parameter.nbytes for parameter in self.parameters())


def two_layers(block: Block) -> tuple[nn.Linear, nn.Module, nn.Linear] | None:
    """First linear layer, activation and second linear layer of a block W2 act(W1 x), or None where it is built otherwise."""
    leaves = [module for module in block.as_module.modules() if not list(module.children())]
    leaves = [module for module in leaves if not isinstance(module, nn.Dropout | nn.Identity)]
    shaped = len(leaves) == 3 and isinstance(leaves[0], nn.Linear) and isinstance(leaves[2], nn.Linear)
    if not shaped or any(True for _ in leaves[1].parameters()) or leaves[0].out_features != leaves[2].in_features:
        return None
    return tuple(leaves)


def fit_neurons(block: Block, samples, n: int) -> NeuronsMLP:
    """Keep the `n` neurons with the largest share of the output that no linear map explains; fit one linear map to all the rest.

    A neuron's share is the mean square of its residual after regression on the inputs times the square of its column in W2.
    """
    layers = two_layers(block)
    a = b = c = hidden_square = None
    count = 0
    caught: list[Tensor] = []
    hook = layers[2].register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0])) if layers else None
    for x, y in samples.pairs(False):
        f = torch.cat([x, torch.ones(len(x), 1)], 1)
        h = torch.cat(caught) if layers else y[:, :0]
        caught.clear()
        sums = [(f.T @ f).double(), (f.T @ y).double(), (f.T @ h).double(), h.square().sum(0, dtype=torch.float64)]
        a, b, c, hidden_square = sums if a is None else [old + new for old, new in zip((a, b, c, hidden_square), sums)]
        count += len(x)
    if hook is not None:
        hook.remove()
    # The mean keeps features that are always 0 (after relu, say) solvable.
    size = a.diagonal()[:-1]
    a = a + torch.diag(torch.cat([_RIDGE * (size + 1e-3 * size.mean()), a.new_zeros(1)]))
    first = activation = last = None
    if n and layers:
        residual = (hidden_square - (c * torch.linalg.solve(a, c)).sum(0)).clamp_min(0) / count
        chosen = (residual * layers[2].weight.detach().double().square().sum(0)).topk(n).indices
        first, activation, last = nn.Linear(layers[0].in_features, n), layers[1], nn.Linear(n, layers[2].out_features, bias=False)
        with torch.no_grad():
            first.weight.copy_(layers[0].weight[chosen])
            first.bias.copy_(torch.zeros(n) if layers[0].bias is None else layers[0].bias[chosen])
            last.weight.copy_(layers[2].weight[:, chosen])
            b = b - c[:, chosen] @ last.weight.double().T
    solution = torch.linalg.solve(a, b).float()
    linear = nn.Linear(len(solution) - 1, solution.shape[1])
    with torch.no_grad():
        linear.weight.copy_(solution[:-1].T)
        linear.bias.copy_(solution[-1])
    return NeuronsMLP(linear, first, activation, last).requires_grad_(False).eval()
