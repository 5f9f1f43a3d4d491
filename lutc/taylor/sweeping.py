"""Choosing k, order and storage: the front of error, multiply-adds, bytes and measured time, with the honest
competitors in it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as changed

import torch
from torch import Tensor, nn

from lutc.errors import LutcError
from lutc.taylor.accounting import exact_multiply_adds
from lutc.taylor.blocks import Block
from lutc.taylor.cluster import SAMPLES_LEAST
from lutc.taylor.fitting import BlockPairs, TaylorSettings, fit
from lutc.taylor.inputs import BlockInputs
from lutc.taylor.module import TaylorMLP
from lutc.taylor.neurons import activation_name, two_layers

_REPEATS = 30


@dataclass(frozen=True)
class Point:
    """One design. error: relative squared error on held-out documents. speedup: exact time / its time, per batch size,
    same run.
    """

    name: str
    error: float
    multiply_adds: float
    bytes: int
    speedup: dict[int, float]
    on_front: bool = False


def sweep(
    block: Block,
    inputs: BlockInputs | Tensor,
    settings: TaylorSettings | None = None,
    *,
    ks: Sequence[int] = (4, 16, 64),
    orders: Sequence[int] = (1,),
    formats: Sequence[str] = ("fp32", "fp16", "int8"),
    neurons: Sequence[int] = (),
    batches: Sequence[int] = (1, 32),
) -> list[Point]:
    """Fit every k and order, store each in every format, and put them beside one linear map and n exact neurons plus a
    linear map.

    `settings.neurons` are kept in every first-order table. `neurons`, those of the competitor, default to an eighth of
    the hidden width where the block is a two-layer MLP. A point is on the front where no other one has at most its
    error, multiply-adds and bytes. Returns the points by falling multiply-adds.
    """
    settings = settings or TaylorSettings()
    if not ks or not orders or not formats:
        raise LutcError("nothing to sweep: give at least one k, one order and one format")
    samples = BlockPairs(block, inputs)
    rows = samples.sample(max([*batches, SAMPLES_LEAST // 10]))
    exact = _times(block.as_module, rows, batches)
    exact_bytes = sum(parameter.nbytes for parameter in block.as_module.parameters())
    exact_cost = exact_multiply_adds(block, rows.shape[1])
    points = [Point("exact", 0.0, exact_cost, exact_bytes, dict.fromkeys(batches, 1.0))]
    layers = two_layers(block)
    layers = layers if layers and activation_name(layers[1]) else None
    kept = list(neurons) or ([layers[0].out_features // 8] if layers else [])
    alone = changed(settings, k=1, order=1, fallback=0.0, format="fp32")
    designs: dict[tuple[str, tuple[str, ...]], TaylorSettings] = {("linear", ("fp32",)): changed(alone, neurons=0)}
    designs |= {(f"{n} neurons + linear", ("fp32",)): changed(alone, neurons=n) for n in kept if layers}
    for k in ks:
        for order in orders:
            n = settings.neurons if order == 1 else 0
            name = f"k={k} order={order}" + (f" neurons={n}" if n else "")
            designs[name, tuple(formats)] = changed(settings, k=k, order=order, neurons=n, format="fp32")
    for (name, stores), design in _progress(list(designs.items())):
        table = fit(block, inputs, design)
        share = (table.info["certificate"] or {}).get("fallback", 0.0)
        for format in stores:
            stored = table.stored(format, rows)
            module = TaylorMLP(stored, block.as_module if stored.radii is not None else None)
            speedup = _speedup(exact, _times(module, rows, batches))
            cost = stored.multiply_adds(share, exact_cost)
            size = stored.storage_bytes + (points[0].bytes if stored.radii is not None else 0)
            points.append(
                Point(name if "k=" not in name else f"{name} {format}", _error(module, samples), cost, size, speedup)
            )
    points = [changed(point, on_front=not any(_dominates(other, point) for other in points)) for point in points]
    return sorted(points, key=lambda point: -point.multiply_adds)


def _dominates(other: Point, point: Point) -> bool:
    a, b = ((p.error, p.multiply_adds, p.bytes) for p in (other, point))
    return a != b and all(x <= y for x, y in zip(a, b))


def _error(module: nn.Module, samples: BlockPairs) -> float:
    error, squares, count = 0.0, 0.0, 0
    total = torch.zeros(1, dtype=torch.float64)
    with torch.no_grad():
        for x, y in samples.pairs(True):
            error += float((module(x) - y).double().square().sum())
            squares += float(y.double().square().sum())
            total = total + y.double().sum(0)
            count += len(y)
    if not count:
        raise LutcError("nothing is held out; collect at least ten documents")
    return error / max(squares - float(total.square().sum()) / count, 1e-300)


def _times(module: nn.Module, rows: Tensor, batches: Sequence[int]) -> dict[int, float]:
    """Median seconds per call on real inputs, per batch size."""
    result = {}
    with torch.inference_mode():
        for batch in batches:
            parts = [
                rows[start : start + batch] for start in range(0, min(len(rows), 40 * batch) - batch + 1, batch)
            ] or [rows]
            seconds = []
            for repeat in range(_REPEATS + 3):
                x = parts[repeat % len(parts)].contiguous()
                start = time.perf_counter()
                module(x)
                seconds.append(time.perf_counter() - start)
            result[batch] = sorted(seconds[3:])[_REPEATS // 2]
    return result


def _speedup(exact: dict[int, float], times: dict[int, float]) -> dict[int, float]:
    return {batch: exact[batch] / times[batch] for batch in exact}


def _progress(items: list):
    from tqdm import tqdm

    return tqdm(items, desc="sweep", unit=" fits", disable=not sys.stderr.isatty())
