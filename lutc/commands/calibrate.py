"""`lutc calibrate`. Nothing here imports torch before the command runs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from lutc.calibration.file import read
from lutc.calibration.scales import for_layer, loss
from lutc.calibration.statistics import statistics
from lutc.commands.options import (
    Number,
    echo_json,
    echo_table,
    figure,
    json_option,
    load_with_batches,
    model_options,
    progress_bar,
)
from lutc.errors import LutcError
from lutc.formats.codes import Inputs
from lutc.functions import find
from lutc.plots.calibration import calibration_figure
from lutc.plots.figure import save

if TYPE_CHECKING:
    from lutc.calibration.file import Calibration


class _Scale(Number):
    """A number, or auto."""

    name = "scale"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        return value if value == "auto" else super().convert(value, param, ctx)


@click.command()
@model_options
@click.option(
    "-o",
    "--output",
    default="calibration.json",
    show_default=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="PATTERN",
    help="Only layers of this name or pattern, such as *.mlp; may be repeated.",
)
@click.option("--skip", multiple=True, metavar="PATTERN", help="No layers of this name or pattern; may be repeated.")
@click.option(
    "--merge",
    multiple=True,
    type=click.Path(dir_okay=False),
    help="Add an earlier calibration of the same model; may be repeated.",
)
@click.option(
    "--bits",
    default=8,
    show_default=True,
    type=click.IntRange(2, 16),
    help="Width of the codes whose scales are printed.",
)
@click.option(
    "--layer-error", "scales", multiple=True, type=_Scale(),
    help="Also collect what the layer after each activation feels, at codes of this scale or 'auto', each layer's "
         "2^-b; may be repeated.",
)  # fmt: skip
@click.option(
    "--axis", type=int,
    help="Dimension of the activations' inputs whose indices are channels (1 for images), for a scale of each; -1 is "
         "the last. An input that lacks it is an error here.",
)  # fmt: skip
@click.option(
    "--plot",
    "picture",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw the histograms to this .png, .svg or .pdf.",
)
@json_option
def calibrate(
    model: str,
    text: str | None,
    output: Path,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    merge: tuple[str, ...],
    bits: int,
    scales: tuple[float | str, ...],
    axis: int | None,
    picture: Path | None,
    as_json: bool,
    **running: Any,
) -> None:
    """Count what the activations, softmaxes and norms of MODEL are fed with, and write it to a file.

    MODEL is a Hugging Face folder, a GGUF file (or a folder with one), or a Python file that defines model() and
    batches(). The file serves `lutc compile --weights`, which makes tables for a layer, and scales of quantised inputs.
    Arrays go to a .npz beside it.

    \b
    lutc calibrate SmolLM2-135M --text book.txt --plot calibration.png
    lutc compile silu --weights calibration.json:layers.3.mlp.act_fn --calibrated-scale
    lutc calibrate vision.py --axis 1  keeps ranges of the channels of images, for a scale of each
    lutc calibrate SmolLM2-135M --text book.txt --layer-error auto  also collects what --objective layer needs
    torchrun --nproc-per-node 2 -m lutc calibrate ...  splits the batches; the file is the same
    """
    if output.suffix != ".json":
        raise LutcError(f"a calibration is written to a .json file; given {output.name}")
    for path in (output, picture):
        if path is not None and not path.parent.is_dir():
            raise LutcError(f"there is no folder {path.parent} to write {path.name} to; make it, or give another path")

    earlier = [read(path) for path in merge]

    import torch

    from lutc.models.loading import advised  # brings torch
    from lutc.models.memory import PeakMemory  # brings torch
    from lutc.observe.ranks import Ranks  # brings torch
    from lutc.observe.running import calibrate as run  # brings numba, torch
    from lutc.observe.running import model_digest  # brings numba, torch

    loaded, given = load_with_batches(model, text, **running)
    ranks = Ranks.here()
    if scales and ranks.count > 1:
        raise LutcError("--layer-error is collected by one process; run it without torchrun")
    ranks.agree(model_digest(loaded.model), "model")
    given = ranks.share(given)
    total = sum(
        int(b.get("attention_mask", torch.ones_like(b["input_ids"])).sum())
        for b in given
        if isinstance(b, dict) and "input_ids" in b
    )
    with (
        PeakMemory(loaded.model) as memory,
        progress_bar("calibrate", total or None, "tokens") as progress,
        advised("calibrating"),
    ):
        start = time.perf_counter()
        channels = {"channel_axis": -1 if axis is None else axis, "every_channel": axis is not None}
        where = {"only": only or None, "skip": skip or None}
        found = run(loaded.model, given, name=Path(model).name, **where, progress=progress, **channels)
        if scales:
            found = _with_layer_errors(found, loaded.model, given, scales, bits, only, skip, progress)
        found = ranks.sum(found)
        seconds = time.perf_counter() - start
    if not ranks.first:
        return
    cost = f"{seconds:.1f} s" + ("" if memory.above is None else f", {memory.above / 2**20:.0f} MiB above the model")
    for other in earlier:
        found = found + other
    found.save(output)
    if picture is not None:
        save(calibration_figure(found), picture)
    if as_json:
        echo_json({"file": str(output), "seconds": seconds, "bytes_above_the_model": memory.above, **_json(output)})
        return
    report(found, bits)
    amount = f"{found.data['tokens']} tokens" if found.data["tokens"] else f"{found.data['examples']} examples"
    if axis is not None:
        click.echo(_of_channels(found, axis))
    click.echo(f"{found.model['name']}: {amount}, {len(found.layers)} layers in {cost}")
    for entry in found.left:
        click.echo(f"not observed: {entry}")
    click.echo(
        f"wrote {output} and {output.with_suffix('.npz').name}" + (f", {picture}" if picture is not None else "")
    )


def _with_layer_errors(found, model, batches, scales, bits: int, only, skip, progress):
    """The calibration with layer errors at each of the scales, "auto" being each layer's own."""
    from lutc.observe.next_layer import with_layer_errors  # brings numba, torch

    reached = {
        name: layer for name, layer in found.layers.items() if layer.operator == "activation" and layer.histogram.count
    }
    inputs = {}
    for name, layer in reached.items():
        codes = [for_layer(layer, bits=bits) if scale == "auto" else Inputs(bits, scale) for scale in scales]
        inputs[name] = list(dict.fromkeys(codes))
    return with_layer_errors(found, model, batches, inputs, only=only or None, skip=skip or None, progress=progress)


