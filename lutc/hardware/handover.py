"""Hand-over folders: units generated from a table in a hardware language, a test bench, and manifest.json, which says
what each file is, what the table's certificate claims, and what a simulation has proven (`lutc.hardware.simulate`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import lutc
from lutc.errors import LutcError
from lutc.files import atomic_write
from lutc.formats.codes import HALF_UP, Inputs, Outputs
from lutc.hardware import export, row_units
from lutc.hardware.export.text import identifier
from lutc.hardware.row_units import RowOptions
from lutc.hardware.rtl import bench, direct, float_arithmetic, floating, lines
from lutc.hardware.rtl.bench import Stream
from lutc.table import table_set
from lutc.table.table_set import TableSet

MANIFEST = "manifest.json"
UNITS = ("lines", "direct", *row_units.OPERATORS)


@dataclass(frozen=True)
class Options:
    """What can be chosen of a hand-over. keys: tables of the set, all if empty. out: output codes, by default those
    that the file names. unit: one of UNITS. latency: registers from input to output. together: one unit for all keys,
    chosen with every code, in place of one for each. arithmetic: of float tables, fp16_rne if empty.
    row: of row operators (softmax, layernorm, rmsnorm). loadable: coefficients in registers behind a port.
    """

    keys: tuple[str, ...] = ()
    out: Inputs | None = None
    unit: str = "lines"
    latency: int = 1
    together: bool = False
    arithmetic: str = ""
    row: RowOptions | None = None
    loadable: bool = False

    def __post_init__(self):
        if self.row is not None and self.out is not None and self.out.rounding != HALF_UP:
            raise LutcError(f"a unit for rows rounds halves up; given output codes that round {self.out.rounding}")
        if self.unit not in UNITS:
            raise LutcError(f"unknown unit {self.unit!r}; choose one of {', '.join(UNITS)}")
        if self.loadable and (self.unit != "lines" or self.arithmetic):
            raise LutcError("`loadable` is for units of lines over codes")
        if (self.row is None) == (self.unit in row_units.OPERATORS):
            operators = ", ".join(row_units.OPERATORS)
            raise LutcError(f"`row_length` and `in_scale` belong to the units {operators}, and these need both")

    def as_json(self) -> dict:
        row = None if self.row is None else self.row.as_json()
        return {**asdict(self), "keys": list(self.keys), "row": row}

    @classmethod
    def of(cls, data: dict) -> Options:
        out = None if data["out"] is None else Outputs(**data["out"])
        row = RowOptions.of(data["row"]) if data.get("row") else None
        return cls(**{**data, "keys": tuple(data["keys"]), "out": out, "row": row})


@dataclass(frozen=True, eq=False)
class Design:
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


def _system_verilog(name: str, tables: TableSet, options: Options) -> Design:
    if options.row is not None:
        return _rows(name, tables, options)
    keys = list(dict.fromkeys(map(str, options.keys or tables)))
    if all(tables[key] is not None and key not in tables.inputs for key in keys):
        return _floats(name, tables, keys, options)
    if options.arithmetic:
        raise LutcError("`arithmetic` is that of float tables; this one is over input codes")
    units = export.units(tables, options.keys or None, options.out)
    export.check_keys(units)
    if options.unit == "direct":
        made = [_direct(name, unit, options) for unit in units]
    elif options.together:
        made = [_lines(name, units, options)]
    else:
        made = [_lines(f"{name}_{identifier(unit.key)}", [unit], options) for unit in units]
    sources = {file: text for texts, _ in made for file, text in texts.items()}
    streams = [stream for _, stream in made]
    benches = {file: text for stream in streams for file, text in stream.files().items()}
    benches[f"{name}_tb.sv"] = bench.top(name, streams)
    said = [
        {"module": stream.module, "latency": options.latency, **unit.parameters()}
        for stream, unit in zip(streams if len(streams) == len(units) else streams * len(units), units)
    ]
    return Design(sources, benches, streams, f"{name}_tb", said)


def _floats(name: str, tables: TableSet, keys: Sequence[str], options: Options) -> Design:
    if options.out is not None or options.unit != "lines" or options.together or options.loadable:
        raise LutcError(
            f"'{tables.name}' is a table of float inputs, whose unit takes fp16 to fp16: leave `out_scale`, `unit`, "
            "`together` and `loadable` out"
        )
    arithmetic = options.arithmetic or floating.ARITHMETICS[0]
    sources = {float_arithmetic.FILE: float_arithmetic.modules(arithmetic.removeprefix("fp16_"))}
    streams, said = [], []
    for key in keys:
        module = f"{name}_{identifier(key)}"
        text, ports, words = floating.module(module, tables[key], arithmetic, options.latency)
        head = f"// {module}: fp16 in and out, {arithmetic}, generated by lutc {lutc.__version__}; docs/hardware.md\n"
        sources[f"{module}.sv"] = head + text
        streams.append(Stream(module, ports, floating.CODES, words))
        said.append({"module": module, "latency": options.latency, "key": key, "arithmetic": arithmetic})
    benches = {file: text for stream in streams for file, text in stream.files().items()}
    benches[f"{name}_tb.sv"] = bench.top(name, streams)
    return Design(sources, benches, streams, f"{name}_tb", said)


def _rows(name: str, tables: TableSet, options: Options) -> Design:
    if options.keys or options.together or options.arithmetic:
        raise LutcError(f"a unit of {options.unit} takes neither `key` nor `together` nor `arithmetic`")
    row, module = options.row, f"{name}_{options.unit}"
    assert row is not None
    texts, stream = row_units.unit(module, options.unit, tables, row, options.out)
    head = f"// {module}: rows of {row.length} codes, generated by lutc {lutc.__version__}; docs/hardware.md\n"
    sources = {file: head + text if file.endswith(".sv") else text for file, text in texts.items()}
    benches = {**stream.files(), f"{name}_tb.sv": bench.top(name, [stream])}
    said = {"module": module, "row_length": row.length, "input_scale": row.scale, "rows_tried": int(stream.last.sum())}
    return Design(sources, benches, [stream], f"{name}_tb", [said])


def _lines(module: str, units: Sequence[export.Unit], options: Options) -> tuple[dict[str, str], Stream]:
    text, ports = lines.module(module, units, options.latency, options.loadable)
    stream = bench.of_units(module, ports, units, lines.loads(units) if options.loadable else None)
    said = ", ".join(f"{key} {value}" for key, value in units[0].parameters().items() if key != "key")
    head = f"// {module}: lines over codes, generated by lutc {lutc.__version__}; docs/hardware.md has the rule\n"
    return {f"{module}.sv": f"{head}// {said}\n{text}"}, stream


def _direct(name: str, unit: export.Unit, options: Options) -> tuple[dict[str, str], Stream]:
    if unit.out is None:
        raise LutcError("a direct unit holds output codes; give --out-scale")
    module = f"{name}_{identifier(unit.key)}"
    text, ports, words = direct.module(module, unit.codes, unit.inputs.bits, unit.out.bits, options.latency)
    files = {f"{module}.sv": f"// {module}: a direct table of codes, generated by lutc {lutc.__version__}\n" + text}
    if unit.inputs.bits > direct.LARGEST_CASE:
        files[f"{module}_words.memh"] = export.memory.memh(
            words, unit.out.bits, "output codes by the bits of the input"
        )
    return files, bench.of_units(module, ports, [unit])


# name -> (what it is, how a design is made)
LANGUAGES: dict[str, tuple[str, Callable[[str, TableSet, Options], Design]]] = {
    "sv": ("SystemVerilog with a test bench", _system_verilog),
}


def design(language: str, name: str, tables: TableSet, options: Options) -> Design:
    """The texts of a hand-over in one of LANGUAGES, and what it has to answer."""
    return LANGUAGES[language][1](export.unit_name(name), tables, options)


def write(folder: Path, language: str, name: str, tables: TableSet, options: Options) -> Design:
    """Write a hand-over into a new or empty folder, or over an earlier one. LutcError where the folder has other files;
    nothing is written then.
    """
    made = design(language, name, tables, options)
    old = _owned(folder)
    kept = sorted(options.keys or tables)
    certificate = {key: value for key, value in (tables.meta.get("certificate") or {}).items() if key in kept}
    name = export.unit_name(name)
    manifest = {
        "lutc": lutc.__version__,
        "format": language,
        "name": name,
        "table": f"{name}.table.json",
        "options": options.as_json(),
        "units": made.units,
        "top": made.top,
        "sources": list(made.sources),
        "bench": list(made.bench),
        "certificate": certificate,
        "verdict": None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    texts = {**made.files, manifest["table"]: tables.dumps(), f"{name}.f": "".join(f"{s}\n" for s in _compiled(made))}
    (folder / MANIFEST).unlink(missing_ok=True)
    for file, text in texts.items():
        atomic_write(folder / file, text)
    for file in old - set(texts) - {MANIFEST}:
        (folder / file).unlink(missing_ok=True)
    save(folder, manifest)
    return made


def _compiled(made: Design) -> list[str]:
    return [name for name in made.files if name.endswith((".sv", ".vhd", ".cpp"))]


def _owned(folder: Path) -> set[str]:
    """Names of an earlier hand-over's files; LutcError where there are others."""
    if not folder.exists():
        return set()
    found = {path.name for path in folder.iterdir()}
    if not found:
        return set()
    owned = {MANIFEST}
    if MANIFEST in found:
        manifest = read(folder)
        owned |= {*manifest["sources"], *manifest["bench"], manifest["table"], f"{manifest['name']}.f"}
    others = sorted(found - owned)
    if others or MANIFEST not in found:
        raise LutcError(f"{folder} has other files ({', '.join(others[:3])}); give a new or empty folder")
    return owned


def save(folder: Path, manifest: dict) -> None:
    atomic_write(folder / MANIFEST, json.dumps(manifest, indent=2, allow_nan=False) + "\n")


def read(folder: Path) -> dict:
    """The manifest of a hand-over; LutcError where there is none, or one that is none of lutc's."""
    path = folder / MANIFEST
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LutcError(
            f"cannot read {path}: {error.strerror or error}; give a folder that lutc export --format sv wrote"
        ) from error
    except ValueError as error:
        raise LutcError(f"{path} is no manifest of lutc: {error}") from error
    wanted = ("lutc", "format", "name", "table", "options", "units", "top", "sources", "bench")
    if not isinstance(data, dict) or any(key not in data for key in wanted) or data["format"] not in LANGUAGES:
        raise LutcError(f"{path} is no manifest of lutc's hand-over; write the folder again with lutc export")
    return data


def again(folder: Path, manifest: dict) -> Design:
    """The design that the folder's table and options give now, which holds what its units have to answer."""
    tables = table_set.read(folder / manifest["table"])
    return design(manifest["format"], manifest["name"], tables, Options.of(manifest["options"]))
