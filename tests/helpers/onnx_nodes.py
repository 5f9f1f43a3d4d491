"""ONNX's own node tests of activations, softmax and norms, each as a module of torch."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

_FILES = (
    "celu elu selu gelu hardsigmoid hardswish leakyrelu prelu relu sigmoid softplus softsign mish tanh thresholdedrelu "
    "swish swiglu erf exp log sqrt reciprocal sin cos atan shrink softmax logsoftmax layernormalization "
    "rmsnormalization groupnormalization instance_normalization batch_normalization meanvariancenormalization"
)


class Node(NamedTuple):
    """One test: the node's type and options, its inputs, and its first output."""

    name: str
    op: str
    options: dict[str, Any]
    inputs: list[np.ndarray]
    output: np.ndarray


def nodes() -> list[Node]:
    """All of them, but for those that write a function out in other operators, and for batch norms that take running
    statistics, which are lines.
    """
    from onnx import helper
    from onnx.backend.test.case import node

    before = np.random.get_state()  # inputs are drawn as the files are read
    for name in _FILES.split():
        importlib.import_module(f"onnx.backend.test.case.node.{name}")
    np.random.set_state(before)
    found = {}
    for case in node._NodeTestCases:
        (one, *others), ((inputs, outputs),) = case.model.graph.node, case.data_sets
        if not others and "_expanded" not in case.name:
            options = {held.name: helper.get_attribute_value(held) for held in one.attribute}
            name = case.name.removeprefix("test_")
            if one.op_type == "BatchNormalization" and not options.get("training_mode"):
                continue
            found[name] = Node(name, one.op_type, options, list(inputs), outputs[0])
    return list(found.values())


class Held(nn.Module):
    """A function as an attribute."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Clipped(nn.Module):
    """ONNX's HardSigmoid, whose slope is a parameter; torch's is 1/6."""

    def __init__(self, alpha=0.2, beta=0.5):
        super().__init__()
        self.alpha, self.beta = alpha, beta

    def forward(self, x):
        return (self.alpha * x + self.beta).clamp(0.0, 1.0)


class Selu(nn.Module):
    def __init__(self, alpha, gamma):
        super().__init__()
        self.alpha, self.gamma = alpha, gamma

    def forward(self, x):
        return self.gamma * torch.where(x > 0, x, self.alpha * torch.expm1(x.clamp(max=0.0)))


class Swish(nn.Module):
    def __init__(self, alpha=1.0):
        super().__init__()
        self.alpha = alpha

    def forward(self, x):
        return x * torch.sigmoid(self.alpha * x)


class Gated(nn.Module):
    def __init__(self, alpha=1.0):
        super().__init__()
        self.act = nn.SiLU() if alpha == 1.0 else Swish(alpha)

    def forward(self, a, b):
        return self.act(a) * b


class Shrink(nn.Module):
    """lambd: the threshold; bias: what is taken off beyond it."""

    def __init__(self, lambd=0.5, bias=0.0):
        super().__init__()
        self.act = nn.Hardshrink(lambd) if bias == 0.0 else nn.Softshrink(lambd)
        assert bias in (0.0, lambd)

    def forward(self, x):
        return self.act(x)


class Slopes(nn.Module):
    """PRelu, whose slopes are of any shape that broadcasts."""

    def forward(self, x, slopes):
        return F.relu(x) - slopes * F.relu(-x)


class Normal(nn.Module):
    """Of each channel over batch and positions, all but without eps."""

    def forward(self, x):
        return F.batch_norm(x, None, None, training=True, eps=1e-12)


class Root(nn.Module):
    def __init__(self, node):
        super().__init__()
        self.node = node

    def forward(self, *given):
        return self.node(*given)


_MODULES = {
    "Celu": nn.CELU,
    "Elu": nn.ELU,
    "HardSigmoid": Clipped,
    "HardSwish": nn.Hardswish,
    "MeanVarianceNormalization": Normal,
    "Mish": nn.Mish,
    "PRelu": Slopes,
    "Relu": nn.ReLU,
    "Shrink": Shrink,
    "Sigmoid": nn.Sigmoid,
    "Softplus": nn.Softplus,
    "Softsign": nn.Softsign,
    "SwiGLU": Gated,
    "Swish": Swish,
    "Tanh": nn.Tanh,
}
_CALLS = {"Erf": torch.erf, "Exp": torch.exp, "Log": torch.log, "Sqrt": torch.sqrt, "Sin": torch.sin}
_CALLS |= {"Cos": torch.cos, "Atan": torch.atan, "Reciprocal": torch.reciprocal}


def module(node: Node) -> tuple[nn.Module, list[torch.Tensor]]:
    """(a module of torch that computes the node, what it is called with)."""
    given = [_tensor(one) for one in node.inputs]
    built = _built(node.op, dict(node.options), given[0], given[1:])
    return Root(built), given[: 2 if node.op in ("PRelu", "SwiGLU") else 1]


def _tensor(x: np.ndarray) -> torch.Tensor:
    dtype = getattr(torch, x.dtype.name)
    return torch.from_numpy(x.astype(np.float32)).to(dtype)


def _built(op: str, options: dict[str, Any], x: torch.Tensor, others: list[torch.Tensor]) -> nn.Module:
    if op in _CALLS:
        return Held(_CALLS[op])
    if op in _MODULES:
        return _MODULES[op](**options)
    if op == "Selu":
        return Selu(**options) if options else nn.SELU()
    if op == "Gelu":
        return nn.GELU(approximate=options.get("approximate", b"none").decode())
    if op == "LeakyRelu":
        return nn.LeakyReLU(options.get("alpha", 0.01))
    if op == "ThresholdedRelu":
        return nn.Threshold(options.get("alpha", 1.0), 0.0)
    if op in ("Softmax", "LogSoftmax"):
        return getattr(nn, op)(options.get("axis", -1))
    return _norm(op, options, x, *others)


def _norm(op: str, options: dict[str, Any], x: torch.Tensor, weight: torch.Tensor, bias=None, mean=None, var=None):
    eps, channels = options.get("epsilon", 1e-5), len(weight)
    if op in ("LayerNormalization", "RMSNormalization"):
        made = (nn.LayerNorm if op.startswith("L") else nn.RMSNorm)(x.shape[options.get("axis", -1) :], eps)
    elif op == "GroupNormalization":
        made = nn.GroupNorm(options["num_groups"], channels, eps)
    elif op == "InstanceNormalization":
        made = (nn.InstanceNorm1d if x.ndim == 3 else nn.InstanceNorm2d)(channels, eps, affine=True)
    else:
        made = nn.BatchNorm2d(channels, eps)
        made.running_mean, made.running_var = mean.clone(), var.clone()
    made.weight.data = weight
    if bias is not None:
        made.bias.data = bias
    return made
