"""Piecewise-linear tables in Triton: device functions for any kernel's epilogue, and one-pass elementwise kernels.

A plan (`lutc.lower.plans`) is an int32 vector `words` on the device and up to eight integers `meta`. `arguments(meta)`
turns these into what the device functions take: KIND and FLAGS, compile-time constants shared by most tables, and p0
... p5, runtime integers. One compiled kernel serves every table of a kind.

    value = evaluate(x, words, p0, p1, p2, p3, p4, p5, KIND, FLAGS)      # x: a block of any float dtype; value: float32

shows in `lutc.kernels.matmul` how a matrix product takes a table into its epilogue.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl
from lutc.kernels import reduced

UNIFORM = tl.constexpr(1)
CELLS = tl.constexpr(2)
SEARCH = tl.constexpr(3)
DIRECT = tl.constexpr(4)
REDUCED = tl.constexpr(6)
LARGEST = tl.constexpr(3.4028234663852886e38)
_INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


def _bits(value: float) -> int:
    return int(np.float32(value).view(np.int32))


def arguments(meta: Sequence[int]) -> dict:
    """Keyword arguments of `evaluate` and `slope`, but for x and words. What is constant in a table is computed here,
    not per thread.
    """
    kind, flags, *numbers = meta
    if kind == REDUCED.value:
        return reduced.arguments(meta)
    if kind == UNIFORM.value:
        cells, bits, first = numbers
        bottom, top, step = first + 1, first + cells, 2.0**-bits
        numbers = [
            bottom,
            _bits(2.0**bits),
            _bits((bottom - 0.5) * step),
            _bits((top - 0.5) * step),
            _bits(bottom),
            _bits(top),
        ]
    elif kind == CELLS.value:
        segments, shift, first, positive, negative = numbers
        numbers = [
            segments + 1 - first,
            shift,
            positive - first + 1,
            *(key << shift for key in (first, positive, negative)),
        ]
    numbers += [0] * (6 - len(numbers))
    return {**{f"p{i}": number for i, number in enumerate(numbers)}, "KIND": kind, "FLAGS": flags}


@triton.jit
def _finite(x, low, high, FLAGS: tl.constexpr):
    """Clamp x where an end segment is flat, so that 0 * inf does not arise; NaN stays."""
    if FLAGS & 1:
        x = tl.maximum(x, low, propagate_nan=tl.PropagateNan.ALL)
    if FLAGS & 2:
        x = tl.minimum(x, high, propagate_nan=tl.PropagateNan.ALL)
    return x


@triton.jit
def _ceil(x):
    """ceil(x) as int32, saturating; 0 for NaN."""
    if _INTERPRETED:
        return tl.ceil(tl.where(x == x, x, 0.0)).to(tl.int32)
    # tl.ceil flushes subnormals to 0, which would put them on the wrong side of a breakpoint at 0, and takes an
    # instruction more.
    return tl.inline_asm_elementwise("cvt.rpi.s32.f32 $0, $1;", "=r,f", [x], dtype=tl.int32, is_pure=True, pack=1)


@triton.jit
def _low(word):
    return (word & 0xFFFFFFFF).to(tl.int32)


@triton.jit
def _high(word):
    return (word >> 32).to(tl.int32)


@triton.jit
def _pair(pointer):
    """(slope, intercept) in one 8-byte access. Not by tl.load: in a loop with matrix products Triton would load it
    ahead of the product that the place follows from, and fail.
    """
    if _INTERPRETED:
        word = tl.load(pointer)
        return _low(word).to(tl.float32, bitcast=True), _high(word).to(tl.float32, bitcast=True)
    return tl.inline_asm_elementwise(
        "ld.global.nc.v2.b32 {$0, $1}, [$2];",
        "=r,=r,l",
        [pointer.to(tl.int64)],
        dtype=(tl.float32, tl.float32),
        is_pure=True,
        pack=1,
    )


@triton.jit
def _uniform(x, words, bottom, scale, low, high, bottom_float, top_float, FLAGS: tl.constexpr):
    """Cell ceil(x * scale) - 1. Where an end is flat, x is clamped into its cell, which spares the clamp of the cell's
    number.

    scale, low, high, bottom_float and top_float are float32 as bits.
    """
    x = _finite(x, low.to(tl.float32, bitcast=True), high.to(tl.float32, bitcast=True), FLAGS)
    scaled = x * scale.to(tl.float32, bitcast=True)
    # These drop NaN; where neither runs, a NaN takes cell -1, which every plan has.
    if FLAGS & 1 == 0:
        scaled = tl.maximum(scaled, bottom_float.to(tl.float32, bitcast=True))
    if FLAGS & 2 == 0:
        scaled = tl.minimum(scaled, top_float.to(tl.float32, bitcast=True))
    slope, intercept = _pair(words.to(tl.pointer_type(tl.int64)) - bottom + _ceil(scaled))
    return x, slope, intercept


@triton.jit
def _cells(x, words, cells, shift, behind, smallest, largest_positive, largest_negative, FLAGS: tl.constexpr):
    """Cell by sign and top bits, then one comparison. The last three are float32 as bits: values in the outermost
    cells, to clamp to.
    """
    bottom = -largest_negative.to(tl.float32, bitcast=True)
    top = largest_positive.to(tl.float32, bitcast=True)
    x = _finite(x, bottom, top, FLAGS)
    inside = tl.where(x == x, x, bottom) if _INTERPRETED else x  # the interpreter's maximum keeps NaN
    if FLAGS & 1 == 0:
        inside = tl.maximum(inside, bottom)
    if FLAGS & 2 == 0:
        inside = tl.minimum(inside, top)
    magnitude = tl.maximum(tl.abs(inside), smallest.to(tl.float32, bitcast=True))  # drops NaN
    key = magnitude.to(tl.int32, bitcast=True) >> shift
    table = words.to(tl.pointer_type(tl.int64))
    threshold, right = _pair(table + cells + (key + tl.where(inside.to(tl.int32, bitcast=True) < 0, behind, 0)))
    # The sign bit of x - threshold says whether x lies below; the place is 0 or more.
    below = (x - threshold).to(tl.uint32, bitcast=True) >> 31
    slope, intercept = _pair(table + (right.to(tl.uint32, bitcast=True) + below))
    return x, slope, intercept


@triton.jit
def _search(x, words, size, steps, FLAGS: tl.constexpr):
    """Branchless search among size - 1 = 2^steps - 1 thresholds."""
    x = _finite(x, -LARGEST, LARGEST, FLAGS)
    thresholds = words.to(tl.pointer_type(tl.float32)) - 1
    segment = tl.zeros_like(x).to(tl.int32)
    step = size >> 1
    for _ in range(steps):
        ahead = segment + step
        segment = tl.where(x >= tl.load(thresholds + ahead), ahead, segment)
        step = step >> 1
    slope, intercept = _pair((words + size).to(tl.pointer_type(tl.int64)) + segment)
    return x, slope, intercept


@triton.jit
def locate(x, words, p0, p1, p2, p3, p4, p5, KIND: tl.constexpr, FLAGS: tl.constexpr):
    """(x made finite where its segment is flat, slope, intercept), float32, for a float32 block; not for `direct`
    plans.
    """
    tl.static_assert(KIND == UNIFORM or KIND == CELLS or KIND == SEARCH, "unknown plan")
    if KIND == UNIFORM:
        return _uniform(x, words, p0, p1, p2, p3, p4, p5, FLAGS)
    elif KIND == CELLS:
        return _cells(x, words, p0, p1, p2, p3, p4, p5, FLAGS)
    else:
        return _search(x, words, p0, p1, FLAGS)


@triton.jit
def _entry(x, words, offset):
    """Entry of a `direct` table for a 16-bit block, in its dtype."""
    code = x.to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
    return tl.load(words.to(tl.pointer_type(x.dtype)) + offset + code)


@triton.jit
def evaluate(x, words, p0, p1, p2, p3, p4, p5, KIND: tl.constexpr, FLAGS: tl.constexpr):
    """table(x) in float32 for a block x of the plan's dtype (`direct`: 16 bits; else any float up to 32 bits). NaN
    gives NaN.
    """
    if KIND == DIRECT:
        return _entry(x, words, 0).to(tl.float32)
    elif KIND == REDUCED:
        return reduced.evaluate(x.to(tl.float32), words, p0, p1, p2, p3, FLAGS, False)
    else:
        finite, slope, intercept = locate(x.to(tl.float32), words, p0, p1, p2, p3, p4, p5, KIND, FLAGS)
        return tl.fma(slope, finite, intercept)


@triton.jit
def slope(x, words, p0, p1, p2, p3, p4, p5, KIND: tl.constexpr, FLAGS: tl.constexpr):
    """Slope of the segment of x in float32; NaN gives NaN."""
    if KIND == DIRECT:
        return _entry(x, words, p0).to(tl.float32)
    elif KIND == REDUCED:
        return reduced.evaluate(x.to(tl.float32), words, p0, p1, p2, p3, FLAGS, True)
    else:
        finite, value, _ = locate(x.to(tl.float32), words, p0, p1, p2, p3, p4, p5, KIND, FLAGS)
        return tl.where(finite == finite, value, finite)


@triton.jit
def _one(
    x, y, words, p0, p1, p2, p3, p4, p5, KIND: tl.constexpr, FLAGS: tl.constexpr, MODE: tl.constexpr, OUT: tl.constexpr
):
    SLOPE: tl.constexpr = MODE == "slope" or MODE == "gradient"
    if KIND == DIRECT:
        value = _entry(x, words, p0 if SLOPE else 0)
    elif SLOPE:
        value = slope(x, words, p0, p1, p2, p3, p4, p5, KIND, FLAGS).to(OUT)
    else:
        value = evaluate(x, words, p0, p1, p2, p3, p4, p5, KIND, FLAGS).to(OUT)
    if MODE == "product" or MODE == "gradient":  # of the rounded value, so that it equals the product in two steps
        return (value.to(tl.float32) * y.to(tl.float32)).to(OUT)
    else:
        return value


@triton.jit(do_not_specialize=["n", "p0", "p1", "p2", "p3", "p4", "p5", "scale", "zero_point"])
def elementwise(
    x_ptr, y_ptr, out_ptr, n, x_stride, y_stride, words, p0, p1, p2, p3, p4, p5, scale, zero_point,
    KIND: tl.constexpr, FLAGS: tl.constexpr, MODE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out = table(x), its slope, or either times y. `n` elements in a row; rows of x and y are `*_stride` apart, those
    of out n.

    Grid: (blocks,), or with ROWS (rows, blocks). int8 x are codes: x = scale * (code - zero_point). Full blocks run
    without masks, which leaves 16-byte accesses to the compiler whatever n is.
    """
    offsets = tl.arange(0, BLOCK)
    if ROWS:
        row = tl.program_id(0).to(tl.int64)
        start = tl.program_id(1).to(tl.int64) * BLOCK
        x_ptr += row * x_stride
        y_ptr += row * y_stride
        out_ptr += row * n
    else:
        start = tl.program_id(0).to(tl.int64) * BLOCK
    x_ptr += start
    y_ptr += start
    out_ptr += start
    PAIRED: tl.constexpr = MODE == "product" or MODE == "gradient"
    OUT: tl.constexpr = out_ptr.dtype.element_ty
    if start + BLOCK <= n:
        x = tl.load(x_ptr + offsets)
        y = tl.load(y_ptr + offsets) if PAIRED else x
        if x.dtype == tl.int8:
            x = (x.to(tl.float32) - zero_point) * scale
        tl.store(out_ptr + offsets, _one(x, y, words, p0, p1, p2, p3, p4, p5, KIND, FLAGS, MODE, OUT))
    else:
        inside = offsets < n - start
        x = tl.load(x_ptr + offsets, mask=inside, other=0.0)
        y = tl.load(y_ptr + offsets, mask=inside, other=0.0) if PAIRED else x
        if x.dtype == tl.int8:
            x = (x.to(tl.float32) - zero_point) * scale
        tl.store(out_ptr + offsets, _one(x, y, words, p0, p1, p2, p3, p4, p5, KIND, FLAGS, MODE, OUT), mask=inside)


