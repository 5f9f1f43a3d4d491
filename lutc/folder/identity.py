"""Which model a folder belongs to: its class, the names and shapes of its parameters, and its config."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import nn

from lutc.errors import LutcError
from lutc.observe.running import model_digest

_OWN = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "quantization_config", "use_cache"}
_OWN |= {"architectures"}  # which saving adds
_ADAPTER = re.compile(r"\.lora_|\.modules_to_save\.")
_DEPTH = 4  # of wrappers around a model


def identity(model: nn.Module, name: str) -> dict:
    """What the manifest says of the model; adapters (LoRA) change nothing of it."""
    shapes = Counter(str(tuple(parameter.shape)) for key, parameter in _parameters(model))
    return {
        "name": name,
        "class": type(model).__name__,
        "digest": digest(model),
        "config": config_digest(model),
        "shapes": dict(sorted(shapes.items())),
    }


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in model.named_parameters():
        if not _ADAPTER.search(name):
            yield name.replace(".base_layer.", "."), parameter


def digest(model: nn.Module) -> str:
    """Of class, names and shapes: `lutc.observe.model_digest` without adapters. SHA-256 in hex."""
    if not any(_ADAPTER.search(name) for name, _ in model.named_parameters()):
        return model_digest(model)
    lines = sorted(f"{name} {tuple(parameter.shape)}" for name, parameter in _parameters(model))
    return hashlib.sha256("\n".join([type(model).__name__, *lines]).encode()).hexdigest()


def config_digest(model: nn.Module) -> str | None:
    """Of a transformers config, without what says where it came from and in which dtype it is; None without one."""
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "to_dict"):
        return None
    own = {key: value for key, value in config.to_dict().items() if key not in _OWN and not key.startswith("_")}
    return hashlib.sha256(json.dumps(own, sort_keys=True, default=str).encode()).hexdigest()


def find(given: object, wanted: dict) -> nn.Module:
    """The model that a folder was made for: `given` itself, or inside a wrapper (PEFT's, a SentenceTransformer, a
    pipeline). LutcError for another model.
    """
    model = given if isinstance(given, nn.Module) else getattr(given, "model", None)
    if not isinstance(model, nn.Module):
        raise LutcError(f"tables are put into a torch.nn.Module; given {type(given).__name__}")
    for name, module in model.named_modules():
        if name.count(".") < _DEPTH and type(module).__name__ == wanted["class"] and digest(module) == wanted["digest"]:
            if wanted["config"] is not None and config_digest(module) != wanted["config"]:
                raise LutcError(
                    f"the folder was made for {wanted['name']}: this {type(module).__name__} has the same weights' "
                    "names and shapes but another config; compile a folder for it"
                )
            return module
    raise LutcError(
        f"the folder was made for {wanted['name']}, a {wanted['class']} ({wanted['digest'][:12]}); given a "
        f"{type(model).__name__} ({digest(model)[:12]}) with other weights' names or shapes: compile a folder for it"
    )
