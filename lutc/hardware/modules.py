"""Which units of codes go into which module, for every hardware language alike."""

from __future__ import annotations

from lutc.errors import LutcError
from lutc.hardware import export
from lutc.hardware.export.text import identifier
from lutc.hardware.export.units import Unit
from lutc.hardware.options import Options
from lutc.table.table_set import TableSet


def is_float(tables: TableSet, options: Options) -> bool:
    """Whether all chosen tables are of float inputs."""
    return all(tables[key] is not None and key not in tables.inputs for key in chosen(tables, options))


def chosen(tables: TableSet, options: Options) -> list[str]:
    return list(dict.fromkeys(map(str, options.keys or tables)))


def check_floats(tables: TableSet, options: Options) -> None:
    """LutcError for options that a unit of a table of float inputs has no use for."""
    if options.out is not None or options.unit != "lines" or options.together or options.loadable:
        raise LutcError(
            f"'{tables.name}' is a table of float inputs, whose unit takes floats to floats: leave `out_scale`, "
            "`unit`, `together` and `loadable` out"
        )
    if not (options.comparators and options.multiplier):
        raise LutcError("a unit of a table of float inputs has comparators and a multiplier")


def coded(name: str, tables: TableSet, options: Options) -> list[tuple[str, list[Unit]]]:
    """(module, its units) of tables over input codes: one module for each key, or one for all."""
    if options.arithmetic or options.port != "fp16":
        what = "arithmetic" if options.arithmetic else "port"
        raise LutcError(f"`{what}` is that of float tables; this one is over input codes")
    units = export.units(tables, options.keys or None, options.out)
    export.check_keys(units)
    if options.unit == "direct" and any(unit.out is None for unit in units):
        raise LutcError("a direct unit holds output codes; give --out-scale")
    if options.together and options.unit != "direct":
        return [(name, units)]
    return [(f"{name}_{identifier(unit.key)}", [unit]) for unit in units]


def said_of(modules: list[tuple[str, list[Unit]]], **more: object) -> list[dict]:
    """What the manifest says of each unit."""
    return [{"module": module, **more, **unit.parameters()} for module, units in modules for unit in units]
