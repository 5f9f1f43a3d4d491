"""What a module is fed with and has to answer, in every hardware language."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lutc.hardware.export.memory import memh
from lutc.hardware.export.units import Unit
from lutc.hardware.rtl.verilog import Ports


@dataclass(frozen=True, eq=False)
class Stream:
    """What a module is fed with and has to answer. words, expected: (n,) int64. select, last: (n,), where the ports
    have them. load: (m, 2), addresses and data written before.
    """

    module: str
    ports: Ports
    words: np.ndarray
    expected: np.ndarray
    select: np.ndarray | None = None
    last: np.ndarray | None = None
    load: np.ndarray | None = None

    def packed(self) -> tuple[np.ndarray, int]:
        """{select, last, data} of each word in, and their bits."""
        bits = self.ports.in_bits
        values = self.words & ((1 << bits) - 1)
        if self.last is not None:
            values, bits = values | (self.last.astype(np.int64) << bits), bits + 1
        if self.select is not None:
            values, bits = values | (self.select.astype(np.int64) << bits), bits + self.ports.select_bits
        return values, bits

    def images(self) -> dict[str, str]:
        """NAME_in.memh, NAME_expected.memh and, of loadable coefficients, NAME_load.memh."""
        values, bits = self.packed()
        files = {
            f"{self.module}_in.memh": memh(values, bits, "what the bench feeds"),
            f"{self.module}_expected.memh": memh(self.expected, self.ports.out_bits, "what has to come out"),
        }
        if self.load is not None:
            address, data = self.ports.load
            words = (self.load[:, 0] << data) | (self.load[:, 1] & ((1 << data) - 1))
            files[f"{self.module}_load.memh"] = memh(words, address + data, "address and data of each coefficient")
        return files


def of_units(module: str, ports: Ports, units: Sequence[Unit], load: np.ndarray | None = None) -> Stream:
    """All input codes of every unit; of several in one module the tables follow each other."""
    select = None
    if ports.select_bits:
        select = np.repeat(np.arange(len(units)), units[0].acc.size)
    words = np.concatenate([unit.inputs.codes() for unit in units])
    expected = np.concatenate([unit.acc if unit.out is None else unit.codes for unit in units])
    return Stream(module, ports, words, expected, select, load=load)
