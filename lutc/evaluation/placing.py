"""Tables on the devices of the layers they serve: a patched model may lie on a GPU, or on several, or partly on none (a
device map).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn


def operators(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules of lutc in a model, outermost only, by name."""
    found: list[str] = []
    for name, module in model.named_modules():
        if type(module).__module__.startswith("lutc.nn") and not any(name.startswith(f"{outer}.") for outer in found):
            found.append(name)
            yield name, module


def place(model: nn.Module) -> None:
    """Move each table to the device of its nearest surrounding module with weights."""
    placed = [(module, _device_around(model, name)) for name, module in operators(model)]
    for module, device in placed:
        if device is not None and any(buffer.device != device for buffer in module.buffers()):
            for own in module.modules():
                parameters, own._parameters = (
                    own._parameters,
                    {},
                )  # a norm's weights are the model's, and may be offloaded
                try:
                    own._apply(lambda tensor, to=device: tensor.to(to), recurse=False)
                finally:
                    own._parameters = parameters


def _device_around(model: nn.Module, name: str) -> torch.device | None:
    while name:
        name = name.rpartition(".")[0]
        module = model.get_submodule(name)
        hook = getattr(module, "_hf_hook", None)  # accelerate's: where an offloaded module runs
        if getattr(hook, "execution_device", None) is not None:
            return torch.device(hook.execution_device)
        device = next((p.device for p in module.parameters() if p.device.type != "meta"), None)
        if device is not None:
            return device
    return None
