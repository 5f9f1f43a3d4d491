"""A table as C99 for a small board: one header, one source, no dependency but libm; arrays in the source or in a blob.

Float tables sum in sixteen lanes in a fixed order; int8 tables are `lutc.taylor.integer`, to the last bit.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lutc.errors import LutcError
from lutc.taylor import c_templates as templates
from lutc.taylor.cluster import half_norms
from lutc.taylor.integer import IntegerRouting, coded_rows, refuse_fallback
from lutc.taylor.table import TaylorTable

# More numbers than this in a source take a compiler minutes and gigabytes.
STATIC_LIMIT = 4_000_000
ALIGNMENT = 64
MAGIC = b"LUTCTMLP"
# Of C: a file of the table's name would be included in their place.
_HEADERS = {
    *("assert", "complex", "ctype", "errno", "fenv", "float", "inttypes", "iso646", "limits", "locale", "math"),
    *("setjmp", "signal", "stdarg", "stdbool", "stddef", "stdint", "stdio", "stdlib", "string", "tgmath", "time"),
    *("wchar", "wctype"),
}


@dataclass(frozen=True)
class Array:
    """One array of the table: its C name without the prefix, its C type, its numbers."""

    name: str
    kind: str
    values: np.ndarray


def c_files(table: TaylorTable, name: str, *, blob: bool = False) -> dict[str, str | bytes]:
    """File name -> content of `table` in C: NAME.h, NAME.c and, with `blob`, NAME.bin, which the board's program hands
    to `NAME_load`. `name` becomes a C identifier (`layer-0`: layer_0).

    Raises LutcError for a table with a fallback, for kept neurons of a function without C, and for arrays too many for
    a source.
    """
    refuse_fallback(table)
    if table.activation is not None and table.activation not in templates.ACTIVATIONS:
        raise LutcError(
            f"kept neurons of {table.activation} have no C; exported are {', '.join(templates.ACTIVATIONS)}"
        )
    name = c_name(name)
    arrays = _arrays(table)
    count = sum(array.values.size for array in arrays)
    if count > STATIC_LIMIT and not blob:
        raise LutcError(
            f"{count} numbers in one C source would take a compiler minutes; export with --blob, which holds up to "
            f"{STATIC_LIMIT} in the source and any number in a file beside it"
        )
    payload = _blob(arrays) if blob else b""
    parts = {
        "name": name,
        "upper": name.upper(),
        "d": table.in_features,
        "o": table.out_features,
        "k": table.k,
        "p": table.slopes.shape[2],
        "n": table.neurons,
        "r": table.rank,
        "about": _about(table),
        "stack": _stack(table),
        "bytes": sum(array.values.nbytes for array in arrays),
    }
    files: dict[str, str | bytes] = {
        f"{name}.h": templates.header(parts, blob),
        f"{name}.c": templates.source(
            table,
            parts,
            _pointers(name, arrays, payload) if blob else "\n".join(_static(name, array) for array in arrays),
            blob,
        ),
    }
    return files | ({f"{name}.bin": payload} if blob else {})


def c_name(name: str) -> str:
    """The C identifier that a table of this name gets: `0-head` -> table_0_head, and `math`, whose header would be the
    system's, -> table_math.
    """
    name = re.sub(r"\W", "_", name, flags=re.ASCII)
    return name if name[:1].isalpha() and name not in _HEADERS else f"table_{name}"


def _about(table: TaylorTable) -> str:
    kept = f", rank {table.rank}" if table.rank else ""
    if table.weights is not None:
        own = "" if table.chosen is None else f" of {len(table.weights)} to each centre"
        kept += f", {table.neurons} kept neurons{own} ({table.activation})"
    return (
        f"{table.in_features} -> {table.out_features}, {table.k} centres, order {table.order}{kept}, {table.format}, "
        f"{table.multiply_adds():.0f} multiply-adds"
    )


def _stack(table: TaylorTable) -> int:
    """Bytes of the arrays that a call holds at once."""
    width, d = table.slopes.shape[2], table.in_features
    floats = 4 * (width + (d if table.rank else 0))
    if table.scales is None:
        return floats + 64  # a product's lanes
    return floats + 2 * max(width, d if table.rank else 0) + 2 * d  # the codes here, and those of the centre's search


def _arrays(table: TaylorTable) -> list[Array]:
    half = {"fp32": "float", "fp16": "uint16_t", "bf16": "uint16_t", "int8": "uint16_t"}[table.format]

    def stored(name: str, tensor: Tensor) -> Array:
        codes = tensor if half == "float" else tensor.contiguous().view(torch.uint16)
        return Array(name, half, codes.numpy().ravel())

    arrays = [stored("centres", table.centres), stored("values", table.values)]
    if table.scales is None:
        arrays.append(Array("half_norms", "float", half_norms(table.centres.float()).numpy()))
        arrays.append(stored("slopes", table.slopes))
    else:
        routing = IntegerRouting.of(table.centres)
        arrays.append(Array("half_norms", "double", routing.half_norms.numpy()))
        arrays.append(Array("routes", "int16_t", routing.codes.numpy().ravel()))
        arrays.append(Array("slopes", "int8_t", table.slopes.numpy().ravel()))
        arrays.append(Array("scales", "float", table.scales.numpy().ravel()))
    if table.columns is not None:
        arrays.append(Array("columns", "float", table.columns.numpy()))
    if table.weights is not None and table.offsets is not None:
        arrays += [stored("weights", table.weights), stored("offsets", table.offsets)]
        if table.chosen is not None:
            kind = "uint16_t" if len(table.weights) <= 1 << 16 else "uint32_t"
            arrays.append(Array("chosen", kind, table.chosen.numpy().ravel().astype(kind.removesuffix("_t"))))
    if table.projections is not None and table.scales is None:
        arrays.append(stored("projections", table.projections))
    elif table.projections is not None:
        codes, scales = coded_rows(table.projections)
        arrays.append(Array("projections", "int16_t", codes.numpy().ravel()))
        arrays.append(Array("projection_scales", "float", scales.numpy().ravel()))
    return arrays


def _static(name: str, array: Array) -> str:
    values = array.values.tolist()
    if array.kind in ("float", "double"):
        digits, suffix = ("%.8e", "f") if array.kind == "float" else ("%.16e", "")
        words = [digits % value + suffix for value in values]
    else:
        words = [str(value) for value in values]
    lines = [", ".join(words[at : at + 12]) for at in range(0, len(words), 12)]
    body = ",\n    ".join(lines)
    return f"static const {array.kind} {name}_{array.name}[{len(words)}] = {{\n    {body}\n}};\n"


def _placed(arrays: list[Array]) -> tuple[list[int], int]:
    """Where each array begins in the blob, behind a header of ALIGNMENT bytes, and the blob's size."""
    places, at = [], ALIGNMENT
    for array in arrays:
        places.append(at)
        at += -(-array.values.nbytes // ALIGNMENT) * ALIGNMENT
    return places, at


def _blob(arrays: list[Array]) -> bytes:
    """MAGIC, the first 8 bytes of the SHA-256 of what follows the header, the size (8 bytes), then the arrays, each
    from a multiple of ALIGNMENT on; little-endian.
    """
    places, size = _placed(arrays)
    blob = bytearray(size)
    for array, place in zip(arrays, places):
        blob[place : place + array.values.nbytes] = array.values.astype(array.values.dtype.newbyteorder("<")).tobytes()
    digest = hashlib.sha256(blob[ALIGNMENT:]).digest()[:8]
    blob[:24] = MAGIC + digest + size.to_bytes(8, "little")
    return bytes(blob)


def _pointers(name: str, arrays: list[Array], payload: bytes) -> str:
    places, size = _placed(arrays)
    declared = "\n".join(f"static const {array.kind} *{name}_{array.name};" for array in arrays)
    taken = "\n".join(
        f"    {name}_{array.name} = (const {array.kind} *)(const void *)(bytes + {place});"
        for array, place in zip(arrays, places)
    )
    words = [int.from_bytes(payload[at : at + 8], "little") for at in (0, 8, 16)]
    return templates.LOAD.format(
        name=name, declared=declared, taken=taken, size=size, words=", ".join(f"UINT64_C({word})" for word in words)
    )
