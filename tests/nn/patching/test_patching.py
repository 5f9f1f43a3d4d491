"""Patching: with tables fine enough to be exact, a patched model equals the model; what is found,
left, and put back.
"""

import copy
import functools
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lutc
from lutc.errors import LutcError
from lutc.nn import LUT, LUTLayerNorm, LUTRMSNorm, LUTSoftmax, QuantLUT
from lutc.table.bodies import Lines
from lutc.table.table import Table
from lutc.table.table_set import TableSet
from tests.helpers.handmade import float_tables, int_tables

GELU = float_tables("gelu", -6, 6, 2000)
TANH_GELU = float_tables("gelu_tanh", -6, 6, 2000)
SILU = float_tables("silu", -14, 14, 3000)
RELU = TableSet("relu", {"fp32": Table(Lines(np.array([0.0]), np.array([0.0, 1.0]), np.zeros(2)))}, {}, "relu")
SIGMOID = float_tables("sigmoid", -16, 16, 3000)
EXP = float_tables("exp", -30, 0, 3000)
RECI = float_tables("reciprocal", 1, 2, 1000)
RSQRT = float_tables("rsqrt", 1, 4, 1000)
ALL = {"activation": GELU, "softmax": (EXP, RECI), "norm": RSQRT}
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


class Attention(nn.Module):
    """As timm writes it: a fused call or plain softmax."""

    def __init__(self, dim, heads, fused):
        super().__init__()
        self.heads, self.fused_attn, self.scale = heads, fused, (dim // heads) ** -0.5
        self.qkv, self.proj, self.attn_drop = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim), nn.Dropout(0.0)

    def forward(self, x):
        batch, n, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, n, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused_attn:
            x = F.scaled_dot_product_attention(q, k, v, dropout_p=self.attn_drop.p if self.training else 0.0)
        else:
            attn = (q * self.scale) @ k.transpose(-2, -1)
            attn = attn.softmax(dim=-1)
            x = self.attn_drop(attn) @ v
        return self.proj(x.transpose(1, 2).reshape(batch, n, dim))


class Mlp(nn.Module):
    def __init__(self, dim, hidden, act):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, hidden), act(), nn.Linear(hidden, dim)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim, fused, act):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim, eps=1e-6), Attention(dim, 2, fused)
        self.norm2, self.mlp = nn.LayerNorm(dim, eps=1e-6), Mlp(dim, 2 * dim, act)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Vision(nn.Module):
    def __init__(self, fused=True, act=nn.GELU, dim=16):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, 4, 4)
        self.blocks = nn.Sequential(*[Block(dim, fused, act) for _ in range(2)])
        self.norm, self.head = nn.LayerNorm(dim, eps=1e-6), nn.Linear(dim, 5)

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.patch_embed(x).flatten(2).transpose(1, 2))).mean(1))


class Functional(nn.Module):
    """Functions called in the forward, one of them in a helper."""

    def __init__(self):
        super().__init__()
        self.inner, self.lin = Gate(), nn.Linear(6, 6)

    def helper(self, x):
        return nn.functional.gelu(x)

    def forward(self, x):
        x = self.helper(self.lin(x)) + F.gelu(x, approximate="tanh")
        x = self.inner(F.layer_norm(x, (6,)))
        return torch.softmax(x, dim=-1)


class Gate(nn.Module):
    def forward(self, x):
        return x * torch.sigmoid(x) + F.gelu(x)


def seeded(make, *arguments, **options):
    torch.manual_seed(0)
    return make(*arguments, **options).eval()


def found(report):
    return {(r.path, r.what) for r in report.replaced}


def spread(report, kind):
    return [r for r in report.replaced if r.what == kind]


@pytest.mark.parametrize("fused", [True, False])
def test_vision_transformer(fused):
    model, x = seeded(Vision, fused), torch.randn(2, 3, 16, 16)
    model.requires_grad_()
    want = model(x)
    gradients = torch.autograd.grad(want.square().sum(), list(model.parameters()))
    report = lutc.patch(model, **ALL)
    assert (
        len(spread(report, "gelu")) == 2
        and len(spread(report, "layer_norm")) == 5
        and len(spread(report, "softmax")) >= 2
    )
    assert isinstance(model.blocks[0].mlp.act, LUT) and isinstance(model.norm, LUTLayerNorm)
    got = model(x)
    assert torch.allclose(got, want, **CLOSE) and not torch.equal(got, want)
    for one, other in zip(torch.autograd.grad(got.square().sum(), list(model.parameters())), gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-3, rtol=1e-2)
    lutc.unpatch(model)
    assert torch.equal(model(x), want)


