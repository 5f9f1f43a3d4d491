"""A unit for float tables in fp16 arithmetic: range reduction, the piece by comparators or by the bits of the exponent,
a memory of values and steps, a multiplier and adders, each of which rounds as `lutc.certify.arithmetic` does.

What the arithmetic makes of constants alone is stored: the step from one value to the next, powers of two by exponent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lutc.certify.arithmetic import in_arithmetic
from lutc.errors import LutcError
from lutc.formats.bfloat16 import bfloat16_of_float16, float16_of_bfloat16
from lutc.formats.float16 import bits_of, value_of
from lutc.hardware.rtl import float_body, float_reduction
from lutc.hardware.rtl.flow import Flow, ordered
from lutc.hardware.rtl.verilog import Ports
from lutc.table.bodies import Direct
from lutc.table.prologues import ExponentPrologue, PeriodPrologue
from lutc.table.table import Table

ARITHMETICS = ("fp16_rne", "fp16_trunc")
PORTS = ("fp16", "bf16")  # what comes in and goes out
LATENCIES = range(5)
CODES = np.arange(1 << 16)


@dataclass(frozen=True, eq=False)
class FloatWords:
    """What a table in an arithmetic makes of fp16 codes. words: (65536,) bits by those of the input; NaN is 0x7E00."""

    words: np.ndarray

    @classmethod
    def of(cls, table: Table, arithmetic: str) -> FloatWords:
        x = value_of(CODES)
        with np.errstate(all="ignore"):
            values = in_arithmetic(table, arithmetic)(x)
        return cls(np.where(np.isnan(values), 0x7E00, bits_of(values)).astype(np.int64))

    def at(self, port: str) -> np.ndarray:
        """(65536,) signed words by the bits of what comes in at a port."""
        words = self.words if port == "fp16" else bfloat16_of_float16(self.words[float16_of_bfloat16(CODES)])
        return words.astype(np.uint16).view(np.int16).astype(np.int64)


def check(table: Table, arithmetic: str, latency: int, port: str) -> None:
    if port not in PORTS:
        raise LutcError(f"a unit of floats takes and gives {' or '.join(PORTS)}; given {port!r}")
    if arithmetic not in ARITHMETICS:
        raise LutcError(f"unknown arithmetic {arithmetic!r} of a unit; choose one of {', '.join(ARITHMETICS)}")
    if latency not in LATENCIES:
        raise LutcError(f"a unit of floats has a latency of 0 to 4 cycles; given {latency}")
    if isinstance(table.body, Direct):
        raise LutcError("a direct table over codes computes nothing; there is no floating-point unit of it")


def module(name: str, table: Table, arithmetic: str, latency: int, port: str = "fp16") -> tuple[str, Ports, np.ndarray]:
    """SystemVerilog, ports, and the answers (65536,) as signed words by the bits of the input. port: of PORTS; bf16 is
    rounded to fp16 on the way in, and what the unit gives to bf16 on the way out.
    """
    check(table, arithmetic, latency, port)
    answers = FloatWords.of(table, arithmetic)
    flow = Flow(name, latency, arithmetic.removeprefix("fp16_"))
    registers = {0: "", 1: "d", 2: "bd", 3: "bcd", 4: "abcd"}[latency]
    if port == "bf16":
        flow.convert("bf16_to_fp16", "x", "in_data")
    else:
        flow.wire("x", 16, "in_data")
    _forced(flow, table, answers)
    behind = float_reduction.reduce(flow, table)
    kept = ["forced", "forced_word", *behind]
    flow.stage("a", "a" in registers, ["r", *kept])
    if float_body.needs_key(table):
        key_of(flow, "r_key", flow("r"))
    tails = float_body.tails(flow, table)
    float_body.address(flow, table)
    flow.stage("b", "b" in registers, [*float_body.CARRIED, *tails, *kept])
    float_body.interpolate(flow, table)
    flow.stage("c", "c" in registers, ["value", "product", *tails, *kept])
    float_body.finish(flow, tails)
    float_reduction.restore(flow, table)
    flow.wire("answer", 16, f"{flow('forced')} ? {flow('forced_word')} : {flow('restored')}")
    if port == "bf16":
        flow.convert("fp16_to_bf16", "given", "answer")
    else:
        flow.wire("given", 16, "answer")
    flow.stage("d", "d" in registers, ["given"])
    ports = Ports(16, 16, latency)
    return flow.text(ports, flow("given")), ports, answers.at(port)


def key_of(flow: Flow, name: str, source: str) -> None:
    """Bits whose order as unsigned numbers is that of the values."""
    flow.wire(name, 16, f"{source}[15] ? ~{source} : {{1'b1, {source}[14:0]}}")


def _forced(flow: Flow, table: Table, answers: FloatWords) -> None:
    conditions, _, words = zip(*forced(table, answers))
    if table.domain is not None:
        key_of(flow, "x_key", "x")
    flow.chosen(
        [("forced", 1, [0] + [1] * len(words)), ("forced_word", 16, [0x7E00, *words])],
        [f"({c})" for c in conditions],
    )


def forced(table: Table, answers: FloatWords) -> list[tuple[str, np.ndarray, int]]:
    """Inputs whose answer is a constant: NaN, and what lies beyond the domain or cannot be reduced. (Verilog's
    condition on x and x_key, codes, word); of several that hold the last one counts.
    """
    keys, value = ordered(CODES), value_of(CODES)
    made: list[tuple[str, np.ndarray, int]] = []

    def force(condition: str, codes: np.ndarray) -> None:
        found = np.unique(answers.words[codes])
        assert found.size == 1, "inputs answered by one constant"
        made.append((condition, codes, int(found[0])))

    def exactly(code: int) -> None:
        force(f"x == 16'h{code:04x}", np.array([code]))

    if isinstance(table.prologue, ExponentPrologue):
        if not (table.prologue.odd or table.prologue.even):
            force("x[15]", CODES[(CODES > 0x8000) & (CODES <= 0xFC00)])
        for code in (0x0000, 0x8000, 0x7C00, 0xFC00):
            exactly(code)
    if isinstance(table.prologue, PeriodPrologue):
        exactly(0x7C00)
        exactly(0xFC00)
    if table.domain is not None:
        for bound, pole, inside in (
            (table.domain.low, table.domain.low_pole, value >= (table.domain.low or 0.0)),
            (table.domain.high, table.domain.high_pole, value <= (table.domain.high or 0.0)),
        ):
            if bound is None:
                continue
            limits = int(keys[inside].min()), int(keys[inside].max())
            numbers = ~np.isnan(value)
            if bound == table.domain.low and limits[0] > keys[numbers].min():
                force(f"x_key < 16'h{limits[0]:04x}", CODES[numbers & (keys < limits[0])])
            if bound == table.domain.high and limits[1] < keys[numbers].max():
                force(f"x_key > 16'h{limits[1]:04x}", CODES[numbers & (keys > limits[1])])
            if pole:
                for code in CODES[value == bound]:
                    exactly(int(code))
    force("x[14:0] > 15'h7c00", CODES[np.isnan(value)])
    return made
