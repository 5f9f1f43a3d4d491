"""What operators over rows (`lutc.nn.rows`) hold of their tables: plans by form, and the modules' buffers."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from lutc.certify.coverage import Interval, serving_key
from lutc.errors import LutcError
from lutc.lower.even_plans import even_plan
from lutc.lower.lowering import lower
from lutc.lower.piece_plans import piece_plan
from lutc.lower.segments import reduced_segments
from lutc.nn.refilled import Refilled
from lutc.table import table_set
from lutc.table.library import TableSource
from lutc.table.prologues import ExponentPrologue, PeriodPrologue
from lutc.table.table import Table
from lutc.table.table_set import TableSet


@dataclass(frozen=True, eq=False)
class RowTable:
    """A table without its range reduction, lowered: words by form. `meta`: of each form of FORMS, behind its length.
    period: of exp, else 0.

    A few segments are compared one by one on a CPU (`vector`), which is as good as vector instructions; more of them
    take the GPU's plan. `even` is `lutc.lower.even_plans`'s, of exp in attention, `pieces` that of
    `lutc.lower.piece_plans`, of exp behind a period; empty where there is none.
    """

    words: dict[str, torch.Tensor]
    meta: tuple[int, ...]
    period: float

    @classmethod
    def of(cls, table: Table) -> RowTable:
        """`table` with an exponent prologue is used on its mantissas, where it is the body; a period prologue is taken
        over by the operator.
        """
        period = table.prologue.period if isinstance(table.prologue, PeriodPrologue) else 0.0
        if isinstance(table.prologue, (ExponentPrologue, PeriodPrologue)):
            table = Table(table.body, None, table.left, table.right, table.coefficients)
        kinds = ("uniform", "cells", "search")
        plans = lower(table, "fp32", kinds), lower(table, "fp64"), lower(table, "fp32", ("chain", *kinds))
        words = {form: torch.from_numpy(plan.words().copy()) for form, plan in zip(FORMS, plans)}
        even = even_plan(table, period)
        pieces = piece_plan(reduced_segments(table, "fp32"), period) if period else None
        for form, plan in {"even": even, "pieces": pieces}.items():
            words[form] = torch.from_numpy(np.zeros(0, np.int32) if plan is None else plan.words().copy())
        metas = *(plan.meta for plan in plans), *(() if plan is None else plan.meta for plan in (even, pieces))
        return cls(words, tuple(number for meta in metas for number in (len(meta), *meta)), period)


class Plans(NamedTuple):
    """(words, meta) of each form of a table."""

    fast: tuple[torch.Tensor, tuple[int, ...]]
    exact: tuple[torch.Tensor, tuple[int, ...]]
    vector: tuple[torch.Tensor, tuple[int, ...]]
    even: tuple[torch.Tensor, tuple[int, ...]]
    pieces: tuple[torch.Tensor, tuple[int, ...]]


FORMS = Plans._fields


def plans_of(words: Sequence[torch.Tensor], meta: Sequence[int]) -> list[Plans]:
    """The plans of each table."""
    plans, start = [], 0
    for plan in words:
        end = start + 1 + meta[start]
        plans.append((plan, tuple(meta[start + 1 : end])))
        start = end
    return [Plans(*plans[i : i + len(FORMS)]) for i in range(0, len(plans), len(FORMS))]


@functools.lru_cache(maxsize=64)
def _lowered(text: str) -> RowTable:
    """The table in the content of a file; equal ones share their memory."""
    (table,) = table_set.loads(text).values()
    with torch.inference_mode(False):  # others may train with it
        return RowTable.of(table)


class RowOperator(Refilled):
    """Holds the tables of an operator over rows: bytes of their files as persistent uint8 buffers, so that a checkpoint
    carries them, and plans as int32 buffers made at construction, which copies and pickles make again.
    """

    def hold(self, name: str, source: TableSource, interval: Interval) -> None:
        """Take the table of `source` that serves the interval best."""
        tables, key = serving_key(source, interval)
        inputs = {key: tables.inputs[key]} if key in tables.inputs else {}
        self._hold_text(name, TableSet(tables.name, {key: tables[key]}, inputs, tables.function).dumps())

    def _hold_text(self, name: str, text: str) -> None:
        self._texts = {**self.__dict__.get("_texts", {}), name: text}
        held = _lowered(text)
        device = next((buffer.device for buffer in self.buffers()), torch.device("cpu"))
        self.register_buffer(
            f"{name}_table", torch.from_numpy(np.frombuffer(text.encode(), np.uint8).copy()).to(device)
        )
        for form, words in held.words.items():
            self.register_buffer(f"{name}_{form}", words.to(device), persistent=False)
        self.tables = {**getattr(self, "tables", {}), name: (held.meta, held.period)}

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        for name in self.tables:
            data = state_dict.get(f"{prefix}{name}_table")
            if isinstance(data, torch.Tensor) and data.dtype == torch.uint8:
                try:
                    self._hold_text(name, bytes(data.cpu().numpy()).decode())
                except (UnicodeDecodeError, LutcError) as error:
                    raise LutcError(f"the checkpoint's entry '{prefix}{name}_table' is no table: {error}") from error
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _lost(self):
        return True  # plans tell by nothing; those made once are at hand

    def _fill(self, device):
        for name, text in self._texts.items():
            self._hold_text(name, text)

    def __getstate__(self):
        plans = {f"{name}_{form}" for name in self.tables for form in FORMS}
        return {
            **self.__dict__,
            "_buffers": {name: buffer for name, buffer in self._buffers.items() if name not in plans},
        }

    def __setstate__(self, state):
        super().__setstate__(state)
        self._fill(next(self.buffers()).device)

    @property
    def held(self) -> dict[str, Table]:
        """The tables by name."""
        return {name: next(iter(table_set.loads(text).values())) for name, text in self._texts.items()}

    @property
    def words(self) -> list[torch.Tensor]:
        buffers: Any = self._buffers  # quicker than attributes
        return [buffers[f"{name}_{form}"] for name in self.tables for form in FORMS]

    @property
    def meta(self) -> list[int]:
        return [number for meta, _ in self.tables.values() for number in meta]


def check_float(x: torch.Tensor, who: str) -> None:
    """LutcError for anything but a tensor of a float dtype that the operators take."""
    if not isinstance(x, torch.Tensor) or x.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        given = str(x.dtype).removeprefix("torch.") if isinstance(x, torch.Tensor) else type(x).__name__
        hint = ": torch.fx cannot follow a call in a forward, torch.export.export can" if given == "Proxy" else ""
        raise LutcError(f"{who} takes float32, float16, bfloat16 and float64 tensors; given {given}{hint}")


def no_autocast(x: torch.Tensor) -> AbstractContextManager:
    """Products within an operator keep the dtypes that they are given."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def check_device(x: torch.Tensor, others: Iterable[torch.Tensor | None]) -> None:
    """LutcError where a table or a parameter is not where x is: kernels take addresses, and on the meta device nothing
    would be computed.
    """
    for other in others:
        if other is not None and other.device != x.device:
            raise LutcError(
                f"the input is on {x.device}, the module's table or parameters on {other.device}; move it with "
                f".to('{x.device}')"
            )