def test_coarse_tables_show_where_they_are():
    """Each part alone changes the result: the softmax of a fused attention too."""
    model, x = seeded(Vision), torch.randn(2, 3, 16, 16)
    want = model(x)
    for part in (
        {"activation": int_tables("gelu")},
        {"softmax": int_tables("exp")},
        {"norm": int_tables("rsqrt", 8, range(3, 7))},
    ):
        lutc.patch(model, **part)
        assert (model(x) - want).abs().max() > 1e-3
        lutc.unpatch(model)
        assert torch.equal(model(x), want)


def test_unpatch_leaves_no_trace():
    model = seeded(Vision)
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    children = {name: list(module._modules.items()) for name, module in model.named_modules()}
    keys = list(model.state_dict())
    lutc.patch(model, activation=GELU)
    lutc.patch(model, softmax=EXP)
    lutc.patch(model, norm=RSQRT)
    lutc.unpatch(model)
    assert {name: dict(vars(module)) for name, module in model.named_modules()} == before
    assert {name: list(module._modules.items()) for name, module in model.named_modules()} == children
    assert list(model.state_dict()) == keys
    with pytest.raises(LutcError, match="this model is not patched"):
        lutc.unpatch(model)


def test_functional_calls():
    model, x = seeded(Functional), torch.randn(4, 6)
    want = model(x)
    report = lutc.patch(model, activation=[GELU, TANH_GELU, SIGMOID], softmax=(EXP, RECI), norm=RSQRT)
    assert {what for path, what in found(report) if path.startswith("(")} == {
        "gelu",
        "gelu_tanh",
        "softmax",
        "layer_norm",
    }
    assert {what for path, what in found(report) if path.startswith("inner")} == {"sigmoid", "gelu"}
    assert torch.allclose(model(x), want, **CLOSE) and not torch.equal(model(x), want)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))
        lutc.unpatch(other)
        assert torch.equal(other(x), want)
    lutc.unpatch(model)
    assert torch.equal(model(x), want)


def test_a_copy_of_a_patched_model_is_its_own():
    model, x = seeded(Functional), torch.randn(4, 6)
    lutc.patch(model, activation=GELU)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.lin.weight.zero_()
    assert not torch.equal(other(x), model(x))


def test_modules_left_out_keep_their_functions_inside_answered_ones():
    model, x = seeded(Functional), torch.randn(4, 6)
    exact = model.inner(x)
    report = lutc.patch(model, activation=int_tables("gelu"), skip="inner")
    assert all(not path.startswith("inner") for path, _ in found(report))
    seen = []
    model.inner.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    model(x)
    lutc.unpatch(model)
    assert torch.equal(model.inner(seen[0][0]), seen[0][1])
    assert torch.equal(model.inner(x), exact)


def test_mlp_with_another_activation_is_left():
    model = seeded(Vision, act=functools.partial(nn.GELU, approximate="tanh"))
    report = lutc.patch(model, activation=GELU, norm=RSQRT)
    assert not spread(report, "gelu") and not spread(report, "gelu_tanh")
    left = [(e.path, e.what, e.why) for e in report.left]
    assert left == [(f"blocks.{i}.mlp.act", "gelu_tanh", "no table of gelu_tanh was given") for i in range(2)]
    assert "left      blocks.0.mlp.act" in str(report) and "no table of gelu_tanh was given" in str(report)
    lutc.unpatch(model)
    with pytest.raises(LutcError, match=r"nothing was replaced: blocks.0.mlp.act: no table of gelu_tanh was given"):
        lutc.patch(model, activation=GELU)
    assert "forward" not in vars(model.blocks[0].mlp.act)


def test_what_cannot_be_replaced_is_reported():
    model = nn.Sequential(
        nn.Linear(4, 4),
        nn.PReLU(),
        nn.ReLU6(),
        nn.GroupNorm(2, 4),
        nn.Softmax(),
        nn.LogSoftmax(-1),
        nn.GELU(),
        nn.Softmax(-1),
    )
    report = lutc.patch(model, **ALL)
    assert {e.path for e in report.left} == {"1", "2", "4"}
    served = {("3 (group_norm)", "group_norm"), ("5 (log_softmax)", "log_softmax")}
    assert found(report) == {("6", "gelu"), ("7", "softmax"), *served}
    assert isinstance(model[7], LUTSoftmax) and isinstance(model[4], nn.Softmax)


