"""`lutc model`: compile, show, evaluate, export. Nothing here imports torch before a command runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from lutc.commands import evaluation_report
from lutc.commands.options import (
    MODEL_OPTIONS,
    NUMBER,
    echo_json,
    echo_table,
    figure,
    json_option,
    load_with_batches,
    model_options,
    progress_bar,
)
from lutc.evaluation.variants import variant
from lutc.folder.exporting import INDEX
from lutc.folder.exporting import export as write_all
from lutc.folder.jobs import KINDS, ROOM
from lutc.folder.manifest import Folder, read
from lutc.formats.codes import Inputs

FOLDER = click.argument("folder", type=click.Path(path_type=Path))


def run_options(command: Callable) -> Callable:
    """How a model runs over a text; the model itself is an option here."""
    for option in reversed(MODEL_OPTIONS[1:]):
        command = option(command)
    return command


@click.group()
def model() -> None:
    """A table for every function of every layer of a model, in one folder.

    \b
    lutc model compile SmolLM2-135M --text book.txt -o tables     the folder, and a report to look at
    lutc model evaluate tables --model SmolLM2-135M --text other.txt
    lutc model export tables --format c --format memh -o rtl      for a hardware flow
    """


@model.command("compile")
@model_options
@click.option("-o", "--output", "folder", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option(
    "--activations", type=click.Choice(KINDS["activations"]), default="int8", show_default=True,
    help="Tables of activations: of int8 inputs, floating-point (FPLUT), exponent-addressed, or none.",
)  # fmt: skip
@click.option(
    "--softmax", type=click.Choice(KINDS["softmax"]), default="fplut", show_default=True,
    help="Tables of softmaxes: of int8 codes of x - max(x), floating-point, or none.",
)  # fmt: skip
@click.option(
    "--norms", type=click.Choice(KINDS["norms"]), default="fplut", show_default=True,
    help="Tables of norms: of int8 codes of the mantissa of the mean square, floating-point, or none.",
)  # fmt: skip
@click.option("--entries", default=16, show_default=True, type=click.IntRange(2, 256), help="Of int8 tables, at most.")
@click.option(
    "--max-kl", type=float, metavar="NATS",
    help="Instead of --entries: of every int8 table the fewest that keep the model's KL within so many nats a token.",
)  # fmt: skip
@click.option("--bits", default=8, show_default=True, type=click.IntRange(4, 12), help="Of activations' codes.")
@click.option("--jobs", "workers", type=click.IntRange(1), help="Processes that compile.  [default: one for each core]")
@click.option("--no-measure", is_flag=True, help="Leave out what each layer's tables cost the model.")
@click.option("--force", is_flag=True, help="Replace a folder that is there.")
@json_option
def compile_folder(
    model: str,
    text: str,
    folder: Path,
    activations: str,
    softmax: str,
    norms: str,
    entries: int,
    max_kl: float | None,
    bits: int,
    workers: int | None,
    no_measure: bool,
    force: bool,
    as_json: bool,
    **running: Any,
) -> None:
    """Calibrate MODEL on a text, compile a table for every activation, softmax and norm, and write them to a folder.

    The folder has a manifest, the tables, the calibration and report.html, a page to look at. An interrupted run goes
    on where it was when started again; `torchrun --nproc-per-node 2 -m lutc model compile ...` shares the work.
    """
    from lutc.folder.building import check_target, compile_model  # brings torch
    from lutc.models.loading import advised  # brings torch
    from lutc.models.memory import PeakMemory  # brings torch
    from lutc.observe.ranks import Ranks  # brings torch

    check_target(folder, force)
    loaded, given = load_with_batches(model, text, **running)
    stages: dict[str, float] = {}
    with PeakMemory(loaded.model) as memory, progress_bar("compile", unit="steps") as bar, advised("compiling"):
        start = time.perf_counter()

        def progress(stage: str, number: int) -> None:
            stages.setdefault(stage, time.perf_counter())
            if bar is not None:
                bar(number)

        made = compile_model(
            loaded, given, folder, activations=activations, softmax=softmax, norms=norms, entries=entries, bits=bits,
            max_kl=max_kl, workers=workers, measure=not no_measure, force=force, progress=progress,
        )  # fmt: skip
        seconds = time.perf_counter() - start
    if not Ranks.here().first:
        return
    if as_json:
        echo_json({**_json(made), "seconds": seconds, "bytes_above_the_model": memory.above})
        return
    above = "" if memory.above is None else f", {memory.above / 2**20:.0f} MiB above the model"
    click.echo(f"{made.model['name']}: {made.data['tokens'] or made.data['examples']} tokens, {seconds:.1f} s{above}")
    _echo(made)
    click.echo(f"wrote {folder}: open {folder / 'report.html'}")


@model.command()
@FOLDER
@json_option
def show(folder: Path, as_json: bool) -> None:
    """Check FOLDER whole and print what is in it."""
    found = read(folder)
    if as_json:
        echo_json(_json(found))
        return
    click.echo(f"{found.model['name']}: {found.model['class']} {found.model['digest'][:12]}")
    _echo(found)


@model.command()
@FOLDER
@click.option("--model", "model", required=True, type=click.Path(), help="The model that the folder was made for.")
@run_options
@click.option(
    "--each-layer", is_flag=True, help="Also run the model with one layer's tables at a time: what each costs."
)
@click.option(
    "--tables", "specs", multiple=True, metavar="[NAME=]TABLE,...",
    help="Tables for all layers alike to compare with, by name or file; may be repeated.",
)  # fmt: skip
@click.option("--no-layers", is_flag=True, help="Leave the errors of the layers out; twice as fast.")
@json_option
def evaluate(
    folder: Path,
    model: str,
    text: str,
    each_layer: bool,
    specs: tuple[str, ...],
    no_layers: bool,
    as_json: bool,
    **running: Any,
) -> None:
    """Run a model exactly and with FOLDER's tables, and say what they cost; beside it what its int8 codes cost by
    themselves, with the exact functions on them.
    """
    from lutc.evaluation.running import evaluate as run  # brings numba, torch
    from lutc.folder.applying import FolderVariant, exact_on_codes  # brings torch
    from lutc.folder.identity import find  # brings torch
    from lutc.observe.ranks import Ranks  # brings torch

    tables, others = read(folder), [variant(spec) for spec in specs]
    loaded, given = load_with_batches(model, text, **running)
    find(loaded.model, dict(tables.model))
    with progress_bar("evaluate", unit="forwards") as progress:
        variants: list[Any] = [FolderVariant(folder.name, tables), *others]
        if any(entry.inputs is not None for entry in tables.entries):
            variants.insert(0, FolderVariant("exact on its codes", tables, exact_on_codes))
        ranks = Ranks.here()
        found = run(
            loaded, given, variants, layers=not no_layers, each_layer=each_layer, progress=progress, ranks=ranks
        )
    if not ranks.first:
        return
    if as_json:
        echo_json(found.to_json())
        return
    evaluation_report.echo(found, text)


@model.command()
@FOLDER
@click.option(
    "--format", "kinds", multiple=True, required=True, metavar="FORMAT[,...]",
    help="As `lutc export` has them: sv, c, memh, coe, mif, ihex, csv, lut256, gqa-lut; may be repeated.",
)  # fmt: skip
@click.option("--out-scale", type=NUMBER, help="Scale of output codes.  [default: accumulators alone]")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder, made if need be.")
@json_option
def export(folder: Path, kinds: tuple[str, ...], out_scale: float | None, output: Path, as_json: bool) -> None:
    """Write all tables of FOLDER for hardware flows and other runtimes, each once, and index.json: which place takes
    which files.
    """
    out = None if out_scale is None else Inputs(8, out_scale)
    chosen = [part.strip() for kind in kinds for part in kind.split(",")]
    index = write_all(read(folder), chosen, output, out)
    if as_json:
        echo_json(index)
        return
    places = index["places"]
    written = {file for place in places for files in place["files"].values() for file in files}
    click.echo(f"{len(written)} files for {sum(bool(place['files']) for place in places)} of {len(places)} places")
    for why, count in Counter(why for place in places for why in place["left"].values()).items():
        click.echo(f"left: {count} places: {why}")
    click.echo(f"wrote {output / INDEX}")


def _json(folder: Folder) -> dict:
    """What a program wants of a folder."""
    own = {key: dict(getattr(folder, key)) for key in ("model", "data", "choice", "cost")}
    return {**own, "bytes": folder.bytes, "entries": [vars(e) for e in folder.entries], "left": list(folder.left)}


def _echo(folder: Folder) -> None:
    """A line for each kind of place and function, and what the tables cost."""
    rows = []
    kinds = dict.fromkeys((ROOM[e.operator], e.function, e.kind) for e in folder.entries)
    for room, function, kind in kinds:
        here = [e for e in folder.entries if (ROOM[e.operator], e.function, e.kind) == (room, function, kind)]
        files = {e.table: e.bytes for e in here}
        worst = max(here, key=lambda e: e.share)
        outside = f"{figure(100 * max(e.outside for e in here))} %"
        rows.append([room, function, kind, len(here), len(files), sum(files.values()), outside, worst.path])
    echo_table(["places", "function", "kind", "places", "tables", "bytes", "outside", "largest error at"], rows)
    for entry in folder.left:
        click.echo(f"left exact: {entry}")
    cost = folder.cost
    if "spent" in cost:
        spent, counts = cost["spent"], sorted(Counter(folder.choice["own"].values()).items())
        click.echo(
            f"KL {spent['kl']:.3g} of at most {folder.choice['max_kl']:g} on {spent['tokens']} tokens, "
            f"{spent['codes']:.3g} of it by the codes alone; entries: "
            + ", ".join(f"{number} of {entries}" for entries, number in counts)
        )
    if cost.get("kl") is not None:
        click.echo(
            f"on {cost['tokens']} of these tokens: perplexity {cost['perplexity']:.4f} "
            f"({100 * cost['change']:+.3f} %), KL {cost['kl']:.3g}"
        )
    elif cost.get("cosine") is not None:
        of = "tokens" if folder.data["tokens"] else "examples"
        click.echo(f"on {cost['tokens']} of these {of}: mean cosine {cost['cosine']:.6f}")
