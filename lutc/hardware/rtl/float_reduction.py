"""Range reduction of a floating-point unit and its undoing, by the numbers of a table's prologue."""

from __future__ import annotations

import numpy as np

from lutc.errors import LutcError
from lutc.formats.float16 import bits_of, float16_mul, value_of
from lutc.hardware.bits import signed_bits
from lutc.hardware.rtl.flow import Field, Flow, integer_to_half
from lutc.table.prologues import AbsPrologue, ExponentPrologue, PeriodPrologue
from lutc.table.table import Table

_CODES = np.arange(1 << 16)
_ONE = 0x3C00
LARGEST_COUNT = 64  # periods beyond which a result that grows by two with each is 0 or too large


def reduce(flow: Flow, table: Table) -> list[str]:
    """`r`, what the table's body is given; returns the signals that undoing needs."""
    prologue = table.prologue
    if isinstance(prologue, ExponentPrologue):
        return _exponent(flow, prologue)
    if isinstance(prologue, PeriodPrologue):
        return _period(flow, prologue)
    flow.wire("r", 16, "{1'b0, x[14:0]}" if isinstance(prologue, AbsPrologue) else "x")
    return ["x"] if isinstance(prologue, AbsPrologue) else []


def restore(flow: Flow, table: Table) -> None:
    """`restored` from `result`."""
    prologue = table.prologue
    if isinstance(prologue, AbsPrologue):
        _identity(flow, prologue)
        return
    result = flow("result")
    for name in ("near", "far"):
        if f"{name}_power" in flow.bits:
            flow.operate("mul", f"{name}_result", result, flow(f"{name}_power"))
            result = f"{name}_result"
    if "addend" in flow.bits:
        flow.operate("add", "added", result, flow("addend"))
        result = "added"
    if isinstance(prologue, ExponentPrologue) and prologue.odd:
        result = f"{result} | {{{flow('odd_sign')}, 15'd0}}"
    flow.wire("restored", 16, result)


def powers_of_two(exponents: np.ndarray) -> list[Field]:
    """2^exponent in two factors, as `lutc.certify.arithmetic` shifts; those that are always 1 are left out."""
    near = np.clip(exponents, -14, 15)
    both = {"near_power": near, "far_power": np.clip(exponents - near, -24, 15)}
    fields: list[Field] = [(name, 16, bits_of(np.exp2(power.astype(np.float64)))) for name, power in both.items()]
    return [field for field in fields if (np.asarray(field[2]) != _ONE).any()]