def _of_channels(found: Calibration, axis: int) -> str:
    """How many there are, and how far their scales lie apart."""
    layers = [layer for layer in found.layers.values() if layer.channel_low is not None]
    if not layers:
        return f"channels along axis {axis}: of no layer"
    many = [len(layer.channel_low) for layer in layers]
    apart = max(_apart(layer) for layer in layers)
    told = f"{many[0]}" if len(set(many)) == 1 else f"{min(many)} to {max(many)}"
    return (
        f"channels along axis {axis}: {told}, in {len(layers)} layers; the widest of a layer has up to "
        f"{figure(apart)} times the range of its median one"
    )


def _apart(layer: Any) -> float:
    """Largest |x| of a channel over that of the median channel."""
    peaks = np.maximum(np.abs(layer.channel_low), np.abs(layer.channel_high)).astype(np.float64)
    median = float(np.median(peaks))
    return float(peaks.max()) / median if median else 1.0


def _json(path: Path) -> dict:
    """What the file says of the layers."""
    data = json.loads(path.read_text(encoding="utf-8"))
    return {key: data[key] for key in ("model", "data", "layers")}


def report(calibration: Calibration, bits: int) -> None:
    """A line for each layer: range, quantiles, share outside the range of the function's tables, and scales with their
    signal-to-noise ratio.
    """
    rows = []
    for name, layer in calibration.layers.items():
        told, row = statistics(layer), [name, layer.function, layer.quantity]
        if not told["count"]:
            rows.append([*row, "never reached"])
            continue
        quantiles, outside = told["quantiles"], told.get("outside")
        row += [
            figure(told["low"]),
            figure(quantiles["0.001"]),
            figure(quantiles["0.5"]),
            figure(quantiles["0.999"]),
            figure(told["high"]),
        ]
        row.append("-" if outside is None else f"{figure(100 * outside['share'])} %")
        if told["low"] == told["high"] == 0:
            rows.append([*row, "-", "-", "-", "-"])
            continue
        power, free = (for_layer(layer, method, bits) for method in ("power-of-two", "least-squares"))
        row.append(f"2^{-power.power}")
        left = [loss(layer.histogram, inputs, find(layer.function)).signal_to_noise for inputs in (power, free)]
        rows.append([*row, _decibel(left[0]), figure(free.scale), _decibel(left[1])])
    widest = max(map(len, rows))
    header = [
        "layer",
        "table",
        "of",
        "low",
        "0.1 %",
        "median",
        "99.9 %",
        "high",
        "outside",
        f"int{bits}: 2^-b",
        "dB",
        "least squares",
        "dB",
    ]
    echo_table(header, [row + [""] * (widest - len(row)) for row in rows])
    click.echo(
        "outside: share beyond the default range of the function's tables (none of a norm's, which reduces every input "
        "by its exponent); dB: signal to noise of the function on these codes"
    )


def _decibel(ratio: float | None) -> str:
    return "exact" if ratio is None else f"{ratio:.1f}" if ratio > float("-inf") else "-"
