"""Errors of a float table over all 65,536 inputs of a 16-bit format, with the arithmetic it runs in. Usable for any
table of a scalar function.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lutc import formats
from lutc.certify.arithmetic import in_arithmetic
from lutc.errors import LutcError
from lutc.formats.format import Format
from lutc.functions import Function
from lutc.measures import RELATIVE_FLOOR, rounded
from lutc.table.bodies import Direct
from lutc.table.table import Table


def float_certificate(table: Table, fn: Function) -> dict:
    """Per input dtype, the figures of the stored values, and under `arithmetic` those over the domain in each
    arithmetic it may run in: fp32 interpolation; and fp16 throughout, for values stored as fp16.
    """
    half = ("fp16_rne", "fp16_trunc") if table.coefficients == "fp16" and not isinstance(table.body, Direct) else ()
    return {
        dtype: certify_float(table, fn, dtype)
        | {"arithmetic": {name: certify_float(table, fn, dtype, name)["domain"] for name in names}}
        for dtype, names in (("fp16", ("fp32", *half)), ("bf16", ("fp32",)))
    }


def certify_float(table: Table, fn: Function, dtype: str = "fp16", arithmetic: str = "float64") -> dict:
    """Figures of `table` against `fn` over every code of `dtype` ("fp16" or "bf16").

    Two sets of finite inputs: `range` (fn.range) and `domain`, wherever fn is defined and does not overflow the dtype.
    In each the mean and worst relative error |e| / max(|f|, 2^-14), absolute error, and error in units of the last
    place of the dtype, worst ones with the input; `correct`: share of inputs whose result, rounded to the dtype, is the
    correctly rounded function. Apart from these, `undefined` and `overflow` (infinities, NaN and inputs where fn is
    NaN; infinite or too large) count inputs and how many the table answers as fn does once rounded to the dtype.
    """
    if dtype not in ("fp16", "bf16"):
        raise LutcError(f"float tables are certified over fp16 or bf16; given {dtype!r}")
    if dtype == "bf16" and arithmetic.startswith("fp16"):
        raise LutcError("fp16 arithmetic takes fp16 inputs; certify it over fp16")
    fmt = formats.get(dtype)
    x = fmt.decode(np.arange(1 << 16))
    with np.errstate(all="ignore"):
        exact = np.asarray(fn(x), np.float64)
        got = np.asarray(in_arithmetic(table, arithmetic)(x), np.float64)
    want, rounded = _cast(fmt, exact), _cast(fmt, got)
    agree = (want == rounded) | (np.isnan(want) & np.isnan(rounded))
    undefined = np.isnan(exact)
    overflow = np.isinf(want) | (np.isinf(x) & ~undefined)
    use = ~(undefined | overflow)
    lo, hi = fn.range
    return {
        "floor": RELATIVE_FLOOR,
        "range": _figures(fmt, x, exact, got, agree, use & (x >= lo) & (x <= hi)),
        "domain": _figures(fmt, x, exact, got, agree, use),
        "undefined": {"inputs": int(undefined.sum()), "agree": int((undefined & agree).sum())},
        "overflow": {"inputs": int(overflow.sum()), "agree": int((overflow & agree).sum())},
    }


def _cast(fmt: Format, y: np.ndarray) -> np.ndarray:
    """Rounded to the format as IEEE does: what exceeds the largest value by half a step or more is infinite."""
    rounded = np.asarray(fmt.round(y))
    return np.where(np.abs(y) >= fmt.max + fmt.ulp(fmt.max) / 2, np.copysign(np.inf, y), rounded)


def _figures(fmt: Format, x, exact, got, agree, use) -> dict:
    x, exact, got, agree = x[use], exact[use], got[use], agree[use]
    if not x.size:
        return {"inputs": 0}
    with np.errstate(all="ignore"):
        absolute = np.abs(got - exact)
    absolute = np.where(
        np.isfinite(absolute), absolute, fmt.max
    )  # an answer that is not finite counts as wrong by the largest value
    figures: dict[str, Any] = {"inputs": int(x.size)}
    # f to fp32 precision: where f nears a power of two, the last bit of this machine's exp must not decide the binade
    units = fmt.ulp(exact.astype(np.float32))
    scales = {"relative": np.maximum(np.abs(exact), RELATIVE_FLOOR), "absolute": 1.0, "ulp": units}
    for name, scale in scales.items():
        error = absolute / scale
        worst = int(np.argmax(error))
        figures |= {
            f"mean_{name}": rounded(np.mean(error)),
            f"worst_{name}": {"error": rounded(error[worst]), "x": float(x[worst])},
        }
    return figures | {"mean_squared": rounded(np.mean(absolute**2)), "correct": rounded(np.mean(agree))}
