"""C++ of units of float tables in fp16 arithmetic: the steps of `lutc.hardware.rtl.floating`, over constant arrays."""

from __future__ import annotations

import numpy as np

from lutc.errors import LutcError
from lutc.formats.float16 import bits_of, float16_add, float16_mul, value_of
from lutc.hardware.hls.text import braced
from lutc.hardware.rtl.float_body import LARGEST_PIECES, binades_of, split_scale, threshold
from lutc.hardware.rtl.float_reduction import LARGEST_COUNT, powers_of_two, reciprocal
from lutc.hardware.rtl.floating import CODES, FloatWords, check, forced
from lutc.table.bodies import Cells, Direct, Exponents, Lines
from lutc.table.prologues import AbsPrologue, ExponentPrologue, PeriodPrologue
from lutc.table.table import Table

_NEVER = 0x10000  # a key that no number reaches
_SIGN = np.uint16(0x8000)


def function(module: str, table: Table, arithmetic: str, port: str) -> tuple[str, np.ndarray]:
    """uint16_t MODULE(uint16_t x) over the bits of floats, and its answers (65536,) as signed words."""
    check(table, arithmetic, 0, port)
    answers = FloatWords.of(table, arithmetic)
    text = _Text(arithmetic.removeprefix("fp16_") == "trunc", arithmetic.removeprefix("fp16_"))
    text.forced(table, answers)
    restore = text.reduce(table)
    text.body(table)
    text.tails(table)
    restore()
    name = module if port == "fp16" else f"{module}_fp16"
    found = f"inline uint16_t {name}(uint16_t x) {{\n" + "\n".join(text.lines) + "\n  return result;\n}"
    if port == "bf16":
        found += (
            f"\n\ninline uint16_t {module}(uint16_t x) {{\n"
            f"  return lutc::bfloat_of_half({name}(lutc::half_of_bfloat(x)));\n}}"
        )
    return found, answers.at(port)


