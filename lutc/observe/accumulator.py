"""A histogram that fills while a model runs, in torch, on any device."""

from __future__ import annotations

import torch

from lutc.calibration.histogram import BINS, INFINITE, Histogram

_CHUNK = 1 << 22  # values that are binned at a time


class Accumulator:
    """A `Histogram` being filled, on the device of the values; memory does not grow."""

    def __init__(self):
        self.counts = self.residues = None
        self.low, self.high = float("inf"), float("-inf")

    def add(self, x: torch.Tensor) -> None:
        """Values of any float dtype and shape, taken as float32."""
        x = x.reshape(-1)
        if self.counts is None:
            self.counts = torch.zeros(BINS, dtype=torch.int64, device=x.device)
            self.residues = torch.zeros_like(self.counts)
        for part in x.split(_CHUNK):
            part = part.float()
            bits = part.view(torch.int32)
            codes = (bits >> 16) & 0xFFFF
            self.counts += torch.bincount(codes, minlength=BINS).to(self.counts.device)
            self.residues += torch.bincount(codes, (bits & 0xFFFF).double(), BINS).to(self.counts.device, torch.int64)
            low, high = (float(end) for end in part.aminmax())
            if not low - high <= 0 or low == -torch.inf or high == torch.inf:  # NaN or infinities
                finite = part[part.isfinite()]
                low, high = (float(end) for end in finite.aminmax()) if finite.numel() else (self.low, self.high)
            self.low, self.high = min(self.low, low), max(self.high, high)

    def special(self) -> tuple[int, int]:
        """How many infinities and NaN were seen."""
        if self.counts is None:
            return 0, 0
        top = torch.cat([self.counts[code : code + 128] for code in INFINITE]).view(2, 128).sum(0).tolist()
        return top[0], sum(top[1:])

    def histogram(self) -> Histogram:
        if self.counts is None or self.low > self.high:
            return Histogram.of([])
        return Histogram.dense(self.counts.cpu().numpy(), self.residues.cpu().numpy(), self.low, self.high)
