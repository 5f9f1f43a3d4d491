"""Attention in integers in numpy: the model that every integer backend of it is held to, bit by bit.

Query and key are int8 codes with a scale for each block of rows, value with one for each column. A score is the int32
product of codes, requantised by the scales of its two blocks to codes of 1 / 32 of an octave (a factor of 2); a weight
is one of 256 bytes, by the score's distance from its row's reference; weights and their products with the values' codes
are summed in int32. Where a larger score comes, the reference rises by whole octaves, so that what was summed is
shifted (Softermax, arXiv:2103.09301, does so). Blocks of codes are those of INT-FlashAttention, arXiv:2409.16997.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import numpy as np

from lutc.certify.coverage import EXP, RECIPROCAL, serving_key
from lutc.errors import LutcError
from lutc.formats.requantise import INT32_MAX
from lutc.hardware.rows import RECIPROCAL_INPUTS, ROOT_BITS, leading_one, root_codes, root_lines, shift_to
from lutc.table.integer import IntegerLines
from lutc.table.library import TableSource
from lutc.table.table import Table
from lutc.table.table_set import TableSet

OCTAVE = 32  # score codes to a factor of 2
STEP = math.log(2) / OCTAVE  # of a score code
WEIGHTS = 256  # bytes of the table: eight octaves
LARGEST_CODE = 127  # of int8 codes and of weights
FARTHEST = 1 << 20  # scores saturate here, 22,713 on either side of 0
HIDDEN = -(1 << 30)  # the code of a score that is not seen
MULTIPLIER_BITS = 15  # of each block's part of a score's multiplier
VALUE_BITS = 8  # fraction bits of the result, in steps of the values' codes
LARGEST_SIZE = 1040  # of a head: products of two rows of codes stay below 2**24, exact in float32
MOST_KEYS = INT32_MAX // LARGEST_CODE**2
LEAST_SCALE = 2.0**-100  # blocks whose scale lies below are 0
BLOCKS = (32, 64, 128)


def quantised(x: np.ndarray, block: int | None) -> tuple[np.ndarray, np.ndarray]:
    """(codes int8, scales float32) of x (..., rows, columns): a scale for each `block` rows, (..., blocks), or with
    None one for each column, (..., columns). The largest magnitude of each becomes 127, halves round to even, all in
    float32. What holds NaN or infinities has that scale and codes of 0.
    """
    x = np.asarray(x, np.float32)
    if block is None:
        scales = np.abs(x).max(-2, initial=0) / np.float32(LARGEST_CODE)
        by = scales[..., None, :]
    else:
        starts = np.arange(0, x.shape[-2], block)
        largest = np.abs(x).max(-1, initial=0)
        scales = np.maximum.reduceat(largest, starts, axis=-1) if starts.size else largest
        scales = scales / np.float32(LARGEST_CODE)
        by = np.repeat(scales, block, axis=-1)[..., : x.shape[-2], None]
    served = np.isfinite(by) & (by >= LEAST_SCALE)
    codes = np.rint(np.where(served, x, 0) / np.where(served, by, 1))
    return codes.astype(np.int8), scales


def multipliers(scales: np.ndarray, factor: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(multiplier, exponent), int64: scales * factor = multiplier * 2**(exponent - 15), rounded to even, magnitudes of
    the multiplier from 2**14 to 2**15. 0 for scales that are not finite or below LEAST_SCALE.
    """
    scales = np.asarray(scales, np.float64)
    served = np.isfinite(scales) & (scales >= LEAST_SCALE)
    mantissa, exponent = np.frexp(np.where(served, scales, 0.0) * factor)
    return np.rint(mantissa * 2.0**MULTIPLIER_BITS).astype(np.int64), exponent.astype(np.int64)


def score_codes(product: np.ndarray, of_query: tuple, of_key: tuple) -> np.ndarray:
    """Codes (of STEP, halves up) of int32 products, within FARTHEST; the others: `multipliers` broadcast to them."""
    places = np.clip(2 * MULTIPLIER_BITS - of_query[1] - of_key[1], 1, 62)
    scaled = product * (of_query[0] * of_key[0])
    return np.clip((scaled + (np.int64(1) << (places - 1))) >> places, -FARTHEST, FARTHEST)


