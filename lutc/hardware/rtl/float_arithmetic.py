"""Addition and multiplication of 16-bit floats as combinational modules, to the bit what `lutc.formats.float16` does:
rounded to nearest even, or truncated.
"""

from __future__ import annotations

FILE = "lutc_fp16.sv"


def modules(rounding: str) -> str:
    """lutc_fp16_add_ROUNDING and lutc_fp16_mul_ROUNDING. rounding: rne or trunc."""
    truncates = rounding == "trunc"
    values = {
        "rounding": rounding,
        "largest": "16'h7bff" if truncates else "16'h7c00",
        "aligned": "(y >> shift) & 14'h3ff8" if truncates else "(y >> shift) | {13'd0, |(y & ~(14'h3fff << shift))}",
        "sum_up": "1'b0" if truncates else "rest > 3'd4 | (rest == 3'd4 & kept[0])",
        "product_up": "1'b0" if truncates else "guard & (kept[0] | (|(product & ~(23'h7fffff << (shift - 5'd1)))))",
        "sum_unused": ", rest" if truncates else "",
        "product_unused": ", guard" if truncates else "",
    }
    return f"{_ADD % values}\n{_MULTIPLY % values}"


BFLOAT16_FILE = "lutc_bf16.sv"


def conversions() -> str:
    """lutc_bf16_to_fp16 and lutc_fp16_to_bf16, as `lutc.formats.bfloat16` has them."""
    lead = "".join(f"low[{p}] ? {{8'd{p + 103}, low[{p - 1}:0], {10 - p}'d0}} :\n    " for p in range(9, 0, -1))
    return _CONVERSIONS % {"lead": lead}


_CONVERSIONS = """\
// bf16 to fp16, to nearest even: exact where fp16 has the exponent, a subnormal or zero below, infinity above
module lutc_bf16_to_fp16 (
  input logic [15:0] a,
  output logic [15:0] result
);
  logic [7:0] exponent, distance, field;
  logic [3:0] places;
  logic [9:0] whole, kept, halves, low;
  logic tiny, up;
  assign exponent = a[14:7];
  assign distance = 8'd112 - exponent;
  assign places = distance > 8'd11 ? 4'd11 : distance[3:0];
  assign whole = {exponent != 8'd0, a[6:0], 2'd0};
  assign kept = whole >> places;
  assign halves = places == 4'd0 ? 10'd0 : whole >> (places - 4'd1);
  assign low = whole & ~(10'h3ff << (places == 4'd0 ? 4'd0 : places - 4'd1));
  assign up = halves[0] & (kept[0] | (|low));
  assign tiny = exponent < 8'd113;
  assign field = exponent - 8'd112;
  logic [14:0] magnitude;
  assign magnitude = tiny ? {5'd0, kept} + {14'd0, up} : exponent > 8'd142 ? 15'h7c00 : {field[4:0], a[6:0], 3'd0};
  assign result = a[14:0] > 15'h7f80 ? 16'h7e00 : {a[15], magnitude};
  logic unused;
  assign unused = &{1'b0, halves[9:1], field[7:5]};
endmodule

// fp16 to bf16, to nearest even: every number of fp16 is within the range of bf16
module lutc_fp16_to_bf16 (
  input logic [15:0] a,
  output logic [15:0] result
);
  logic [9:0] low;
  logic [17:0] number;  // exponent and ten bits of mantissa
  logic [14:0] magnitude;
  assign low = a[9:0];
  assign number = a[14:10] != 5'd0 ? {{3'd0, a[14:10]} + 8'd112, low} :
    %(lead)slow[0] ? {8'd103, 10'd0} : 18'd0;
  assign magnitude = number[17:3] + {14'd0, number[2] & (number[3] | (|number[1:0]))};
  assign result = a[14:0] > 15'h7c00 ? 16'h7fc0 : {a[15], a[14:0] == 15'h7c00 ? 15'h7f80 : magnitude};
endmodule
"""

