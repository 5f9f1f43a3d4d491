"""The processes of torchrun that share one task: what they agree on, add up and wait for. One process is one rank."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from lutc.calibration.file import Calibration
from lutc.errors import LutcError

T = TypeVar("T")
PATIENCE = timedelta(minutes=30)  # for a rank that does not come; torchrun ends the others where one was killed


@dataclass(frozen=True)
class Ranks:
    """index of `count` processes."""

    index: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """This process among those that torchrun started; alone where it did not."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1 or not dist.is_available():
            return cls()
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=PATIENCE)
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        return self.index == 0

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            self.gather(None)

    def agree(self, value: str, what: str) -> None:
        """LutcError on every rank where values differ."""
        values = self.gather(value)
        if others := [rank for rank, one in enumerate(values) if one != values[0]]:
            told = f" ({values[others[0]][:12]}, {values[0][:12]})" if len(value) == 64 else ""  # digests
            raise LutcError(
                f"rank {others[0]} has another {what} than rank 0{told}; start all ranks with the same arguments"
            )

    def share(self, batches: list, block: bool = False) -> list:
        """This rank's batches: every count-th, or with `block` those in a row; LutcError where there are too few."""
        if len(batches) < self.count:
            raise LutcError(f"{len(batches)} batches cannot be split over {self.count} ranks; give a longer text")
        if block:
            ends = [len(batches) * rank // self.count for rank in (self.index, self.index + 1)]
            return batches[ends[0] : ends[1]]
        return batches[self.index :: self.count]

    def same(self, value: bool) -> bool:
        """Whether it holds on all ranks."""
        return all(self.gather(value))

    def of_first(self, made: Callable[[], T]) -> T:
        """What rank 0 makes, on all ranks; what goes wrong there is everybody's LutcError."""
        if self.count == 1:
            return made()
        value: Any = None
        if self.first:
            try:
                value = made()
            except LutcError as error:
                value = error
        value = self.gather(value)[0]
        if isinstance(value, LutcError):
            raise value
        return value

    def sum(self, calibration: Calibration) -> Calibration:
        """Of all ranks, exactly as if one had seen all batches."""
        first, *others = self.gather(calibration)
        for other in others:
            first = first + other
        return first

    def gather(self, value: Any) -> list:
        """Everybody's value, by rank."""
        if self.count == 1:
            return [value]
        found = [None] * self.count
        try:
            dist.all_gather_object(found, value)
        except RuntimeError as error:
            raise LutcError(
                f"rank {self.index} lost another rank ({str(error).splitlines()[0][:80]}); what is done is kept: run "
                "the same command again to go on"
            ) from error
        return found
