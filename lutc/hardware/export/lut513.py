"""513 knots for int16, as LiteRT (TensorFlow Lite) and TOSA interpolate them.

Index i = (q >> 7) + 256, fraction o = q & 127. LiteRT: out = v[i] + (((v[i + 1] - v[i]) o + 64) >> 7), in int16. TOSA:
the int32 (v[i] << 7) + (v[i + 1] - v[i]) o, for a RESCALE behind it. The knots are not samples: they are the integers
of least squared error under LiteRT's rule over all 65,536 codes, as far as moves of single knots find them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solveh_banded

from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.hardware.export.lut256 import tosa
from lutc.hardware.export.text import c_array, identifier
from lutc.measures import rounded
from lutc.table.table import Table
from lutc.table.table_set import TableSet

KNOTS, PIECES = 513, 128
_LEAST, _MOST = -(1 << 15), (1 << 15) - 1
_FRACTION = np.arange(PIECES)


def look_up(knots: np.ndarray, q: np.ndarray) -> np.ndarray:
    """LiteRT's int16 LUTLookup: codes (int64) of codes."""
    q = np.asarray(q, np.int64)
    base, following = knots[(q >> 7) + 256], knots[(q >> 7) + 257]
    return base + (((following - base) * (q & 127) + 64) >> 7)


@dataclass(frozen=True, eq=False)
class Fitted:
    """knots: (513,) int64. errors in output codes against the table's value, for the knots and for samples at the
    same places.
    """

    knots: np.ndarray
    mean_squared: float
    largest: float
    sampled_mean_squared: float
    sampled_largest: float


def fit(table: Table, inputs: Inputs, out: Inputs) -> Fitted:
    """The knots for a table (float64 in, float64 out) at the scales of two 16-bit codes.

    LutcError where the table is not finite on the codes, or neighbouring knots differ by more than int16 holds.
    """
    if (inputs.bits, out.bits, inputs.zero_point, out.zero_point) != (16, 16, 0, 0):
        raise LutcError("a table of 513 knots takes int16 to int16 with zero points 0")
    with np.errstate(all="ignore"):
        target = np.asarray(table(inputs.x()), np.float64) / out.scale
        last = float(table(np.array([-inputs.minimum * inputs.scale]))[0]) / out.scale
    if not np.isfinite(target).all():
        at = inputs.x()[int(np.argmin(np.isfinite(target)))]
        raise LutcError(f"the table is not finite at {at:g}, which the codes reach; choose another scale (--in-scale)")
    target = target.clip(_LEAST, _MOST)
    last = target[-1] if not np.isfinite(last) else min(max(last, _LEAST), _MOST)
    sampled = np.rint(np.append(target[::PIECES], last)).astype(np.int64)
    wanted = target.reshape(512, PIECES)
    candidates = [_descend(start, wanted) for start in (sampled, np.rint(_least_squares(wanted)).astype(np.int64))]
    knots = min(candidates, key=lambda knots: _squared(knots, wanted).sum())
    if np.abs(np.diff(knots)).max() > _MOST:
        raise LutcError(
            "neighbouring knots differ by more than int16 holds; choose a coarser output scale or a finer input scale"
        )
    q = inputs.codes()
    errors, before = (np.abs(look_up(values, q) - target) for values in (knots, sampled))
    return Fitted(knots, *(float(v) for e in (errors, before) for v in (np.square(e).mean(), e.max())))


def _least_squares(wanted: np.ndarray) -> np.ndarray:
    """Real knots of least squared error without rounding: a tridiagonal system."""
    right = _FRACTION / PIECES
    left = 1 - right
    diagonal = np.zeros(KNOTS)
    diagonal[:-1] += np.square(left).sum()
    diagonal[1:] += np.square(right).sum()
    bands = np.stack([np.append(0.0, np.full(KNOTS - 1, (left * right).sum())), diagonal])
    sums = np.zeros(KNOTS)
    sums[:-1] += wanted @ left
    sums[1:] += wanted @ right
    return solveh_banded(bands, sums).clip(_LEAST, _MOST)


def _squared(knots: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """(512,) squared errors of each piece under the integer rule."""
    step = np.diff(knots)[:, None] * _FRACTION
    return np.square(knots[:-1, None] + ((step + 64) >> 7) - wanted).sum(-1)


def _descend(knots: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Moves of every other knot by one while they help: those that do not share a piece move at once."""
    knots = knots.copy()
    for _ in range(64):
        moved = False
        for parity in (0, 1):
            for by in (-1, 1):
                tried = knots.copy()
                tried[parity::2] = (tried[parity::2] + by).clip(_LEAST, _MOST)
                gain = _squared(knots, wanted) - _squared(tried, wanted)
                of_knot = np.append(0.0, gain) + np.append(gain, 0.0)
                better = of_knot > 0
                better[1 - parity :: 2] = False
                knots = np.where(better, tried, knots)
                moved |= bool(better.any())
        if not moved:
            break
    return knots


def render(
    name: str, tables: TableSet, keys: Sequence[str], inputs: Inputs, out: Inputs
) -> tuple[dict[str, str], list[dict]]:
    """Texts by file name: NAME_KEY_lut513.h and NAME_KEY_tosa.json for each key; and what to say of each."""
    files, said = {}, []
    for key in keys:
        found = fit(tables[key], inputs, out)
        prefix = f"{name}_{identifier(key)}"
        facts = {
            "key": key,
            "input_scale": inputs.scale,
            "output_scale": out.scale,
            "mean_squared_codes": rounded(found.mean_squared),
            "largest_codes": rounded(found.largest),
            "sampled_mean_squared_codes": rounded(found.sampled_mean_squared),
            "sampled_largest_codes": rounded(found.sampled_largest),
        }
        files[f"{prefix}_lut513.h"] = "\n".join(
            [
                f"/* {prefix}: {', '.join(f'{name} {value}' for name, value in facts.items() if name != 'key')} */",
                f"#ifndef {prefix.upper()}_LUT513_H",
                f"#define {prefix.upper()}_LUT513_H",
                "#include <stdint.h>",
                "/* out = v[i] + (((v[i + 1] - v[i]) * (q & 127) + 64) >> 7), i = (q >> 7) + 256 */",
                c_array(f"{prefix}_lut513", found.knots, 16),
                "#endif",
                "",
            ]
        )
        files[f"{prefix}_tosa.json"] = json.dumps(tosa(inputs, out, found.knots)) + "\n"
        said.append(facts)
    return files, said
