"""`lutc functions`."""

from __future__ import annotations

from typing import Any

import click

from lutc.commands.options import echo_json, echo_table, json_option
from lutc.functions import FUNCTIONS
from lutc.functions.spelling import number


@click.command()
@json_option
def functions(as_json: bool) -> None:
    """List the functions that lutc knows, with default range, coefficient format, tails, aliases and parameters.

    Parameters stand behind the name wherever a function is named: lutc compile "elu(alpha=0.5)". Those left out have
    the default that is listed here.
    """
    rows: list[dict[str, Any]] = []
    for fn in FUNCTIONS.values():
        tails = {
            side: None if tail is None else {"slope": tail.slope, "intercept": tail.intercept}
            for side, tail in (("left", fn.left), ("right", fn.right))
        }
        rows.append(
            {
                "name": fn.name,
                "range": list(fn.range),
                "coefficients": fn.coefficients,
                "tails": tails,
                "symmetry": fn.symmetry is not None,
                "reduction": fn.reduction.kind if fn.reduction else None,
                "aliases": list(fn.aliases),
                "parameters": dict(fn.parameters),
            }
        )
    if as_json:
        echo_json(rows)
        return
    table = [
        [
            r["name"],
            f"[{r['range'][0]:g}, {r['range'][1]:g}]",
            r["coefficients"],
            _line(r["tails"]["left"]),
            _line(r["tails"]["right"]),
            "yes" if r["symmetry"] else "-",
            r["reduction"] or "-",
            ", ".join(r["aliases"]) or "-",
            ", ".join(f"{name}={number(value)}" for name, value in r["parameters"].items()) or "-",
        ]
        for r in rows
    ]
    columns = ["name", "range", "coefficients", "left tail", "right tail", "symmetry", "reduction", "aliases"]
    echo_table([*columns, "parameters"], table)


def _line(tail) -> str:
    if tail is None:
        return "-"
    slope, intercept = tail["slope"], tail["intercept"]
    if slope == 0:
        return f"{intercept:g}"
    return ("x" if slope == 1 else f"{slope:g} x") + (f" {intercept:+g}" if intercept else "")
