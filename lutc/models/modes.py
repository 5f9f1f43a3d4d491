"""How a model runs, for as long as it is looked at."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn


@contextlib.contextmanager
def other_forward(module: Any, forward: Callable) -> Iterator[None]:
    """`module` computes something else; its hooks run as ever."""
    own = module.__dict__.get("forward")  # accelerate's hooks stand there
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Every module of `model` in eval mode; each gets its own mode back."""
    trained = [module for module in model.modules() if module.training]
    for module in trained:
        module.training = False
    try:
        yield
    finally:
        for module in trained:
            module.training = True
