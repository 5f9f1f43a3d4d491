"""`lutc compare`."""

from __future__ import annotations

from pathlib import Path

import click

from lutc.certify.certificate import certify
from lutc.commands.options import append_csv, echo_json, echo_table, function_option, json_option, load_for

MEASURES = ["mean_squared", "mean_absolute", "worst_absolute", "mean_relative", "worst_relative"]
COLUMNS = ["table", "version", "function", "key", "entries", "measure", "value"]


@click.command()
@click.argument("tables", nargs=-1, required=True)
@function_option
@click.option("--measure", type=click.Choice(MEASURES), default=MEASURES[0], show_default=True)
@click.option(
    "--csv",
    "csv_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Append one row per table and key to this file.",
)
@json_option
def compare(tables: tuple[str, ...], function: str | None, measure: str, csv_path: Path | None, as_json: bool) -> None:
    """Put TABLES (files or names) side by side, scale by scale: errors over the inputs in the range, recomputed from
    the stored numbers.
    """
    columns, records = {}, []
    for name in tables:
        loaded, fn = load_for(name, function)
        figures = {}
        for key, certificate in certify(loaded, fn).items():
            for label, part in _parts(key, certificate):
                value = part.get(measure)
                figures[label] = value["error"] if isinstance(value, dict) else value
                records.append(
                    [
                        name,
                        loaded.meta.get("version", "-"),
                        fn.name,
                        label,
                        loaded[key].entries,
                        measure,
                        figures[label],
                    ]
                )
        columns[name] = figures
    if csv_path is not None:
        append_csv(csv_path, COLUMNS, records)
    if as_json:
        echo_json({"measure": measure, "tables": columns})
        return
    labels = list(dict.fromkeys(label for figures in columns.values() for label in figures))
    rows = [[label, *(_cell(figures.get(label)) for figures in columns.values())] for label in labels]
    if all(isinstance(v, float) for figures in columns.values() for v in figures.values()) and len(labels) > 1:
        rows.append(["mean", *(_cell(sum(figures.values()) / len(figures)) for figures in columns.values())])
    click.echo(f"{measure.replace('_', ' ')} error")
    echo_table(["key", *columns], rows)


def _parts(key, certificate):
    """(label, errors): the range of a table over codes, each input type of a float table."""
    if "range" in certificate:
        return [(key, certificate["range"])]
    return [(f"{key}, {dtype} inputs", part["range"]) for dtype, part in certificate.items()]


def _cell(value) -> str:
    return "-" if value is None else f"{value:.3e}"
