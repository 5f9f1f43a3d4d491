"""An audit finds every operation that is written down here by hand, says where it stands, and refuses what is not what
its table is of.
"""

import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lutc
from lutc.errors import LutcError
from lutc.nn.patching.checking import compare
from tests.helpers import tiny_models

HIDDEN = {"f": torch.tanh}
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")


class Block(nn.Module):
    """One of everything, some of it where no source tells: behind a dict, and in TorchScript."""

    def __init__(self):
        super().__init__()
        self.line, self.act, self.norm = nn.Linear(6, 6), nn.GELU(), nn.LayerNorm(6)
        self.scripted = torch.jit.script(nn.Sequential(nn.SiLU(), nn.Sigmoid()))

    def forward(self, x):
        x = self.norm(self.act(self.line(x)))
        x = HIDDEN["f"](x)
        x = self.scripted(x)
        x = x + torch.erf(x) + x**2 + (x.abs() + 1) ** -0.5 + (x.abs() + 1) ** 1.5
        y = F.softmax(x, -1)
        return y / y.sum(-1, keepdim=True) / 2 + torch.arange(6) // 2


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return torch.log1p(x.exp())


def model():
    torch.manual_seed(0)
    return Model().eval()


X = torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(1))


def test_every_operation_with_its_place():
    found = lutc.audit(model(), X)
    block = [(one.what, one.path) for one in found.operations if one.path.startswith("blocks.1")]
    at = "blocks.1"
    assert block == [
        ("gelu", f"{at}.act"),
        ("layer_norm", f"{at}.norm"),
        ("tanh", at),
        ("silu", f"{at}.scripted"),  # TorchScript's own functions have no frames
        ("sigmoid", f"{at}.scripted"),
        ("erf", at),
        ("pow", at),  # both are in one line
        ("softmax", at),
        ("division", at),
    ]
    assert next(one.calls for one in found.operations if one.what == "pow") == 2
    assert [(one.what, one.path) for one in found.operations if not one.path] == [("exp", ""), ("log1p", "")]
    tanh = next(one for one in found.operations if one.what == "tanh")
    file, line = tanh.where.rsplit(":", 1)
    source, first = inspect.getsourcelines(Block)
    assert file.endswith("test_auditing.py") and "HIDDEN" in source[int(line) - first]
    assert found.exact == found.operations and sum(one.calls for one in found.operations) == 2 * 10 + 2
    assert next(one for one in found.operations if one.what == "exp").elements == X.numel()


def test_tables_stand_where_exact_operations_stood():
    given = model()
    report = lutc.patch(given, ["gelu_fplut", "erf_fplut"], "exp_fplut", "rsqrt_fplut", audit=X)
    before, after = report.audits
    assert not before.tables
    assert {(one.what, one.path, one.table) for one in after.tables if one.path.startswith("blocks.0")} == {
        ("gelu", "blocks.0.act", "gelu"),
        ("layer_norm", "blocks.0.norm", "rsqrt"),
        ("erf", "blocks.0", "erf"),
        ("rsqrt", "blocks.0", "rsqrt"),
        ("softmax", "blocks.0", "exp"),
    }
    exact = {(one.what, one.path) for one in after.exact}
    assert ("tanh", "blocks.0") in exact and ("silu", "blocks.1.scripted") in exact  # hidden, and said
    assert ("gelu", "blocks.0.act") not in exact and ("erf", "blocks.0") not in exact
    assert [(one.path, one.what) for one in report.left] == [
        ("blocks.0.scripted", "ScriptModule"),
        ("blocks.1.scripted", "ScriptModule"),
    ]
    assert "exact operations on the batch" in str(report) and "blocks.*.act" in str(report)


def test_tables_without_a_place_are_listed():
    report = lutc.patch(model(), ["gelu_fplut", "mish_fplut"])
    assert report.unused == [("mish", "mish_fplut")] and "found no place" in str(report)
    assert lutc.patch(model(), ["gelu_fplut"], norm="rsqrt_fplut").unused == []
    gelu = nn.Sequential(nn.Linear(2, 2), nn.GELU())
    assert lutc.patch(gelu, "gelu_fplut", "exp_fplut", "rsqrt_fplut").unused == [
        ("softmax", "exp_fplut"),
        ("rsqrt", "rsqrt_fplut"),
    ]


class LiesLater(nn.Module):
    """A GELU on numbers, and another function on what a model gives it: three dimensions."""

    def forward(self, x):
        return F.gelu(x) if x.ndim < 3 else F.silu(x)


LiesLater.__name__ = "GELUActivation"


def test_a_replacement_that_is_another_function_is_refused_and_the_model_untouched():
    given = nn.Sequential(nn.Linear(6, 6), LiesLater())
    lying = given[1]
    assert len(lutc.patch(given, "gelu_fplut").replaced) == 1  # recognised by what it computes on a row of numbers
    lutc.unpatch(given)
    with pytest.raises(LutcError, match=r"1 is a GELUActivation that does not compute .* skip='1'"):
        lutc.patch(given, "gelu_fplut", audit=X)
    assert given[1] is lying and not given.__dict__.get("_lutc_patches")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tables", [("gelu_fplut", "exp_fplut", "rsqrt_fplut"), ("gelu_8", "exp_8", "sqrt_reci_8")])
def test_right_replacements_pass(dtype, tables):
    torch.manual_seed(3)
    given = nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.LayerNorm(16), nn.Softmax(-1)).to(dtype).eval()
    x = (4 * torch.randn(64, 16)).to(dtype)
    assert len(lutc.patch(given, *tables, audit=x).replaced) == 3


def test_int8_inputs_are_held_to_what_their_codes_allow():
    given = nn.Sequential(nn.Linear(16, 16), nn.SiLU()).eval()
    report = lutc.patch(given, lutc.nn.QuantLUT("silu_16", 2.0**-4), audit=10 * torch.randn(64, 16))
    assert [one.table for one in report.audits[1].tables] == ["silu"]


def test_what_is_compared_is_not_counted():
    given = model()
    report = lutc.patch(given, "gelu_fplut", audit=X)
    assert [one.what for one in report.audits[1].exact].count("gelu") == 0
    compare([], lambda: given(X))


def test_a_patched_llama_keeps_rotary_angles_and_divisions_alone():
    pytest.importorskip("transformers")
    llama = tiny_models.llama()
    ids = torch.randint(0, 50, (1, 8))
    report = lutc.patch(llama, "silu_fplut", "exp_fplut", "rsqrt_fplut", audit={"input_ids": ids})
    assert {one.what for one in report.audits[1].exact} == {"cos", "sin", "division"}
    steps = lutc.audit(llama, lambda m: m.generate(ids, max_new_tokens=3, do_sample=False, eos_token_id=None))
    calls = next(one.calls for one in steps.tables if one.path == "model.layers.0.mlp.act_fn")
    assert calls == 3  # a prompt and two steps with the cache


def test_what_cannot_be_audited():
    with pytest.raises(LutcError, match="takes a torch.nn.Module"):
        lutc.audit("model", X)
    with pytest.raises(LutcError, match="before torch.compile"):
        lutc.audit(torch.compile(model()), X)
