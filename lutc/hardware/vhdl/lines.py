"""The unit of lines over codes (`lutc.hardware.rtl.lines`) in VHDL-2008: the same widths, steps and registers."""

from __future__ import annotations

from collections.abc import Sequence

from lutc.formats.codes import HALF_AWAY, HALF_UP
from lutc.hardware.rtl.lines import REGISTERS, LineUnit, LoadableUnit, trimmed
from lutc.hardware.rtl.requantiser import Requantiser
from lutc.hardware.rtl.verilog import Ports
from lutc.hardware.vhdl.text import LIBRARIES, clocked, constant, entity, signal


def module(name: str, made: LineUnit, latency: int) -> tuple[str, Ports]:
    """VHDL and ports of the entity `name`."""
    return _Entity(name, made, latency).text()


class _Entity:
    def __init__(self, name: str, made: LineUnit, latency: int):
        self.name, self.made, self.latency = name, made, latency
        self.ports = Ports(made.q_bits, made.out_bits, latency, made.select_bits, made.load)
        self.declared: list[str] = []
        self.body: list[str] = []

    def declare(self, name: str, bits: int, signed: bool = True) -> None:
        self.declared.append(signal(name, bits, signed))

    def let(self, name: str, bits: int, value: str) -> None:
        self.declare(name, bits)
        self.body.append(f"  {name} <= {value};")

    def text(self) -> tuple[str, Ports]:
        made = self.made
        slope, intercept, centred = made.slope_bits, made.intercept_bits, made.centred_bits
        self.let("code_in", made.q_bits, "signed(in_data)")
        self._centred()
        self._loadable(made) if isinstance(made, LoadableUnit) else self._constants()
        self._stage("a", {"slope": slope, "intercept": intercept, "centred": centred})
        product, acc = made.product_bits, made.acc_bits
        self.let("product", product, f"resize(slope_a * centred_a, {product})")
        self._stage("b", {"product": product, "intercept_a": intercept})
        self.let("acc", acc, f"resize(product_b, {acc}) + resize(intercept_b, {acc})")
        self._stage("c", {"acc": acc})
        self._codes()
        self._stage("d", {"code": made.out_bits})
        self.body.append("  out_data <= std_logic_vector(code_d);")
        architecture = [
            f"architecture rtl of {self.name} is",
            *self._control_signals(),
            *self.declared,
            "begin",
            *self._control(),
            *self.body,
            "end architecture rtl;",
        ]
        return "\n".join([LIBRARIES, entity(self.name, self.ports), "", *architecture]) + "\n", self.ports

    def _stage(self, step: str, signals: dict[str, int]) -> None:
        """Signals on to the next step, under their name and the step's, through a register or not."""
        before = chr(ord(step) - 1)
        names = [(source, f"{source.removesuffix(f'_{before}')}_{step}", bits) for source, bits in signals.items()]
        for _, target, bits in names:
            self.declare(target, bits)
        moves = [f"{target} <= {source};" for source, target, _ in names]
        if self.made.select_bits and step != "d":
            self.declare(f"select_{step}", self.made.select_bits, False)
            moves.append(f"select_{step} <= {'in_select' if step == 'a' else f'select_{before}'};")
        registered = step in REGISTERS[self.latency]
        self.body += clocked(moves, "advance = '1'") if registered else [f"  {move}" for move in moves]

    def _control_signals(self) -> list[str]:
        if not self.latency:
            return []
        return [signal("valid", self.latency, False), "  signal advance : std_logic;"]

    def _control(self) -> list[str]:
        """The valid bits beside the registers."""
        n = self.latency
        if n == 0:
            return ["  in_ready <= out_ready;", "  out_valid <= in_valid;"]
        following = [f"valid({i}) <= {f'valid({i - 1})' if i else 'in_valid'};" for i in range(n)]
        moves = ["if rst = '1' then", "  valid <= (others => '0');", "elsif advance = '1' then"]
        return [
            f"  out_valid <= valid({n - 1});",
            f"  advance <= out_ready or not valid({n - 1});",
            "  in_ready <= advance;",
            *clocked([*moves, *(f"  {move}" for move in following), "end if;"]),
        ]

    def _by_scale(self, choices: Sequence[Sequence[str]], select: str) -> list[str]:
        """A case of `select`, a body for each unit; the last one also for numbers that no unit has."""
        if all(choice == choices[0] for choice in choices):
            return ["  process (all) begin", *(f"    {line}" for line in choices[0]), "  end process;"]
        lines = ["  process (all) begin", f"    case to_integer(unsigned({select})) is"]
        for i, choice in enumerate(choices):
            label = "others" if i == len(choices) - 1 else str(i)
            lines += [f"      when {label} =>", *(f"        {line}" for line in choice)]
        return [*lines, "    end case;", "  end process;"]

    def _centred(self) -> None:
        bits = self.made.centred_bits
        self.declare("centred", bits)
        grown = f"resize(code_in, {bits})"
        choices = [
            [f"centred <= {grown}{f' - {constant(u.inputs.zero_point, bits)}' if u.inputs.zero_point else ''};"]
            for u in self.made.units
        ]
        self.body += self._by_scale(choices, "in_select")

    def _constants(self) -> None:
        """Slope and intercept by comparison of the code with all cuts at once: the last cut below it decides."""
        slope, intercept = self.made.slope_bits, self.made.intercept_bits
        self.declare("slope", slope)
        self.declare("intercept", intercept)
        choices = []
        for unit in self.made.units:
            cuts, slopes, intercepts = trimmed(unit)
            chosen = [
                f"slope <= {constant(k, slope)}; intercept <= {constant(t, intercept)};"
                for k, t in zip(slopes, intercepts)
            ]
            choices.append([chosen[0], *(f"if code_in > {c} then {x} end if;" for c, x in zip(cuts, chosen[1:]))])
        self.body += self._by_scale(choices, "in_select")

    def _loadable(self, made: LoadableUnit) -> None:
        (address, data), line = made.load, made.slope_bits + made.intercept_bits
        self.declared.append(
            f"  type words is array (0 to {(1 << address) - 1}) of std_logic_vector({data - 1} downto 0);"
        )
        self.declared.append("  signal entries : words;")
        self.body += clocked(["entries(to_integer(unsigned(load_address))) <= load_data;"], "load_valid = '1'")
        n = max(unit.slopes.size for unit in made.units)
        index = "0" if not made.select_bits else f"to_integer(unsigned(in_select)) * {1 << made.index_bits}"
        self.declared.append(f"  signal chosen : std_logic_vector({line - 1} downto 0);")
        body = [f"chosen <= entries({index})({line - 1} downto 0);"]
        for i in range(1, n):
            entry = f"entries({index} + {i})"
            body.append(
                f"if code_in > signed({entry}({data - 1} downto {line})) then chosen <= {entry}({line - 1} downto 0); "
                "end if;"
            )
        self.body += self._by_scale([body], "in_select")
        self.let("slope", made.slope_bits, f"signed(chosen({line - 1} downto {made.intercept_bits}))")
        self.let("intercept", made.intercept_bits, f"signed(chosen({made.intercept_bits - 1} downto 0))")

    def _codes(self) -> None:
        made = self.made
        every = [requantiser for requantiser in made.requantisers if requantiser is not None]
        if not every:
            self.let("code", made.out_bits, "acc_c")
        elif len(set(every)) == 1:
            self._requantised(every[0], "code")
        else:
            for i, requantiser in enumerate(every):
                self._requantised(requantiser, f"code_{i}")
            self.declare("code", made.out_bits)
            self.body += self._by_scale([[f"code <= code_{i};"] for i in range(len(made.units))], "select_c")

    def _requantised(self, r: Requantiser, code: str) -> None:
        out, bits, half = r.out, max(r.bits, self.made.acc_bits), (1 << r.shift) >> 1
        grown = f"resize(acc_c, {bits})"
        product = f"resize({grown} * {constant(r.multiplier, bits)}, {bits})" if r.multiplier != 1 else grown
        self.let(f"{code}_product", bits, product)
        added = constant(half, bits)
        if half and out.rounding != HALF_UP:
            bit, one = (bits - 1, "'1'") if out.rounding == HALF_AWAY else (r.shift, "'0'")
            self.let(
                f"{code}_half",
                bits,
                f"{constant(half - 1, bits)} when {code}_product({bit}) = {one} else {constant(half, bits)}",
            )
            added = f"{code}_half"
        scaled = f"shift_right({code}_product + {added}, {r.shift})" if half else f"{code}_product"
        zero = f" + {constant(out.zero_point, bits)}" if out.zero_point else ""
        self.let(f"{code}_whole", bits, f"{scaled}{zero}")
        least, most = constant(out.minimum, out.bits), constant(out.maximum, out.bits)
        text = f"resize({code}_whole, {out.bits})"
        if r.reach[1] > out.maximum:
            text = f"{most} when {code}_whole > {out.maximum} else {text}"
        if r.reach[0] < out.minimum:
            text = f"{least} when {code}_whole < {out.minimum} else {text}"
        self.let(code, out.bits, text)
