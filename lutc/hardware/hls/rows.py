"""C++ of row operators: the numbers of an integer model as a struct that the templates of lutc_units.hpp take."""

from __future__ import annotations

import numpy as np

from lutc.formats.requantise import requantiser
from lutc.hardware.hls.text import braced, lines_function, lines_type, number, ratio, type_of
from lutc.hardware.rows import (
    EXP_BITS,
    LARGEST_DEVIATION,
    RECIPROCAL_INPUTS,
    ROOT_BITS,
    RSQRT_INPUTS,
    IntegerNormModel,
    IntegerSoftmaxModel,
    OutputCodes,
)
from lutc.table.integer import IntegerLines


def softmax(module: str, model: IntegerSoftmaxModel, longest: int) -> str:
    """MODULE(in, out, n): a row of 1 to `longest` codes."""
    model.check_row(longest)
    members = [
        _table("exp", model.exp, -LARGEST_DEVIATION, 0),
        _table("reciprocal", model.reciprocal, 1 << 14, RECIPROCAL_INPUTS.maximum),
        _ratio("exp_ratio", model.exp.unit * 2.0**EXP_BITS),
        _ratio("root_ratio", model.reciprocal.unit * 2.0**ROOT_BITS),
        _shift("out_ratio", *requantiser(2.0**-ROOT_BITS / model.out.scale)),
        _constant("most_weight", (2 << EXP_BITS) - 1),
        _constant("most_mantissa", RECIPROCAL_INPUTS.maximum),
        *_output(model.out),
    ]
    return _struct(module, members) + (
        f"\n\ninline void {module}(const int8_t* in, int8_t* out, int n) {{\n"
        f"  lutc::softmax<{module}_unit>(in, out, n);\n}}"
    )


def norm(module: str, model: IntegerNormModel) -> str:
    """MODULE(in, out): a row of model.n codes."""
    members = [
        _table("rsqrt", model.rsqrt, 1 << 13, RSQRT_INPUTS.maximum),
        _ratio("root_ratio", model.rsqrt.unit * 2.0**ROOT_BITS),
        _shift("hidden_ratio", *model.hidden_requantiser),
        _ratio("out_ratio", model.unit / model.out.scale),
        _constant("n", model.n),
        f"  static constexpr bool centred = {str(model.centred).lower()};",
        _constant("zero_point", model.zero_point),
        _constant("fraction", model.fraction, "int"),
        _constant("epsilon", model.epsilon),
        _constant("most_mantissa", RSQRT_INPUTS.maximum),
        _vector("weight", model.weight, 1),
        _vector("bias", model.bias, 0),
        *_output(model.out),
    ]
    return _struct(module, members) + (
        f"\n\ninline void {module}(const int8_t* in, int8_t* out) {{\n  lutc::norm<{module}_unit>(in, out);\n}}"
    )


def _struct(module: str, members: list[str]) -> str:
    return f"struct {module}_unit {{\n" + "\n".join(members) + "\n};"


def _table(name: str, lines: IntegerLines, low: int, high: int) -> str:
    """The segments that numbers from low to high reach."""
    used = np.unique(np.searchsorted(lines.cuts, np.arange(low, high + 1), side="left"))
    parts = lines.cuts[used[1:] - 1], lines.slopes[used], lines.intercepts[used]
    text = lines_function(name, lines_type(*parts), parts, "static")
    return "\n".join(f"  {line}" for line in text.splitlines())


def _ratio(name: str, value: float) -> str:
    return f"  static lutc::Ratio {name}() {{ return lutc::Ratio{ratio(*requantiser(value))}; }}"


def _shift(name: str, multiplier: int, shift: int) -> str:
    """A ratio whose shift grows by that of the row: it may be below 0 by itself, or beyond 62."""
    return f"  static lutc::Ratio {name}() {{ return lutc::Ratio{{{number(multiplier)}, {shift}}}; }}"


def _constant(name: str, value: int, kind: str = "int64_t") -> str:
    return f"  static constexpr {kind} {name} = {number(value)};"


def _vector(name: str, values: np.ndarray | None, otherwise: int) -> str:
    if values is None:
        return f"  static int64_t {name}(int) {{ return {otherwise}; }}"
    return (
        f"  static int64_t {name}(int i) {{\n    static const {type_of(values)} values[{values.size}] = "
        f"{braced(values)};\n    return values[i];\n  }}"
    )


def _output(out: OutputCodes) -> list[str]:
    numbers = {"out_zero_point": out.zero_point, "least": out.minimum, "most": out.maximum}
    return [_constant(name, value) for name, value in numbers.items()]
