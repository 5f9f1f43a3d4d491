"""Programs of standard operators, and what ExecuTorch makes of them beside torch."""

import importlib.util

import pytest
import torch
import transformers

from lutc import executorch as lutc_executorch
from lutc import nn
from lutc.errors import LutcError
from tests.helpers import tiny_models

installed = pytest.mark.skipif(importlib.util.find_spec("executorch") is None, reason="needs pip install executorch")
HALF = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.float16)
INT8 = torch.arange(-128, 128, dtype=torch.int8)
MODULES = {
    "codes": (lambda: nn.QuantLUT("gelu_8", scale=2**-4, out_scale=2**-4), INT8, 0.0),
    "softmax of codes": (lambda: nn.IntegerSoftmax(), INT8.flip(0).reshape(2, 128), 0.0),
    "fp16": (lambda: nn.LUT("gelu_8"), HALF, 0.0),
    "fp32": (lambda: nn.LUT("silu_fplut"), torch.linspace(-9, 9, 1001), 1e-6),
    "range reduction": (lambda: nn.LUT("exp_fplut"), torch.linspace(-9, 9, 1001), 1e-3),
}


class Hidden(torch.nn.Module):
    """A patched model of one layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        config = transformers.BertConfig(**{**tiny_models.SIZES, "num_hidden_layers": 1})
        self.model = transformers.BertModel(config, add_pooling_layer=False).eval()
        nn.patch(self.model, activation="gelu_fplut", softmax="exp_fplut", norm="rsqrt_fplut")

    def forward(self, ids, mask):
        return self.model(input_ids=ids, attention_mask=mask).last_hidden_state


def operators(program) -> set[str]:
    return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize("kind", MODULES)
def test_the_program_holds_no_operator_of_ours(kind):
    make, x, most = MODULES[kind]
    module = make().train()
    program = lutc_executorch.standard_program(module, (x,))
    assert module.training and not any("lutc" in name for name in operators(program))
    assert any("lutc" in name for name in operators(torch.export.export(nn.LUT("gelu_8").eval(), (HALF,))))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), make().eval()(x), rtol=0, atol=most, equal_nan=True)


@installed
@pytest.mark.parametrize("kind", MODULES)
def test_every_value_in_the_runtime(kind, tmp_path):
    make, x, most = MODULES[kind]
    (found,) = lutc_executorch.export(make(), (x,), tmp_path / "m.pte")
    assert found.values == x.numel() and found.largest <= most and (most or found.different == 0)
    assert (tmp_path / "m.pte").stat().st_size > 0


@pytest.mark.slow
def test_a_patched_model_as_a_program():
    model, ids = Hidden(), torch.randint(3, 50, (2, 11), generator=torch.Generator().manual_seed(4))
    program = lutc_executorch.standard_program(model, (ids, torch.ones_like(ids)))
    assert not any("lutc" in name for name in operators(program))
    with torch.no_grad():
        found = program.module()(ids, torch.ones_like(ids))
        torch.testing.assert_close(found, model(ids, torch.ones_like(ids)), rtol=0, atol=1e-5)


@installed
@pytest.mark.slow
def test_a_patched_model_in_the_runtime(tmp_path):
    ids = torch.randint(3, 50, (2, 11), generator=torch.Generator().manual_seed(4))
    (found,) = lutc_executorch.export(Hidden(), (ids, torch.ones_like(ids)), tmp_path / "bert.pte")
    assert found.values > 0 and found.largest < 1e-5


def test_bad_input(monkeypatch, tmp_path):
    with pytest.raises(LutcError, match="cannot be exported"):
        lutc_executorch.standard_program(nn.LUT("gelu_8"), (torch.arange(4),))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LutcError, match="ExecuTorch is not installed"):
        lutc_executorch.export(nn.LUT("gelu_8"), (HALF,), tmp_path / "m.pte")
    assert not list(tmp_path.iterdir())
