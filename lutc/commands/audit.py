"""`lutc audit`. Nothing here imports torch before the command runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from lutc.commands.options import echo_json, json_option, load_with_batches, model_options, progress_bar
from lutc.evaluation.variants import variant
from lutc.folder.manifest import read


@click.command()
@model_options
@click.option(
    "--tables", "spec", metavar="TABLE,...", help="Tables to put in first, by name or file; what stays exact is listed."
)
@click.option(
    "--folder", type=click.Path(path_type=Path), help="A folder of `lutc model compile` to put in first, instead."
)
@json_option
def audit(
    model: str,
    text: str,
    spec: str | None,
    folder: Path | None,
    as_json: bool,
    **running: Any,
) -> None:
    """List every transcendental operation that MODEL runs on the first batch of a text: what it is, the module and
    the line that call it, how often, and whether a table runs there.

    \b
    lutc audit SmolLM2-135M --text book.txt
    lutc audit SmolLM2-135M --text book.txt --tables silu_fplut,exp_fplut,rsqrt_fplut
    lutc audit SmolLM2-135M --text book.txt --folder tables
    """
    if spec and folder:
        raise click.UsageError("give --tables or --folder, not both")

    from lutc.folder.applying import apply  # brings torch
    from lutc.nn.patching import audit as run  # brings numba, torch

    chosen, tables = variant(spec) if spec else None, read(folder) if folder else None
    loaded, (first, *_) = load_with_batches(model, text, **running)
    with progress_bar("audit", unit="forwards") as progress:
        before = run(loaded.model, first)
        after = None
        if progress is not None:
            progress(1)
        if chosen is not None:
            chosen.patch(loaded.model)
        elif tables is not None:
            apply(loaded.model, tables)
        if chosen is not None or tables is not None:
            after = run(loaded.model, first)
    found = before if after is None else after
    if as_json:
        told = {"before": [asdict(one) for one in before.operations]}
        echo_json(told if after is None else {**told, "after": [asdict(one) for one in after.operations]})
        return
    click.echo(str(found))
    exact, whole = (sum(one.calls for one in audit.exact) for audit in (found, before))
    click.echo(f"{exact} calls are exact" + ("" if after is None else f" of {whole} without tables"))
