"""`lutc certify`."""

from __future__ import annotations

import click

from lutc.commands.options import echo_json, echo_table, figure, function_option, json_option, load_for


@click.command()
@click.argument("table")
@function_option
@json_option
@click.pass_context
def certify(ctx, table, function, as_json) -> None:
    """Recompute the errors of TABLE over every input there is.

    Exits with 1 where the file's own certificate does not hold. A file without one (GQA-LUT's, NN-LUT's) is certified all the same; GQA-LUT's
    tables under both of its rules at a breakpoint, its runtime's (left) and its search's (right).
    """
    from lutc.certify import certify as recompute
    from lutc.certify import check

    tables, fn = load_for(table, function)
    found = recompute(tables, fn)
    claimed = tables.meta.get("certificate")
    wrong = [] if claimed is None else check(claimed, found)
    right = _right_rule(tables, fn) if tables.meta.get("origin") == "gqa-lut" else None
    if as_json:
        echo_json({"certificate": found, "claimed": claimed is not None, "differences": wrong, **({"right_rule": right} if right else {})})
    else:
        _print(tables, found, right)
        for line in wrong:
            click.echo(f"does not hold: {line}", err=True)
        if not wrong:
            click.echo("the file's certificate holds" if claimed is not None else "the file makes no claim")
    if wrong:
        ctx.exit(1)


def _right_rule(tables, fn) -> dict:
    from lutc.certify import errors, right_rule

    lo, hi = fn.range
    codes = {key: tables.inputs[key].x() for key in tables}
    return {key: errors(right_rule(table), fn, codes[key][(codes[key] >= lo) & (codes[key] <= hi)]) for key, table in tables.items()}


def _print(tables, found, right) -> None:
    if not tables.inputs:
        for key, dtypes in found.items():
            for dtype, certificate in dtypes.items():
                click.echo(f"{key} table, {dtype} inputs")
                _print_nested(certificate, 1)
        return
    header = ["scale", "entries", "range: mean squared", "worst", "at x", "domain: mean squared", "worst", "at x", "floats: worst"]
    rows = []
    for key, c in found.items():
        row = [f"{tables.inputs[key].scale:g}", c["entries"]]
        for where in ("range", "domain"):
            part = c[where]
            if "worst_absolute" not in part:
                row += ["-"] * 3
                continue
            row += [figure(part["mean_squared"]), figure(part["worst_absolute"]["error"]), figure(part["worst_absolute"]["x"])]
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
        click.echo("codes where the function is undefined or infinite, counted apart: " + ", ".join(f"{n} at {key}" for key, n in undefined.items()))


def _print_nested(value: dict, depth: int) -> None:
    for key, item in value.items():
        if isinstance(item, dict):
            click.echo("  " * depth + str(key))
            _print_nested(item, depth + 1)
        else:
            click.echo("  " * depth + f"{key}: {item:g}" if isinstance(item, float) else "  " * depth + f"{key}: {item}")
