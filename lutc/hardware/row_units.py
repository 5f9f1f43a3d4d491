"""Row operators: which model the settings give, and the rows that its unit is tried on."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from lutc.checks import is_int
from lutc.errors import LutcError
from lutc.formats.codes import HALF_UP, Inputs
from lutc.hardware.rows import IntegerNormModel, IntegerSoftmaxModel, OutputCodes
from lutc.hardware.rtl.verilog import Ports
from lutc.hardware.streams import Stream
from lutc.table import table_set
from lutc.table.library import load
from lutc.table.table_set import TableSet

OPERATORS = ("softmax", "layernorm", "rmsnorm")
LARGEST_ROW = 1 << 14
_LARGEST_BENCH = 400_000  # codes in a bench


@dataclass(frozen=True)
class RowOptions:
    """A row operator over int8 codes. length: the codes of a row, for softmax the most of them. scale, zero_point: of
    the codes in. eps, weight, bias: of norms. reciprocal: JSON of softmax's second table set. tried: rows in the bench,
    fewer where they would be more than 400,000 codes.
    """

    length: int
    scale: float
    zero_point: int = 0
    eps: float = 1e-5
    weight: tuple[float, ...] | None = None
    bias: tuple[float, ...] | None = None
    reciprocal: str | None = None
    tried: int = 10_000

    def __post_init__(self) -> None:
        if not is_int(self.length) or not 1 <= self.length <= LARGEST_ROW:
            raise LutcError(f"`row_length` is a whole number, 1 to {LARGEST_ROW}; given {self.length}")
        if not is_int(self.tried) or self.tried < 1:
            raise LutcError(f"`tried` is a whole number, at least 1; given {self.tried}")
        for what, values in (("weight", self.weight), ("bias", self.bias)):
            if values is not None and len(values) != self.length:
                raise LutcError(f"`{what}` has a number for each of the {self.length} of a row; given {len(values)}")

    def as_json(self) -> dict:
        return asdict(self)

    @classmethod
    def of(cls, data: dict) -> RowOptions:
        vectors = {name: None if data[name] is None else tuple(data[name]) for name in ("weight", "bias")}
        return cls(**{**data, **vectors})


def model(
    operator: str, tables: TableSet, row: RowOptions, out: Inputs | None
) -> IntegerSoftmaxModel | IntegerNormModel:
    """The integer model that the unit follows. LutcError for settings that it refuses."""
    if out is None:
        raise LutcError(f"a unit of {operator} gives output codes; give `out_scale`")
    if out.bits != 8:
        raise LutcError(f"a unit of {operator} gives 8-bit codes; given `out_bits` {out.bits}")
    if out.rounding != HALF_UP:
        raise LutcError(
            f"a unit of {operator} rounds halves up, as its model does; given `out_rounding` {out.rounding}"
        )
    codes = OutputCodes(out.scale, out.zero_point, out.minimum, out.maximum)
    if operator == "softmax":
        if row.weight is not None or row.bias is not None:
            raise LutcError("softmax has neither `weight` nor `bias`")
        second = load("reci_8") if row.reciprocal is None else table_set.loads(row.reciprocal)
        return IntegerSoftmaxModel.build(tables, second, row.scale, codes)
    centred = operator == "layernorm"
    return IntegerNormModel.build(
        tables, row.length, row.scale, row.zero_point, row.eps, row.weight, row.bias, centred, codes
    )


def stream(module: str, operator: str, built: IntegerSoftmaxModel | IntegerNormModel, row: RowOptions) -> Stream:
    """The rows that a unit is tried on, with what they have to answer."""
    fed = stimuli(operator, row)
    last = np.concatenate([np.append(np.zeros(codes.size - 1, np.int64), 1) for codes in fed])
    expected = np.concatenate([built(codes) for codes in fed])
    return Stream(module, Ports(8, 8, 4, last=True), np.concatenate(fed), expected, last=last)


def said(module: str, row: RowOptions, tried: Stream) -> dict:
    """What the manifest says of the unit."""
    count = 0 if tried.last is None else int(tried.last.sum())
    return {"module": module, "row_length": row.length, "input_scale": row.scale, "rows_tried": count}


def stimuli(operator: str, row: RowOptions) -> list[np.ndarray]:
    """Rows of codes: extreme ones (all alike, ends of the range alone, one code that stands out), those that lie a
    step apart, and random ones, wide and narrow; the same for the same settings.
    """
    rng, longest = np.random.default_rng(0), row.length
    count = max(1, min(row.tried, _LARGEST_BENCH // longest))
    found = []
    for i in range(count):
        size = longest if operator != "softmax" or i % 4 == 0 else int(rng.integers(1, longest + 1))
        kind = i % 8
        level = int(rng.integers(-128, 128))
        if kind == 0:
            codes = np.full(size, (-128, 127, 0, level)[i // 8 % 4])
        elif kind == 1:
            codes = rng.choice([-128, 127], size)
        elif kind == 2:
            codes = np.full(size, level)
            codes[rng.integers(size)] = rng.choice([-128, 127])
        elif kind == 3:
            codes = level + rng.integers(-1, 2, size)
        elif kind == 4:
            codes = np.rint(rng.normal(level, rng.uniform(1, 60), size))
        else:
            codes = rng.integers(-128, 128, size)
        found.append(np.clip(codes, -128, 127).astype(np.int64))
    return found
