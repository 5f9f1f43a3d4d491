"""Modules of lutc in `torch.fx.symbolic_trace`: leaves of the graph, as torch's own modules are."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx


def is_traced(x: Any) -> bool:
    """Whether x is a value of a graph that is being traced."""
    return isinstance(x, fx.Proxy)


def leaf(module: torch.nn.Module, *args: Any) -> Any:
    """A call of the module in the graph of its arguments; the graph keeps the module with its table."""
    tracer: Any = args[0].tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(module), args, {})
