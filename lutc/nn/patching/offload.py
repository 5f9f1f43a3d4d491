"""Weights that accelerate keeps on disk or in memory and brings in for a module's forward (`device_map`): elsewhere
they are on the meta device.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

from torch import nn


def _hook(module: nn.Module):
    """accelerate's hook of a module whose own weights are elsewhere, None for others."""
    away = any(parameter is not None and parameter.is_meta for parameter in module._parameters.values())
    return getattr(module, "_hf_hook", None) if away else None


@contextlib.contextmanager
def present(module: nn.Module) -> Iterator[None]:
    """The module's own weights are there."""
    hook = _hook(module)
    if hook is None:
        yield
        return
    hook.pre_forward(module)
    try:
        yield
    finally:
        hook.post_forward(module, None)


def bring_as(module: nn.Module, before: nn.Module) -> None:
    """`module`, which shares parameters with `before`, has them brought in as `before` has, and its buffers where it
    runs.
    """
    hook = _hook(before)
    if hook is not None:
        from accelerate.hooks import add_hook_to_module

        hook = copy.copy(hook)
        hook.offload_buffers = False  # those of a table are not among the model's weights
        add_hook_to_module(module, hook)
