"""What can be chosen of a hand-over, and what is made of it: texts, and the words that its units have to answer."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from lutc.errors import LutcError
from lutc.formats.codes import HALF_UP, Inputs, Outputs
from lutc.hardware import row_units
from lutc.hardware.row_units import RowOptions
from lutc.hardware.streams import Stream

UNITS = ("lines", "direct", *row_units.OPERATORS)


@dataclass(frozen=True)
class Options:
    """What can be chosen of a hand-over. keys: tables of the set, all if empty. out: output codes, by default those
    that the file names. unit: one of UNITS. latency: registers from input to output. together: one unit for all keys,
    chosen with every code, in place of one for each. arithmetic: of float tables, fp16_rne if empty.
    row: of row operators (softmax, layernorm, rmsnorm). loadable: coefficients in registers behind a port. comparators:
    off, bits of the code address the segments. multiplier: off, shifts and additions make the product. port: of float
    tables, fp16 or bf16 in and out.
    """

    keys: tuple[str, ...] = ()
    out: Inputs | None = None
    unit: str = "lines"
    latency: int = 1
    together: bool = False
    arithmetic: str = ""
    row: RowOptions | None = None
    loadable: bool = False
    comparators: bool = True
    multiplier: bool = True
    port: str = "fp16"

    def __post_init__(self):
        if self.row is not None and self.out is not None and self.out.rounding != HALF_UP:
            raise LutcError(f"a unit for rows rounds halves up; given output codes that round {self.out.rounding}")
        if self.unit not in UNITS:
            raise LutcError(f"unknown unit {self.unit!r}; choose one of {', '.join(UNITS)}")
        if self.loadable and (self.unit != "lines" or self.arithmetic):
            raise LutcError("`loadable` is for units of lines over codes")
        if not (self.comparators and self.multiplier) and (self.unit != "lines" or self.arithmetic or self.loadable):
            raise LutcError("units without comparators or multiplier are those of lines over codes, constants alone")
        if (self.row is None) == (self.unit in row_units.OPERATORS):
            operators = ", ".join(row_units.OPERATORS)
            raise LutcError(f"`row_length` and `in_scale` belong to the units {operators}, and these need both")
        if self.row is not None and (self.keys or self.together or self.arithmetic):
            raise LutcError(f"a unit of {self.unit} takes neither `key` nor `together` nor `arithmetic`")

    def as_json(self) -> dict:
        row = None if self.row is None else self.row.as_json()
        return {**asdict(self), "keys": list(self.keys), "row": row}

    @classmethod
    def of(cls, data: dict) -> Options:
        out = None if data["out"] is None else Outputs(**data["out"])
        row = RowOptions.of(data["row"]) if data.get("row") else None
        return cls(**{**data, "keys": tuple(data["keys"]), "out": out, "row": row})


@dataclass(frozen=True, eq=False)
class HandOver:
    """files: text by name, `sources` among them the units themselves, in the order of compilation. streams: what they
    have to answer, one for each module. top: the bench's. units: what the manifest says of each module.
    """

    sources: dict[str, str]
    bench: dict[str, str]
    streams: list[Stream]
    top: str
    units: list[dict] = field(default_factory=list)

    @property
    def files(self) -> dict[str, str]:
        return {**self.sources, **self.bench}
