"""The table, its integer form, its file, the library of shipped ones."""

from lutc.lazy import lazy

_EXPORTS = {
    "Table": "lutc.table.table",
    "Cells": "lutc.table.bodies",
    "Direct": "lutc.table.bodies",
    "Exponents": "lutc.table.bodies",
    "Lines": "lutc.table.bodies",
    "Domain": "lutc.table.domain",
    "AbsPrologue": "lutc.table.prologues",
    "ExponentPrologue": "lutc.table.prologues",
    "PeriodPrologue": "lutc.table.prologues",
    "TableSet": "lutc.table.table_set",
    "loads": "lutc.table.table_set",
    "read": "lutc.table.table_set",
    "load": "lutc.table.library",
    "names": "lutc.table.library",
    "IntegerLines": "lutc.table.integer",
    "integer_lines": "lutc.table.integer",
}
__all__ = sorted(_EXPORTS)
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