BLOCK, WARPS = (
    2048,
    4,
)  # 16 elements a thread: two 16-byte accesses at 16 bits, four at 32, and the entry's instructions are spread thin
LONGEST_ROW = 65535 * BLOCK  # of several: CUDA's limit of a grid's second dimension
# Where a multiply-add is to be fused, the code says so: fp fusion by the compiler would add others.
OPTIONS = {"num_warps": WARPS, "enable_fp_fusion": False}


def launch(
    x: torch.Tensor,
    y: torch.Tensor | None,
    out: torch.Tensor,
    words: torch.Tensor,
    meta: Sequence[int],
    mode: str,
    rows: int,
    columns: int,
    x_stride: int,
    y_stride: int,
    scale: float = 1.0,
    zero_point: float = 0.0,
) -> None:
    """Run `elementwise` over `rows` rows of `columns` elements. mode: "value", "slope", "product" or "gradient" (the
    last two with y).

    With one row the three tensors are read as flat memory. `out` is dense. Strides are in elements, from row to row.
    """
    blocks = triton.cdiv(columns, BLOCK)
    grid = (blocks,) if rows == 1 else (rows, blocks)
    with torch.cuda.device_of(x):
        elementwise[grid](
            x,
            x if y is None else y,
            out,
            columns,
            x_stride,
            y_stride,
            words,
            scale=float(scale),
            zero_point=float(zero_point),
            MODE=mode,
            ROWS=rows != 1,
            BLOCK=BLOCK,
            **OPTIONS,
            **arguments(meta),
        )
