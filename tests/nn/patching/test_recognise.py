"""Activations and norms are recognised by what they compute."""

import pytest
import torch
from torch import nn

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
    names |= dict.fromkeys(("gelu_10", "relu2", "relu6", "laplace"))
    for name, function in names.items():
        assert functions_of(ACT2FN[name].forward)[:1] == ((function,) if function else ()), name
    assert functions_of(nn.ELU().forward) == ("elu", "celu") and functions_of(nn.ELU(0.5).forward) == ()
    assert (
        functions_of(nn.LeakyReLU(0.2).forward) == ()
        and functions_of(nn.PReLU().forward) == ()
        and functions_of(nn.GLU().forward) == ()
    )


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
