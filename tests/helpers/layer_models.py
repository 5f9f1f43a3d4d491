"""Small models whose activations a linear layer follows."""

import torch
from torch import nn
from torch.nn import functional as F


class Norm(nn.Module):
    """A block with a residual and a norm behind it, before (plain) or after (gated) the next block."""

    def __init__(self, width, kind):
        super().__init__()
        self.norm = nn.LayerNorm(width) if kind == "layer_norm" else nn.RMSNorm(width, 1e-5)
        nn.init.uniform_(self.norm.weight, 0.5, 2.0)

    def forward(self, x):
        return self.norm(x)


class Plain(nn.Module):
    def __init__(self, kind="layer_norm"):
        super().__init__()
        self.up, self.act, self.drop, self.down, self.end = (
            nn.Linear(5, 12),
            nn.GELU(),
            nn.Dropout(0.5),
            nn.Linear(12, 5),
            Norm(5, kind),
        )

    def forward(self, x):
        return self.end(x + self.down(self.drop(self.act(self.up(x)))))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down, self.act_fn, self.end = (
            nn.Linear(5, 12),
            nn.Linear(5, 12),
            nn.Linear(12, 5),
            nn.SiLU(),
            Norm(5, "rms_norm"),
        )

    def forward(self, x):
        return self.end(x + self.down(self.act_fn(self.gate(x)) * self.up(x)))


class Called(nn.Module):
    """Functional, with a product before a matrix product of its own and a scalar on the way."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(12, 5) * 0.5), nn.Parameter(torch.randn(12, 5) * 0.5)

    def forward(self, x):
        return torch.addmm(torch.zeros(5), 0.5 * F.gelu(F.linear(x, self.first)).reshape(-1, 12), self.second)
