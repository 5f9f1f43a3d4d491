"""Memory of this process and of the GPU: how far it rose while something ran."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch
from torch import nn

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """`with PeakMemory(model) as peak: ...` leaves in `peak.above` the bytes by which memory rose above what was held
    at the start, weights included (a model read through a memory map is read in first), at its highest. On a GPU its
    memory. None where the system does not tell.
    """

    def __init__(self, model: nn.Module):
        self.device = next((p.device for p in model.parameters() if p.device.type == "cuda"), None)
        self.model = model
        self.start: int | None = None
        self.above: int | None = None

    def __enter__(self) -> PeakMemory:
        if self.device is not None:
            torch.cuda.reset_peak_memory_stats(self.device)
            self.start = torch.cuda.memory_allocated(self.device)
            return self
        for parameter in self.model.parameters():
            if parameter.device.type == "cpu" and parameter.numel():
                parameter.detach().reshape(-1)[:: 4096 // parameter.element_size()].max()  # an element of every page
        with contextlib.suppress(OSError):
            _RESET.write_text("5")  # the highest mark falls to the present
        self.start = _status("VmRSS")
        return self

    def __exit__(self, *exception) -> None:
        top = torch.cuda.max_memory_allocated(self.device) if self.device is not None else _status("VmHWM")
        if top is not None and self.start is not None:
            self.above = max(0, top - self.start)


def _status(field: str) -> int | None:
    """A line of Linux's account of this process, in bytes."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:")), None)
