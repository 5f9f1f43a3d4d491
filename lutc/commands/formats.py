"""`lutc formats`."""

from __future__ import annotations

import math

import click

from lutc.commands.options import NUMBER, echo_json, echo_table, figure, json_option
from lutc.formats.format import FLOAT_FORMATS, get, nearest, properties


# a negative number is no option
@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("number", type=NUMBER, required=False)
@click.option(
    "--format",
    "fixed",
    multiple=True,
    metavar="qI.F",
    help="Fixed-point format to list, may be repeated.  [default: q1.6]",
)
@json_option
def formats(number: float | None, fixed: tuple[str, ...], as_json: bool) -> None:
    """Explain number formats, or show how each stores NUMBER.

    \b
    lutc formats             bits, exponent bias, normal and subnormal ranges, largest, step near 1, NaN, infinities
    lutc formats 0.1                   nearest value, bits and error of 0.1 in each format
    lutc formats -1.5 --format q2.5    among them fixed point: sign, 2 integer and 5 fraction bits, two's complement
    """
    chosen = dict.fromkeys([*FLOAT_FORMATS.values(), *map(get, fixed or ("q1.6",))])
    if number is None:
        _list(chosen, as_json)
    else:
        _show(chosen, number, as_json)


def _list(chosen, as_json) -> None:
    listed = [properties(fmt) for fmt in chosen]
    if as_json:
        echo_json(listed)
        return
    header = [
        "format",
        "bits",
        "layout",
        "bias",
        "subnormal",
        "normal",
        "most negative",
        "largest",
        "step near 1",
        "NaN codes",
        "inf codes",
    ]
    rows = []
    for p in listed:
        if p["kind"] == "fixed":
            layout, subnormal, normal = (
                f"1+{p['integer_bits']}+{p['fraction_bits']}",
                "-",
                f"{p['smallest']:.6g} .. {p['largest']:.6g}",
            )
        else:
            layout = f"1+{p['exponent_bits']}+{p['mantissa_bits']}"
            subnormal = f"{p['smallest']:.6g} .. {p['largest_subnormal']:.6g}"
            normal = f"{p['smallest_normal']:.6g} .. {p['largest']:.6g}"
        bias = "-" if p["exponent_bias"] is None else p["exponent_bias"]
        ends = [f"{p[name]:.6g}" for name in ("most_negative", "largest", "step_near_1")]
        rows.append([p["name"], p["bits"], layout, bias, subnormal, normal, *ends, p["nan_codes"], p["inf_codes"]])
    echo_table(header, rows)
    click.echo("layout: sign + exponent + mantissa bits; qI.F: sign + integer + fraction bits, value = code * 2^-F")


def _show(chosen, number: float, as_json) -> None:
    stored = {fmt.name: nearest(fmt, number) if fmt.has_nan or not math.isnan(number) else None for fmt in chosen}
    if as_json:  # JSON has no NaN and no infinity: these are spelled out
        plain = {name: entry and {**entry, "value": _plain(entry["value"])} for name, entry in stored.items()}
        echo_json({"number": _plain(number), "nearest": plain})
        return
    rows = []
    for name, entry in stored.items():
        if entry is None:
            rows.append([name, "-", "-", "-", "no code for NaN"])
            continue
        error, value = entry["error"], entry["value"]
        relative = figure(abs(error / number)) if error is not None and number and math.isfinite(number) else "-"
        rows.append([name, repr(value), "-" if error is None else f"{error:.6g}", relative, entry["bits"]])
    echo_table(["format", "nearest value", "error", "relative", "bits"], rows)


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