_ADD = """\
// a + b: the smaller magnitude is aligned, with three bits below the significand
module lutc_fp16_add_%(rounding)s (
  input logic [15:0] a,
  input logic [15:0] b,
  output logic [15:0] result
);
  logic swap, differ, invalid, sign, nothing;
  logic [14:0] greater, lesser;
  assign swap = a[14:0] < b[14:0];
  assign greater = swap ? b[14:0] : a[14:0];
  assign lesser = swap ? a[14:0] : b[14:0];
  assign differ = a[15] ^ b[15];
  assign invalid = greater > 15'h7c00 | (greater == 15'h7c00 & lesser == 15'h7c00 & differ);
  logic [4:0] distance;
  assign distance = (greater[14:10] == 5'd0 ? 5'd1 : greater[14:10]) - (lesser[14:10] == 5'd0 ? 5'd1 : lesser[14:10]);
  logic [3:0] shift;
  assign shift = distance > 5'd15 ? 4'd15 : distance[3:0];
  logic [13:0] x, y, aligned;
  assign x = {greater[14:10] != 5'd0, greater[9:0], 3'd0};
  assign y = {lesser[14:10] != 5'd0, lesser[9:0], 3'd0};
  assign aligned = %(aligned)s;
  logic [14:0] total;
  assign total = differ ? {1'b0, x} - {1'b0, aligned} : {1'b0, x} + {1'b0, aligned};
  assign nothing = total == 15'd0;
  logic [13:0] grown, up_8, up_4, up_2, normal;
  logic [5:0] start, exponent_8, exponent_4, exponent_2, exponent;
  logic move_8, move_4, move_2, move_1;
  assign grown = total[14] ? {total[14:2], total[1] | total[0]} : total[13:0];
  assign start = {1'b0, greater[14:10] == 5'd0 ? 5'd1 : greater[14:10]} + {5'd0, total[14]};
  assign move_8 = grown[13:6] == 8'd0 & start > 6'd8;
  assign up_8 = move_8 ? grown << 8 : grown;
  assign exponent_8 = move_8 ? start - 6'd8 : start;
  assign move_4 = up_8[13:10] == 4'd0 & exponent_8 > 6'd4;
  assign up_4 = move_4 ? up_8 << 4 : up_8;
  assign exponent_4 = move_4 ? exponent_8 - 6'd4 : exponent_8;
  assign move_2 = up_4[13:12] == 2'd0 & exponent_4 > 6'd2;
  assign up_2 = move_2 ? up_4 << 2 : up_4;
  assign exponent_2 = move_2 ? exponent_4 - 6'd2 : exponent_4;
  assign move_1 = up_2[13] == 1'd0 & exponent_2 > 6'd1;
  assign normal = move_1 ? up_2 << 1 : up_2;
  assign exponent = move_1 ? exponent_2 - 6'd1 : exponent_2;
  logic [10:0] kept;
  logic [2:0] rest;
  assign kept = normal[13:3];
  assign rest = normal[2:0];
  logic [15:0] magnitude;
  assign magnitude = nothing ? 16'd0 : {exponent - 6'd1, 10'd0} + {5'd0, kept} + {15'd0, %(sum_up)s};
  assign sign = (swap ? b[15] : a[15]) & ~(nothing & differ);
  logic [14:0] limited;
  logic [15:0] largest;
  assign largest = %(largest)s;
  assign limited = greater == 15'h7c00 ? 15'h7c00 : magnitude >= 16'h7c00 ? largest[14:0] : magnitude[14:0];
  assign result = invalid ? 16'h7e00 : {sign, limited};
  logic unused;
  assign unused = &{1'b0, largest[15]%(sum_unused)s};
endmodule
"""

_MULTIPLY = """\
// a * b: the product of the significands is brought to [2^21, 2^22), a subnormal result shifted down
module lutc_fp16_mul_%(rounding)s (
  input logic [15:0] a,
  input logic [15:0] b,
  output logic [15:0] result
);
  logic infinite, zero, invalid;
  assign infinite = a[14:0] == 15'h7c00 | b[14:0] == 15'h7c00;
  assign zero = a[14:0] == 15'd0 | b[14:0] == 15'd0;
  assign invalid = a[14:0] > 15'h7c00 | b[14:0] > 15'h7c00 | (infinite & zero);
  logic [21:0] whole, up_16, up_8, up_4, up_2, normal;
  logic signed [7:0] start, exponent_16, exponent_8, exponent_4, exponent_2, exponent;
  logic move_16, move_8, move_4, move_2, move_1;
  assign whole = {11'd0, a[14:10] != 5'd0, a[9:0]} * {11'd0, b[14:10] != 5'd0, b[9:0]};
  assign start = $signed({3'd0, a[14:10] == 5'd0 ? 5'd1 : a[14:10]})
    + $signed({3'd0, b[14:10] == 5'd0 ? 5'd1 : b[14:10]}) - 8'sd14;
  assign move_16 = whole[21:6] == 16'd0;
  assign up_16 = move_16 ? whole << 16 : whole;
  assign exponent_16 = move_16 ? start - 8'sd16 : start;
  assign move_8 = up_16[21:14] == 8'd0;
  assign up_8 = move_8 ? up_16 << 8 : up_16;
  assign exponent_8 = move_8 ? exponent_16 - 8'sd8 : exponent_16;
  assign move_4 = up_8[21:18] == 4'd0;
  assign up_4 = move_4 ? up_8 << 4 : up_8;
  assign exponent_4 = move_4 ? exponent_8 - 8'sd4 : exponent_8;
  assign move_2 = up_4[21:20] == 2'd0;
  assign up_2 = move_2 ? up_4 << 2 : up_4;
  assign exponent_2 = move_2 ? exponent_4 - 8'sd2 : exponent_4;
  assign move_1 = up_2[21] == 1'd0;
  assign normal = move_1 ? up_2 << 1 : up_2;
  assign exponent = move_1 ? exponent_2 - 8'sd1 : exponent_2;
  logic signed [7:0] below;
  logic [4:0] shift;
  assign below = 8'sd1 - exponent;
  assign shift = below <= 8'sd0 ? 5'd11 : below > 8'sd12 ? 5'd23 : 5'd11 + below[4:0];
  logic [22:0] product, kept, halves;
  logic guard;
  assign product = {1'b0, normal};
  assign kept = product >> shift;
  assign halves = product >> (shift - 5'd1);
  assign guard = halves[0];
  logic [7:0] field;
  assign field = exponent > 8'sd1 ? exponent - 8'sd1 : 8'd0;
  logic [15:0] magnitude, largest;
  assign magnitude = zero ? 16'd0 : {field[5:0], 10'd0} + kept[15:0] + {15'd0, %(product_up)s};
  assign largest = %(largest)s;
  logic [14:0] limited;
  assign limited = infinite ? 15'h7c00 : magnitude >= 16'h7c00 ? largest[14:0] : magnitude[14:0];
  assign result = invalid ? 16'h7e00 : {a[15] ^ b[15], limited};
  logic unused;
  assign unused = &{1'b0, largest[15], kept[22:16], halves[22:1], field[7:6], below[7:5]%(product_unused)s};
endmodule
"""