def shifted_down(x: np.ndarray, octaves: np.ndarray) -> np.ndarray:
    """x * 2**-octaves, halves up; octaves from 0 to 31."""
    return np.where(octaves > 0, ((x >> np.maximum(octaves - 1, 0)) + 1) >> 1, x)


def weight_table(exp: str | os.PathLike | TableSet | Table) -> np.ndarray:
    """Bytes (int64, WEIGHTS) by distance in codes: 127 times the exp table, halves up, from 0 to 127. Of a set over
    codes the finest table that reaches as far serves.
    """
    reach = (WEIGHTS - 1) * STEP
    tables, key = serving_key(exp, EXP)
    far = [k for k, inputs in tables.inputs.items() if inputs.scale * -inputs.minimum >= reach]
    if far:
        key = min(far, key=lambda k: tables.inputs[k].scale)
    weights = np.floor(LARGEST_CODE * np.asarray(tables[key](-STEP * np.arange(WEIGHTS))) + 0.5)
    weights = np.clip(weights, 0, LARGEST_CODE).astype(np.int64)
    if not weights[0]:
        raise LutcError(f"the exp table '{tables.name}' gives 0 at 0; use a table whose range ends at 0")
    return weights


def _check(query: np.ndarray, key: np.ndarray, value: np.ndarray, scale: float) -> None:
    arrays = {"query": query, "key": key, "value": value}
    for name, x in arrays.items():
        if not isinstance(x, np.ndarray) or x.dtype.kind != "f" or x.ndim < 3:
            raise LutcError(f"{name} is an array of floats (..., heads, rows, size); given {type(x).__name__}")
        if not np.isfinite(x).all():
            raise LutcError(f"{name} holds NaN or infinities, which codes do not; replace them")
    heads, key_heads = query.shape[-3], key.shape[-3]
    fits = query.shape[:-3] == key.shape[:-3] and key.shape[:-1] == value.shape[:-1]
    if not fits or query.shape[-1] != key.shape[-1] or not key_heads or heads % key_heads:
        shapes = ", ".join(str(x.shape) for x in arrays.values())
        raise LutcError(
            "integer attention takes query (..., heads, queries, size), key and value (..., key heads, keys, size), "
            f"heads a multiple of key heads; given {shapes}"
        )
    if not np.isfinite(scale):
        raise LutcError(f"scale is a finite number; given {scale}")


