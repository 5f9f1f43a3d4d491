"""An evaluation as text, and as rows of a CSV file."""

from __future__ import annotations

from pathlib import Path

import click

import lutc
from lutc.commands.options import echo_table
from lutc.evaluation.results import Evaluation, LayerResult, Result

COLUMNS = ["model", "version", "dtype", "device", "tokens", "tables", "layer", "measure", "value"]
_WHOLE = ("perplexity", "change", "change_on_codes", "same", "cosine", "worst_cosine", "bytes", "seconds")
_LAYER = ("error", "own", "outside", "clipped", "change")


def records(found: Evaluation) -> list[list]:
    """Rows of COLUMNS: every figure that there is; layer "" for the whole model."""
    head = [Path(found.model).name, lutc.__version__, found.dtype, found.device, found.tokens]
    rows = []
    for result in found.results:
        rows += [[*head, result.name, "", key, getattr(result, key)] for key in _WHOLE]
        rows += [[*head, result.name, layer.name, key, getattr(layer, key)] for layer in result.layers for key in _LAYER]
    return [row for row in rows if row[-1] is not None]


def echo(found: Evaluation, text: str | None = None) -> None:
    """The comparison, and the layers where one variant was tried alone or layers were tried one at a time."""
    click.echo(f"{found.model}: {found.tokens} tokens{f' of {text}' if text else ''}, {found.dtype} on {found.device}")
    for result in found.results[1:]:
        replaced = ", ".join(f"{count} {what}" for what, count in result.sites.items())
        click.echo(f"{result.name}: replaced {replaced}")
    echo_table(*comparison(found))
    for result in found.results:
        if result.failed:
            click.echo(f"{result.name}: {result.failed}")
    tried = [result for result in found.results if result.layers]
    if len(tried) == 1 or any(layer.change is not None for result in tried for layer in result.layers):
        for result in tried:
            click.echo()
            echo_table(*layers(result, found.kind))


def comparison(found: Evaluation) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the comparison."""
    causal = found.kind == "causal"
    middle = ["perplexity", "change"] if causal else ["cosine", "worst"]
    if any(result.change_on_codes is not None for result in found.results):
        middle.append("to exact on int8")
    header = ["tables", *middle, *(["same token"] if causal else ["same class"] if found.kind == "classifier" else [])]
    header += ["worst layer", "its error", "outside", "bytes", "seconds"]
    return header, [_row(result, found.kind, len(middle) > 2) for result in found.results]


def _row(result: Result, kind: str, on_codes: bool) -> list[str]:
    figures = [_number(result.perplexity, ".4f"), _percent(result.change)] if kind == "causal" else [
        _number(result.cosine, ".6f"), _number(result.worst_cosine, ".6f")
    ]  # fmt: skip
    figures += [_percent(result.change_on_codes)] if on_codes else []
    same = [] if kind in ("encoder", "other") else [_number(result.same, ".4f")]
    worst = result.worst
    beyond = [layer.outside if layer.clipped is None else layer.clipped for layer in result.layers]
    most = max((share for share in beyond if share is not None), default=None)
    return [
        result.name, *figures, *same, "-" if worst is None else worst.name, "-" if worst is None else _number(worst.own, ".2e"),
        _number(most, ".2e"), "-" if result.bytes is None else str(result.bytes), _number(result.seconds, ".1f"),
    ]  # fmt: skip


def layers(result: Result, kind: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of one variant's layers."""
    shown = [key for key in _LAYER if any(getattr(layer, key) is not None for layer in result.layers)]
    alone = "perplexity, alone" if kind == "causal" else "1 - cosine, alone"
    titles = {"error": "output error", "own": "its own", "outside": "outside range", "clipped": "clipped", "change": alone}
    return [result.name, *(titles[key] for key in shown)], [[layer.name, *(_cell(layer, key, kind) for key in shown)] for layer in result.layers]


def _cell(layer: LayerResult, key: str, kind: str) -> str:
    value = getattr(layer, key)
    return _percent(value) if key == "change" and kind == "causal" else _number(value, ".2e")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.3f} %"
