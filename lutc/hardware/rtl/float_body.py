"""Steps of a floating-point unit between range reduction and its undoing: the piece, the place in it, the value."""

from __future__ import annotations

import numpy as np

from lutc.errors import LutcError
from lutc.formats.float16 import bits_of, float16_add, value_of
from lutc.hardware.rtl.flow import Flow, integer_to_half, ordered
from lutc.table.bodies import Cells, Direct, Exponents, Lines
from lutc.table.table import Table

CARRIED = ("piece", "fraction", "slope", "intercept", "flat", "operand")
LARGEST_PIECES = 1024  # of one interval: their numbers are exact in fp16
_FIELDS = 31  # binades of each sign of fp16
_ONE, _SIGN = 0x3C00, np.uint16(0x8000)
_CODES = np.arange(1 << 16)


def threshold(cut: float, closed: bool) -> int | None:
    """The key of the least fp16 number >= cut (closed) or > cut; None where there is none."""
    value = value_of(_CODES)
    found = ordered(_CODES)[value >= cut if closed else value > cut]
    return int(found.min()) if found.size else None


def _at_least(key: int | None) -> str:
    return "1'b0" if key is None else f"r_key >= 16'h{key:04x}"


def split_scale(factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(bits of powers of two, bits of the rest) of positive factors, as `lutc.certify.arithmetic` splits them."""
    power = np.clip(np.floor(np.log2(factors)), -14, 15)
    return bits_of(np.exp2(power)), bits_of(factors * np.exp2(-power))


def needs_key(table: Table) -> bool:
    """Whether the reduced input is compared with anything."""
    body = table.body
    if isinstance(body, Lines):
        return body.breakpoints.size > 0
    return (isinstance(body, Cells) and len(body.pieces) > 1) or table.left is not None or table.right is not None


def tails(flow: Flow, table: Table) -> list[str]:
    """Lines beyond the cut points: `tailed` says that `tail` is the result."""
    if isinstance(table.body, (Lines, Direct)) or (table.left is None and table.right is None):
        return []
    cuts, parts = table.body.cut_points, []
    for name, tail, beyond in (
        ("left", table.left, f"~({_at_least(threshold(cuts[0], True))})"),
        ("right", table.right, _at_least(threshold(cuts[-1], True))),
    ):
        if tail is None:
            continue
        intercept = f"16'h{int(bits_of(tail.intercept)):04x}"
        if tail.slope == 0.0:
            flow.wire(f"{name}_tail", 16, intercept)
        else:
            flow.operate("mul", f"{name}_rise", f"16'h{int(bits_of(tail.slope)):04x}", flow("r"))
            flow.operate("add", f"{name}_tail", flow(f"{name}_rise"), intercept)
        flow.wire(f"{name}_beyond", 1, beyond)
        parts.append(name)
    flow.wire("tailed", 1, " | ".join(f"{name}_beyond" for name in parts))
    flow.wire("tail", 16, "right_beyond ? right_tail : left_tail" if len(parts) == 2 else f"{parts[0]}_tail")
    return ["tailed", "tail"]


def address(flow: Flow, table: Table) -> None:
    """`piece` and `fraction`; of lines the slope, the intercept and their operand."""
    body = table.body
    if isinstance(body, Lines):
        _lines(flow, body)
    elif isinstance(body, Cells):
        _cells(flow, body)
    elif isinstance(body, Exponents):
        _binades(flow, body)


def _lines(flow: Flow, body: Lines) -> None:
    fields = [("slope", 16, bits_of(body.slopes)), ("intercept", 16, bits_of(body.intercepts))]
    flow.chosen(
        [*fields, ("flat", 1, (body.slopes == 0.0).astype(int))],
        [_at_least(threshold(cut, False)) for cut in body.breakpoints],
    )
    flow.wire("operand", 16, flow("r"))


def _cells(flow: Flow, body: Cells) -> None:
    cuts, pieces = body.cut_points, np.asarray(body.pieces)
    if pieces.max() > LARGEST_PIECES:
        raise LutcError(
            f"a floating-point unit cuts an interval into at most {LARGEST_PIECES} pieces; given {pieces.max()}"
        )
    count, power_rest = int(pieces.max() - 1).bit_length(), split_scale(pieces / np.diff(cuts))
    width = max(1, int(pieces.sum() - 1).bit_length())
    fields = [
        ("below", 16, bits_of(-cuts[:-1])),
        ("power", 16, power_rest[0]),
        ("first", width, np.append(0, np.cumsum(pieces))[:-1]),
    ]
    fields += [("rest", 16, power_rest[1])] if (power_rest[1] != _ONE).any() else []
    fields += [("limit", count, pieces - 1)] if (pieces < pieces.max()).any() else []
    flow.chosen(fields, [_at_least(threshold(cut, True)) for cut in cuts[1:-1]])
    _position(flow, "rest" in flow.bits)
    if not count:
        flow.wire("piece", width, flow("first"))
        flow.operate("add", "fraction", flow("position"), "16'h8000")
        return
    flow.declare("floor", count)
    cases = [("position[15]", f"{count}'d0")]
    for k in range(count):
        bits = f"{{1'b1, position[9:{10 - k}]}}" if k else "1'b1"
        pad = f"{{{count - k - 1}'d0, {bits}}}" if count > k + 1 else bits
        cases.append((f"position[14:10] == 5'd{15 + k}", pad))
    cases.append((f"position[14:10] >= 5'd{15 + count}", f"{{{count}{{1'b1}}}}"))
    flow.choice("floor", cases, f"{count}'d0")
    flow.wire("whole", count, "floor > limit ? limit : floor" if "limit" in flow.bits else "floor")

    integer_to_half(flow, "whole", count, "whole_half")
    flow.operate("add", "fraction", flow("position"), "{1'b1, whole_half}")
    flow.wire("piece", width, f"first + {{{width - count}'d0, whole}}" if width > count else "first + whole")


def _position(flow: Flow, rest: bool) -> None:
    flow.operate("add", "offset", flow("r"), flow("below"))
    flow.operate("mul", "near" if rest else "position", flow("offset"), flow("power"))
    if rest:
        flow.operate("mul", "position", flow("near"), flow("rest"))


def _binades(flow: Flow, body: Exponents) -> None:
    """The piece by sign, exponent and the top bits of the mantissa; below zero those of the number before, so that an
    edge belongs to the piece on its right.
    """
    pieces = body.edges.size - 1
    width = max(1, (pieces - 1).bit_length())
    keys, first, shift = binades_of(body)
    r = flow("r")
    flow.wire("negative", 1, f"{r}[15] & ({r}[14:0] != 15'd0)")
    flow.wire("distance", 15, f"negative ? {r}[14:0] - 15'd1 : {r}[14:0]")
    flow.wire("binade", 6, "{negative, distance[14:10]}")
    flow.table([("nearest", width, first), ("mantissa_shift", 4, shift)], "binade", 6, keys)
    flow.wire("top", 10, "distance[9:0] >> mantissa_shift")
    grown = f"{{{width - 10}'d0, top}}" if width > 10 else f"top[{width - 1}:0]"
    flow.wire("piece", width, f"negative ? nearest - {grown} : nearest + {grown}")
    if width < 10:
        flow.wire("unused_top", 1, f"&{{1'b0, top[9:{width}]}}")
    power, rest = split_scale(1.0 / np.diff(body.edges))
    stored = [("below", 16, bits_of(-body.edges[:-1])), ("power", 16, power)]
    stored += [("rest", 16, rest)] if (rest != _ONE).any() else []
    flow.table(stored, "piece", width, range(pieces))
    _position(flow, "rest" in flow.bits)
    flow.wire("fraction", 16, "position")


def binades_of(body: Exponents) -> tuple[list[int], list[int], list[int]]:
    """Of fp16's binades: sign and exponent field, the piece nearest to zero, and how far the mantissa is shifted to the
    right to be counted from there. Of a table that bf16 addresses too, whose own binades are fp16's from 2^-14 on;
    LutcError where such a table has several pieces below.
    """
    keys, first, shift = [], [], []
    fields = len(body.mantissa_bits) // 2
    for sign in (0, 1):
        for field in range(_FIELDS + 1 - sign):
            own = field if body.input == "fp16" else field - 15 + 127
            bits = -1 if field == _FIELDS else body.mantissa_bits[fields - 1 - own if sign else fields + own]
            if field == 0 and body.input != "fp16":
                bits = 0
                codes = np.arange(1, 0x401) | 0x8000 if sign else np.arange(0x400)
                if np.ptp(body.segment(value_of(codes.astype(np.uint16)))):
                    raise LutcError(
                        "a floating-point unit reckons in fp16, whose numbers below 2^-14 lie in one binade; this "
                        "table of bf16 has several pieces there: compile it with --inputs fp16"
                    )
            least = np.array([(sign << 15) + (field << 10) + sign], np.uint16)
            keys.append((sign << 5) | field)
            first.append(int(body.segment(value_of(least))[0]))
            shift.append(10 - max(bits, 0))
    return keys, first, shift


def interpolate(flow: Flow, table: Table) -> None:
    """`value` and `product`, whose sum is the table's result."""
    if isinstance(table.body, Lines):
        flow.operate("mul", "rise", flow("slope"), flow("operand"))
        flow.wire("value", 16, flow("intercept"))
        # the intercept alone where the slope is 0: x + -0 is x
        flow.wire("product", 16, f"{flow('flat')} ? 16'h8000 : rise")
        return
    values = bits_of(table.body.values)
    steps = float16_add(values[1:], values[:-1] ^ _SIGN, flow.rounding)
    pieces = steps.size
    flow.table([("value", 16, values[:-1]), ("step", 16, steps)], flow("piece"), flow.bits["piece"], range(pieces))
    flow.operate("mul", "product", flow("fraction"), flow("step"))


def finish(flow: Flow, tails: list[str]) -> None:
    flow.operate("add", "sum", flow("value"), flow("product"))
    flow.wire("result", 16, f"{flow('tailed')} ? {flow('tail')} : sum" if tails else "sum")
