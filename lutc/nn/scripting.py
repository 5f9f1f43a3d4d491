"""Why TorchScript's compiler takes none of the modules here, in one line."""

from __future__ import annotations

import torch

from lutc.errors import LutcError


class Unscripted(torch.nn.Module):
    """A module that `torch.jit.script` refuses, alone or inside a model."""

    def __prepare_scriptable__(self) -> None:
        raise LutcError(
            f"torch.jit.script cannot compile {type(self).__name__}, which is Python; trace the model "
            "(torch.jit.trace) or export it (torch.export, lutc.onnx.export)"
        )
