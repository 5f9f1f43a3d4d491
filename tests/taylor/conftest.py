import pytest
import torch
from torch import nn

from lutc.taylor.blocks import Block


class Layer(nn.Module):
    """One layer as BERT has it: the MLP is split over two modules, its sum with the input is normalised."""

    def __init__(self, d: int, h: int):
        super().__init__()
        self.intermediate = nn.Sequential(nn.Linear(d, h), nn.GELU())
        self.output = nn.Module()
        self.output.dense = nn.Linear(h, d)
        self.norm = nn.LayerNorm(d)

    def forward(self, x):
        return self.norm(x + self.output.dense(self.intermediate(x)))


class Model(nn.Module):
    """Embeds tokens and runs layers; called with input_ids and attention_mask [batch, length]."""

    def __init__(self, d: int = 12, h: int = 48, layers: int = 2):
        super().__init__()
        self.embed = nn.Embedding(50, d)
        self.layers = nn.ModuleList(Layer(d, h) for _ in range(layers))

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        return x


PATTERN = "layers.*:intermediate+output.dense"


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model().eval()


@pytest.fixture
def batches():
    """Eight batches of 16 documents of up to 10 tokens."""
    generator = torch.Generator().manual_seed(1)
    result = []
    for _ in range(8):
        lengths = torch.randint(3, 11, (16, 1), generator=generator)
        mask = (torch.arange(10)[None] < lengths).long()
        result.append({"input_ids": torch.randint(50, (16, 10), generator=generator), "attention_mask": mask})
    return result


@pytest.fixture
def block():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 24), nn.GELU(), nn.Linear(24, 5)).requires_grad_(False).eval()
    return Block("mlp", ("",), (module,))
