"""Parts of the attention kernels: weights by a table, scores with their masks, loads (device functions)."""

from __future__ import annotations

import triton
import triton.language as tl
from lutc.kernels import pwl

from lutc.lower import even_plans

INFINITY = tl.constexpr(float("inf"))
MAGIC = tl.constexpr(12582912.0)  # 1.5 * 2^23: the last bits of x + MAGIC are those of the integer below x
# 2^f on [0, 1): the cubic of least relative error that is 1 at 0, 8.6e-5
CUBIC = tuple(map(tl.constexpr, (0.695116631, 0.227644978, 0.0770672403)))
_C1, _C2, _C3 = CUBIC
PIECES, TOP = tl.constexpr(even_plans.PIECES), tl.constexpr(even_plans.TOP)
_TO_PLACE = tl.constexpr(2.0 ** (even_plans.BITS - 86))  # u of [0, 1] to places of a float of 2^-63, 2^-86 apart
_BASE = tl.constexpr(0x20000000)  # bits of 2^-63: eight times it is 0 in 32 bits, so that addresses need no subtraction


@triton.jit
def _floored(x):
    """floor(x) + MAGIC, |x| < 2^21: one addition that rounds down."""
    if pwl._INTERPRETED:
        return tl.floor(x) + MAGIC
    return tl.inline_asm_elementwise("add.rm.f32 $0, $1, 0f4B400000;", "=r,r", [x], tl.float32, True, 1)


