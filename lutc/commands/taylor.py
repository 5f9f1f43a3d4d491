"""`lutc taylor`: collect, fit, sweep, evaluate, show, export. Nothing here imports torch before a command runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lutc.commands.options import folder_option
from lutc.errors import LutcError

if TYPE_CHECKING:
    from lutc.taylor.table import TaylorTable

MODEL = click.argument("model", type=click.Path(exists=True))
MODULES = click.option(
    "--modules",
    multiple=True,
    help="Blocks by name: * is one part, ** any, parent:child+child a chain. Default: the usual MLPs.",
)
TEXT = click.option(
    "--text", type=click.Path(exists=True, dir_okay=False), help="Documents, one a line (Hugging Face folders)."
)
BATCH = click.option("--batch", default=32, show_default=True, type=click.IntRange(1), help="Documents in a batch.")
LENGTH = click.option(
    "--length", default=128, show_default=True, type=click.IntRange(1), help="Tokens of a document that are used."
)
TASK = click.option("--task", default="AutoModel", show_default=True, help="transformers' class that loads the folder.")
FALLBACK = click.option(
    "--fallback", default=0.0, show_default=True, help="Share of held-out inputs, the farthest, to run exactly."
)
POST_NORM = click.option(
    "--post-norm",
    is_flag=True,
    help="The block's output is added to its input and normalised (BERT): weight errors by that.",
)
MEMORY = click.option(
    "--memory", default=2.0, show_default=True, help="GiB for Jacobians and for the regression's sums."
)
FORMATS = ("fp32", "fp16", "bf16", "int8")


@click.group()
def taylor() -> None:
    """Compile a whole MLP into K-means centres and local maps.

    MODEL is a Hugging Face folder or a Python file that defines model() and batches().
    """


@taylor.command()
@MODEL
@click.argument("folder", type=click.Path(file_okay=False))
@MODULES
@TEXT
@BATCH
@LENGTH
@TASK
@click.option("--limit", type=click.IntRange(1), help="Stop after so many samples per block.")
@click.option(
    "--dtype", default="fp32", show_default=True, type=click.Choice(FORMATS[:3]), help="How the inputs are stored."
)
def collect(
    model: str,
    folder: str,
    modules: tuple[str, ...],
    text: str | None,
    batch: int,
    length: int,
    task: str,
    limit: int | None,
    dtype: str,
) -> None:
    """Store in FOLDER what the blocks of MODEL are really given. An interrupted run resumes.

    torchrun --nproc-per-node N -m lutc taylor collect ... shares the batches among N processes.
    """
    from lutc.observe.ranks import Ranks  # brings torch
    from lutc.taylor.collector import collect as run  # brings torch
    from lutc.taylor.inputs import BlockInputs  # brings torch

    ranks = Ranks.here()
    loaded = _loaded(model, task)
    given = _batches(loaded, text, batch, length)
    part = (ranks.index, ranks.count)
    run(loaded.model, modules or None, given, folder, limit=limit, dtype=dtype, part=part)
    ranks.wait()
    if not ranks.first:
        return
    inputs = BlockInputs(folder)
    click.echo(f"{inputs.rows} samples of {inputs.documents()} documents for {len(inputs.blocks)} blocks in {folder}")


@taylor.command()
@MODEL
@click.argument("folder", type=click.Path(file_okay=False))
@click.option(
    "-o",
    "--output",
    required=True,
    help="Tables are written to OUTPUT-0.json and .safetensors, OUTPUT-1, ..., in the model's order.",
)
@click.option("-k", "--centres", "k", default=16, show_default=True, type=click.IntRange(1), help="Number of centres.")
@click.option("--order", default=1, show_default=True, type=click.IntRange(1, 2), help="2 adds the diagonal Hessian.")
@click.option(
    "--neurons",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Neurons to keep exactly, as further inputs of the maps.",
)
@click.option("--local", is_flag=True, help="Each centre keeps neurons of its own.")
@click.option("--rank", default=0, show_default=True, type=click.IntRange(0), help="Of the Jacobians; 0: full.")
@click.option(
    "--fit",
    default="ridge",
    show_default=True,
    type=click.Choice(["ridge", "taylor"]),
    help="Regression upon the expansion, or it alone.",
)
@click.option("--format", default="fp32", show_default=True, type=click.Choice(FORMATS), help="How tables are stored.")
@FALLBACK
@POST_NORM
@MEMORY
@click.option(
    "--sequential",
    is_flag=True,
    help="Fit each block on inputs from the model with earlier ones replaced; collects into FOLDER.",
)
@MODULES
@TEXT
@BATCH
@LENGTH
@TASK
@click.option("--seed", default=0, show_default=True, help="Of K-means.")
def fit(
    model: str,
    folder: str,
    output: str,
    k: int,
    order: int,
    neurons: int,
    local: bool,
    rank: int,
    fit: str,
    format: str,
    fallback: float,
    post_norm: bool,
    memory: float,
    sequential: bool,
    modules: tuple[str, ...],
    text: str | None,
    batch: int,
    length: int,
    task: str,
    seed: int,
) -> None:
    """Fit a table to each block whose inputs are in FOLDER.

    torchrun --nproc-per-node N -m lutc taylor fit ... shares the blocks among N processes.
    """
    from lutc.observe.ranks import Ranks  # brings torch
    from lutc.observe.running import model_digest  # brings torch
    from lutc.taylor.blocks import find_blocks  # brings torch
    from lutc.taylor.fitting import TaylorSettings  # brings torch
    from lutc.taylor.fitting import fit as run  # brings torch
    from lutc.taylor.inputs import BlockInputs  # brings torch
    from lutc.taylor.sequential import fit_sequential  # brings torch

    room = int(memory * 2**30)
    settings = TaylorSettings(k, order, fit, format, fallback, post_norm, seed, room, neurons, local, rank)
    loaded = _loaded(model, task)
    network, ranks = loaded.model, Ranks.here()
    ranks.agree(model_digest(network), "model")
    if sequential:
        if ranks.count > 1:
            raise LutcError("--sequential fits a block on what the tables before it give; run it without torchrun")
        given = _batches(loaded, text, batch, length)
        tables: Iterable[tuple[int, TaylorTable]] = enumerate(
            fit_sequential(network, modules or None, given, folder, settings).values()
        )
    else:
        inputs = BlockInputs(folder)
        blocks = list(enumerate(find_blocks(network, modules or list(inputs.blocks))))[ranks.index :: ranks.count]
        tables = ((number, run(block, inputs, settings)) for number, block in blocks)
    # Each table is written as soon as it is fitted: an interruption leaves those that were finished.
    for number, table in tables:
        table.save(f"{output}-{number}")
        click.echo(f"{output}-{number}: {_line(table)}")
    ranks.wait()


@taylor.command()
@MODEL
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--block", help="Which block of FOLDER; default: the first.")
@click.option(
    "-k",
    "--centres",
    "ks",
    multiple=True,
    default=(4, 16, 64),
    show_default=True,
    type=click.IntRange(1),
    help="Numbers of centres.",
)
@click.option(
    "--order", "orders", multiple=True, default=(1,), show_default=True, type=click.IntRange(1, 2), help="Orders."
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    default=("fp32", "fp16", "int8"),
    show_default=True,
    type=click.Choice(FORMATS),
    help="Storage.",
)
@click.option(
    "--neurons",
    multiple=True,
    type=click.IntRange(1),
    help="Exact neurons of the competitor; default: an eighth of them.",
)
@click.option("--plot", type=click.Path(dir_okay=False), help="Draw the front to this file.")
@FALLBACK
@POST_NORM
@MEMORY
@TASK
def sweep(
    model: str,
    folder: str,
    block: str | None,
    ks: tuple[int, ...],
    orders: tuple[int, ...],
    formats: tuple[str, ...],
    neurons: tuple[int, ...],
    plot: str | None,
    fallback: float,
    post_norm: bool,
    memory: float,
    task: str,
) -> None:
    """Print the front of error, multiply-adds, megabytes and measured speed, with its honest competitors."""
    from lutc.plots.sweep import plot as draw  # brings torch
    from lutc.taylor.blocks import find_blocks  # brings torch
    from lutc.taylor.fitting import TaylorSettings  # brings torch
    from lutc.taylor.inputs import BlockInputs  # brings torch
    from lutc.taylor.sweeping import sweep as run  # brings torch

    inputs = BlockInputs(folder)
    chosen = find_blocks(_loaded(model, task).model, block or next(iter(inputs.blocks)))[0]
    settings = TaylorSettings(fallback=fallback, post_norm=post_norm, memory=int(memory * 2**30))
    points = run(chosen, inputs, settings, ks=ks, orders=orders, formats=formats, neurons=neurons)
    batches = list(points[0].speedup)
    click.echo(
        f"{'design':24}{'error':>10}{'mult-adds':>12}{'MB':>9}"
        + "".join(f"{f'x at {batch}':>9}" for batch in batches)
        + "  front"
    )
    for point in points:
        speeds = "".join(f"{point.speedup[batch]:9.1f}" for batch in batches)
        click.echo(
            f"{point.name:24}{point.error:10.4g}{point.multiply_adds:12.0f}"
            f"{point.bytes / 1e6:9.3f}{speeds}{'  *' if point.on_front else ''}"
        )
    if plot:
        draw(points, plot)


@taylor.command()
@MODEL
@click.argument("tables", nargs=-1, required=True)
@TEXT
@BATCH
@LENGTH
@TASK
def evaluate(model: str, tables: tuple[str, ...], text: str | None, batch: int, length: int, task: str) -> None:
    """Run MODEL exactly and with TABLES in place of their blocks, and compare its outputs."""
    from lutc.taylor.blocks import find_blocks  # brings torch
    from lutc.taylor.evaluation import evaluate as run  # brings torch
    from lutc.taylor.module import TaylorMLP  # brings torch
    from lutc.taylor.reading import load  # brings torch

    loaded = _loaded(model, task)
    network = loaded.model
    mlps = {}
    for name in tables:
        table = load(name)
        block = table.info.get("block")
        if block is None or block in mlps:
            raise LutcError(
                f"{name} names {'no block' if block is None else f'the block {block}, as another table does'}; give "
                "one table per block"
            )
        mlps[block] = TaylorMLP(table, find_blocks(network, block)[0].as_module if table.radii is not None else None)
    found = run(network, mlps, _batches(loaded, text, batch, length))
    median, least = float(found.cosines.median()), float(found.cosines.min())
    click.echo(f"cosine to the exact output: mean {found.cosine:.4f}, median {median:.4f}, least {least:.4f}")
    click.echo(f"largest output the same: {found.agreement:.4f} of {len(found.cosines)} documents")
    times = found.exact_multiply_adds / found.multiply_adds
    click.echo(
        f"multiply-adds: {times:.2f} times fewer ({found.multiply_adds:.0f} for {found.exact_multiply_adds} per input, "
        "over all blocks)"
    )
    click.echo(f"megabytes: {found.bytes / 1e6:.3f} for {found.exact_bytes / 1e6:.3f}")
    click.echo(f"fallback: {sum(found.fallback.values()) / len(found.fallback):.4f} of the inputs ran exactly")


@taylor.command()
@click.argument("tables", nargs=-1, required=True)
@click.option("--centres", is_flag=True, help="Also print each centre.")
def show(tables: tuple[str, ...], centres: bool) -> None:
    """Print what TABLES are and what they are worth; reads the JSON alone."""
    from lutc.taylor.reading import read_header  # brings torch

    for name in tables:
        path = Path(name)
        header = read_header(path if path.suffix == ".json" else path.with_name(path.name + ".json"))
        widths = f"{header['in_features']} -> {header['out_features']}"
        kept = header.get("settings", {}).get("neurons")
        own = " to each centre" if header.get("settings", {}).get("local") else ""
        kept = f", {kept} neurons{own} ({header['activation']})" if kept else ""
        rank = header.get("settings", {}).get("rank")
        kept += f", rank {rank}" if rank else ""
        click.echo(
            f"{name}: {header.get('block')}, {widths}, k={header['k']}, order {header['order']}{kept}, "
            f"{header['format']}"
        )
        certificate = header.get("certificate")
        if not certificate:
            click.echo("  no certificate: the table was changed after fitting, or nothing was held out")
            continue
        data = header["data"]
        spread = f"{data['least_per_centre']} to {data['most_per_centre']} a centre"
        click.echo(f"  fitted on {data['samples']} samples ({spread}), measured on {data['held_out']}")
        without, share = certificate["without_fallback"], certificate["fallback"]
        click.echo(f"  relative error {certificate['relative_error']}, without fallback {without}, fallback {share}")
        fewer = certificate["exact_multiply_adds"] / certificate["multiply_adds"]
        click.echo(
            f"  multiply-adds {certificate['multiply_adds']} ({fewer:.2f} times fewer), "
            f"{certificate['storage_bytes'] / 1e6:.3f} MB"
        )
        if centres:
            rows = zip(*(certificate["centres"][key] for key in ("held_out", "relative_error", "fallback")))
            for index, (held_out, error, fallback) in enumerate(rows):
                click.echo(f"  centre {index}: {held_out} held out, relative error {error}, fallback {fallback}")


@taylor.command()
@click.argument("table")
@click.option(
    "--format",
    "kind",
    required=True,
    type=click.Choice(["c", "onnx"]),
    help="c: C99 without a dependency, NAME.h and NAME.c; onnx: standard operators, NAME.onnx.",
)
@folder_option
@click.option("--name", help="NAME of files and functions.  [default: the table's]")
@click.option("--blob", is_flag=True, help="c: numbers in NAME.bin, handed to NAME_load, instead of in the source.")
@click.option("--opset", default=18, show_default=True, type=click.IntRange(18, 21), help="onnx: operator set.")
def export(table: str, kind: str, output: Path, name: str | None, blob: bool, opset: int) -> None:
    """Write TABLE for a small board, or for a runtime of ONNX, in its own storage format.

    C of int8 tables computes in integers and gives the same bits on every machine. ONNX is compared with the table in
    onnxruntime before it is written.
    """
    from lutc.taylor.exporting import export_c, export_onnx  # brings torch
    from lutc.taylor.reading import load  # brings torch

    loaded = load(table)
    name = name or Path(table).name.removesuffix(".json").removesuffix(".safetensors")
    if kind == "c":
        paths = export_c(loaded, output, name, blob=blob)
    else:
        if blob:
            raise LutcError("--blob is an option of --format c; an ONNX file holds its numbers itself")
        path, largest = export_onnx(loaded, output / f"{name}.onnx", opset)
        click.echo(f"onnxruntime differs from the table by at most {largest:.3g} of the largest output")
        paths = [path]
    for path in paths:
        click.echo(f"wrote {path}, {path.stat().st_size / 1e6:.3f} MB")


def _loaded(model, task):
    from lutc.models.loading import load  # brings torch

    return load(model, task=task)


def _batches(loaded, text, batch, length):
    from lutc.models.texts import batches  # brings torch

    return batches(loaded, text, seqlen=length, batch=batch)


def _line(table) -> str:
    certificate = table.info["certificate"]
    if certificate is None:
        return f"k={table.k}, nothing was held out"
    fewer = certificate["exact_multiply_adds"] / certificate["multiply_adds"]
    return (
        f"relative error {certificate['relative_error']:.4g}, {fewer:.2f} times fewer multiply-adds, "
        f"{certificate['storage_bytes'] / 1e6:.3f} MB"
    )