class _Text:
    """Statements of the function; `operator` names a sum or a product in the arithmetic."""

    def __init__(self, truncates: bool, rounding: str):
        self.truncates, self.rounding = str(truncates).lower(), rounding
        self.lines: list[str] = []

    def add(self, a: str, b: str) -> str:
        return f"lutc::half_add<{self.truncates}>({a}, {b})"

    def mul(self, a: str, b: str) -> str:
        return f"lutc::half_mul<{self.truncates}>({a}, {b})"

    def let(self, name: str, value: str, kind: str = "uint16_t") -> None:
        self.lines.append(f"  const {kind} {name} = {value};")

    def array(self, name: str, values, kind: str = "uint16_t") -> None:
        values = [int(value) for value in values]
        self.lines.append(f"  static const {kind} {name}[{len(values)}] = {braced(values)};")

    def forced(self, table: Table, answers: FloatWords) -> None:
        """Runs of codes that have one answer."""
        word = np.full(CODES.size, -1)
        for _, codes, answer in forced(table, answers):
            word[codes] = answer
        starts = np.flatnonzero(np.diff(word, prepend=-2))
        runs = [(first, last - 1) for first, last in zip(starts, [*starts[1:], CODES.size]) if word[first] >= 0]
        self.array("first", [run[0] for run in runs])
        self.array("last", [run[1] for run in runs])
        self.array("word", [word[run[0]] for run in runs])
        self.lines += [
            f"  for (int i = 0; i < {len(runs)}; ++i) {{",
            "    LUTC_PRAGMA(HLS UNROLL)",
            "    if (x >= first[i] && x <= last[i]) return word[i];",
            "  }",
        ]

    def chosen(self, thresholds, fields) -> None:
        """The interval by keys, and a constant of it for each field."""
        keys = [_NEVER if key is None else key for key in thresholds]
        if keys:
            self.array("keys", keys, "uint32_t")
            self.let("interval", "lutc::reached(keys, lutc::half_key(r))", "int")
        for name, values in fields:
            if keys:
                self.array(f"{name}_of", values)
                self.let(name, f"{name}_of[interval]")
            else:
                self.let(name, str(int(values[0])))

    # --- range reduction

    def reduce(self, table: Table):
        """`r`; returns what makes `result` of `inner`."""
        prologue = table.prologue
        if isinstance(prologue, ExponentPrologue):
            return self.exponent(prologue)
        if isinstance(prologue, PeriodPrologue):
            return self.period(prologue)
        if isinstance(prologue, AbsPrologue):
            self.let("r", "static_cast<uint16_t>(x & 0x7fff)")
            return lambda: self.identity(prologue)
        self.let("r", "x")
        return lambda: self.let("result", "inner")

    def exponent(self, prologue: ExponentPrologue):
        self.lines.append("  uint16_t mantissa = 0;")
        self.let("place", "lutc::leading_place(static_cast<uint16_t>(x & 0x7fff), mantissa)", "int")
        above = " + (place & 1)" if prologue.step == 2 else ""
        self.let("r", f"static_cast<uint16_t>(((15{above}) << 10) | mantissa)")
        e = np.arange(40 // prologue.step) - 24 // prologue.step
        fields = [(name, values) for name, _, values in powers_of_two(prologue.growth * e)]
        if prologue.offset:
            addend = float16_mul(np.full(e.size, bits_of(prologue.offset)), bits_of(e), self.rounding)
            fields.append(("addend", addend))
        index = "place >> 1" if prologue.step == 2 else "place"

        def restore() -> None:
            for name, values in fields:
                self.array(name, values)
            value = self.scaled("inner", [name for name, _ in fields if name != "addend"], index)
            if prologue.offset:
                value = self.add(value, f"addend[{index}]")
            sign = " | (x & 0x8000)" if prologue.odd else ""
            self.let("result", f"static_cast<uint16_t>({value}{sign})")

        return restore

    def scaled(self, value: str, powers: list[str], index: str) -> str:
        for name in powers:
            value = self.mul(value, f"{name}[{index}]")
        return value

    def period(self, prologue: PeriodPrologue):
        value = value_of(CODES)
        codes = CODES[np.isfinite(value)]
        factor, places = reciprocal(codes, np.floor(value[codes] / prologue.period).astype(np.int64), prologue.period)
        self.let("n", f"lutc::whole_periods(x, INT64_C({factor}), {places})", "int64_t")
        count, start, sign = "n < 0 ? -n : n", "x", "(x & 0x8000) == 0"
        fields = []
        if prologue.growth:
            self.let("far", f"n > {LARGEST_COUNT} || n < -{LARGEST_COUNT}", "bool")
            count, start, sign = f"far ? 0 : ({count})", "static_cast<uint16_t>(far ? 0 : x)", f"({sign}) && !far"
            counts = np.arange(-LARGEST_COUNT, LARGEST_COUNT + 1)
            fields = [(name, values) for name, _, values in powers_of_two(prologue.growth * counts)]
        self.let("minus", f"static_cast<uint16_t>(lutc::half_of_integer({count}) | (({sign}) ? 0x8000 : 0))")
        scale = np.exp2(np.floor(np.log2(prologue.period)) - 5)
        high = np.rint(prologue.period / scale) * scale
        self.let("r_high", self.add(start, self.mul("minus", str(int(bits_of(high))))))
        self.let("r", self.add("r_high", self.mul("minus", str(int(bits_of(prologue.period - high))))))

        def restore() -> None:
            if not fields:
                return self.let("result", "inner")
            for name, values in fields:
                self.array(name, values)
            limit = f"(n > {LARGEST_COUNT} ? {LARGEST_COUNT} : n < -{LARGEST_COUNT} ? -{LARGEST_COUNT} : n)"
            self.let("clipped", f"{limit} + {LARGEST_COUNT}", "int64_t")
            return self.let("result", self.scaled("inner", [name for name, _ in fields], "clipped"))

        return restore

    def identity(self, prologue: AbsPrologue) -> None:
        """factor * T(|x|) + (slope * x + intercept), by the sign of x; -0 counts as positive."""
        self.let("below_zero", "x > 0x8000", "bool")
        both = (prologue.positive, prologue.negative)
        for i, name in enumerate(("factor", "slant", "rise")):
            positive, negative = (int(bits_of(line[i])) for line in both)
            self.let(name, f"below_zero ? {negative} : {positive}")
        for name, at in (("scaled", 0), ("sloped", 1)):
            above, below = (str(line[at] != 0.0).lower() for line in both)
            self.let(name, f"below_zero ? {below} : {above}", "bool")
        self.let("turned", f"scaled ? {self.add(self.mul('factor', 'inner'), '0')} : uint16_t(0)")
        self.let("raised", f"sloped ? {self.add(self.mul('slant', 'x'), 'rise')} : rise")
        self.let("result", self.add("turned", "raised"))

    # --- the piece, the place in it, the value

    def body(self, table: Table) -> None:
        """`sum`, without the tails."""
        body = table.body
        if isinstance(body, Lines):
            fields = [("slope", bits_of(body.slopes)), ("intercept", bits_of(body.intercepts))]
            flat = (body.slopes == 0.0).astype(int)
            self.chosen([threshold(cut, False) for cut in body.breakpoints], [*fields, ("flat", flat)])
            self.let("sum", self.add("intercept", f"flat ? uint16_t(0x8000) : {self.mul('slope', 'r')}"))
            return
        if isinstance(body, Cells):
            self.cells(body)
        elif isinstance(body, Exponents):
            self.binades(body)
        assert not isinstance(body, Direct)
        values = bits_of(body.values)
        self.array("values", values[:-1])
        self.array("steps", float16_add(values[1:], values[:-1] ^ _SIGN, self.rounding))
        self.let("sum", self.add("values[piece]", self.mul("fraction", "steps[piece]")))

    def cells(self, body: Cells) -> None:
        cuts, pieces = body.cut_points, np.asarray(body.pieces)
        if pieces.max() > LARGEST_PIECES:
            raise LutcError(
                f"a floating-point unit cuts an interval into at most {LARGEST_PIECES} pieces; given {pieces.max()}"
            )
        power, rest = split_scale(pieces / np.diff(cuts))
        first = np.append(0, np.cumsum(pieces))[:-1]
        fields = [("below", bits_of(-cuts[:-1])), ("power", power), ("rest", rest), ("base", first)]
        self.chosen([threshold(cut, True) for cut in cuts[1:-1]], [*fields, ("limit", pieces - 1)])
        self.let("position", self.mul(self.mul(self.add("r", "below"), "power"), "rest"))
        self.let("whole", "lutc::whole_part(position, limit)", "int")
        self.let("fraction", self.add("position", "static_cast<uint16_t>(0x8000 | lutc::half_of_integer(whole))"))
        self.let("piece", "base + whole", "int")

    def binades(self, body: Exponents) -> None:
        nearest, shift = np.zeros(64, int), np.zeros(64, int)
        keys, nearest_of, shift_of = binades_of(body)
        nearest[keys], shift[keys] = nearest_of, shift_of
        self.array("nearest", nearest)
        self.array("places", shift)
        self.let("negative", "(r & 0x8000) && (r & 0x7fff)", "bool")
        self.let("distance", "negative ? (r & 0x7fff) - 1 : (r & 0x7fff)", "int")
        self.let("binade", "(negative ? 32 : 0) | (distance >> 10)", "int")
        self.let("top", "(distance & 0x3ff) >> places[binade]", "int")
        self.let("piece", "negative ? nearest[binade] - top : nearest[binade] + top", "int")
        power, rest = split_scale(1.0 / np.diff(body.edges))
        for name, values in (("below", bits_of(-body.edges[:-1])), ("power", power), ("rest", rest)):
            self.array(name, values)
        near = self.mul(self.add("r", "below[piece]"), "power[piece]")
        self.let("fraction", self.mul(near, "rest[piece]"))

    def tails(self, table: Table) -> None:
        """`inner`: the sum, or a line beyond the cut points."""
        if isinstance(table.body, (Lines, Direct)) or (table.left is None and table.right is None):
            self.let("inner", "sum")
            return
        cuts, value = table.body.cut_points, "sum"
        for tail, key, beyond in (
            (table.left, threshold(cuts[0], True), "<"),
            (table.right, threshold(cuts[-1], True), ">="),
        ):
            if tail is None:
                continue
            line = f"uint16_t({int(bits_of(tail.intercept))})"
            if tail.slope != 0.0:
                line = self.add(self.mul(str(int(bits_of(tail.slope))), "r"), str(int(bits_of(tail.intercept))))
            value = f"lutc::half_key(r) {beyond} {_NEVER if key is None else key}u ? {line} : {value}"
        self.let("inner", value)
