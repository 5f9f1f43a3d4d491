"""`lutc batch`."""

from __future__ import annotations

import contextlib
import io
import shlex
from concurrent.futures import ProcessPoolExecutor
from typing import IO

import click

from lutc.commands.compile import compile_command
from lutc.errors import LutcError


@click.command()
@click.argument("file", type=click.File())
@click.option(
    "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes, each of which makes many tables."
)
def batch(file: IO[str], jobs: int) -> None:
    """Compile many tables: every line of FILE (- for stdin) holds the arguments of one `lutc compile`.

    One process makes table after table, so that numba and torch are loaded once; tables are the same as one by one.
    Empty lines and those that begin with # are left out. Ends at the first line that cannot be compiled.
    """
    lines = [line.strip() for line in file]
    lines = [line for line in lines if line and not line.startswith("#")]
    pool = ProcessPoolExecutor(jobs)
    try:
        for line, (text, error) in zip(lines, pool.map(_compiled, lines)):
            if error:
                raise LutcError(f"lutc compile {line}: {error}")
            click.echo(text, nl=False)
    finally:
        pool.shutdown(cancel_futures=True)


def _compiled(line: str) -> tuple[str, str]:
    """(what `lutc compile` prints, the error that ends it)."""
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            compile_command.main(shlex.split(line), prog_name="lutc compile", standalone_mode=False)
    except click.ClickException as error:
        return "", error.format_message()
    except (LutcError, OSError, ImportError, ValueError) as error:  # ValueError: quotes that do not close
        return "", " ".join(str(error).split())
    return out.getvalue(), ""
