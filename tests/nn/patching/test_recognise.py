"""Activations and norms are recognised by what they compute."""

import pytest
import torch
from torch import nn

import lutc
from lutc.functions.recognise import functions_of
from lutc.nn.patching.recognise import Norm, norm_of


def test_variants_of_a_function_are_told_apart():
    ACT2FN = pytest.importorskip("transformers.activations").ACT2FN
    names = {
        "gelu": "gelu",
        "gelu_python": "gelu",
        "gelu_new": "gelu_tanh",
        "gelu_fast": "gelu_tanh",
        "gelu_pytorch_tanh": "gelu_tanh",
    }
    names |= {"gelu_accurate": "gelu_tanh", "quick_gelu": "quick_gelu"}
    names |= {"silu": "silu", "swish": "silu", "mish": "mish", "relu": "relu", "sigmoid": "sigmoid", "tanh": "tanh"}
    names |= {"hardswish": "hardswish", "leaky_relu": "leaky_relu"}
    names |= {"relu2": "relu2", "relu6": "relu6"} | dict.fromkeys(("gelu_10", "laplace", "linear"))
    for name, function in names.items():
        assert functions_of(ACT2FN[name].forward)[:1] == ((function,) if function else ()), name
    assert functions_of(nn.ELU().forward) == ("elu", "celu") and functions_of(nn.GLU().forward) == ()


@pytest.mark.parametrize(
    "module, names",
    [
        (nn.ELU(0.5), ("elu(alpha=0.5)",)),
        (nn.ELU(1.001), ("elu(alpha=1.001)",)),
        (nn.CELU(0.5), ("celu(alpha=0.5)",)),
        (nn.LeakyReLU(0.2), ("leaky_relu(negative_slope=0.2)", "prelu(weight=0.2)")),
        (nn.PReLU(), ("prelu", "leaky_relu(negative_slope=0.25)")),
        (nn.RReLU(0.1, 0.3).eval(), ("leaky_relu(negative_slope=0.2)", "prelu(weight=0.2)")),
        (nn.Softplus(5), ("softplus(beta=5)",)),
        (nn.Softplus(0.7, threshold=30), ("softplus(beta=0.7)",)),
        (nn.Softplus(1, threshold=2), ()),
        (nn.Hardtanh(-2, 3), ("hardtanh(min_val=-2, max_val=3)",)),
        (nn.ReLU6(), ("relu6", "hardtanh(min_val=0, max_val=6)")),
        (nn.Hardshrink(0.3), ("hardshrink(lambd=0.3)",)),
        (nn.Softshrink(0.7), ("softshrink(lambd=0.7)",)),
        (nn.Softsign(), ("softsign",)),
        (nn.LogSigmoid(), ("logsigmoid",)),
        (nn.Tanhshrink(), ("tanhshrink",)),
        (nn.Threshold(1.0, 2.0), ()),
        (nn.Identity(), ()),
    ],
    ids=str,
)
def test_parameters_are_read_from_values(module, names):
    assert functions_of(module.forward) == names


def test_functions_written_out_are_recognised():
    assert functions_of(lambda x: x + torch.sin(2.5 * x) ** 2 / 2.5) == ("snake(alpha=2.5)",)
    assert functions_of(lambda x: 50.0 * torch.tanh(x / 50.0)) == ("softcap(cap=50)",)
    assert functions_of(lambda x: x.clamp(max=7.0) * torch.sigmoid(1.702 * x.clamp(max=7.0))) == ("swigluoai",)
    assert functions_of(lambda x: x.clamp(max=5.0) * torch.sigmoid(x.clamp(max=5.0)))[0].startswith("swigluoai(")


def test_xielu_of_transformers():
    activations = pytest.importorskip("transformers.activations")
    (name,) = functions_of(activations.XIELUActivation(dtype=torch.float32).forward)
    assert name == "xielu"


def test_norms_are_recognised_by_what_they_compute():
    pytest.importorskip("transformers")
    from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.t5.modeling_t5 import T5LayerNorm

    def trained(module):
        torch.manual_seed(1)
        for parameter in module.parameters():
            nn.init.normal_(parameter)
        return module

    assert norm_of(trained(nn.LayerNorm(8, eps=1e-3))) == Norm("layer_norm", 1e-3)
    assert norm_of(trained(nn.RMSNorm(8))) == Norm("rms_norm", torch.finfo(torch.float32).eps)
    assert norm_of(trained(LlamaRMSNorm(8, 1e-5))) == Norm("rms_norm", 1e-5)
    assert norm_of(trained(T5LayerNorm(8))) == Norm("rms_norm", 1e-6)
    assert norm_of(trained(GemmaRMSNorm(8))) == Norm("rms_norm", 1e-6, 1.0)
    assert norm_of(trained(nn.GroupNorm(2, 8))) is None and norm_of(trained(nn.BatchNorm1d(8))) is None


@pytest.mark.parametrize(
    "norm",
    [nn.GroupNorm(1, 8), nn.GroupNorm(4, 8), nn.BatchNorm1d(8), nn.BatchNorm2d(8), nn.InstanceNorm1d(8, affine=True)],
)
def test_norms_over_channels_are_no_layer_norms(norm):
    """GroupNorm(1, C) of (N, C) is a LayerNorm, of images it is not; a fresh BatchNorm with weight 0 gives its bias, as
    any norm with weight 0 does.
    """
    assert norm_of(norm.eval()) is None
    nn.init.zeros_(norm.weight)
    assert norm_of(norm) is None


def test_weights_of_zero_do_not_hide_a_layer_norm():
    norm = nn.LayerNorm(8)
    nn.init.zeros_(norm.weight)
    assert norm_of(norm).kind == "layer_norm" and (norm.weight == 0).all()
    rms = nn.RMSNorm(3)
    nn.init.zeros_(rms.weight)
    assert norm_of(rms).kind == "rms_norm"


def test_a_group_norm_is_no_layer_norm_and_has_its_calls_answered():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(1, 8), nn.GELU()).eval()
    x = torch.randn(2, 3, 8, 8)
    want = model(x)
    report = lutc.patch(model, activation="gelu_fplut", norm="rsqrt_fplut")
    assert {one.what for one in report.replaced} == {"gelu", "group_norm"} and isinstance(model[1], nn.GroupNorm)
    assert torch.allclose(model(x), want, atol=2e-3)