@triton.jit
def dot(a, b, acc, PRECISION: tl.constexpr):
    """a b + acc, acc None for 0. The interpreter would multiply the codes of bfloat16."""
    if pwl._INTERPRETED:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def _down(a, b, c, SATURATED: tl.constexpr):
    """a b + c, rounded down, with SATURATED within [0, 1] and 0 for NaN."""
    if pwl._INTERPRETED:
        value = tl.fma(a, b, c)
        value = tl.where(value == value, tl.minimum(tl.maximum(value, 0.0), TOP), 0.0) if SATURATED else value
        return value
    if SATURATED:
        return tl.inline_asm_elementwise("fma.rm.sat.f32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, c], tl.float32, True, 1)
    return tl.inline_asm_elementwise("fma.rm.f32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, c], tl.float32, True, 1)


@triton.jit
def _even(s, top, c, pairs, PLAIN: tl.constexpr):
    """The line of the piece of u = TOP + (s - top) c (`lutc.lower.even_plans`), at u. pairs: slope and intercept of
    each piece, int64 (PIECES,); they come from shared memory. Scores that are NaN weigh 0.
    """
    if PLAIN:
        u = _down(s, c, _down(-top, c, TOP, False), True)  # rounded down, so that it is TOP at most
    else:
        u = _down(s - top, c, TOP, True)
    if pwl._INTERPRETED:
        place = (u * PIECES).to(tl.int32)
    else:
        place = _down(u, _TO_PLACE, 1.0842021724855044e-19, False).to(tl.int32, bitcast=True) - _BASE
    pair = tl.reshape(tl.gather(pairs, tl.reshape(place, (place.numel,)), 0), s.shape)
    if pwl._INTERPRETED:
        slope = (pair & 0xFFFFFFFF).to(tl.int32).to(tl.float32, bitcast=True)
        return tl.fma(slope, u, (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True))
    # not by tl.fma, which sm_100 takes two at a time, after four moves
    return tl.inline_asm_elementwise(
        "{ .reg .f32 p, q; mov.b64 {p, q}, $2; fma.rn.f32 $0, p, $1, q; }", "=r,r,l", [u, pair], tl.float32, True, 1
    )


@triton.jit
def _larger(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def largest(s, EXP: tl.constexpr):
    """Of each row; where weights do not keep NaN ("even"), it does."""
    if EXP != "even":
        return tl.max(s, axis=1)
    elif pwl._INTERPRETED:
        return tl.where(tl.max((s != s).to(tl.int32), axis=1) != 0, float("nan"), tl.max(s, axis=1))
    else:
        return tl.reduce(s, 1, _larger)


@triton.jit
def larger(a, b, EXP: tl.constexpr):
    if EXP == "even":
        return _larger(a, b)
    else:
        return tl.maximum(a, b)


@triton.jit
def _computed(
    s, top, c, floor, last, words, p0, p1, p2, p3, p4, p5,
    KIND: tl.constexpr, FLAGS: tl.constexpr, PERIOD: tl.constexpr, EXP: tl.constexpr, HIDDEN: tl.constexpr,
    PLAIN: tl.constexpr,
):  # fmt: skip
    """T((s - top) c) by the table's plan, or what stands in its place; see `weights`."""
    d = tl.fma(s, c, -(top * c)) if PLAIN else (s - top) * c  # the latter for scores near the largest float
    if EXP == "exp2":
        return tl.exp2(d)
    if PERIOD:
        inside = tl.maximum(d, floor, propagate_nan=tl.PropagateNan.ALL)
        shifted = _floored(inside)
        f = inside - (shifted - MAGIC)
        power = ((shifted.to(tl.int32, bitcast=True) << 23) + 0x3F800000).to(tl.float32, bitcast=True)
        if EXP == "cubic":
            value = tl.fma(tl.fma(tl.fma(f, _C3, _C2), f, _C1), f, 1.0) * power
        else:
            value = pwl.evaluate(f * last, words, p0, p1, p2, p3, p4, p5, KIND, FLAGS)
            value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL) * power
        return tl.where(d < floor, 0.0, value) if HIDDEN else value
    else:
        value = pwl.evaluate(d, words, p0, p1, p2, p3, p4, p5, KIND, FLAGS)
        return tl.where((value < 0) | (d < floor), 0.0, value)


@triton.jit
def weights(
    s, top, c, floor, last, words, pairs, p0, p1, p2, p3, p4, p5,
    KIND: tl.constexpr, FLAGS: tl.constexpr, PERIOD: tl.constexpr, EXP: tl.constexpr, HIDDEN: tl.constexpr,
    PLAIN: tl.constexpr,
):  # fmt: skip
    """T((s - top) c). EXP: "table", by its plan: never negative, 0 below the floor (with PERIOD and without HIDDEN
    scores: as at the floor, which is 1e-38), NaN stays; "even", by its pieces; "exp2" or "cubic" in their place.
    """
    if EXP == "even":
        return _even(s, top, c, pairs, PLAIN)
    else:
        return _computed(s, top, c, floor, last, words, p0, p1, p2, p3, p4, p5,
                         KIND, FLAGS, PERIOD, EXP, HIDDEN, PLAIN)  # fmt: skip


@triton.jit
def capped(s, softcap, words, p0, p1, p2, p3, p4, p5, KIND: tl.constexpr, FLAGS: tl.constexpr):
    """tanh(s / softcap): by the table, or exactly where KIND is 0."""
    x = s / softcap
    if KIND == 0:
        return 1.0 - 2.0 / (1.0 + tl.exp(2.0 * x))
    else:
        return pwl.evaluate(x, words, p0, p1, p2, p3, p4, p5, KIND, FLAGS)


@triton.jit
def scores(
    q, k, scale, softcap, t_words, t0, t1, t2, t3, t4, t5,
    T_KIND: tl.constexpr, T_FLAGS: tl.constexpr, PLAIN: tl.constexpr, SOFTCAP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Products of queries and keys, before their scale with PLAIN, else scaled and capped."""
    s = dot(q, tl.trans(k), None, PRECISION)
    if not PLAIN:
        s = s * scale
        if SOFTCAP:
            s = softcap * capped(s, softcap, t_words, t0, t1, t2, t3, t4, t5, T_KIND, T_FLAGS)
    return s


@triton.jit
def seen_scores(s, at, key, row, limit, rows, mask_ptr, mask_row, mask_key, slope, window,
          MASK: tl.constexpr, ALIBI: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """Scores with bias and mask. at: positions of the queries among the keys; row: their numbers; EDGE: the block may
    reach beyond what is seen.
    """
    if ALIBI:
        s -= slope * tl.abs((at[:, None] - key[None, :]).to(tl.float32))
    if MASK:
        places = mask_ptr + row[:, None].to(tl.int64) * mask_row + key[None, :].to(tl.int64) * mask_key
        inside = (row[:, None] < rows) & (key[None, :] < limit)
        if MASK == 1:
            s = tl.where(tl.load(places, mask=inside, other=0) != 0, s, -INFINITY)
        else:
            s += tl.load(places, mask=inside, other=0.0).to(tl.float32)
    if EDGE:
        seen = key[None, :] < limit
        s = tl.where(within_reach(seen, at, key, window, CAUSAL, WINDOW), s, -INFINITY)
    return s


@triton.jit
def within_reach(seen, at, key, window, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """`seen` (queries, keys), less the keys that a causal mask or a window hides from queries at positions `at`."""
    if CAUSAL:
        seen = seen & (key[None, :] <= at[:, None])
    if WINDOW:
        seen = seen & (key[None, :] > at[:, None] - window)
        if not CAUSAL:
            seen = seen & (key[None, :] < at[:, None] + window)
    return seen


@triton.jit
def load_rows(ptr, rows, stride, limit, SIZE: tl.constexpr, BLOCK: tl.constexpr, EDGE: tl.constexpr):
    """Rows of SIZE elements as (rows, BLOCK), 0 outside."""
    column = tl.arange(0, BLOCK)
    places = ptr + rows[:, None].to(tl.int64) * stride + column[None, :]
    if EDGE and SIZE != BLOCK:
        return tl.load(places, mask=(rows[:, None] < limit) & (column[None, :] < SIZE), other=0.0)
    elif EDGE:
        return tl.load(places, mask=rows[:, None] < limit, other=0.0)
    elif SIZE != BLOCK:
        return tl.load(places, mask=column[None, :] < SIZE, other=0.0)
    else:
        return tl.load(places)