def test_shared_modules_and_function_attributes():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = self.b = nn.GELU()
            self.f, self.g = F.gelu, functools.partial(F.gelu, approximate="tanh")

        def forward(self, x):
            return self.a(x) + self.b(x) + self.f(x) + self.g(x)

    model, x = Twice(), torch.randn(9)
    want = model(x)
    report = lutc.patch(model, activation=[GELU, TANH_GELU])
    assert found(report) == {("a", "gelu"), ("b", "gelu"), ("f", "gelu"), ("g", "gelu_tanh")}
    assert torch.allclose(model(x), want, **CLOSE)
    lutc.unpatch(model)
    assert model.f is F.gelu and model.a is model.b and torch.equal(model(x), want)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_torch_encoder_and_its_fast_path(norm_first, activation):
    layer = nn.TransformerEncoderLayer(
        16, 2, 32, dropout=0.0, activation=activation, batch_first=True, norm_first=norm_first
    )
    model = seeded(nn.TransformerEncoder, layer, 2, enable_nested_tensor=not norm_first)
    x, padding = torch.randn(3, 7, 16), torch.zeros(3, 7, dtype=torch.bool)
    padding[1, 4:] = True
    causal = nn.Transformer.generate_square_subsequent_mask(7)
    with torch.no_grad():
        want, want_causal = (model(x, src_key_padding_mask=padding), model(x, mask=causal, is_causal=True))
        for part in (
            ALL | {"activation": [GELU, RELU]},
            {"norm": RSQRT},
            {"softmax": EXP},
            {"activation": [GELU, RELU]},
        ):
            lutc.patch(model, **part)
            assert torch.allclose(model(x, src_key_padding_mask=padding)[~padding], want[~padding], **CLOSE)
            assert torch.allclose(model(x, mask=causal, is_causal=True), want_causal, **CLOSE)
            lutc.unpatch(model)
        lutc.patch(model, norm=int_tables("rsqrt", 8, range(3, 7)))
        assert (model(x, src_key_padding_mask=padding) - want)[
            ~padding
        ].abs().max() > 1e-3  # the fast path would have gone around it


@pytest.mark.parametrize("weights", [True, False])
def test_multi_head_attention(weights):
    model = seeded(nn.ModuleDict, {"attention": nn.MultiheadAttention(8, 2, batch_first=True)})
    q, k = torch.randn(2, 5, 8), torch.randn(2, 6, 8)
    with torch.no_grad():
        want = model["attention"](q, k, k, need_weights=weights)
        lutc.patch(model, softmax=(EXP, RECI))
        got = model["attention"](q, k, k, need_weights=weights)
    assert torch.allclose(got[0], want[0], **CLOSE) and not torch.equal(got[0], want[0])
    assert torch.allclose(got[1], want[1], **CLOSE) if weights else got[1] is None


@pytest.mark.parametrize("mask", ["none", "causal", "bool", "float", "all masked"])
@pytest.mark.parametrize("grouped", [True, False])
def test_scaled_dot_product_attention(mask, grouped):
    class Attend(nn.Module):
        def forward(self, *args, **kwargs):
            return F.scaled_dot_product_attention(*args, **kwargs)

    torch.manual_seed(0)
    q, k, v = (
        torch.randn(2, 4, 5, 8),
        torch.randn(2, 2 if grouped else 4, 7, 8),
        torch.randn(2, 2 if grouped else 4, 7, 8),
    )
    options = {"enable_gqa": grouped, "scale": 0.3}
    keep = torch.rand(2, 1, 5, 7) > 0.4
    keep[..., 0] = True
    if mask == "causal":
        options["is_causal"] = True
    elif mask == "bool":
        options["attn_mask"] = keep
    elif mask == "float":
        options["attn_mask"] = torch.randn(2, 4, 5, 7).masked_fill(~keep, float("-inf"))
    elif mask == "all masked":
        options["attn_mask"] = keep & (torch.arange(5) != 2)[:, None]
    model = Attend()
    want = model(q, k, v, **options)
    lutc.patch(model, softmax=(EXP, RECI))
    got = model(q, k, v, **options)
    assert torch.allclose(got, want, **CLOSE) and not torch.equal(got, want)


def test_training_while_patched_goes_on_after():
    model, x = seeded(Vision), torch.randn(2, 3, 16, 16)
    lutc.patch(model, **ALL)
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    model(x).square().sum().backward()
    optimiser.step()
    trained = model.norm.weight.detach().clone()
    assert not torch.equal(trained, torch.ones_like(trained))
    lutc.unpatch(model)
    assert torch.equal(model.norm.weight, trained) and model.blocks[0].mlp.act.training
    lutc.patch(model, **ALL)
    model.double()
    lutc.unpatch(model)
    assert model.norm.weight.dtype == torch.float64 and torch.allclose(model.norm.weight.float(), trained)


