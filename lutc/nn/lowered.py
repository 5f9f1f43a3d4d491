"""Plans as torch buffers: lowered once per table, dtype and device, and shared by every module that holds the table."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import weakref
from dataclasses import dataclass

import torch

from lutc.lower.lowering import MAX_CHAIN, lower
from lutc.table.table import Table

DTYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}

# What each kind of device runs best, in the order tried. On a CPU a few segments fit vector registers, and 16 bits
# index a table; on a GPU a small table stays in the first-level cache and a 128 KiB one does not.
_CPU = {"fp32": ("chain", "uniform", "cells", "search", "reduced", "reference"), "fp64": ("reference",)}
_TRITON = {"fp32": ("uniform", "cells", "search", "reduced", "reference"), "fp64": ("reference",)}
_OTHER = {"fp32": ("search", "reference"), "fp64": ("reference",)}


@functools.cache
def has_triton() -> bool:
    """Whether the Triton kernels can run; without them CUDA tensors take plain torch operations. They hold PTX, so ROCm
    has none.
    """
    return torch.version.hip is None and importlib.util.find_spec("triton") is not None


def plan_kinds(device_type: str, dtype: str) -> tuple[str, ...]:
    """The plans that a device type ("cpu", "cuda", ...) runs for a dtype, best first."""
    if device_type == "cuda" and has_triton():
        return _TRITON.get(dtype, ("uniform", "cells", "direct"))
    return (_CPU if device_type == "cpu" else _OTHER).get(dtype, ("direct",))


@dataclass(frozen=True, eq=False)
class Lowered:
    """A plan on a device: `words` (int32, 1-d) and `meta` (integers), as `lutc.lower.plans` lays them out; `kind` as
    `lutc.lower.lower` takes it.
    """

    words: torch.Tensor
    meta: tuple[int, ...]
    kind: str


_shared: weakref.WeakValueDictionary = weakref.WeakValueDictionary()


def lowered(table: Table, digest: str, dtype: torch.dtype, device: torch.device) -> Lowered:
    """The plan of `table` for `dtype` on `device`. `digest` identifies the table's content; equal ones share the
    buffers.
    """
    key = (digest, dtype, str(device))
    found = _shared.get(key)
    if found is None:
        plan = lower(table, DTYPES[dtype], plan_kinds(device.type, DTYPES[dtype]))
        with torch.inference_mode(False):  # autograd saves words, and others may train with them
            words = torch.from_numpy(plan.words().copy()).to(device)
        compared = device.type == "cpu" and plan.kind == "search" and plan.slopes.size <= MAX_CHAIN
        found = _shared.setdefault(key, Lowered(words, plan.meta, "chain" if compared else plan.kind))
    return found


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
