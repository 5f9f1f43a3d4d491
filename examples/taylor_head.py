"""A model for `lutc taylor`: a small classifier of scikit-learn's digits whose head is compiled.

lutc taylor collect examples/taylor_head.py inputs --modules 1
lutc taylor fit     examples/taylor_head.py inputs -o head -k 30 --format fp16
lutc taylor evaluate examples/taylor_head.py head-0
"""

import torch
from sklearn.datasets import load_digits
from torch import nn


def images() -> tuple[torch.Tensor, torch.Tensor]:
    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)


def model() -> nn.Module:
    """64 -> 32 features -> head 32-256-10, trained in a few seconds."""
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 10))
    network = nn.Sequential(nn.Sequential(nn.Linear(64, 32), nn.ReLU()), head)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    x, y = images()
    for _ in range(200):
        optimiser.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimiser.step()
    return network


def batches() -> list[torch.Tensor]:
    return list(images()[0].split(64))