def test_only_and_skip():
    model = seeded(Vision)
    assert {path for path, _ in found(lutc.patch(model, activation=GELU, only="blocks.1"))} == {"blocks.1.mlp.act"}
    lutc.unpatch(model)
    assert {path for path, _ in found(lutc.patch(model, norm=RSQRT, only=["blocks.*"], skip=["*.norm2"]))} == {
        "blocks.0.norm1",
        "blocks.1.norm1",
    }
    lutc.unpatch(model)
    with pytest.raises(LutcError, match=r"no module is called 'block.\*'; names look like"):
        lutc.patch(model, activation=GELU, only="block.*")


def test_modules_as_activations():
    model, x = seeded(Vision), torch.randn(2, 3, 16, 16)
    lutc.patch(model, activation=QuantLUT(int_tables("gelu"), 2.0**-4))
    acts = [block.mlp.act for block in model.blocks]
    assert all(isinstance(act, QuantLUT) for act in acts) and acts[0] is not acts[1]
    assert model(x).isfinite().all()
    lutc.unpatch(model)
    lutc.patch(model, activation={"gelu": nn.ReLU()})
    assert isinstance(model.blocks[0].mlp.act, nn.ReLU)


def test_a_failure_leaves_the_model_as_it_was():
    model, x = seeded(Vision), torch.randn(2, 3, 16, 16)
    want = model(x)
    for arguments, message in (
        ({"activation": GELU, "norm": EXP}, "a table of rsqrt is needed here"),
        ({"activation": GELU, "softmax": GELU}, "a table of exp is needed here"),
        ({"activation": "gelu_9999"}, "no shipped table 'gelu_9999'"),
        ({"softmax": (EXP, RECI, RECI)}, "softmax takes an exp table, or"),
        ({"activation": nn.ReLU()}, "does not say which function it is"),
        ({"activation": {"gelv": GELU}}, "unknown function 'gelv'"),
        ({}, "nothing to patch: give activation="),
        ({"activation": GELU, "mlp": {"blocks.7.mlp": nn.Identity()}}, "matches 'blocks.7.mlp'"),
    ):
        with pytest.raises(LutcError, match=message):
            lutc.patch(model, **arguments)
        assert torch.equal(model(x), want)
    with pytest.raises(LutcError, match="the model itself is a GELU"):
        lutc.patch(nn.GELU(), activation=GELU)


def test_compiled_mlps(tmp_path):
    from lutc.taylor import writing
    from lutc.taylor.module import TaylorMLP
    from lutc.taylor.table import TaylorTable

    model, x = seeded(Vision), torch.randn(2, 3, 16, 16)
    want = model(x)
    centres, slopes = torch.randn(3, 16), torch.randn(3, 16, 16)
    table = TaylorTable(centres, torch.randn(3, 16), slopes, torch.tensor([1, 1, 1]), "fp32")
    writing.save(table, tmp_path / "mlp")
    for source in (tmp_path / "mlp", TaylorMLP(table)):
        report = lutc.patch(model, mlp={"blocks.1.mlp": source}, activation=GELU)
        assert {r.path for r in report.replaced if r.what == "mlp"} == {"blocks.1.mlp"}
        assert isinstance(model.blocks[1].mlp, TaylorMLP) and not torch.allclose(model(x), want, atol=1e-3)
        lutc.unpatch(model)
        assert torch.equal(model(x), want) and "_lutc_exact" not in vars(model)
    lutc.patch(model, mlp={"blocks.0:norm2+mlp": TaylorMLP(table)})
    assert isinstance(model.blocks[0].norm2, TaylorMLP) and isinstance(model.blocks[0].mlp, nn.Identity)
    lutc.unpatch(model)
    narrow = TaylorMLP(TaylorTable(centres, torch.zeros(3, 5), slopes[:, :5], table.counts, "fp32"))
    with pytest.raises(LutcError, match="features, its replacement"):
        lutc.patch(model, activation=GELU, mlp={"blocks.1.mlp": narrow})
    assert torch.equal(model(x), want)


@pytest.mark.parametrize("fused", [False, True])
def test_compile(fused):
    """As one graph, softmax called in the forward and fused attention included."""
    model, x = seeded(Vision, fused=fused), torch.randn(2, 3, 16, 16)
    exact = model(x)
    lutc.patch(model, activation=GELU, norm=RSQRT)
    before = model(x)
    lutc.patch(model, softmax=(EXP, RECI))
    got = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
    assert torch.allclose(got, model(x), atol=1e-6) and not torch.equal(got, before)
    lutc.unpatch(model)
    assert torch.equal(model(x), exact)


def test_half_precision_model():
    model, x = seeded(Vision).bfloat16(), torch.randn(2, 3, 16, 16).bfloat16()
    want = model(x).float()
    lutc.patch(model, **ALL)
    assert model(x).dtype == torch.bfloat16 and (model(x).float() - want).abs().max() < 0.02
    assert isinstance(model.norm, LUTLayerNorm) and not isinstance(model.norm, LUTRMSNorm)
