"""`lutc plot`."""

from __future__ import annotations

from pathlib import Path

import click

from lutc.commands.options import function_option, load_for
from lutc.plots.figure import save
from lutc.plots.table import table_figure


@click.command()
@click.argument("table")
@click.option(
    "--key", "keys", multiple=True, help="Draw this table of the file, may be repeated: 4, fp32, ...  [default: all]"
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help=".png, .svg or .pdf to write.  [default: TABLE.png here]",
)
@function_option
def plot(table: str, keys: tuple[str, ...], output: Path | None, function: str | None) -> None:
    """Draw TABLE, a file or the name of a shipped table: function and segments above, the error at every input below.

    \b
    lutc plot gelu_8 --key 4
    lutc plot my/table.json -o table.svg
    """
    tables, fn = load_for(table, function)
    output = output or Path(f"{Path(table).stem}.png")
    save(table_figure(tables, fn, keys or None), output)
    click.echo(f"wrote {output}")
