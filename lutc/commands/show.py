"""`lutc show`."""

from __future__ import annotations

import click

from lutc.commands.options import echo_json, echo_table, json_option
from lutc.table.bodies import Cells, Lines
from lutc.table.library import load
from lutc.table.table_set import TableSet


@click.command()
@click.argument("table")
@click.option("--key", help="Only this table of the file: 4, fp32, ...")
@json_option
def show(table: str, key: str | None, as_json: bool) -> None:
    """Print TABLE, a file or the name of a shipped table, and how it was made."""
    import json

    tables = load(table)
    if key is not None:
        inputs = {key: tables.inputs[key]} if key in tables.inputs else {}
        tables = TableSet(tables.name, {key: tables[key]}, inputs, tables.function, tables.meta)
    if as_json:
        echo_json(json.loads(tables.dumps()))
        return
    first = next(iter(tables.values()))
    search = tables.meta.get("search", {})
    search = (
        search if "name" in search else next((part for part in search.values() if isinstance(part, dict)), {})
    )  # FPLUT: one per format
    click.echo(f"{tables.name}: {first.body.addressing} x {first.body.payload}, coefficients {first.coefficients}")
    click.echo(
        f"search {search.get('name', tables.meta.get('origin', 'unknown'))}, prologue "
        f"{first.prologue.kind if first.prologue else 'none'}"
    )
    if first.domain is not None:
        low, high = ("inf" if bound is None else f"{bound:g}" for bound in (first.domain.low, first.domain.high))
        click.echo(f"NaN outside [{'-' if first.domain.low is None else ''}{low}, {high}]")
    for name, one in tables.items():
        codes = tables.inputs.get(name)
        click.echo(f"\n{name}" + (f": {codes.bits}-bit codes, scale {codes.written}" if codes else ""))
        _print_body(one.body)


def _print_body(body) -> None:
    if isinstance(body, Lines):
        bounds = ["-inf", *(f"{b:g}" for b in body.breakpoints), "inf"]
        rows = [
            [f"({a}, {b}]", f"{k:g}", f"{t:g}"] for a, b, k, t in zip(bounds, bounds[1:], body.slopes, body.intercepts)
        ]
        echo_table(["x", "slope", "intercept"], rows)
    elif isinstance(body, Cells):
        rows = [[f"[{a:g}, {b:g})", str(p)] for a, b, p in zip(body.cut_points, body.cut_points[1:], body.pieces)]
        echo_table(["interval", "pieces"], rows)
        click.echo(f"{body.values.size} values")
    else:
        click.echo(f"{body.values.size} values, from {body.values.min():g} to {body.values.max():g}")
