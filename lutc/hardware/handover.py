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
    if not isinstance(data, dict) or any(key not in data for key in wanted) or data["format"] not in LANGUAGES:
        raise LutcError(f"{path} is no manifest of lutc's hand-over; write the folder again with lutc export")
    return data


def again(folder: Path, manifest: dict) -> HandOver:
    """The design that the folder's table and options give now, which holds what its units have to answer."""
    tables = table_set.read(folder / manifest["table"])
    return design(manifest["format"], manifest["name"], tables, Options.of(manifest["options"]))
