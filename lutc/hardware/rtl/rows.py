"""Units for rows, one element a cycle: softmax, LayerNorm and RMSNorm as `lutc.hardware.rows` computes them.

Four rows are held at once. A row is taken in (softmax keeps its largest code, a norm the sums of codes and squares);
its scale is computed (softmax passes over it once more, for the sum of exponentials); it is given out.
"""

from __future__ import annotations

from collections.abc import Sequence

from lutc.formats.requantise import INT32_MAX, requantiser
from lutc.hardware.export.memory import memh
from lutc.hardware.rows import (
    DEVIATION_BITS,
    EXP_BITS,
    LARGEST_DEVIATION,
    RECIPROCAL_INPUTS,
    ROOT_BITS,
    RSQRT_INPUTS,
    IntegerNormModel,
    IntegerSoftmaxModel,
    OutputCodes,
    exp_codes,
)
from lutc.hardware.rtl.ranged import Arithmetic, Ranged, constant
from lutc.hardware.rtl.verilog import Ports

PORTS = Ports(8, 8, 4, last=True)
GIVE = "advance & giving"


def softmax(name: str, model: IntegerSoftmaxModel, longest: int) -> dict[str, str]:
    """NAME.sv of rows of at most `longest` codes. LutcError where their sum could leave int32."""
    model.check_row(longest)
    a = Arithmetic()
    address = max(1, (longest - 1).bit_length())
    top = a.let("top_sum", -128, 127, "top_of[sum_row]")
    weight = _weight(a, "sum", Ranged("sum_code", -128, 127), top, model)
    weight_s = a.register("weight_s", weight)
    total = a.declare("total", 0, weight.high * longest)
    bits = total.bits
    a.lines.append(
        f"  always_ff @(posedge clk) if (valid_s) total <= {a.wide(weight_s, bits)} + (first_s ? {bits}'sd0 : total);"
    )
    lead = a.leading("lead", total)
    lead = Ranged("lead", 0, lead.high)
    mantissa = a.normalised("mantissa", total, lead, lambda i: 14 - i, 1 << 14, RECIPROCAL_INPUTS.maximum)
    root = _root(a, mantissa, model.reciprocal)
    given = _weight(a, "give", Ranged("give_code", -128, 127), a.let("top_give", -128, 127, "top_of[give_row]"), model)
    weight_g = a.register("weight_g", given, GIVE)
    root_g = a.register("root_g", Ranged("root_of[give_row]", root.low, root.high), GIVE)
    least = int(exp_codes(model.exp, 0)).bit_length() - 1  # the sum has at least the exponential of 0
    lead_of = Ranged("lead_of[give_row]", 0, lead.high)
    lead_g = Ranged(a.register("lead_g", lead_of, GIVE).name, 0, lead.high)
    multiplier, shift = requantiser(2.0**-ROOT_BITS / model.out.scale)
    places = a.add("places", lead_g, constant(shift))
    product = a.multiply("product", weight_g, root_g)
    scaled = a.shifted("scaled", product, multiplier, Ranged("places", max(1, least + shift), places.high), places.bits)
    code = _code(a, scaled, model.out)
    arrays = {"top_of": Ranged("", -128, 127), "root_of": root, "lead_of": lead}
    steps = _SOFTMAX % {"last": address - 1}
    return {f"{name}.sv": _module(name, address, arrays, steps, a, code)}


