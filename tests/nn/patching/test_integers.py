"""Integer softmax and norms in float models, against the numpy models of the operators written into plain modules."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lutc
from lutc.errors import LutcError
from lutc.hardware.rows import IntegerNormModel, OutputCodes
from lutc.nn import IntegerLayerNorm, IntegerRMSNorm, IntegerSoftmax

transformers = pytest.importorskip("transformers")

SCALE, IN, OUT = 2.0**-3, 2.0**-4, 2.0**-5
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 50,
    "initializer_range": 0.3,
}
SOFTMAX = IntegerSoftmax(scale=SCALE)
MASKS = torch.tensor([[1] * 9, [1] * 5 + [0] * 4, [0] * 4 + [1] * 5])
INPUTS = {"input_ids": torch.arange(27).reshape(3, 9) * 7 % 50, "attention_mask": MASKS}


def codes(x, scale):
    return np.clip(np.rint(np.clip(x.numpy(), -999, 999) / np.float32(scale)), -128, 127).astype(np.int64)


def plain_attention(module, query, key, value, mask, scaling=None, **_):
    """Scores in floats, their softmax in integers by numpy."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = (query * scaling) @ key.transpose(2, 3) + mask
    seen = np.broadcast_to((mask > -1).numpy(), scores.shape)
    shares = SOFTMAX.model(codes(scores, SCALE), seen) * np.float32(2.0**-8)
    return (torch.from_numpy(shares.astype(np.float32)) @ value).transpose(1, 2).contiguous(), None


class PlainNorm(nn.Module):
    def __init__(self, norm, centred):
        super().__init__()
        weight, bias = norm.weight.double().numpy(), norm.bias.double().numpy() if centred else None
        eps = norm.eps if centred else norm.variance_epsilon
        out = OutputCodes(OUT, 3, -128, 127)
        self.model = IntegerNormModel.build("sqrt_reci_8", weight.size, IN, 0, eps, weight, bias, centred, out)

    def forward(self, x):
        return torch.from_numpy(((self.model(codes(x, IN)) - 3) * OUT).astype(np.float32))


def models():
    """A model, a patch's norm, and the same model in plain modules."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register("plain_integers", plain_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register("plain_integers", ALL_MASK_ATTENTION_FUNCTIONS["eager"])
    options = {"scale": IN, "out_scale": OUT, "out_zero_point": 3}
    return {
        "llama": (
            transformers.LlamaModel,
            transformers.LlamaConfig(**SIZES, num_key_value_heads=2),
            IntegerRMSNorm(torch.ones(8), **options),
        ),
        "bert": (
            transformers.BertModel,
            transformers.BertConfig(**SIZES),
            IntegerLayerNorm(None, None, n=8, **options),
        ),
    }


def rebuilt(kind, attention="sdpa"):
    cls, config, norm = models()[kind]
    torch.manual_seed(0)
    config._attn_implementation = attention
    model = cls(config).eval()
    for name, p in model.named_parameters():  # weights that tell
        if "norm" in name.lower():
            p.data += 0.2 * torch.randn(p.shape)
    return model, norm


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_model_in_integers(kind, attention):
    model, norm = rebuilt(kind, attention)
    exact = model(**INPUTS).last_hidden_state
    plain, _ = rebuilt(kind)
    plain.config._attn_implementation = "plain_integers"
    for path, module in list(plain.named_modules()):
        if "Norm" in type(module).__name__:
            parent, _, name = path.rpartition(".")
            setattr(plain.get_submodule(parent), name, PlainNorm(module, kind == "bert"))
    want = plain(**INPUTS).last_hidden_state
    parameters = {name for name, _ in model.named_parameters()}
    report = lutc.patch(model, softmax=SOFTMAX, norm=norm, audit=INPUTS)
    assert {(r.what, r.by) for r in report.replaced} == {
        ("softmax", "IntegerSoftmax"),
        ("rms_norm" if kind == "llama" else "layer_norm", type(norm).__name__),
    }
    assert len(report.replaced) == 7 and not report.left and not report.unused
    assert {name for name, _ in model.named_parameters()} == parameters
    assert not {o.what for o in report.audits[1].exact} & {"softmax", "layer_norm", "rms_norm", "rsqrt"}
    got = model(**INPUTS).last_hidden_state
    real = MASKS.bool()
    assert torch.equal(got[real], want[real])
    assert not torch.equal(got, exact) and F.cosine_similarity(got[real], exact[real], dim=-1).mean() > 0.9
    lutc.unpatch(model)
    assert torch.equal(model(**INPUTS).last_hidden_state, exact)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_masks_and_not_a_number(dtype):
    model = nn.Sequential(nn.Softmax(1))
    lutc.patch(model, softmax=SOFTMAX)
    x = torch.randn(2, 9, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    x[0, 2:4, 0], x[0, :, 1], x[1, 4, 2] = torch.tensor([-torch.inf, torch.finfo(dtype).min]), -torch.inf, torch.nan
    y = model(x)
    seen = x > -1000
    rows = torch.nan_to_num(x.float(), 0.0).movedim(1, -1)
    want = SOFTMAX.model(codes(rows, SCALE), seen.movedim(1, -1).numpy()) * 2.0**-8
    want = torch.from_numpy(want).movedim(-1, 1).to(dtype)
    assert y.dtype == dtype and y[1, :, 2].isnan().all() and y[0, 2:4, 0].eq(0).all() and y[0, :, 1].eq(0).all()
    kept = ~x.isnan().any(1, keepdim=True).expand_as(x)
    assert torch.equal(y[kept], want[kept])


def test_norms_renew_with_a_checkpoint_and_keep_their_dtype():
    model = nn.Sequential(nn.LayerNorm(8), nn.RMSNorm(8), nn.GroupNorm(1, 8)).to(torch.bfloat16)
    weight = model[0].weight
    norm = IntegerLayerNorm(None, None, n=8, scale=IN, out_scale=OUT)
    report = lutc.patch(model, norm=norm)
    assert [one.path for one in report.replaced] == ["0"] and [one.path for one in report.left] == ["1", "2"]
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    x[2, 3] = torch.nan
    before = model[0](x)
    assert before.dtype == torch.bfloat16 and before.isnan().any(-1).tolist() == [False, False, True, False, False]
    state = model.state_dict()
    state["0.weight"] = torch.full_like(weight, 2.0)
    model.load_state_dict(state)
    doubled = IntegerLayerNorm(torch.full((8,), 2.0), torch.zeros(8), 1e-5, scale=IN, out_scale=OUT)
    q = (x[:2].float() / IN).round().clamp(-128, 127).to(torch.int8)
    assert torch.equal(model[0](x[:2]), (doubled(q) * OUT).to(torch.bfloat16))
    again = lutc.patch(model, norm="rsqrt_fplut", only="0")
    assert [(one.path, one.what) for one in again.replaced] == [("0", "layer_norm")]
    assert lutc.unpatch(model)[0].weight is weight


def test_what_does_not_go_together_is_one_line():
    model = nn.Sequential(nn.Softmax(-1), nn.RMSNorm(4, eps=1.0))
    with pytest.raises(LutcError, match="takes all scores of a row; leave out attention='fused'"):
        lutc.patch(model, softmax=SOFTMAX, attention="fused")
    with pytest.raises(LutcError, match="eps"):
        lutc.patch(model, norm=IntegerRMSNorm(torch.ones(4), scale=1e-8, out_scale=OUT))
    assert type(model[1]) is nn.RMSNorm
