"""Quantisers at a model's activations: what `quantise=` of `patch` asks for, and functions or tables behind them."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lutc import functions
from lutc.calibration.file import Calibration, read
from lutc.calibration.scales import LayerScales
from lutc.errors import LutcError
from lutc.functions import in_torch
from lutc.nn.fake_quant import KINDS, FakeQuantize, QuantActivation, as_quantiser
from lutc.nn.lut import LUT
from lutc.nn.patching.calls import MATH_CALLS
from lutc.nn.patching.report import Refused
from lutc.nn.quant import QuantLUT
from lutc.table.table_set import TableSet


class Scales:
    """A quantiser of its own for every site. source: what FakeQuantize takes as scale, a FakeQuantize to copy, {path:
    one of these}, or a calibration (`lutc.calibration.Calibration`, or the path of its file), from which every site
    gets the power of two of least squared error, or `lutc.calibration.scales.LayerScales` of one.
    """

    def __init__(self, source: Any):
        if isinstance(source, os.PathLike) or isinstance(source, str) and source not in KINDS:
            if not str(source).endswith(".json"):
                raise LutcError(
                    f"quantise= is {', '.join(KINDS)}, a number, a calibration (.json), {{path: one of these}}; given "
                    f"{str(source)!r}"
                )
            source = read(source)
        choice = LayerScales(source) if isinstance(source, Calibration) else source
        self.choice = choice if isinstance(choice, LayerScales) else None
        self.each: Mapping = dict(source) if isinstance(source, Mapping) else {}
        self.all = None if self.choice is not None or isinstance(source, Mapping) else as_quantiser(source)

    def at(self, path: str) -> FakeQuantize:
        if self.all is not None:
            return copy.deepcopy(self.all)
        known = self.each if self.choice is None else self.choice.calibration.layers
        if path not in known:
            raise LutcError(
                f"quantise= says nothing of '{path}'; it has {', '.join(list(known)[:4]) or 'nothing'}: add it, or "
                "leave it out by skip="
            )
        if self.choice is None:
            return copy.deepcopy(as_quantiser(known[path]))
        if not known[path].histogram.count:
            raise LutcError(
                f"the calibration never reached '{path}', so it has no scale for it; calibrate on other data, or leave "
                "it out by skip="
            )
        axis = self.choice.axis_of(path) if self.choice.per_channel else -1
        return as_quantiser(self.choice.of(path), axis, self.choice.signed)

    def __str__(self) -> str:
        if self.all is None:
            return "scales per layer"
        bits = f"{self.all.bits} {'' if self.all.signed else 'unsigned '}bits"
        if self.all.axis is not None:
            kind = "" if self.all.kind == "fixed" else f"{self.all.kind} "
            return f"{bits}, {kind}scales of {self.all.channels or 'all'} channels"
        return f"{bits}, {self.all.kind} scale" if self.all.scale is None else f"{bits}, scale {self.all.scale:g}"


def behind(quantise: FakeQuantize, source: TableSet | str) -> nn.Module:
    """A table, or the exact function of a name, on what the quantiser gives."""
    if isinstance(source, TableSet):
        return QuantLUT(source, quantise) if source.inputs else QuantActivation(LUT(source), quantise)
    return QuantActivation(source, quantise)


def quantised_function(module: nn.Module) -> str | None:
    """The registry name of the function that stands behind a quantiser in `module`; None for modules of other kinds."""
    if not isinstance(getattr(module, "quantise", None), FakeQuantize):
        return None
    function = getattr(module, "function", module)
    return function if isinstance(function, str) else getattr(getattr(function, "tables", None), "function", None)


@dataclass(frozen=True)
class Quantised:
    """An Operator of `choose`: a table set or the name of a function, behind a quantiser from `scales`."""

    source: TableSet | str
    scales: Scales
    called: str

    @property
    def name(self) -> str:
        return f"{self.called} on {self.scales}"

    note: str = ""

    @property
    def function(self) -> str | None:
        return self.source if isinstance(self.source, str) else self.source.function

    def fresh(self, path: str, exact: Any = None) -> nn.Module:
        return behind(self.scales.at(path), self.source)


def all_functions(scales: Scales) -> dict[str, Quantised]:
    """Every activation that torch knows, exact, behind quantisers."""
    names = [name for name in in_torch.names() if name not in MATH_CALLS.values()]
    return {name: Quantised(name, scales, f"exact {name}") for name in names}


@dataclass(frozen=True)
class AnyExact:
    """An operator for any function of the registry, which stays exact behind a quantiser: those with parameters too."""

    scales: Scales

    def __call__(self, found: Sequence[str], exact: Any) -> Quantised | Refused:
        """As `lutc.nn.patching.automatic.Automatic`."""
        if not found or not in_torch.known(found[0]) or found[0] in MATH_CALLS.values():
            return Refused("no function of the registry, or not elementwise")
        return Quantised(found[0], self.scales, f"exact {found[0]}")


def named_function(source: Any) -> str | None:
    """The registry's name, if `source` is the name of a function that torch knows."""
    known = isinstance(source, str) and functions.known(source)
    name = functions.get(source).name if known else None
    return name if in_torch.known(name) else None