def norm(name: str, model: IntegerNormModel) -> dict[str, str]:
    """NAME.sv of rows of model.n codes, and the image of the weights and biases where there are some."""
    a, n, z = Arithmetic(), model.n, model.zero_point
    address = max(1, (n - 1).bit_length())
    low, high = -128 - z, 127 - z
    c = a.subtract("centred", Ranged("in_data", -128, 127), constant(z))
    square = a.multiply("square", c, c)
    largest = max(low * low, high * high)
    total, squares = a.declare("total", n * low, n * high), a.declare("squares", 0, n * largest)
    for kept, term in ((total, c), (squares, square)):
        text = a.wide(term, kept.bits)
        a.lines.append(
            f"  always_ff @(posedge clk) if (accept) {kept.name} <= {text} + (fill_at == {address}'d0 ? "
            f"{kept.bits}'sd0 : {kept.name});"
        )
    mean, rest, spread = constant(0), constant(0), squares
    if model.centred:
        mean = a.narrowed("mean", a.divided("mean_whole", total, n), low, high)
        whole = a.subtract("rest_signed", total, a.multiply("mean_n", mean, constant(n)))
        rest = a.narrowed("rest", whole, -(n // 2) - 1, n // 2 + 1)
        # the sum of (c - mean)^2 is that of c^2, less mean (total + rest)
        twice = a.multiply("mean_twice", mean, a.add("total_rest", total, rest))
        spread = a.narrowed("spread", a.subtract("spread_signed", squares, twice), 0, n * LARGEST_DEVIATION**2)
    mean_u, rest_u, spread_u = _registered(a, "u", mean, rest, spread)
    grown = a.left("grown", spread_u, model.fraction)
    if model.centred:
        corrected = a.left("rest_square_up", a.multiply("rest_square", rest_u, rest_u), model.fraction)
        grown = a.subtract("variance", grown, a.divided("correction", corrected, n))
    energy = a.clip("energy", a.add("energy_signed", grown, constant(model.epsilon)), 1, INT32_MAX)
    below = a.divided("below", a.left("rest_up", rest_u, DEVIATION_BITS), n) if model.centred else constant(0)
    mean_v, below_v, energy_v = _registered(a, "v", mean_u, below, energy)
    lead = a.leading("lead", energy_v)
    half = a.let("half", 0, lead.high >> 1, f"$signed({{1'b0, lead[{(lead.high >> 1).bit_length()}:1]}})")
    a.lines += ["  logic lead_unused;", "  assign lead_unused = &{1'b0, lead};"]
    mantissa = a.normalised("mantissa", energy_v, half, lambda i: 13 - 2 * i, 1 << 13, RSQRT_INPUTS.maximum)
    root = _root(a, mantissa, model.rsqrt)
    arrays = {"root_of": root, "half_of": half}
    arrays |= {"mean_of": mean_v, "below_of": below_v} if model.centred else {}
    shifted_code = a.subtract("give_centred", Ranged("give_code", -128, 127), constant(z))
    if model.centred:
        shifted_code = a.narrowed(
            "give_deviation",
            a.subtract("give_difference", shifted_code, Ranged("mean_of[give_row]", *_ends(mean_v))),
            -LARGEST_DEVIATION,
            LARGEST_DEVIATION,
        )
    deviation = a.left("deviation", shifted_code, DEVIATION_BITS)
    if model.centred:
        deviation = a.subtract("deviation_exact", deviation, Ranged("below_of[give_row]", *_ends(below_v)))
    deviation_g = a.register("deviation_g", deviation, GIVE)
    root_g = a.register("root_g", Ranged("root_of[give_row]", *_ends(root)), GIVE)
    half_g = a.register("half_g", Ranged("half_of[give_row]", *_ends(half)), GIVE)
    multiplier, shift = model.hidden_requantiser
    places = a.add("places", half_g, constant(shift))
    product = a.multiply("product", deviation_g, root_g)
    scaled = a.shifted("scaled", product, multiplier, places, places.bits)
    acc = hidden = a.clip("hidden", scaled, -32768, 32767)
    files = {}
    if model.weight is not None:
        # one more than the largest: a signal of a single number would be a constant
        w = Ranged("", int(model.weight.min()), int(model.weight.max()) + 1)
        b = None if model.bias is None else Ranged("", int(model.bias.min()), int(model.bias.max()) + 1)
        low_bits = 0 if b is None else b.bits
        words = model.weight << low_bits
        if model.bias is not None:
            words = words | (model.bias & ((1 << low_bits) - 1))
        files[f"{name}_affine.memh"] = memh(words, w.bits + low_bits, "weight and bias of each element")
        a.lines += [
            f"  logic [{w.bits + low_bits - 1}:0] affine [0:{n - 1}];",
            f'  initial $readmemh("{name}_affine.memh", affine);',
            f"  logic [{w.bits + low_bits - 1}:0] affine_g;",
            f"  always_ff @(posedge clk) if ({GIVE}) affine_g <= affine[give_at];",
        ]
        factor = a.let("factor", *_ends(w), f"$signed(affine_g[{w.bits + low_bits - 1}:{low_bits}])")
        acc = a.multiply("weighted", hidden, factor)
        if b is not None:
            acc = a.add("acc", acc, a.let("offset", *_ends(b), f"$signed(affine_g[{low_bits - 1}:0])"))
    code = _code(a, a.requantised("requantised", acc, *requantiser(model.unit / model.out.scale)), model.out)
    targets = {"mean_of": mean_v.name, "below_of": below_v.name, "root_of": root.name, "half_of": half.name}
    writes = " ".join(f"{array}[row_v] <= {targets[array]};" for array in arrays)
    return {f"{name}.sv": _module(name, address, arrays, _NORM % {"writes": writes}, a, code), **files}


def _ends(signal: Ranged) -> tuple[int, int]:
    return signal.low, signal.high


def _registered(a: Arithmetic, step: str, *signals: Ranged) -> Sequence[Ranged]:
    return [s if s.low == s.high else a.register(f"{s.name}_{step}", s) for s in signals]


def _weight(a: Arithmetic, name: str, code: Ranged, top: Ranged, model: IntegerSoftmaxModel) -> Ranged:
    """exp of the code less the row's largest."""
    d = a.narrowed(f"{name}_difference", a.subtract(f"{name}_less", code, top), -LARGEST_DEVIATION, 0)
    acc = a.line(f"{name}_line", d, model.exp)
    codes = a.requantised(f"{name}_exp", acc, *requantiser(model.exp.unit * 2.0**EXP_BITS))
    return a.clip(f"{name}_weight", codes, 0, (2 << EXP_BITS) - 1)


def _root(a: Arithmetic, mantissa: Ranged, lines) -> Ranged:
    root = a.requantised("root", a.line("root_line", mantissa, lines), *requantiser(lines.unit * 2.0**ROOT_BITS))
    return root


def _code(a: Arithmetic, scaled: Ranged, out: OutputCodes) -> str:
    """The eight bits of the output code."""
    code = a.clip("code", a.add("moved", scaled, constant(out.zero_point)), out.minimum, out.maximum)
    if code.bits > 8:
        a.lines += ["  logic code_unused;", f"  assign code_unused = &{{1'b0, code[{code.bits - 1}:8]}};"]
        return "code[7:0]"
    return a.wide(code, 8)


def _module(name: str, address: int, arrays: dict[str, Ranged], steps: str, a: Arithmetic, code: str) -> str:
    declared = "\n".join(f"  logic signed [{signal.bits - 1}:0] {array} [0:3];" for array, signal in arrays.items())
    settings = {"last": address - 1, "address": address, "depth": (4 << address) - 1, "arrays": declared, "code": code}
    return f"{PORTS.text(name)}\n{_FRAME % settings}{steps}" + "\n".join(a.lines) + "\n" + _GIVING % settings


_FRAME = """\
  logic signed [7:0] codes [0:%(depth)d];
  logic [%(last)d:0] last_of [0:3];
%(arrays)s
  logic [%(last)d:0] fill_at, give_at;
  logic [1:0] fill_row, give_row;
  logic [2:0] held, scaled_rows;  // rows taken in and not yet given out; those of them whose scale is known
  logic accept, filled, scale_known, advance, giving, give_last, given;
  assign in_ready = held != 3'd4;
  assign accept = in_valid & in_ready;
  assign filled = accept & in_last;
  assign advance = out_ready | ~out_valid;
  assign giving = scaled_rows != 3'd0;
  assign give_last = give_at == last_of[give_row];
  assign given = advance & giving & give_last;
  logic signed [7:0] give_code;
  assign give_code = codes[{give_row, give_at}];
  always_ff @(posedge clk)
    if (rst) begin
      fill_at <= %(address)d'd0; give_at <= %(address)d'd0; fill_row <= 2'd0; give_row <= 2'd0;
      held <= 3'd0; scaled_rows <= 3'd0;
    end else begin
      if (accept) fill_at <= in_last ? %(address)d'd0 : fill_at + %(address)d'd1;
      if (filled) fill_row <= fill_row + 2'd1;
      if (advance & giving) give_at <= give_last ? %(address)d'd0 : give_at + %(address)d'd1;
      if (given) give_row <= give_row + 2'd1;
      held <= held + {2'd0, filled} - {2'd0, given};
      scaled_rows <= scaled_rows + {2'd0, scale_known} - {2'd0, given};
    end
  always_ff @(posedge clk) if (accept) codes[{fill_row, fill_at}] <= in_data;
  always_ff @(posedge clk) if (filled) last_of[fill_row] <= fill_at;
"""

_SOFTMAX = """\
  // the largest code of the row that is taken in
  logic signed [7:0] top, top_now;
  assign top_now = fill_at == 0 | in_data > top ? in_data : top;
  always_ff @(posedge clk) if (accept) top <= top_now;
  always_ff @(posedge clk) if (filled) top_of[fill_row] <= top_now;
  // a pass over the row for its sum: the exponential, then the sum, then the reciprocal
  logic [%(last)d:0] sum_at;
  logic [1:0] sum_row, row_s, row_t;
  logic [2:0] waiting;
  logic summing, sum_last, valid_s, first_s, last_s, last_t;
  assign summing = waiting != 3'd0;
  assign sum_last = sum_at == last_of[sum_row];
  logic signed [7:0] sum_code;
  assign sum_code = codes[{sum_row, sum_at}];
  assign scale_known = last_t;
  always_ff @(posedge clk)
    if (rst) begin
      sum_at <= 0; sum_row <= 2'd0; waiting <= 3'd0; valid_s <= 1'b0; last_t <= 1'b0;
    end else begin
      if (summing) sum_at <= sum_last ? 0 : sum_at + 1;
      if (summing & sum_last) sum_row <= sum_row + 2'd1;
      waiting <= waiting + {2'd0, filled} - {2'd0, summing & sum_last};
      valid_s <= summing;
      last_t <= valid_s & last_s;
    end
  always_ff @(posedge clk) begin
    first_s <= sum_at == 0; last_s <= sum_last; row_s <= sum_row; row_t <= row_s;
    if (last_t) begin root_of[row_t] <= root; lead_of[row_t] <= lead; end
  end
"""

_NORM = """\
  // a row's scale, a step each cycle behind its last code
  logic last_f, last_u, last_v;
  logic [1:0] row_f, row_u, row_v;
  assign scale_known = last_v;
  always_ff @(posedge clk)
    if (rst) begin last_f <= 1'b0; last_u <= 1'b0; last_v <= 1'b0; end
    else begin last_f <= filled; last_u <= last_f; last_v <= last_u; end
  always_ff @(posedge clk) begin
    row_f <= fill_row; row_u <= row_f; row_v <= row_u;
    if (last_v) begin %(writes)s end
  end
"""

_GIVING = """\
  logic valid_g, last_g;
  always_ff @(posedge clk)
    if (rst) begin valid_g <= 1'b0; out_valid <= 1'b0; end
    else if (advance) begin valid_g <= giving; out_valid <= valid_g; end
  always_ff @(posedge clk) if (advance) begin
    last_g <= give_last; out_last <= last_g;
    out_data <= %(code)s;
  end
endmodule
"""
