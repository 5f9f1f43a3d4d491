"""Hand-over folders: units generated from a table in a hardware language, a test bench, and manifest.json, which says
what each file is, what the table's certificate claims, and what a simulation has proven (`lutc.hardware.simulate`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import lutc
from lutc.errors import LutcError
from lutc.files import atomic_write
from lutc.hardware import export
from lutc.hardware.hls.design import hls
from lutc.hardware.options import HandOver, Options
from lutc.hardware.rtl.system_verilog import system_verilog
from lutc.hardware.vhdl.design import vhdl
from lutc.table import table_set
from lutc.table.table_set import TableSet

MANIFEST = "manifest.json"
# name -> (what it is, how a design is made)
LANGUAGES: dict[str, tuple[str, Callable[[str, TableSet, Options], HandOver]]] = {
    "sv": ("SystemVerilog with a test bench", system_verilog),
    "vhdl": ("VHDL-2008 of lines over codes, the same", vhdl),
    "hls": ("C++ for high-level synthesis, the same", hls),
}


def design(language: str, name: str, tables: TableSet, options: Options) -> HandOver:
    """The texts of a hand-over in one of LANGUAGES, and what it has to answer."""
    return LANGUAGES[language][1](export.unit_name(name), tables, options)


def write(folder: Path, language: str, name: str, tables: TableSet, options: Options) -> HandOver:
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


def _compiled(made: HandOver) -> list[str]:
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
    known = isinstance(data, dict) and all(key in data for key in wanted)
    known = known and data["format"] in list(LANGUAGES) and isinstance(data["units"], list)
    known = known and all(isinstance(unit, dict) for unit in data["units"])
    if not known or not _plain(data["name"], data["table"]) or not _plain(data["sources"], data["bench"]):
        raise LutcError(f"{path} is no manifest of lutc's hand-over; write the folder again with lutc export")
    return data


def _plain(first: object, second: object) -> bool:
    """Whether both are names of files in a folder, or lists of such."""
    names = [name for value in (first, second) for name in (value if isinstance(value, list) else [value])]
    same = isinstance(first, list) == isinstance(second, list)
    return same and all(isinstance(name, str) and name and Path(name).name == name for name in names)


def again(folder: Path, manifest: dict) -> HandOver:
    """The design that the folder's table and options give now, which holds what its units have to answer. LutcError
    where the manifest names other files or units.
    """
    tables = table_set.read(folder / manifest["table"])
    path, advice = folder / MANIFEST, "write the folder again with lutc export"
    try:
        options = Options.of(manifest["options"])
    except (AttributeError, KeyError, TypeError) as error:
        raise LutcError(f"{path} has options that are none of this lutc; {advice}") from error
    made = design(manifest["format"], manifest["name"], tables, options)
    for what, value in (("sources", list(made.sources)), ("bench", list(made.bench)), ("top", made.top)):
        if manifest[what] != value:
            raise LutcError(f"{path}: its {what} are not what its table and options give; {advice}")
    if [unit.get("module") for unit in manifest["units"]] != [unit["module"] for unit in made.units]:
        raise LutcError(f"{path}: its units are not what its table and options give; {advice}")
    return made
