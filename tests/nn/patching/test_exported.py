"""Graphs of patched models keep their tables."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lutc
from lutc.errors import LutcError
from lutc.nn import QuantLUT


class Calls(nn.Module):
    """A function that is called, not held."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(4, 4)

    def forward(self, x):
        return F.silu(self.line(x))


class Rows(nn.Module):
    def forward(self, x):
        return F.softmax(x, -1)


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def patched(*modules):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), *modules).eval()
    lutc.patch(model, ["gelu_8", "silu_8"], "exp_fplut", "rsqrt_fplut")
    return model


def test_symbolic_trace_keeps_modules_and_calls():
    model = patched(nn.GELU(), nn.LayerNorm(4), nn.RMSNorm(4), nn.Softmax(-1), Calls())
    graph = torch.fx.symbolic_trace(model)
    targets = [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    assert targets == ["0", "1", "2", "3", "4", "5.line", "5.lutc_silu"]
    assert torch.equal(graph(X), model(X))
    assert not any("silu" in str(node.target) for node in graph.graph.nodes if node.op == "call_function")


def test_symbolic_trace_of_int8_tables():
    model = nn.Sequential(nn.Linear(4, 4), QuantLUT("gelu_16", 2.0**-4)).eval()
    assert torch.equal(torch.fx.symbolic_trace(model)(X), model(X))


def test_a_softmax_that_is_called_is_one_clear_error():
    with pytest.raises(LutcError, match="torch.export.export can"):
        torch.fx.symbolic_trace(patched(Rows()))


@pytest.mark.filterwarnings("ignore:While compiling")  # of strict: answers lie on a stack while their module runs
@pytest.mark.parametrize("strict", [False, True])
def test_export_of_a_model_that_calls_its_functions_itself(strict):
    torch.manual_seed(0)
    model = Calls().eval()
    exact = model(X)
    lutc.patch(model, "silu_8")
    program = torch.export.export(model, (X,), strict=strict)
    assert torch.equal(program.module()(X), model(X)) and not torch.equal(model(X), exact)
    assert any("lutc.lut" in str(node.target) for node in program.graph.nodes)
