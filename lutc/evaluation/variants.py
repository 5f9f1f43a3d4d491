"""Ways to run a model: which tables stand where, and on which quantised inputs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lutc.calibration.file import read
from lutc.calibration.scales import LayerScales, for_layer
from lutc.certify import coverage
from lutc.errors import LutcError
from lutc.formats.codes import Inputs, parse_number
from lutc.table.table_set import TableSet

if TYPE_CHECKING:
    from torch import nn

    from lutc.calibration.file import Calibration

NORM, SOFTMAX = "rsqrt", ("exp", "reciprocal")
EXACT_ON_CODES = "exact on int8 inputs"


@dataclass(frozen=True)
class Variant:
    """activations: tables by function; None is the exact function, on quantised inputs. softmax: (exp, reciprocal or
    None) or None. norm: rsqrt or None. codes: quantised inputs of the activations, by the layer's name as `lutc.patch`
    reports it, one for all, or those of a calibration; None leaves inputs as they are. attention: the form of a softmax
    in attention, as `lutc.patch` takes it.
    """

    name: str
    activations: Mapping[str, TableSet | None] = field(default_factory=dict)
    softmax: tuple[TableSet, TableSet | None] | None = None
    norm: TableSet | None = None
    codes: Mapping[str, Inputs] | LayerScales | Inputs | None = None
    attention: str | None = None

    def patch(
        self, model: nn.Module, only: str | Sequence[str] | None = None, skip: str | Sequence[str] | None = None
    ) -> object:
        """Put it into `model` (see `lutc.patch`) and the tables on the devices of the layers they serve; gives the
        report.
        """
        from lutc.evaluation.placing import place  # brings torch
        from lutc.nn.patching import patch  # brings torch, numba

        # With quantised inputs a function's name asks for the exact one.
        activation = [name if tables is None else tables for name, tables in self.activations.items()] or None
        quantise = None if self.codes is None or activation is None else self.codes
        attention = None if self.softmax is None else self.attention
        where = {"only": only, "skip": skip}
        report = patch(model, activation, self.softmax, self.norm, quantise=quantise, attention=attention, **where)
        place(model)
        return report


def on_codes(variants: Sequence[Variant], codes: Mapping[str, Inputs] | LayerScales | Inputs) -> list[Variant]:
    """The variants with the inputs of their activations quantised, behind one with the exact functions on the same
    inputs: what quantising costs by itself. LutcError where none has an activation.
    """
    functions = dict.fromkeys(function for variant in variants for function in variant.activations)
    if not functions:
        raise LutcError("--int8 quantises the inputs of activations; give a table for one, as in --activation silu_16")
    exact = Variant(EXACT_ON_CODES, functions, codes=codes)
    return [exact, *(replace(variant, codes=codes) if variant.activations else variant for variant in variants)]


def variant(spec: str | Sequence, name: str | None = None) -> Variant:
    """From "silu_16", "silu_fplut,exp_fplut,rsqrt_fplut" or "NAME=...": tables by name or path, or a sequence of
    tables; the function of each says where it goes: exp and reciprocal into softmax, rsqrt into the norms, all others
    in the place of their activation.
    """
    if isinstance(spec, str):
        label, equals, rest = spec.partition("=")
        if equals and "/" not in label and "," not in label:
            name, spec = label.strip(), rest
        name = name or spec
        spec = [part.strip() for part in spec.split(",") if part.strip()]
    sets = [(source, coverage.as_table_set(source)) for source in spec]
    if not sets:
        raise LutcError("no tables were given; write --tables silu_fplut,exp_fplut or --tables NAME=silu_16")
    found: dict[str, TableSet] = {}
    for source, tables in sets:
        if tables.function is None:
            raise LutcError(
                f"'{source}' does not say which function it is of; give a table of lutc, or one whose name is a known "
                "function"
            )
        if tables.function in found:
            raise LutcError(
                f"{name or 'a variant'} has two tables of {tables.function}; give one, or another --tables for the "
                "second"
            )
        found[tables.function] = tables
    exp, reciprocal, norm = (found.pop(function, None) for function in (*SOFTMAX, NORM))
    if reciprocal is not None and exp is None:
        raise LutcError(
            f"{name or 'a variant'} has a table of reciprocal, which serves softmax, but none of exp; add one"
        )
    for tables, interval in ((exp, coverage.EXP), (reciprocal, coverage.RECIPROCAL), (norm, coverage.RSQRT)):
        if tables is not None:
            coverage.serving_key(tables, interval)  # refuses tables that do not serve before a model runs
    names = ", ".join(str(source) if isinstance(source, (str, os.PathLike)) else tables.name for source, tables in sets)
    return Variant(name or names, found, None if exp is None else (exp, reciprocal), norm)


def from_options(activations: Sequence[str], softmax: str | None, norm: str | None) -> Variant:
    """One variant of tables given apart: for activations, "EXP" or "EXP,RECIPROCAL" for softmax, for norms."""
    parts = {
        "--softmax": (softmax or "").split(",") if softmax else [],
        "--norm": [norm] if norm else [],
        "--activation": list(activations),
    }
    allowed = {"--softmax": SOFTMAX, "--norm": (NORM,)}
    for option, names in parts.items():
        for name in names:
            function = coverage.as_table_set(name.strip()).function
            if (
                function not in allowed.get(option, (function,))
                or option == "--activation"
                and function in (*SOFTMAX, NORM)
            ):
                wanted = " and ".join(allowed[option]) if option in allowed else "an activation"
                raise LutcError(f"{option} takes a table of {wanted}; '{name}' is one of {function}")
    return variant(",".join(name for option in ("--activation", "--softmax", "--norm") for name in parts[option]))


def int8_scales(
    source: str, model: nn.Module, per_channel: bool = False
) -> Mapping[str, Inputs] | LayerScales | Inputs:
    """Quantised inputs from "2^-4" (one scale for all layers) or a calibration file: of each layer the power of two of
    least squared error, or per_channel of each channel the finest one that clips nothing.
    """
    if not str(source).endswith(".json"):
        if per_channel:
            raise LutcError(f"--per-channel takes scales from the .json file of `lutc calibrate`; given {source!r}")
        try:
            return Inputs(8, parse_number(source))
        except LutcError as error:
            raise LutcError(
                f"--int8 is a scale such as 2^-4, or the .json file of `lutc calibrate`; given {source!r}"
            ) from error

    from lutc.observe.running import model_digest  # brings torch

    calibration = read(source)
    if calibration.model["digest"] != model_digest(model):
        raise LutcError(
            f"{source} is a calibration of {calibration.model['name']}, another model; run `lutc calibrate` on this one"
        )
    if per_channel:
        missing = [
            name
            for name, layer in calibration.layers.items()
            if layer.operator == "activation" and layer.histogram.count and layer.channel_low is None
        ]
        if missing:
            raise LutcError(
                f"{source} has no ranges of the channels of '{missing[0]}'; run `lutc calibrate --axis` with an axis "
                "that it has"
            )
        return LayerScales(calibration, per_channel=True)
    return codes_of(calibration)


def codes_of(calibration: Calibration, method: str = "power-of-two") -> Mapping[str, Inputs]:
    """For each activation of a calibration its int8 scale."""
    sites = {
        name: layer
        for name, layer in calibration.layers.items()
        if layer.operator == "activation" and layer.histogram.count
    }
    return {name: for_layer(layer, method) for name, layer in sites.items()}
