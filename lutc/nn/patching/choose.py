"""What the arguments of `patch` ask for: operators by function, and which modules they may touch."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from lutc import functions
from lutc.errors import LutcError
from lutc.functions import alike
from lutc.functions.spelling import base
from lutc.nn.dequantised_rows import DequantisedNorm, DequantisedSoftmax
from lutc.nn.integer_norm import IntegerLayerNorm, IntegerRMSNorm
from lutc.nn.integer_softmax import IntegerSoftmax
from lutc.nn.lut import LUT, OUTSIDE
from lutc.nn.norm import LUTLayerNorm, LUTRMSNorm
from lutc.nn.patching.attention import in_form
from lutc.nn.patching.automatic import ENTRIES, KINDS, Automatic
from lutc.nn.patching.calls import CHANNEL_NORM_CALLS
from lutc.nn.patching.operators import Operator, table_operator
from lutc.nn.patching.quantised import AnyExact, Quantised, Scales, all_functions, named_function
from lutc.nn.patching.report import Refused, Report
from lutc.nn.softmax import LUTSoftmax
from lutc.table.library import as_table_set
from lutc.table.prologues import ExponentPrologue
from lutc.table.table_set import TableSet

# (registry names of what stands there, the module or function itself or None) -> an operator, or why there is none
Other = Callable[[Sequence[str], Any], "Operator | Quantised | Refused"]


@dataclass(frozen=True)
class Wanted:
    """activations: registry name -> Operator. softmax: Operator or None. norms: "layer_norm", "rms_norm" -> Operator,
    or empty. written: what answers calls of `torch.rsqrt` in norms that are written out, {"rsqrt": Operator} or empty.
    places: path in the model -> Operator, whatever stands there. other: makes an operator for a function that is in
    none of these, or says why there is none.
    """

    activations: Mapping[str, Operator | Quantised] = field(default_factory=dict)
    softmax: Operator | None = None
    norms: Mapping[str, Operator] = field(default_factory=dict)
    written: Mapping[str, Operator] = field(default_factory=dict)
    places: Mapping[str, Operator | Quantised] = field(default_factory=dict)
    other: Other | None = None

    @property
    def elementwise(self) -> bool:
        """Whether functions are looked for at all."""
        return bool(self.activations) or self.other is not None

    @property
    def norm_calls(self) -> Collection[str]:
        """Of `norms`, those that answer a call with its weights."""
        return [kind for kind, operator in self.norms.items() if operator.answers_calls]

    def serving(self, names: Sequence[str]) -> list[str]:
        """Of `activations`, the functions that `names` (of one call or module) stand for: `elu(*)` for all of the
        family.
        """
        found: dict[str, None] = {}
        for name in names:
            if name.endswith("(*)"):
                found |= dict.fromkeys(own for own in self.activations if base(own) == base(name))
            elif name in self.activations:
                found[name] = None
            else:
                found |= dict.fromkeys([own for own in self.activations if alike(own, name)][:1])
        return list(found)

    def norm_module(
        self,
        kind: str,
        shape: tuple[int, ...],
        eps: float,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        path: str,
        exact: Any = None,
        offset: float = 0.0,
    ) -> nn.Module:
        """A table norm that shares `weight` and `bias` with the module it replaces."""
        module = self.norms[kind].fresh(path, exact)
        module.normalized_shape, module.eps, module.weight, module.bias = shape, eps, weight, bias
        module.offset = offset
        if isinstance(module, DequantisedNorm):
            module.renew()
        return module

    def without_place(self, report: Report) -> list[tuple[str, str]]:
        """(function, name) of what was given and stands nowhere."""
        placed = {one.what for one in report.replaced}
        placed |= {"softmax"} if "log_softmax" in placed else set()
        given = dict(self.activations) | ({} if self.softmax is None else {"softmax": self.softmax})
        unused = [(what, operator.name) for what, operator in given.items() if what not in placed]
        if self.norms and not placed & {*self.norms, *self.written, *(what for what, _ in CHANNEL_NORM_CALLS.values())}:
            unused.append(("rsqrt", next(iter(self.norms.values())).name))
        return unused


def wanted(
    activation: Any,
    softmax: Any,
    norm: Any,
    quantise: Any = None,
    attention: str | None = None,
    entries: int | None = None,
    outside: str | None = None,
) -> Wanted:
    """Load and build everything before a model is touched."""
    scales = None if quantise is None else Scales(quantise)
    if outside is not None and outside not in OUTSIDE:
        raise LutcError(f"outside is {' or '.join(map(repr, OUTSIDE))}; given {outside!r:.40}")
    norms, written = ({}, {}) if norm is None else (_norms(norm), _written(norm))
    made = Activations(scales, outside, entries)
    made.take(activation)
    softmaxes = _softmax(softmax, attention)
    return Wanted(made.functions, softmaxes, norms, written, made.places, made.other)


class Activations:
    """What `activation=` asks for. functions: operators by registry name; places: by a path in the model; other: makes
    one for any other function, or says why not.
    """

    def __init__(self, scales: Scales | None, outside: str | None, entries: int | None):
        self.scales, self.outside, self.entries = scales, outside, entries
        self.functions: dict[str, Operator | Quantised] = {}
        self.places: dict[str, Operator | Quantised] = {}
        self.other: Other | None = None

    def take(self, source: Any) -> None:
        """Sort what was given; LutcError for what serves nothing."""
        if source is None:
            if self.scales is not None:
                self.functions, self.other = all_functions(self.scales), AnyExact(self.scales)
        elif isinstance(source, Mapping) and not isinstance(source, TableSet):
            for where, one in source.items():
                known = functions.find(where)
                (self.places if known is None else self.functions)[known.name if known else where] = self._operator(one)
        else:
            for one in source if isinstance(source, (list, tuple)) else [source]:
                self._found(one)
        if self.entries is not None and not (isinstance(self.other, Automatic) and self.other.kind == "auto"):
            raise LutcError("entries= goes with activation='auto'; tables that are given have theirs")

    def _found(self, one) -> None:
        if isinstance(one, str) and one in KINDS:
            entries = ENTRIES if self.entries is None else self.entries
            self.other = Automatic(one, entries, self.scales, self.outside or "exact")
            return
        operator = self._operator(one)
        if functions.find(operator.function) is None:
            own = f"is a table of {operator.function!r}, no function of lutc's own"
            what = own if operator.function else "does not say which function it is"
            raise LutcError(
                f"'{operator.name}' {what}: say where it goes, activation={{'path.of.a.module': ...}}, or for all "
                "places of a function of `lutc functions`, {'gelu': ...}"
            )
        self.functions[operator.function] = operator

    def _operator(self, source) -> Operator | Quantised:
        if isinstance(source, nn.Module):
            if self.scales is not None:
                raise LutcError(
                    f"quantise= goes with tables and names of functions; a {type(source).__name__} quantises by itself "
                    "or not at all"
                )
            return Operator(source, getattr(getattr(source, "tables", None), "name", type(source).__name__))
        exact = None if self.scales is None else named_function(source)
        if exact is not None:
            return Quantised(exact, self.scales, f"exact {exact}")
        tables = as_table_set(source)
        label = _label(source, tables)
        if self.scales is not None:
            return Quantised(tables, self.scales, label)
        return table_operator(tables, label, self.outside or "table")


def _norms(source) -> dict[str, Operator]:
    if isinstance(source, (IntegerLayerNorm, IntegerRMSNorm)):
        kind = "layer_norm" if source.centred else "rms_norm"
        return {kind: Operator(DequantisedNorm(source), type(source).__name__)}
    if isinstance(source, torch.nn.Module):
        raise LutcError(
            "norm= takes an rsqrt table, an IntegerLayerNorm or an IntegerRMSNorm; a "
            f"{type(source).__name__} has weights of its own: put it in the norm's place"
        )
    tables = as_table_set(source)
    return {
        kind: Operator(cls(1, elementwise_affine=False, rsqrt=tables), _label(source, tables))
        for kind, cls in (("layer_norm", LUTLayerNorm), ("rms_norm", LUTRMSNorm))
    }


def _written(source) -> dict[str, Operator]:
    """For 1/sqrt(x) by itself: a table that holds for every x, behind range reduction."""
    if isinstance(source, torch.nn.Module):
        return {}
    tables = as_table_set(source)
    whole = all(isinstance(table.prologue, ExponentPrologue) for table in tables.values())
    return {"rsqrt": Operator(LUT(tables), _label(source, tables))} if whole else {}


def _softmax(source, attention: str | None) -> Operator | None:
    if source is None:
        return in_form(None, attention)
    if isinstance(source, IntegerSoftmax):
        if attention not in (None, "materialised"):
            raise LutcError(f"an IntegerSoftmax takes all scores of a row; leave out attention={attention!r:.40}")
        return Operator(DequantisedSoftmax(source), "IntegerSoftmax")
    if isinstance(source, torch.nn.Module) and not isinstance(source, LUTSoftmax):
        raise LutcError(f"softmax= takes tables, a LUTSoftmax or an IntegerSoftmax; given a {type(source).__name__}")
    if isinstance(source, LUTSoftmax):
        return Operator(in_form(source, attention), "LUTSoftmax")
    sources = source if isinstance(source, (tuple, list)) else (source, None)
    if len(sources) != 2:
        raise LutcError(f"softmax takes an exp table, or (exp table, reciprocal table); given {len(sources)} of them")
    exp, reciprocal = (None if s is None else as_table_set(s) for s in sources)
    names = [_label(s, tables) for s, tables in zip(sources, (exp, reciprocal)) if tables is not None]
    return Operator(in_form(LUTSoftmax(exp, reciprocal), attention), " and ".join(names))


def _label(source, tables: TableSet) -> str:
    """What a report calls a table: the name or path it was asked for by, else its own."""
    return str(source) if isinstance(source, (str, os.PathLike)) else tables.name


class Selection:
    """Names that `only` and `skip` let through: patterns as in fnmatch; a pattern that matches a module takes in all
    below it.
    """

    def __init__(self, only: str | Sequence[str] | None, skip: str | Sequence[str] | None):
        self.only, self.skip = (None if p is None else [p] if isinstance(p, str) else list(p) for p in (only, skip))

    def __contains__(self, name: str) -> bool:
        if self.skip is not None and any(_matches(name, pattern) for pattern in self.skip):
            return False
        return self.only is None or any(_matches(name, pattern) for pattern in self.only)

    def check(self, names: Iterable[str]) -> None:
        """LutcError for a pattern that matches no module."""
        for pattern in [*(self.only or []), *(self.skip or [])]:
            if not any(_matches(name, pattern) for name in names):
                raise LutcError(
                    f"no module is called '{pattern}'; names look like {', '.join([n for n in names if n][:4])}, and * "
                    "matches any part"
                )


def _matches(name: str, pattern: str) -> bool:
    parts = name.split(".")
    return any(fnmatch.fnmatchcase(".".join(parts[:i]), pattern) for i in range(1, len(parts) + 1))