def _exponent(flow: Flow, prologue: ExponentPrologue) -> list[str]:
    """x = m 2^(step e): `place` is the exponent of the leading bit + 24, 0 to 39."""
    for name, bits in (("place", 6), ("mantissa", 10)):
        flow.declare(name, bits)
    subnormal = [
        (f"x[14:{p}] == {15 - p}'d1", f"{{6'd{p}, " + (f"x[{p - 1}:0], {10 - p}'d0}}" if p else "10'd0}"))
        for p in range(10)
    ]
    flow.choice("{place, mantissa}", subnormal, "{{1'b0, x[14:10]} + 6'd9, x[9:0]}")
    if prologue.step == 2:
        flow.wire("r", 16, "{6'd15 + {5'd0, place[0]}, mantissa}")
        flow.wire("index", 5, "place[5:1]")
    else:
        flow.wire("r", 16, "{6'd15, mantissa}")
        flow.wire("index", 6, "place")
    if prologue.odd:
        flow.wire("odd_sign", 1, "x[15]")
    e = np.arange(40 // prologue.step) - 24 // prologue.step
    fields = powers_of_two(prologue.growth * e)
    if prologue.offset:
        addend = float16_mul(np.full(e.size, bits_of(prologue.offset)), bits_of(e), flow.rounding)
        fields.append(("addend", 16, addend))
    if fields:
        flow.table(fields, "index", flow.bits["index"], np.arange(e.size))
    return [name for name, _, _ in fields] + (["odd_sign"] if prologue.odd else [])


def _period(flow: Flow, prologue: PeriodPrologue) -> list[str]:
    """n = floor(x / period) by a product with 1 / period, exact on every fp16 number; r = x - n period in two parts."""
    value = value_of(_CODES)
    codes = _CODES[np.isfinite(value)]
    n = np.floor(value[codes] / prologue.period).astype(np.int64)
    factor, places = reciprocal(codes, n, prologue.period)
    bits = max(factor.bit_length() + 12, 2)
    width = signed_bits(int(n.min()), int(n.max()))
    flow.declare("magnified", bits)
    grown = f"{{{bits - 11}'d0, x[14:10] != 5'd0, x[9:0]}} * {bits}'d{factor}"
    flow.line(f"assign magnified = x[15] ? -({grown}) : {grown};")
    flow.wire("shift", 6, f"6'd{places + 25} - {{1'b0, x[14:10] == 5'd0 ? 5'd1 : x[14:10]}}")
    flow.wire("periods", bits, "$unsigned($signed(magnified) >>> shift)")
    used = min(width, bits)
    flow.wire("n", used, f"periods[{used - 1}:0]")
    if bits > used:
        flow.wire("unused_periods", 1, f"&{{1'b0, periods[{bits - 1}:{used}]}}")
    flow.wire("magnitude", used, f"n[{used - 1}] ? -n : n")
    start, count, count_bits, sign = "x", "magnitude", used, "~x[15]"
    if prologue.growth:
        flow.wire("far", 1, f"magnitude > {used}'d{LARGEST_COUNT}" if used > 7 else "1'b0")
        flow.wire("start", 16, "far ? 16'd0 : x")
        count_bits = min(used, LARGEST_COUNT.bit_length())
        flow.wire("count", count_bits, f"far ? {count_bits}'d0 : magnitude[{count_bits - 1}:0]")
        start, count, sign = "start", "count", "~x[15] & ~far"
        limit = f"{used}'d{LARGEST_COUNT}"
        flow.wire("clipped", used, f"far ? (x[15] ? -{limit} : {limit}) : n" if used > 7 else "n")
    integer_to_half(flow, count, count_bits, "count_half")
    flow.wire("minus", 16, f"{{{sign}, count_half}}")
    scale = np.exp2(np.floor(np.log2(prologue.period)) - 5)
    high = np.rint(prologue.period / scale) * scale
    flow.operate("mul", "high", "minus", f"16'h{int(bits_of(high)):04x}")
    flow.operate("add", "r_high", start, "high")
    flow.operate("mul", "low", "minus", f"16'h{int(bits_of(prologue.period - high)):04x}")
    flow.operate("add", "r", "r_high", "low")
    if not prologue.growth:
        return []
    counts = np.arange(-min(LARGEST_COUNT, 1 << (used - 1)), min(LARGEST_COUNT, (1 << (used - 1)) - 1) + 1)
    fields = powers_of_two(prologue.growth * counts)
    flow.table(fields, "clipped", used, counts)
    return [name for name, _, _ in fields]


def reciprocal(codes: np.ndarray, n: np.ndarray, period: float) -> tuple[int, int]:
    """(factor, places): floor(x / period) = significand * factor >> (places + 25 - exponent) for every code."""
    field = np.maximum((codes >> 10) & 31, 1)
    significand = (codes & 0x3FF) | np.where((codes >> 10) & 31, 1024, 0)
    signed = np.where(codes & 0x8000, -significand, significand)
    for places in range(5, 36):
        for factor in (int(np.floor(2.0**places / period)), int(np.ceil(2.0**places / period))):
            if 0 < factor < 1 << 40 and np.array_equal((signed * factor) >> (places + 25 - field), n):
                return factor, places
    raise LutcError(f"no product of 40 bits finds the period {period:g} of every fp16 number")


def _identity(flow: Flow, prologue: AbsPrologue) -> None:
    """factor * T(|x|) + (slope * x + intercept), by the sign of x; -0 counts as positive."""
    flow.wire("below_zero", 1, f"{flow('x')}[15] & ({flow('x')}[14:0] != 15'd0)")
    both = (prologue.positive, prologue.negative)
    rows = [[int(bits_of(line[i])) for line in both] for i in range(3)]
    fields = [("factor", 16, rows[0]), ("slope", 16, rows[1]), ("rise_from", 16, rows[2])]
    flags = [
        ("scaled", 1, [int(line[0] != 0.0) for line in both]),
        ("sloped", 1, [int(line[1] != 0.0) for line in both]),
    ]
    flow.chosen([*fields, *flags], ["below_zero"])
    flow.operate("mul", "times", "factor", flow("result"))
    flow.operate("add", "turned", "times", "16'h0000")
    flow.operate("mul", "slanted", "slope", flow("x"))
    flow.operate("add", "raised", "slanted", "rise_from")
    flow.operate("add", "restored", "scaled ? turned : 16'h0000", "sloped ? raised : rise_from")
