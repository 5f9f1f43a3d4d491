"""`lutc certify`."""

from __future__ import annotations

import click

from lutc.certify.certificate import certify as recompute
from lutc.certify.certificate import check, errors, right_rule
from lutc.certify.promises import broken
from lutc.certify.proof import contradictions
from lutc.commands.options import echo_json, echo_table, figure, function_option, json_option, load_for
from lutc.compiler.proof import provable, quickly_proven, reproved
from lutc.errors import LutcError
from lutc.fplut.proof import bounded, costs_told, reproved_bounds


@click.command()
@click.argument("table")
@function_option
@click.option(
    "--prove",
    is_flag=True,
    help="Prove the optimum or bound that the file names again; for int8 tables of lines this is always done.",
)
@json_option
@click.pass_context
def certify(ctx: click.Context, table: str, function: str | None, prove: bool, as_json: bool) -> None:
    """Recompute the errors of TABLE over every input there is.

    Exits with 1 where the file's own certificate does not hold, where what it says of its search (cost, optimum or
    bound, gap) contradicts itself or the table, and where another optimum or bound is proven. A file without a
    certificate (GQA-LUT's, NN-LUT's) is certified all the same; GQA-LUT's tables under both of its rules at a
    breakpoint, its runtime's (left) and its search's (right).
    """
    tables, fn = load_for(table, function)
    found = recompute(tables, fn)
    claimed = tables.meta.get("certificate")
    wrong = ([] if claimed is None else check(claimed, found)) + broken(found) + contradictions(tables, found)
    wrong += costs_told(tables, fn)
    proven = not wrong and (prove and (provable(tables) or bounded(tables)) or quickly_proven(tables))
    if prove and not wrong and not proven:
        raise LutcError(f"{table} does not say enough to prove its search again; certify it without --prove")
    wrong += reproved(tables, fn) + reproved_bounds(tables, fn) if proven else []
    right = _right_rule(tables, fn) if tables.meta.get("origin") == "gqa-lut" else None
    if as_json:
        echo_json(
            {
                "certificate": found,
                "claimed": claimed is not None,
                "differences": wrong,
                **({"right_rule": right} if right else {}),
            }
        )
    else:
        _print(tables, found, right)
        for line in wrong:
            click.echo(f"does not hold: {line}", err=True)
        if not wrong and "promises" in tables.meta:
            click.echo(f"promises kept: {', '.join(tables.meta['promises'])}")
        if not wrong:
            told = ", and so does its proof, found again" if proven else ""
            click.echo(f"the file's certificate holds{told}" if claimed is not None else "the file makes no claim")
    if wrong:
        ctx.exit(1)


def _right_rule(tables, fn) -> dict:
    lo, hi = fn.range
    codes = {key: tables.inputs[key].x() for key in tables}
    return {
        key: errors(right_rule(table), fn, codes[key][(codes[key] >= lo) & (codes[key] <= hi)])
        for key, table in tables.items()
    }


def _print(tables, found, right) -> None:
    if not tables.inputs:
        _print_floats(tables, found)
        return
    header = [
        "scale",
        "entries",
        "range: mean squared",
        "worst",
        "at x",
        "domain: mean squared",
        "worst",
        "at x",
        "floats: worst",
    ]
    rows = []
    for key, c in found.items():
        row = [f"{tables.inputs[key].scale:g}", c["entries"]]
        for where in ("range", "domain"):
            part = c[where]
            if "worst_absolute" not in part:
                row += ["-"] * 3
                continue
            row += [
                figure(part["mean_squared"]),
                figure(part["worst_absolute"]["error"]),
                figure(part["worst_absolute"]["x"]),
            ]
        row.append(figure(c["float"]["worst_absolute"]["error"]) if "worst_absolute" in c["float"] else "-")
        if right:
            row.append(figure(right[key]["mean_squared"]))
        if "output" in c:
            row.append(f"{c['output']['wrong']} of {c['output']['inputs']}, at most {c['output']['largest']}")
        rows.append(row)
    if right:
        header.append("right rule: mean squared")
    if any("output" in c for c in found.values()):
        header.append("wrong output codes")
    echo_table(header, rows)
    undefined = {key: c["domain"]["undefined"] for key, c in found.items() if c["domain"]["undefined"]}
    if undefined:
        click.echo(
            "codes where the function is undefined or infinite, counted apart: "
            + ", ".join(f"{n} at {key}" for key, n in undefined.items())
        )


def _print_floats(tables, found) -> None:
    """Over the inputs in the range and over all at which the function is defined; the latter in each arithmetic too."""
    header = [
        "table, inputs",
        "",
        "number",
        "mean relative",
        "worst",
        "at x",
        "worst absolute",
        "at x",
        "worst ulp",
        "correctly rounded",
    ]
    rows, apart = [], []
    for key, dtypes in found.items():
        for dtype, c in dtypes.items():
            label = f"{key}, {dtype}"
            for where, part in (
                ("range", c["range"]),
                ("all", c["domain"]),
                *((f"all, {name}", part) for name, part in c["arithmetic"].items()),
            ):
                rows.append([label, where, part["inputs"], *_figures(part)])
                label = ""
            apart += [
                (f"{key}, {dtype}", name, c[name])
                for name in ("undefined", "overflow")
                if c[name]["inputs"] > c[name]["agree"]
            ]
    echo_table(header, rows)
    click.echo(
        "inputs at which the function is undefined or too large are counted apart; the table answers "
        f"{'wrongly' if apart else 'as it does'}"
    )
    for label, name, count in apart:
        click.echo(f"  {label}: {count['inputs'] - count['agree']} of {count['inputs']} inputs, {name}")
    for where, exception in tables.meta.get("exceptions", {}).items():
        said = ", ".join(
            f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in exception.items()
        )
        click.echo(f"off by more than 1 %: {where}: {said}")


def _figures(part: dict) -> list[str]:
    if "worst_relative" not in part:
        return ["-"] * 7
    relative, absolute = part["worst_relative"], part["worst_absolute"]
    worst = [
        figure(relative["error"]),
        f"{relative['x']:g}",
        figure(absolute["error"]),
        f"{absolute['x']:g}",
        figure(part["worst_ulp"]["error"]),
    ]
    return [figure(part["mean_relative"]), *worst, f"{100 * part['correct']:.2f} %"]
