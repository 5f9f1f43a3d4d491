"""Modules whose buffers follow from what they hold in Python."""

from __future__ import annotations

import torch

from lutc.nn.scripting import Unscripted


class Refilled(Unscripted):
    """`.to_empty()`, which leads from the meta device to memory without content, fills the buffers of such a module
    again.
    """

    def _lost(self) -> bool:
        """Whether buffers that were not on the meta device lost their content: `.to_empty()` comes
        upon such ones too.
        """
        return False

    def _fill(self, device: torch.device) -> None:
        """Register the buffers, as at construction, on a device."""
        raise NotImplementedError

    def _apply(self, fn, recurse=True):
        empty = any(buffer.is_meta for buffer in self._buffers.values() if buffer is not None)
        super()._apply(fn, recurse)
        device = next((buffer.device for buffer in self._buffers.values() if buffer is not None), torch.device("meta"))
        if device.type != "meta" and (empty or self._lost()):
            self._fill(device)
        return self
