"""What `lutc compile` prints of the tables it made."""

from __future__ import annotations

import click

from lutc.calibration.weights import Measured
from lutc.certify.certificate import function_of
from lutc.commands.options import echo_table, figure
from lutc.table.table_set import TableSet


def report(tables: TableSet) -> None:
    """How good a table is at every scale, and how far from the optimum."""
    certificate, search = tables.meta["certificate"], tables.meta["search"]
    if not tables.inputs:
        _report_float(tables)
        return
    gaps = search.get("gap")
    header = ["scale", "entries", "codes", "mean squared", "worst", "at x", "gap to optimum"]
    rows, means = [], []
    for key, c in certificate.items():
        inputs, r = tables.inputs[key], c["range"]
        label = inputs.written
        gap = gaps.get(key) if isinstance(gaps, dict) else gaps
        most = "at most " if isinstance(search.get("lower_bound"), dict) and key in search["lower_bound"] else ""
        means.append(r["mean_squared"])
        worst = r["worst_absolute"]
        row = [label, c["entries"], r["inputs"], f"{r['mean_squared']:.3e}", figure(worst["error"]), figure(worst["x"])]
        row.append("-" if gap is None else f"{most}{100 * gap:.1f} %")
        rows.append(row + ([f"{c['output']['wrong']} of {c['output']['inputs']}"] if "output" in c else []))
    if any("output" in c for c in certificate.values()):
        header.append("wrong output codes")
    assert tables.range is not None  # what was compiled has one
    lo, hi = tables.range
    click.echo(
        f"{tables.name} over [{lo:g}, {hi:g}], {next(iter(tables.values())).coefficients} coefficients, "
        f"{search['name']} search"
    )
    echo_table(header, rows)
    if search.get("proven"):
        click.echo(f"proven: no table of fewer entries keeps {search['bound']}")
    if search.get("lines"):
        click.echo(
            "formats of more than 8 bits: lines rounded from the best real ones; the optimum is that of such lines"
        )
    for key, lines in search.get("bound_of", {}).items():
        click.echo(f"{tables.inputs[key].written}: the bound is that of {lines}; no bound of rounded numbers is known")
    if "promises" in tables.meta:
        price = max(search.get("price", {}).values(), default=None)
        said = "" if price is None else f"; at most {100 * price:.1f} % more error than the optimum without"
        click.echo(f"promises kept: {', '.join(tables.meta['promises'])}{said}")
    if len(means) > 1:
        click.echo(f"mean squared error over all {len(means)} scales: {sum(means) / len(means):.3e}")


def report_seen(tables: TableSet, even: TableSet, source: Measured) -> None:
    """The error that the model sees with these tables, and with `even` ones over the same range that know nothing of
    it.
    """
    seen, fn = tables.meta["weights"], function_of(tables)
    rows, lines = [], []
    for key, error in seen["mean_squared"].items():
        inputs = tables.inputs.get(key)
        other = source.mean_squared(even[key], fn, inputs)
        label = key if inputs is None else inputs.written
        row = [label, f"{error:.3e}", f"{other:.3e}", f"{100 * (error / other - 1):+.0f} %" if other > 0 else "-"]
        rows.append(row if inputs is None else [*row, f"{source.mean_squared(fn, fn, inputs):.3e}"])
        lines += [] if inputs is None else _clamped(label, tables, key, source.targets(fn, inputs), fn)
    where = seen["layer"] if "layer" in seen else f"all its {seen['layers']} layers of {tables.function}, pooled"
    click.echo(f"mean squared error that {seen['model']} sees, by {seen['values']:,} inputs of {where}:")
    echo_table(
        [
            "scale" if tables.inputs else "table",
            "these tables",
            "equal weights",
            "change",
            *["exact function"] * bool(tables.inputs),
        ],
        rows,
    )
    for line in lines:
        click.echo(line)


def _clamped(label: str, tables, key: str, targets, fn) -> list[str]:
    """Lines on codes whose entry makes up for the inputs that are clamped to them."""
    x = tables.inputs[key].x()[[0, -1]]
    given, exact, wanted = tables[key](x), fn(x), targets[[0, -1]]
    told = (abs(given - wanted) < abs(given - exact)) & (abs(given - exact) > tables.inputs[key].scale)
    read = zip(x[told], given[told], strict=True)
    return [
        f"{label}: inputs beyond {at:g} are read as {at:g}; the table gives {y:.4g} there, towards the mean of theirs"
        for at, y in read
    ]


def report_felt(tables: TableSet) -> None:
    """What the next layer feels of the tables, beside what the rounding of inputs to codes costs it anyway."""
    felt = tables.meta["layer_error"]
    first = next(iter(felt.values()))
    behind = f", as {first['norm']} lets it through" if first["norm"] else ""
    click.echo(f"mean squared error of the output of {first['linear']}{behind}, {first['tokens']:,} tokens:")
    rows = [
        [key, f"{f['exact_on_codes']:.3e}", f"{f['mean_squared']:.3e}", f"{f['added']:.3e}"] for key, f in felt.items()
    ]
    rows = [[tables.inputs[key].written, *rest] for key, *rest in rows]
    echo_table(["scale", "exact function on codes", "this table on codes", "of the table alone"], rows)


def _report_float(tables) -> None:
    """The same for a table of lines over float inputs."""
    rows = []
    for key, dtypes in tables.meta["certificate"].items():
        for dtype, certificate in dtypes.items():
            c = certificate["range"]
            worst = c["worst_absolute"]
            row = [
                f"{key} table, {dtype} inputs",
                c["inputs"],
                f"{c['mean_squared']:.3e}",
                figure(worst["error"]),
                figure(worst["x"]),
            ]
            rows.append([*row, figure(c["mean_relative"])])
    (lo, hi), search = tables.range, tables.meta["search"]
    table = next(iter(tables.values()))
    click.echo(
        f"{tables.name} over [{lo:g}, {hi:g}], {table.entries} entries, {table.coefficients} coefficients, "
        f"{search['name']} search"
    )
    echo_table(["", "inputs in range", "mean squared", "worst", "at x", "mean relative"], rows)
    if "promises" in tables.meta:
        click.echo(f"promises kept: {', '.join(tables.meta['promises'])}")
    for name in ("optimum", "lower_bound"):
        for key, value in search.get(name, {}).items():
            of, gap = search.get("bound_of", {}).get(key), search.get("gap", {}).get(key)
            click.echo(
                f"{key}: {name.replace('_', ' ')} {figure(value)}"
                + (f" ({of})" if of else "")
                + (f", the table is {100 * gap:.1f} % above it" if gap is not None else "")
            )
