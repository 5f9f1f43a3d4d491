"""Attention in integers on the CPU: products of codes to codes of scores, and these to weights with the sums of their
rows. Bit for bit `lutc.hardware.attention`; rows are shared among the threads.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from lutc.hardware.attention import FARTHEST, HIDDEN, MULTIPLIER_BITS, OCTAVE, WEIGHTS
from lutc.nn.cpu.base import TASK, compiled, floats, integers, native, packed, pointer
from lutc.nn.cpu.team import run

_FEW = 1 << 14  # elements for each thread below which one is as fast
_BITS, _FAR, _HIDDEN, _WEIGHTS = 2 * MULTIPLIER_BITS, np.int64(FARTHEST), np.int32(HIDDEN), np.int32(WEIGHTS)


@compiled
def _words(address, n):
    return numba.carray(pointer(address), n, np.int32)


@native(TASK)
def _score_rows(first, last, job):
    """job: addresses of products, scores, multiplier and exponent of each row and of each block of keys; keys, rows to
    a head of keys, keys to a block, blocks.
    """
    numbers = integers(job)
    n, per, block, blocks = numbers[6], numbers[7], numbers[8], numbers[9]
    of_rows, rows_exponents = _words(numbers[2], last), _words(numbers[3], last)
    for row in range(first, last):
        x, out = floats(numbers[0] + 4 * n * row, n), _words(numbers[1] + 4 * n * row, n)
        at = 4 * blocks * (row // per)
        of_keys, keys_exponents = _words(numbers[4] + at, blocks), _words(numbers[5] + at, blocks)
        for b in range(blocks):
            number = np.int64(of_rows[row]) * np.int64(of_keys[b])
            places = min(max(np.int64(_BITS) - rows_exponents[row] - keys_exponents[b], 1), 62)
            half = np.int64(1) << np.int64(places - 1)
            for i in range(b * block, min(b * block + block, n)):
                score = (np.int64(np.int32(x[i])) * number + half) >> np.int64(places)
                out[i] = np.int32(min(max(score, -_FAR), _FAR))


def scores(product: Tensor, by_row: tuple[Tensor, Tensor], by_key: tuple[Tensor, Tensor], block: int) -> Tensor:
    """Codes of scores (int32) of products (heads of keys, rows, keys), float32; by_row: multiplier and exponent, int32
    of as many elements as there are rows in all; by_key: (heads of keys, blocks of `block` keys).
    """
    product = product.contiguous()
    out = torch.empty(product.shape, dtype=torch.int32)
    heads, per, n = product.shape
    if not out.numel():
        return out
    numbers = [x.contiguous() for x in (*by_row, *by_key)]
    at = (x.data_ptr() for x in (product, out, *numbers))
    job = packed(*at, n, per, block, numbers[2].shape[-1])
    run(_score_rows, heads * per, max(1, _FEW // n), job, torch.get_num_threads())
    return out


@native(TASK)
def _weigh_rows(first, last, job):
    """job: addresses of scores, references, totals, table, weights, octaves; scores of a row and to a block; whether
    references rise.
    """
    numbers = integers(job)
    n, block, one_pass = numbers[6], numbers[7], numbers[8] != 0
    blocks = n // block
    references, totals, table = _words(numbers[1], last), _words(numbers[2], last), floats(numbers[3], _WEIGHTS + 1)
    for row in range(first, last):
        s, out = _words(numbers[0] + 4 * n * row, n), floats(numbers[4] + 4 * n * row, n)
        octaves = _words(numbers[5] + 4 * blocks * row, blocks)
        reference, total = references[row], totals[row]
        for b in range(blocks):
            part, weights = s[b * block : b * block + block], out[b * block : b * block + block]
            octaves[b] = 0
            if one_pass:
                top = np.int32(_HIDDEN)
                for i in range(block):
                    top = max(top, part[i])
                if reference == _HIDDEN:
                    reference = top
                elif top > reference:
                    risen = np.int32(np.int32(top - reference + np.int32(OCTAVE - 1)) // np.int32(OCTAVE))
                    reference = np.int32(reference + np.int32(OCTAVE) * risen)
                    octaves[b] = min(risen, np.int32(31))
                    total = np.int32(np.int32(np.int32(total >> np.int32(octaves[b] - 1)) + np.int32(1)) >> np.int32(1))
            added = np.int32(0)
            for i in range(block):
                far = min(max(np.int32(reference - part[i]), np.int32(0)), _WEIGHTS)
                weight = table[far] if part[i] != _HIDDEN else np.float32(0.0)
                weights[i] = weight
                added += np.int32(weight)
            total = np.int32(total + added)
        references[row], totals[row] = reference, total


def weights(
    scores: Tensor, references: Tensor, totals: Tensor, table: Tensor, block: int, one_pass: bool
) -> tuple[Tensor, Tensor]:
    """(weights float32 (rows, n), octaves int32 (rows, blocks) that the reference rose by before each) of scores (rows,
    n), blocks of them; references and totals (rows,), int32, are brought up to date in place. table: float32 by
    distance from the reference, with a 0 at its end.
    """
    rows, n = scores.shape
    out, octaves = torch.empty(rows, n), torch.empty(rows, n // block, dtype=torch.int32)
    if out.numel():
        at = (x.data_ptr() for x in (scores, references, totals, table, out, octaves))
        job = packed(*at, n, block, one_pass)
        run(_weigh_rows, rows, max(1, _FEW // n), job, torch.get_num_threads())
    return out, octaves
