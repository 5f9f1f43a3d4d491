"""`patch` and `unpatch`: every change is a small record of what stood there before, kept on the model, undone in
reverse.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn

from lutc.errors import LutcError, RangeWarning
from lutc.nn.patching.auditing import Batch, audited
from lutc.nn.patching.automatic import Automatic, observed
from lutc.nn.patching.changes import MISSING, RECORD, Attribute, Child, SavedWithoutTables
from lutc.nn.patching.choose import Selection, wanted
from lutc.nn.patching.patcher import Patcher
from lutc.nn.patching.report import Replaced, Report
from lutc.taylor import reading
from lutc.taylor.blocks import find_blocks, replace
from lutc.taylor.module import TaylorMLP


def refuse_patched(model: nn.Module, what: str) -> None:
    """LutcError for a model that has tables already where `what` is to be done to the exact one, and for none."""
    if not isinstance(model, nn.Module):
        inner = "; give its .model" if isinstance(getattr(model, "model", None), nn.Module) else ""
        raise LutcError(f"a model is a torch.nn.Module; given {type(model).__name__}{inner}")
    if model.__dict__.get(RECORD):
        raise LutcError(f"this model is patched with tables already; {what} it before, or lutc.unpatch(model) it")


def patch(
    model: nn.Module,
    activation: Any | None = None,
    softmax: Any | None = None,
    norm: Any | None = None,
    mlp: Any | None = None,
    only: str | Sequence[str] | None = None,
    skip: str | Sequence[str] | None = None,
    quantise: Any | None = None,
    attention: str | None = None,
    entries: int | None = None,
    outside: str | None = None,
    audit: Batch | None = None,
) -> Report:
    """Replace a model's non-linear functions by tables, in place.

    activation: a table (name, path, TableSet), an nn.Module such as QuantLUT or LUT, a list of them, or {function: one
    of them}. Each replaces the activations that compute exactly its function: torch modules, transformers' ACT2FN
    classes, functions held as attributes or called in a forward. A key that is a path in the model
    (`layers.3.mlp.act_fn`, or `layers.3 (silu)` as a report calls a call) takes any table or module, and puts it there.
    "auto" compiles a table of `entries` (16) for every elementwise function that is found, "auto-fplut" one of 259
    values; one that errs by more than 5 % of its function's standard deviation is not used, and the report says so.
    outside: what runs where a table has neither tail nor range reduction: "table", its last segment (the default of
    tables that are given), or "exact", the function itself (of automatic ones). softmax: an exp table, (exp table,
    reciprocal table), a LUTSoftmax, or an IntegerSoftmax on scores quantised at its scale; without a reciprocal table
    the division is exact. It replaces nn.Softmax, the attention of transformers' registry (models loaded with 'sdpa' or
    'eager'), nn.MultiheadAttention, and calls of softmax and scaled_dot_product_attention. norm: an rsqrt table, for
    LayerNorm and RMSNorm (weights are shared, so training goes on), or an IntegerLayerNorm or IntegerRMSNorm, remade
    for the weights of each norm of its kind. mlp: {block: path of an artefact, or module}, compiled MLPs; blocks are
    named as in lutc.taylor (`layers.0.mlp`, `encoder.layer.0:intermediate+output.dense`). only, skip: names or patterns
    of modules (`encoder.layer.0`, `*.mlp`), not for `mlp`. quantise: fake-quantises the input of every activation that
    is replaced: "learned", "observed", "dynamic", a number, a FakeQuantize, a calibration (or its .json file), or
    {path: one of these}. With it `activation` may also be the name of a function, which then stays exact; without
    `activation` all do. Tables patched in later go behind the quantisers that are there. attention: "materialised" (the
    default) holds all scores in memory, "fused" works on blocks of them and equals it within rounding, "fused-exact"
    and "fused-table" find the largest score as they go (`lutc.nn.attention`); "integer" takes int8 codes and a byte for
    each weight (`lutc.nn.IntegerAttention`), without a gradient. audit: a batch, as `lutc.audit` takes it, on which the
    model runs before and after: the report then lists what stays exact, and a replacement that differs from the module
    that stood there by more than its table does is refused.

    Returns a Report of what was replaced and what was found and left. Raises LutcError, with the model untouched, for
    tables that do not serve (a softmax needs exp, a norm rsqrt), a pattern that matches nothing, where nothing at all
    was replaced, and for a replacement that `audit` refuses. May be called again for more.
    """
    if activation is None and softmax is None and norm is None and quantise is None and not mlp:
        raise LutcError("nothing to patch: give activation=, softmax=, norm=, mlp= or quantise=")
    if not isinstance(model, nn.Module):
        held = ": give its .model" if isinstance(getattr(model, "model", None), nn.Module) else ""
        raise LutcError(f"patch takes a torch.nn.Module; given a {type(model).__name__}{held}")
    patcher = Patcher(
        model, wanted(activation, softmax, norm, quantise, attention, entries, outside), Selection(only, skip)
    )
    ranges: dict = patcher.wanted.other.seen if isinstance(patcher.wanted.other, Automatic) else {}
    with observed(model, ranges):
        before = None if audit is None else audited(model, audit)
    try:
        patcher.run()
        if mlp:
            _replace_mlps(patcher, mlp)
        if not patcher.report.replaced:
            raise LutcError(
                "nothing was replaced: "
                + ("; ".join(f"{e.path}: {e.why}" for e in patcher.report.left[:3]) or "nothing was found")
            )
        if activation is not None or quantise is None:
            patcher.report.unused = patcher.wanted.without_place(patcher.report)
        if before is not None:
            patcher.report.audits = before, audited(model, audit, patcher.put_in_place())
    except BaseException:
        patcher.undo()
        raise
    keep(patcher)
    for name, note in patcher.ending.items():
        warnings.warn(f"'{name}': {note}; outside='exact' runs the function there", RangeWarning, stacklevel=2)
    return patcher.report


def keep(patcher: Patcher) -> None:
    """Leave a walk's changes on the model, for `unpatch` to undo."""
    model = patcher.model
    if hasattr(model, "save_pretrained") and not isinstance(model.save_pretrained, SavedWithoutTables):
        patcher.assign(model, "save_pretrained", SavedWithoutTables(model))
    model.__dict__.setdefault(RECORD, []).append(patcher.changes)


