"""The last step of an integer unit: a rounding shift, behind a multiplier where scales need one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lutc.formats.codes import HALF_AWAY, HALF_UP, Inputs
from lutc.formats.requantise import half_of, requantise
from lutc.hardware.bits import signed_bits
from lutc.hardware.rtl.verilog import extended, literal, signal, width_of


@dataclass(frozen=True)
class Requantiser:
    """code = saturated ((acc * multiplier + half) >> shift) + zero point, half = 2^(shift - 1) where shift > 0, else 0;
    `half_away` takes 1 from it below zero, `half_even` 1 less the lowest bit that stays.

    Widths hold what the accumulators that the unit can have make of it, no more.
    """

    multiplier: int
    shift: int
    bits: int
    reach: tuple[int, int]
    out: Inputs

    @classmethod
    def least(cls, acc: np.ndarray, multiplier: int, shift: int, out: Inputs) -> Requantiser:
        """The narrowest multiplier that gives the output codes of multiplier and shift for every accumulator in `acc`
        (int64).
        """
        wanted = _codes(acc, multiplier, shift, out)
        multiplier, shift = _narrowest(acc, multiplier, shift, out, wanted)
        product = acc * multiplier
        scaled = product + (half_of(product, shift, out.rounding) if shift else 0)
        whole = (scaled >> shift) + out.zero_point
        bits = width_of(acc, product, product + ((1 << shift) >> 1), scaled, whole, out.minimum, out.maximum)
        return cls(multiplier, shift, bits, (int(whole.min()), int(whole.max())), out)

    @classmethod
    def of(cls, reach: int, multiplier: int, shift: int, out: Inputs) -> Requantiser:
        """The very multiplier and shift, for accumulators of -reach - 1 to reach."""
        multiplier, shift = multiplier << max(-shift, 0), max(shift, 0)
        products = [end * multiplier for end in (-reach - 1, reach)]
        ends = [(p, p + ((1 << shift) >> 1), p + (half_of(p, shift, out.rounding) if shift else 0)) for p in products]
        whole = [(scaled >> shift) + out.zero_point for *_, scaled in ends]
        least = min(-reach - 1, out.minimum, whole[0], *(value for pair in ends for value in pair))
        most = max(reach, out.maximum, whole[1], *(value for pair in ends for value in pair))
        return cls(multiplier, shift, signed_bits(least, most), (whole[0], whole[1]), out)

    def text(self, acc: str, acc_bits: int, code: str) -> list[str]:
        """Lines that make `code`, declared here, of the signal `acc`."""
        out, bits, half = self.out, max(self.bits, acc_bits), (1 << self.shift) >> 1
        scaled = extended(acc, acc_bits, bits)
        if self.multiplier != 1:
            scaled = f"{scaled} * {literal(self.multiplier, bits)}"
        lines = []
        if half and out.rounding == HALF_UP:
            scaled = f"{scaled} + {literal(half, bits)}"
        elif half:
            lines = [signal(f"{code}_product", bits), f"  assign {code}_product = {scaled};"]
            bit, one = (bits - 1, "1'b1") if out.rounding == HALF_AWAY else (self.shift, "1'b0")
            less, more = literal(half - 1, bits), literal(half, bits)
            chosen = f"{code}_product[{bit}] == {one} ? {less} : {more}"
            scaled = f"{code}_product + ({chosen})"
        whole = f"{code}_scaled >>> {self.shift}" if self.shift else f"{code}_scaled"
        if out.zero_point:
            whole = f"({whole}) + {literal(out.zero_point, bits)}"
        lines += [signal(f"{code}_scaled", bits), f"  assign {code}_scaled = {scaled};"]
        lines += [signal(f"{code}_whole", bits), f"  assign {code}_whole = {whole};", signal(code, out.bits)]
        limited = f"{code}_whole[{out.bits - 1}:0]"
        if self.reach[1] > out.maximum:
            limited = f"{code}_whole > {literal(out.maximum, bits)} ? {literal(out.maximum, out.bits)} : {limited}"
        if self.reach[0] < out.minimum:
            limited = f"{code}_whole < {literal(out.minimum, bits)} ? {literal(out.minimum, out.bits)} : {limited}"
        lines.append(f"  assign {code} = {limited};")
        if bits > out.bits and out.minimum <= self.reach[0] <= self.reach[1] <= out.maximum:
            lines.append(f"  logic {code}_unused;")
            lines.append(f"  assign {code}_unused = &{{1'b0, {code}_whole[{bits - 1}:{out.bits}]}};")
        return lines


def _codes(acc, multiplier: int, shift: int, out: Inputs) -> np.ndarray:
    return np.clip(requantise(acc, multiplier, shift, out.rounding) + out.zero_point, out.minimum, out.maximum)


def _narrowest(acc, multiplier: int, shift: int, out: Inputs, wanted) -> tuple[int, int]:
    """(multiplier, shift >= 0)"""
    if shift <= 0:
        return multiplier << -shift, 0
    if multiplier == 1 and shift <= 62:
        return multiplier, shift
    for bits in range(32):
        short, less = (0, 0) if bits == 0 else (round(multiplier / 2.0 ** (31 - bits)), shift - (31 - bits))
        if less < 0:
            break
        less = min(less, 62)
        if np.array_equal(_codes(acc, short, less, out), wanted):
            while less and short and short % 2 == 0:
                short, less = short // 2, less - 1
            return short, less
    return multiplier, shift
