"""An evaluation as text, and as rows of a CSV file."""

from __future__ import annotations

from pathlib import Path

import click

import lutc
from lutc.commands.options import echo_table
from lutc.evaluation.results import Evaluation, LayerResult, Result

COLUMNS = ["model", "version", "dtype", "device", "tokens", "tables", "layer", "measure", "value"]
_ESTIMATES = ("change", "change_se", "change_on_codes", "change_on_codes_se", "kl", "kl_se")
_WHOLE = ("perplexity", *_ESTIMATES, "same", "cosine", "worst_cosine", "bytes", "seconds")
_LAYER = ("error", "own", "outside", "clipped", "change", "kl")


def records(found: Evaluation) -> list[list]:
    """Rows of COLUMNS: every figure that there is; layer "" for the whole model."""
    head = [Path(found.model).name, lutc.__version__, found.dtype, found.device, found.tokens]
    rows = []
    for result in found.results:
        rows += [[*head, result.name, "", key, getattr(result, key)] for key in _WHOLE]
        rows += [
            [*head, result.name, layer.name, key, getattr(layer, key)] for layer in result.layers for key in _LAYER
        ]
    return [row for row in rows if row[-1] is not None]


def echo(found: Evaluation, text: str | None = None) -> None:
    """The comparison, and the layers where one variant was tried alone or layers were tried one at a time."""
    click.echo(f"{found.model}: {found.tokens} tokens{f' of {text}' if text else ''}, {found.dtype} on {found.device}")
    for result in found.results[1:]:
        replaced = ", ".join(f"{count} {what}" for what, count in result.sites.items())
        click.echo(f"{result.name}: replaced {replaced}" + (f"; left {', '.join(result.left)}" if result.left else ""))
    echo_table(*comparison(found))
    for line in ranking(found):
        click.echo(line)
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
    if on_codes := any(result.change_on_codes is not None for result in found.results):
        middle.append("to exact on int8")
    middle += ["KL", "same token"] if causal else ["same class"] if found.kind == "classifier" else []
    header = ["tables", *middle, "worst layer", "its error", "outside", "bytes", "seconds"]
    return header, [_row(result, found.kind, on_codes) for result in found.results]


def ranking(found: Evaluation) -> list[str]:
    """Lines that order the variants by KL, each with what it is above the one before, paired, and the standard error of
    that.
    """
    ranked = sorted((result for result in found.results if result.kl is not None), key=lambda result: result.kl or 0.0)
    lines = [f"least KL: {ranked[0].name}"] if len(ranked) > 1 else []
    for before, result in zip(ranked, ranked[1:]):
        lines.append(f"  then {result.name}, {_with_se(*found.difference(result.name, before.name), '.1e')} above")
    return lines


def _row(result: Result, kind: str, on_codes: bool) -> list[str]:
    figures = [_number(result.perplexity, ".4f"), _percent(result.change, result.change_se)] if kind == "causal" else [
        _number(result.cosine, ".6f"), _number(result.worst_cosine, ".6f")
    ]  # fmt: skip
    figures += [_percent(result.change_on_codes, result.change_on_codes_se)] if on_codes else []
    figures += [_with_se(result.kl, result.kl_se, ".2e")] if kind == "causal" else []
    same = [] if kind in ("encoder", "other") else [_number(result.same, ".4f")]
    worst = result.worst
    beyond = [layer.outside if layer.clipped is None else layer.clipped for layer in result.layers]
    most = max((share for share in beyond if share is not None), default=None)
    return [
        result.name,
        *figures,
        *same,
        "-" if worst is None else worst.name,
        "-" if worst is None else _number(worst.own, ".2e"),
        _number(most, ".2e"),
        "-" if result.bytes is None else str(result.bytes),
        _number(result.seconds, ".1f"),
    ]


def layers(result: Result, kind: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of one variant's layers."""
    shown = [key for key in _LAYER if any(getattr(layer, key) is not None for layer in result.layers)]
    alone = "perplexity, alone" if kind == "causal" else "1 - cosine, alone"
    titles = {
        "error": "output error",
        "own": "its own",
        "outside": "outside range",
        "clipped": "clipped",
        "change": alone,
        "kl": "KL, alone",
    }
    return [result.name, *(titles[key] for key in shown)], [
        [layer.name, *(_cell(layer, key, kind) for key in shown)] for layer in result.layers
    ]


def _cell(layer: LayerResult, key: str, kind: str) -> str:
    value = getattr(layer, key)
    return _percent(value) if key == "change" and kind == "causal" else _number(value, ".2e")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _percent(value: float | None, se: float | None = None) -> str:
    return "-" if value is None else f"{100 * value:+.3f}{'' if se is None else f' ± {100 * se:.3f}'} %"


def _with_se(value: float | None, se: float | None, form: str) -> str:
    return _number(value, form) + ("" if se is None else f" ± {se:.0e}")