def _replace_mlps(patcher: Patcher, mlps) -> None:
    """Compiled MLPs in the place of blocks, named as `lutc.taylor.find_blocks` names them; a table with a fallback
    keeps the exact block.
    """
    model = patcher.model
    patcher.changes.append(Attribute(model, "_lutc_exact", model.__dict__.get("_lutc_exact", MISSING)))
    for name, source in mlps.items():
        blocks = find_blocks(model, name)
        module, by = source, type(source).__name__
        if not isinstance(source, nn.Module):
            table = reading.load(source)
            module, by = TaylorMLP(table, blocks[0].as_module if table.radii is not None else None), str(source)
        for path in blocks[0].paths:
            parent, _, child = path.rpartition(".")
            patcher.changes.append(Child(model.get_submodule(parent), child, model.get_submodule(path)))
        replace(model, {name: module})
        patcher.report.replaced.append(Replaced(name, "mlp", by))


def unpatch(model: nn.Module) -> nn.Module:
    """Put everything back that `patch` replaced: the same modules, functions and config, with parameters as trained
    meanwhile. Returns the model.
    """
    patches = model.__dict__.pop(RECORD, None)
    if patches is None:
        raise LutcError(
            "this model is not patched; unpatch takes the very model (or a copy of it) that patch was given"
        )
    for changes in reversed(patches):
        for change in reversed(changes):
            change.undo()
    return model
