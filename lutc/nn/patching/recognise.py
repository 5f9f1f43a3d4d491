"""Which function a module or a call computes. Names make candidates; what decides is what the candidate computes."""

from __future__ import annotations

import inspect
import re
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from lutc.functions.recognise import _TOLERANCE
from lutc.nn.dequantised_rows import DequantisedNorm
from lutc.nn.norm import LUTLayerNorm, LUTRMSNorm
from lutc.nn.patching.channel_norms import of_batch
from lutc.nn.patching.offload import present

_NAMED = re.compile(
    r"gelu|silu|swish|relu|elu|mish|sigmoid|tanh|softplus|softsign|hardshrink|laplace|glu|activation|^act$|snake",
    re.IGNORECASE,
)
_NORM_NAMED = re.compile(r"norm", re.IGNORECASE)
_NOT_ELEMENTWISE = (nn.MultiheadAttention, nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin)


def is_activation(module: nn.Module) -> bool:
    """A candidate: no parameters or children of its own, and a class of an activation by home or by name."""
    if isinstance(module, _NOT_ELEMENTWISE) or next(module.children(), None) is not None:
        return False
    home = type(module).__module__
    known_home = home in ("torch.nn.modules.activation", "transformers.activations")
    if type(module).__name__ in ("Identity", "LinearActivation"):
        return False
    return known_home or bool(_NAMED.search(type(module).__name__)) and next(module.parameters(), None) is None


def could_be_activation(module: nn.Module) -> bool:
    """A leaf of someone's own that is called with one tensor and holds none; whether it treats elements by themselves
    is for its values to say.
    """
    if next(module.children(), None) is not None or next(module.parameters(), None) is not None:
        return False
    if type(module).__module__.startswith(("torch.", "lutc.")) or is_norm(module):
        return False
    try:
        given = list(inspect.signature(type(module).forward).parameters.values())[1:]
    except (TypeError, ValueError):
        return False
    needed = [one for one in given if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
    return len(needed) == 1 and given[0] is needed[0]


def learned_activation(module: nn.Module) -> bool:
    """A leaf of someone's own that is called an activation and has parameters, as a snake with a rate a channel."""
    named, home = _NAMED.search(type(module).__name__), type(module).__module__
    leaf = next(module.children(), None) is None and next(module.parameters(), None) is not None
    return bool(named) and leaf and not home.startswith(("torch.", "lutc.")) and not is_activation(module)


def is_norm(module: nn.Module) -> bool:
    """A candidate for a norm: of torch's norm classes, or a leaf named so. A batch norm is none where it takes its
    running statistics, as in eval mode: then it is a line; neither is what torch puts before a weight.
    """
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and not of_batch(module):
        return False
    if type(module).__module__.startswith("torch.nn.utils."):
        return False
    return isinstance(module, (nn.LayerNorm, nn.RMSNorm, DequantisedNorm)) or (
        bool(_NORM_NAMED.search(type(module).__name__)) and next(module.children(), None) is None
    )


class Norm(NamedTuple):
    """kind: "layer_norm" or "rms_norm". The gain is `weight` + offset: 1 for Gemma's norms, whose weights are stored
    so, else 0.
    """

    kind: str
    eps: float | None
    offset: float = 0.0


def norm_of(module: nn.Module) -> Norm | None:
    """The norm that the module computes over its last dimension with its `weight` and `bias`, if it computes exactly
    one.
    """
    # Patched before: its table would hide what it computes.
    if isinstance(module, (LUTLayerNorm, LUTRMSNorm, DequantisedNorm)):
        return Norm("layer_norm" if module.centred else "rms_norm", module.eps, getattr(module, "offset", 0.0))
    if _takes_more(module):
        return None
    with present(module):
        return _norm_of(module)


def _takes_more(module: nn.Module) -> bool:
    """Whether the norm is called with more than one tensor, as Mamba-2's with a gate: it computes more than a norm."""
    parameters = list(inspect.signature(type(module).forward).parameters.values())[2:]
    return any(one.kind is one.POSITIONAL_OR_KEYWORD for one in parameters)


def _norm_of(module: nn.Module) -> Norm | None:
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    eps = next(
        (getattr(module, name) for name in ("eps", "variance_epsilon", "epsilon") if hasattr(module, name)), 1e-5
    )
    shape = getattr(module, "normalized_shape", None)
    sized = weight if weight is not None else bias
    n = (
        sized.shape[-1]
        if sized is not None and sized.ndim == 1
        else shape[-1]
        if shape is not None and len(shape) == 1
        else None
    )
    if n is None:
        return None
    eps = torch.finfo(torch.float32).eps if eps is None else float(eps)
    like = sized if sized is not None else torch.empty(0)
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape) -> torch.Tensor:
        return torch.rand(shape, generator=generator) + 0.5

    # Weights that tell: a fresh model's are 0 or 1, and hide what is computed. Rows from tiny to large tell eps and its
    # place apart. Three dimensions, the middle one no n: a norm over channels (GroupNorm, BatchNorm) takes that one.
    # Weights that accelerate keeps elsewhere come back in every forward, so those are probed as they are.
    given = {name: p for name, p in (("weight", weight), ("bias", bias)) if p is not None}
    kept = hasattr(module, "_hf_hook")
    told = {} if kept else {name: drawn(n).to(device=p.device, dtype=p.dtype) for name, p in given.items()}
    x = torch.randn(4, 3 if n != 3 else 2, n, generator=generator)
    x = (x + 0.5) * torch.tensor([1e-3, 0.1, 1.0, 30.0]).reshape(4, 1, 1)
    x = x.to(device=like.device, dtype=like.dtype)
    training = module.training
    try:
        with torch.no_grad():
            module.eval()
            y = torch.func.functional_call(module, told, (x,)) if told else module.forward(x)
    except Exception:  # noqa: BLE001  as in functions_of
        return None
    finally:
        module.train(training)
    if not isinstance(y, torch.Tensor) or y.shape != x.shape:
        return None
    used = {**given, **told}
    w, b = (used[name].detach().double() if name in used else None for name in ("weight", "bias"))
    tolerance = max(_TOLERANCE, 4 * torch.finfo(x.dtype).eps)
    candidates = {Norm("layer_norm", eps): lambda x: F.layer_norm(x, (n,), w, b, eps)}
    if b is None:
        candidates[Norm("rms_norm", eps)] = lambda x: F.rms_norm(x, (n,), w, eps)
    if b is None and w is not None:
        candidates[Norm("rms_norm", eps, 1.0)] = lambda x: F.rms_norm(x, (n,), 1.0 + w, eps)
    found = (
        norm
        for norm, exact in candidates.items()
        if torch.allclose(y.double(), exact(x.double()), rtol=tolerance, atol=tolerance)
    )
    return next(found, None)
