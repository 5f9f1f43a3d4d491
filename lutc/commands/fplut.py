"""Options of `lutc compile --search cutpoints`: floating-point tables over cut points (FPLUT) or exponents."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import click

from lutc import functions
from lutc.commands.options import echo_table, figure, typed
from lutc.errors import LutcError
from lutc.fplut.pipeline import compile_fplut
from lutc.table.table_set import TableSet

# What `lutc compile` has for every search and this one takes too.
_SHARED = {"function", "interval", "inputs", "search", "objective", "tails", "prologue", "name", "output", "as_json"}

_OPTIONS = (
    click.option(
        "--cut-points",
        metavar="LIST|FILE",
        help="cutpoints: fixed cut points, increasing, or a file of them.  [default: searched]",
    ),
    click.option(
        "--n-cut-points", type=int, help="cutpoints: number of cut points to search, at least 3.  [default: 11]"
    ),
    click.option(
        "--pieces",
        metavar="N|LIST",
        help="cutpoints: pieces of each inner interval, of every interval, or auto.  [default: 32]",
    ),
    click.option(
        "--values",
        type=click.Choice(["fitted", "sampled"]),
        help="cutpoints: how to choose the stored values.  [default: fitted]",
    ),
    click.option(
        "--addressing",
        type=click.Choice(["cells", "exponent"]),
        help="cutpoints: what chooses the piece.  [default: cells]",
    ),
    click.option("--budget", type=int, help="cutpoints: values of a table with exponent addressing.  [default: 259]"),
    click.option(
        "--formats",
        metavar="LIST",
        help="cutpoints: formats of the stored values, of fp16, bf16, fp32.  [default: fp16,fp32]",
    ),
    click.option(
        "--arithmetic",
        type=click.Choice(["fp32", "fp16_rne", "fp16_trunc"]),
        help="cutpoints: to search for.  [default: fp32]",
    ),
    click.option(
        "--quality", type=click.Choice(["quick", "best"]), help="cutpoints: how long to search.  [default: quick]"
    ),
)
FIELDS = ("cut_points", "n_cut_points", "pieces", "values", "addressing", "budget", "formats", "arithmetic", "quality")


def fplut_options(command: Callable) -> Callable:
    """Add the options to a command; those not given arrive as None."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def refuse(options: dict) -> None:
    """LutcError where an option of this search was given with another."""
    given = [name for name in FIELDS if options.get(name) is not None]
    if given:
        raise LutcError(f"--{given[0].replace('_', '-')} belongs to --search cutpoints; add that or leave it out")


def compile_float(context: click.Context, function: str, name: str, options: dict) -> TableSet:
    """The table set that the command line asks for."""
    given = typed(context)
    foreign = sorted(given - _SHARED - set(FIELDS))
    if foreign:
        raise LutcError(f"--{foreign[0].replace('_', '-')} does not apply to --search cutpoints; leave it out")
    unused = ("budget",) if options["addressing"] != "exponent" else ("cut_points", "n_cut_points", "pieces", "quality")
    useless = [name for name in unused if options[name] is not None]
    if useless:
        takes = "exponent" if useless[0] == "budget" else "cells"
        raise LutcError(f"--{useless[0].replace('_', '-')} belongs to --addressing {takes}; leave it out")
    settings = {field: options[field] for field in (*FIELDS, "prologue") if options[field] is not None}
    if "cut_points" in settings:
        settings["cut_points"] = _numbers(settings["cut_points"])
    if "pieces" in settings:
        settings["pieces"] = _pieces(settings["pieces"])
    if "formats" in settings:
        settings["formats"] = tuple(part.strip() for part in settings["formats"].split(","))
    if "objective" in given:
        settings["objective"] = options["objective"]
    if "inputs" in given:
        settings["input"] = options["inputs"]
    interval = options["interval"]
    fn = functions.load(function, interval)
    return compile_fplut(fn, name=name, range=interval, tails=options["tails"] == "exact", **settings)


def _numbers(text: str) -> tuple[float, ...]:
    """Numbers from "a,b,c" or from a file with one or several a line."""
    path = Path(text)
    if not re.fullmatch(r"[\s\d.eE+,-]*", text):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise LutcError(
                f"cut points are numbers such as -1,0,2.5 or a text file of them; cannot read {path}"
            ) from error
    parts = re.split(r"[\s,\[\]]+", text.strip(" \n\t[]"))
    try:
        return tuple(float(part) for part in parts)
    except ValueError as error:
        raise LutcError(f"cut points are numbers such as -1,0,2.5; {error}") from error


def _pieces(text: str) -> int | tuple[int, ...] | None:
    if text == "auto":
        return None
    try:
        counts = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise LutcError(f"pieces are a power of two, one per interval as 1,32,32,1, or auto; given {text!r}") from error
    return counts[0] if len(counts) == 1 else counts


def report(tables: TableSet, ranged: bool) -> None:
    """How good each stored format is over all inputs of fp16 and bf16, in each arithmetic; `ranged`: and over those in
    the range.
    """
    assert tables.range is not None  # what was compiled has one
    rows, (lo, hi) = [], tables.range
    for key, dtypes in tables.meta["certificate"].items():
        for dtype, figures in dtypes.items():
            inside = [(f"exact, in [{lo:g}, {hi:g}]", figures["range"])] if ranged else []
            for arithmetic, c in [*inside, ("exact", figures["domain"]), *figures["arithmetic"].items()]:
                worst = c["worst_relative"]
                row = [
                    f"{key} values, {dtype} inputs, {arithmetic}",
                    figure(c["mean_relative"]),
                    figure(worst["error"]),
                    figure(worst["x"]),
                ]
                rows.append([*row, f"{100 * c['correct']:.2f} %"])
    entries = next(iter(tables.values())).entries
    click.echo(f"{tables.name}: {entries} values")
    for key, record in tables.meta["search"].items():
        if "gap" in record:
            near = f"{100 * record['values_gap']:.1f} % over any values at these cut points"
            click.echo(f"{key} values: at most {near}, {100 * record['gap']:.0f} % over any {entries - 1} lines")
    if "promises" in tables.meta:
        click.echo(f"promises kept: {', '.join(tables.meta['promises'])}")
    echo_table(["", "mean relative", "worst", "at x", "correctly rounded"], rows)