@dataclass(frozen=True, eq=False)
class IntegerAttentionModel:
    """Attention of int8 codes. weights: `weight_table`; reciprocal: lines of 1/x over mantissas of 15 bits, None to
    divide; block: rows of query and of key to a scale, and keys that are weighed at a time; one_pass: the reference
    rises as larger scores come, else it is each row's largest from the beginning.
    """

    weights: np.ndarray
    reciprocal: IntegerLines | None
    block: int
    one_pass: bool

    @classmethod
    def build(
        cls, exp: TableSource, reciprocal: TableSource | None, block: int, one_pass: bool
    ) -> IntegerAttentionModel:
        if block not in BLOCKS:
            raise LutcError(f"block is one of {', '.join(map(str, BLOCKS))}; given {block}")
        lines = None if reciprocal is None else root_lines(reciprocal, RECIPROCAL, RECIPROCAL_INPUTS)
        return cls(weight_table(exp), lines, block, one_pass)

    @staticmethod
    def check(size: int, keys: int) -> None:
        """LutcError for heads and numbers of keys that could overflow."""
        if size > LARGEST_SIZE:
            raise LutcError(f"integer attention takes heads of up to {LARGEST_SIZE}; given {size}")
        if keys > MOST_KEYS:
            raise LutcError(f"the int32 sums of integer attention hold up to {MOST_KEYS} keys; given {keys}")

    def __call__(
        self,
        query: np.ndarray,
        key: np.ndarray,
        value: np.ndarray,
        scale: float,
        seen: np.ndarray | None = None,
        bias: np.ndarray | None = None,
        sinks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(codes, scales) of float arrays query (..., heads, queries, size), key and value (..., key heads, keys, size
        of each): int64 codes (..., heads, queries, value size) within int16, for scales (..., heads, 1, value size):
        the result is codes * scales * 2**-8. Codes hold no NaN: what is not finite is an error here.

        seen: bool, broadcast to (..., heads, queries, keys); bias, sinks (heads,): codes added to scores, of a sink.
        """
        _check(query, key, value, scale)
        groups = query.shape[-3] // key.shape[-3]
        key, value = np.repeat(key, groups, -3), np.repeat(value, groups, -3)
        rows, keys = query.shape[-2], key.shape[-2]
        self.check(query.shape[-1], keys)
        q, of_query = quantised(query, self.block)
        k, of_key = quantised(key, self.block)
        v, of_value = quantised(value, None)
        by_row = tuple(np.repeat(x, self.block, -1)[..., :rows, None] for x in multipliers(of_query, scale / STEP))
        by_key = tuple(np.repeat(x, self.block, -1)[..., None, :keys] for x in multipliers(of_key))
        shape = (*query.shape[:-1], keys)
        scores = score_codes(q.astype(np.int64) @ k.astype(np.int64).swapaxes(-1, -2), by_row, by_key)
        if bias is not None:
            scores = np.clip(scores + bias, -FARTHEST, FARTHEST)
        scores = np.where(True if seen is None else np.broadcast_to(seen, shape), scores, HIDDEN)
        reference = np.full((*query.shape[:-1], 1), HIDDEN, np.int64)
        total = np.zeros_like(reference)
        if sinks is not None:
            reference = np.broadcast_to(sinks[:, None, None], reference.shape)
        if not self.one_pass:
            reference = np.maximum(reference, scores.max(-1, keepdims=True, initial=HIDDEN))
        if sinks is not None:
            total = total + self._weighed(sinks[:, None, None] - reference)
        acc = np.zeros((*query.shape[:-1], value.shape[-1]), np.int64)
        for first in range(0, keys, self.block):
            block = scores[..., first : first + self.block]
            if self.one_pass:
                top = block.max(-1, keepdims=True)
                octaves = np.maximum(-(-(top - reference) // OCTAVE), 0)
                new = reference == HIDDEN
                reference = np.where(new, top, reference + OCTAVE * octaves)
                octaves = np.where(new, 0, np.minimum(octaves, 31))
                acc, total = shifted_down(acc, octaves), shifted_down(total, octaves)
            weights = np.where(block == HIDDEN, 0, self._weighed(block - reference))
            total = total + weights.sum(-1, keepdims=True)
            acc = acc + weights @ v[..., first : first + self.block, :].astype(np.int64)
        return self._shared(acc, total), of_value[..., None, :]

    def _weighed(self, difference: np.ndarray) -> np.ndarray:
        """Weights of differences of at most 0; 0 beyond the table."""
        return np.where(difference > -WEIGHTS, self.weights[np.clip(-difference, 0, WEIGHTS - 1)], 0)

    def _shared(self, acc: np.ndarray, total: np.ndarray) -> np.ndarray:
        """acc / total with VALUE_BITS fraction bits, halves up; 0 where nothing was seen."""
        if self.reciprocal is None:
            some = np.maximum(total, 1)
            return np.where(total > 0, ((acc << (VALUE_BITS + 1)) + some) // (2 * some), 0)
        some = np.maximum(total, 1)
        leading = leading_one(some)
        mantissa = np.minimum(shift_to(some, ROOT_BITS - 1 - leading), RECIPROCAL_INPUTS.maximum)
        codes = shift_to(acc * root_codes(self.reciprocal, mantissa), VALUE_BITS - ROOT_BITS - leading)
        return np.where(total > 0, np.clip(codes, -(1 << 15), (1 << 15) - 1), 0)
