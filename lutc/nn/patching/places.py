"""What stands at a place of a model: a function, a table, or a line."""

from __future__ import annotations

import functools
import re
import types
from typing import Any

import torch
from torch import nn

from lutc import functions
from lutc.functions.recognise import functions_of
from lutc.nn.lut import LUT
from lutc.nn.patching.calls import ACTIVATION_CALLS
from lutc.nn.patching.channel_norms import of_batch

_ACTIVATIONS = re.compile(r"act|func|fn$|gate|nonlin")  # names of attributes that hold one


def known_function(value: object) -> bool:
    """Whether this is an activation of torch's, perhaps with options."""
    function = value.func if isinstance(value, functools.partial) else value
    return callable(function) and getattr(function, "__hash__", None) is not None and function in ACTIVATION_CALLS


def held_function(attribute: str, value: object) -> bool:
    """Whether this is a function of someone's own, as a lambda, in the place of an activation."""
    return isinstance(value, types.FunctionType) and _ACTIVATIONS.search(attribute) is not None


def functions_behind(stood: Any, device: torch.device | str) -> tuple[str, ...]:
    """Registry names of what a module or a function computes; of a table what it is of."""
    if isinstance(stood, LUT):
        known = functions.find(stood.tables.function)
        return () if known is None else (known.name,)
    return functions_of(stood.forward if isinstance(stood, nn.Module) else stood, device)


def is_line(module: nn.Module) -> bool:
    """Whether this is a batch norm that takes its running statistics."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and not of_batch(module)
