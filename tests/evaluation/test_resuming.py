"""Forwards of one layer's tables begin at that layer, only where that changes nothing."""

import pytest
import torch
from torch import nn

from lutc.evaluation import evaluate, variant
from lutc.evaluation.resuming import Resuming
from tests.helpers import tiny_models

IDS = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(1))


class Block(nn.Module):
    """What it gives besides hidden states is None, or, with `shared`, what every block after it reads."""

    def __init__(self, shared: list | None):
        super().__init__()
        self.linear, self.act, self.shared, self.ran = nn.Linear(8, 8), nn.SiLU(), shared, 0

    def forward(self, x):
        self.ran += 1
        y = x.add_(self.act(self.linear(x)))  # in place, as some residuals are
        if self.shared is None:
            return y, None
        self.shared.append(y.detach().clone())
        return (y + self.shared[-len(self.shared)], None)


class Stack(nn.Module):
    def __init__(self, reading: bool = False, twice: bool = False):
        super().__init__()
        torch.manual_seed(0)
        self.shared = [] if reading else None
        self.layers, self.runs = nn.ModuleList(Block(self.shared) for _ in range(4)), 1 + twice

    def forward(self, x):
        if self.shared is not None:
            self.shared.clear()
        x = x.clone()
        for layer in [*self.layers] * self.runs:
            x, _ = layer(x)
        return x

    @property
    def ran(self) -> int:
        return sum(layer.ran for layer in self.layers)


X = torch.randn(3, 8, generator=torch.Generator().manual_seed(2))


def measured(model, **options):
    return evaluate(model, [X], [variant("silu_8")], layers=False, each_layer=True, **options)["silu_8"]


def told(result):
    return [(layer.name, layer.change, layer.kl) for layer in result.layers]


@pytest.mark.parametrize("arguments", [{}, {"reading": True}, {"twice": True}])
def test_the_same_as_without(arguments, monkeypatch):
    resumed = told(measured(Stack(**arguments)))
    monkeypatch.setattr(Resuming, "prepare", lambda *a: None)
    assert resumed == told(measured(Stack(**arguments)))
    assert len({change for _, change, _ in resumed}) == 4


def test_layers_run_no_more_than_they_must():
    """The exact model and all tables 4 each, the proof 2 + 1, one layer's tables 4 + 3 + 2 + 1."""
    model = Stack()
    measured(model)
    assert model.ran == 2 * 4 + 3 + 10
    reading = Stack(reading=True)
    measured(reading)
    assert reading.ran == 2 * 4 + 2 + 16
    twice = Stack(twice=True)
    measured(twice)
    assert twice.ran == 6 * 8


def test_of_a_real_architecture(monkeypatch):
    pytest.importorskip("transformers")
    batches = [{"input_ids": ids[None]} for ids in IDS]
    specs = [variant("silu_8,exp_8,rsqrt_8")]

    def results(**options):
        model, ran = tiny_models.llama(), []
        model.model.layers[0].mlp.down_proj.register_forward_hook(lambda *a: ran.append(1))
        found = evaluate(model, batches, specs, **options).results[1]
        return [(layer.name, layer.error, layer.own, layer.kl, layer.change) for layer in found.layers], len(ran)

    some = ["model.layers.1.mlp", "model.layers.2.mlp.act_fn"]
    for options in ({"each_layer": True}, {"each_layer": some, "layers": False}):
        resumed, fewer = results(**options)
        with monkeypatch.context() as patch:
            patch.setattr(Resuming, "prepare", lambda *a: None)
            whole, more = results(**options)
        assert resumed == whole and fewer < more
    assert [name for name, *_ in resumed] == some and all(kl > 0 for *_, kl, _ in resumed)
