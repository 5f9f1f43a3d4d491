"""A small model with blocks as BERT has them."""

from torch import nn


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
