"""A histogram that fills while a model runs, in torch, on any device."""

from __future__ import annotations

import numpy as np
import torch

from lutc.calibration.histogram import BINS, INFINITE, Histogram
from lutc.observe.counting import count, count_below_maximum

_CHUNK = 1 << 22  # values that are binned at a time


class Accumulator:
    """A `Histogram` being filled, on the device of the values; memory does not grow."""

    def __init__(self):
        self.counts = self.residues = None
        self.low, self.high = float("inf"), float("-inf")

    def _begin(self, device: torch.device) -> None:
        if self.counts is None:
            self.counts = torch.zeros(BINS, dtype=torch.int64, device=device)
            self.residues = torch.zeros_like(self.counts)

    def _ends(self) -> np.ndarray:
        return np.array([self.low, self.high], np.float32)

    def add(self, x: torch.Tensor) -> None:
        """Values of any float dtype and shape, taken as float32."""
        x = x.detach().reshape(-1)
        self._begin(x.device)
        if x.device.type == self.counts.device.type == "cpu":
            ends = self._ends()
            count(x.float().contiguous().numpy(), self.counts.numpy(), self.residues.numpy(), ends)
            self.low, self.high = float(ends[0]), float(ends[1])
            return
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

    def add_below_maximum(self, rows: torch.Tensor) -> int:
        """x - max(x) of every row of (rows, n), but for elements of -inf or finfo.min (a mask): their number."""
        floor, wide = torch.finfo(rows.dtype).min / 2, rows.detach().float()
        self._begin(rows.device)
        if rows.device.type == self.counts.device.type == "cpu":
            least = floor if rows.dtype != torch.float64 else -np.inf  # what lies below is -inf in float32
            sums, ends = (self.counts.numpy(), self.residues.numpy()), self._ends()
            masked = count_below_maximum(wide.contiguous().numpy(), np.float32(least), *sums, ends)
            self.low, self.high = float(ends[0]), float(ends[1])
            return int(masked)
        hidden = rows <= floor
        self.add((wide - wide.amax(-1, keepdim=True))[~hidden])
        return int(hidden.sum())

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
