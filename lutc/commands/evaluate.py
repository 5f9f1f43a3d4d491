"""`lutc evaluate`. Nothing here imports torch before the command runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from lutc.commands import evaluation_report
from lutc.commands.options import append_csv, echo_json, json_option, load_with_batches, model_options, progress_bar
from lutc.errors import LutcError
from lutc.evaluation.variants import from_options, int8_scales, on_codes, variant
from lutc.plots.evaluation import draw


@click.command()
@model_options
@click.option(
    "--tables",
    "specs",
    multiple=True,
    metavar="[NAME=]TABLE,...",
    help="Tables to try together, by name or file; repeat to compare.",
)
@click.option(
    "--activation",
    multiple=True,
    metavar="TABLE",
    help="A table for the activations; --activation, --softmax and --norm go together.",
)
@click.option(
    "--softmax", metavar="EXP[,RECIPROCAL]", help="Tables for softmax; without a reciprocal the division is exact."
)
@click.option(
    "--attention",
    type=click.Choice(["materialised", "fused", "fused-table", "integer"]),
    default="materialised",
    show_default=True,
    help="How attention takes a softmax table: over all scores, or in blocks, for long windows; integer: in int8.",
)
@click.option("--norm", metavar="RSQRT", help="A table for LayerNorm and RMSNorm.")
@click.option(
    "--int8",
    metavar="SCALE|FILE",
    help="Quantise the activations' inputs: a scale (2^-4), or one per layer from `lutc calibrate`'s file.",
)
@click.option(
    "--per-channel", is_flag=True,
    help="With --int8 FILE: a scale for each channel, of its range along the axis of `lutc calibrate --axis`.",
)  # fmt: skip
@click.option(
    "--each-layer",
    is_flag=True,
    help="Also run the model with one layer's tables at a time: what each costs. Takes long.",
)
@click.option("--no-layers", is_flag=True, help="Leave the errors of the layers out; twice as fast.")
@click.option(
    "--plot",
    "picture",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw the comparison to this .png, .svg or .pdf.",
)
@click.option(
    "--csv", "csv_path", type=click.Path(dir_okay=False, path_type=Path), help="Append one row per figure to this file."
)
@json_option
def evaluate(
    model: str,
    text: str | None,
    specs: tuple[str, ...],
    activation: tuple[str, ...],
    softmax: str | None,
    attention: str,
    norm: str | None,
    int8: str | None,
    per_channel: bool,
    each_layer: bool,
    no_layers: bool,
    picture: Path | None,
    csv_path: Path | None,
    as_json: bool,
    **running: Any,
) -> None:
    """Run MODEL exactly and with tables, and say what they cost: perplexity and KL divergence, or the cosine of
    embeddings; the error of each layer; time.

    MODEL is a Hugging Face folder, a GGUF file (or a folder with one), or a Python file that defines model() and
    batches().

    \b
    lutc evaluate SmolLM2-135M --text book.txt --activation silu_fplut --softmax exp_fplut --norm rsqrt_fplut
    lutc evaluate SmolLM2-135M --text book.txt --tables silu_8 --tables silu_16 --tables all=silu_fplut,exp_fplut
    lutc evaluate SmolLM2-135M --text book.txt --tables silu_16 --int8 calibration.json
    lutc evaluate vision.py --tables gelu_8 --int8 calibration.json --per-channel
    lutc evaluate SmolLM2-135M --text book.txt --seqlen 8192 --softmax exp_fplut --attention fused
    torchrun --nproc-per-node 2 -m lutc evaluate ...  splits the batches
    """
    variants = [variant(spec) for spec in specs]
    if activation or softmax or norm:
        variants.append(from_options(activation, softmax, norm))
    if not variants:
        raise LutcError(
            "no tables to try; give --activation, --softmax or --norm, or --tables silu_16 (may be repeated)"
        )

    if attention != "materialised":
        if not any(one.softmax for one in variants):
            raise LutcError("--attention says how attention takes a softmax table; give one, as --softmax exp_fplut")
        variants = [replace(one, attention=attention) for one in variants]

    if per_channel and int8 is None:
        raise LutcError("--per-channel goes with --int8 and the file of `lutc calibrate`")

    from lutc.evaluation.running import evaluate as run  # brings numba, torch
    from lutc.observe.ranks import Ranks  # brings torch

    loaded, given = load_with_batches(model, text, **running)
    if int8 is not None:
        variants = on_codes(variants, int8_scales(int8, loaded.model, per_channel))
    with progress_bar("evaluate", unit="forwards") as progress:
        ranks = Ranks.here()
        found = run(
            loaded, given, variants, layers=not no_layers, each_layer=each_layer, progress=progress, ranks=ranks
        )
    if not ranks.first:
        return
    if csv_path is not None:
        append_csv(csv_path, evaluation_report.COLUMNS, evaluation_report.records(found))
    if picture is not None:
        draw(found, picture)
    if as_json:
        echo_json(found.to_json())
        return
    evaluation_report.echo(found, text)
    if picture is not None:
        click.echo(f"wrote {picture}")
