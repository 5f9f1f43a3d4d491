"""`lutc export`."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from lutc import litert
from lutc.commands.options import NUMBER, echo_json, echo_table, folder_option, json_option, rounding_option, typed
from lutc.errors import LutcError
from lutc.files import atomic_write
from lutc.formats.codes import HALF_UP, Inputs, Outputs
from lutc.hardware import handover
from lutc.hardware.export import FORMATS, LUT513, TABLE_FORMATS, lut513, render, unit_name, units
from lutc.hardware.export.text import identifier
from lutc.hardware.options import UNITS
from lutc.hardware.row_units import OPERATORS, RowOptions
from lutc.hardware.rtl import floating
from lutc.table.library import load

KINDS = {
    **{name: said for name, (said, _) in {**handover.LANGUAGES, **FORMATS, **TABLE_FORMATS}.items()},
    "lut513": LUT513,
    "tflite": "a model of LiteRT for one activation, run in it on every code",
}
ROWS = {"row_length", "in_zero_point", "eps", "weight", "bias", "reciprocal"}
HAND_OVER = {"latency", "unit", "together", "arithmetic", "loadable", "no_comparators", "no_multiplier", "port", *ROWS}


@click.command()
@click.argument("table")
@click.option(
    "--format",
    "kind",
    type=click.Choice(list(KINDS)),
    required=True,
    help="; ".join(f"{name}: {said}" for name, said in KINDS.items()) + ".",
)
@click.option(
    "--key", "keys", multiple=True, help="Export this table of the file, may be repeated: 4, ...  [default: all]"
)
@click.option(
    "--out-scale", type=NUMBER, help="Scale of output codes.  [default: the file's; without one, accumulators alone]"
)
@click.option("--in-scale", type=NUMBER, help="Scale of the input codes of lut513 and of rows.")
@click.option("--out-bits", type=int, default=8, show_default=True, help="Width of output codes.")
@click.option("--out-zero-point", type=int, default=0, show_default=True, help="Zero point of output codes.")
@rounding_option
@click.option(
    "--unit",
    type=click.Choice(UNITS),
    default="lines",
    show_default=True,
    help="sv, vhdl, hls: comparators, multiplier and adder; an output code for each input code; or a row operator.",
)
@click.option("--row-length", type=int, help="Rows: codes of a row, for softmax the most of them.")
@click.option("--in-zero-point", type=int, default=0, show_default=True, help="Rows: zero point of the input codes.")
@click.option("--eps", type=float, default=1e-5, show_default=True, help="layernorm, rmsnorm: added to the variance.")
@click.option(
    "--weight", type=click.Path(dir_okay=False, path_type=Path), help="layernorm, rmsnorm: .npy, or numbers in a text."
)
@click.option("--bias", type=click.Path(dir_okay=False, path_type=Path), help="layernorm, rmsnorm: likewise.")
@click.option("--reciprocal", help="softmax: table of 1/x, a file or a shipped one.  [default: reci_8]")
@click.option(
    "--latency", type=click.IntRange(0, 4), default=1, show_default=True, help="sv, vhdl: registers on the way."
)
@click.option("--together", is_flag=True, help="sv, vhdl, hls: all keys in one unit, chosen with every code.")
@click.option(
    "--loadable",
    is_flag=True,
    help="sv, vhdl: cuts, slopes and intercepts in registers that a port writes; hls: handed in.",
)
@click.option("--no-comparators", is_flag=True, help="sv: bits of the code address segments (compile --cut-step).")
@click.option("--no-multiplier", is_flag=True, help="sv: slopes by shifts and additions (compile --slopes pot).")
@click.option(
    "--arithmetic",
    type=click.Choice(floating.ARITHMETICS),
    help="sv of float tables: rounded to nearest even or truncated.  [default: fp16_rne]",
)
@click.option(
    "--port",
    type=click.Choice(floating.PORTS),
    default=floating.PORTS[0],
    show_default=True,
    help="sv of float tables: what comes in and goes out; the arithmetic is that of fp16.",
)
@folder_option
@json_option
@click.pass_context
def export(
    context: click.Context,
    table: str,
    kind: str,
    keys: tuple[str, ...],
    out_scale: float | None,
    in_scale: float | None,
    out_bits: int,
    out_zero_point: int,
    out_rounding: str | None,
    unit: str,
    row_length: int | None,
    in_zero_point: int,
    eps: float,
    weight: Path | None,
    bias: Path | None,
    reciprocal: str | None,
    latency: int,
    together: bool,
    loadable: bool,
    no_comparators: bool,
    no_multiplier: bool,
    arithmetic: str | None,
    port: str,
    output: Path,
    as_json: bool,
) -> None:
    """Write the integers of TABLE, a file or the name of a shipped table, as hardware takes them, with golden vectors.

    Breakpoints become input codes, slopes and intercepts integers in two's complement; the golden vectors hold the
    answer to every input code. docs/hardware.md has the rule of arithmetic. A folder of SystemVerilog, VHDL or C++ has
    a test bench and a manifest; `lutc simulate` runs it.

    \b
    lutc export gelu_8 --format sv --key 4 --out-scale 2^-4 -o rtl     a unit and its test bench
    lutc export gelu_8 --format c --out-scale 2^-4 -o include          gelu_8.h: arrays, functions, golden vectors
    lutc export gelu_8 --format memh --key 4 -o rtl          gelu_8_4_cuts.memh, ..._slopes, ..._intercepts, ..._acc
    lutc export exp_8 --format sv --unit softmax --row-length 128 --in-scale 2^-4 --out-scale 2^-8 -o rtl
    lutc export gelu_8 --format hls --key 4 --out-scale 2^-4 -o hls    C++ for high-level synthesis, and its test
    lutc export gelu_8 --format csv                                    the same numbers as CSV
    """
    if out_scale is None and typed(context) & {"out_bits", "out_zero_point", "out_rounding"}:
        raise LutcError("--out-bits, --out-zero-point and --out-rounding describe output codes; add --out-scale")
    tables = load(table)
    rounding = out_rounding or tables.rounding
    out = None if out_scale is None else Outputs(out_bits, out_scale, out_zero_point, rounding)
    if kind in handover.LANGUAGES:
        row = None
        if unit in OPERATORS:
            if row_length is None or in_scale is None:
                raise LutcError(f"--unit {unit} needs --row-length and --in-scale")
            second = None if reciprocal is None else load(reciprocal).dumps()
            scaling, offset = (None if path is None else _vector(path) for path in (weight, bias))
            row = RowOptions(row_length, in_scale, in_zero_point, eps, scaling, offset, second)
            if "latency" in typed(context):
                raise LutcError(f"--latency is not for --unit {unit}, whose registers are fixed")
        elif kind == "hls" and "latency" in typed(context):
            raise LutcError("--latency is not for hls: the synthesis from C++ places the registers")
        elif wrong := typed(context) & {*ROWS, "in_scale"}:
            raise LutcError(f"--{min(wrong).replace('_', '-')} is for --unit {', '.join(OPERATORS)}")
        options = handover.Options(
            tuple(keys), out, unit, latency, together, arithmetic or "", row, loadable,
            comparators=not no_comparators, multiplier=not no_multiplier, port=port,
        )  # fmt: skip
        made = handover.write(output, kind, Path(table).stem, tables, options)
        names, rows = [*made.files, handover.MANIFEST], made.units
    elif kind == "tflite":
        names, rows = _tflite(context, tables, Path(table).stem, keys, out, output)
    else:
        files, rows = _texts(context, tables, Path(table).stem, kind, keys, out, in_scale)
        output.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            atomic_write(output / name, text)
        names = list(files)
    written = [str(output / name) for name in names]
    if as_json:
        echo_json({"files": written, "units": rows})
        return
    echo_table([name.replace("_", " ") for name in rows[0]], [list(row.values()) for row in rows])
    click.echo(f"wrote {', '.join(written[:3])}" + (f" and {len(written) - 3} more files" if len(written) > 3 else ""))
    if kind in handover.LANGUAGES:
        click.echo(f"not simulated yet: lutc simulate {output}")


def _vector(path: Path) -> tuple[float, ...]:
    """Numbers of a .npy, or of a text with commas, spaces or lines between them."""
    try:
        if path.suffix == ".npy":
            values = np.load(path, allow_pickle=False)
        else:
            values = np.array(path.read_text(encoding="utf-8").replace(",", " ").split(), np.float64)
    except (OSError, ValueError) as error:
        raise LutcError(f"cannot read numbers from {path}: {error}") from error
    if values.ndim != 1 or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        raise LutcError(f"{path} holds no row of finite numbers; its shape is {values.shape}")
    return tuple(float(value) for value in values)


def _tflite(context, tables, name, keys, out, output: Path) -> tuple[list[str], list[dict]]:
    """Names of the models, one for each key, and a row of figures for each."""
    if wrong := typed(context) & {*HAND_OVER, "in_scale"}:
        raise LutcError(f"--{min(wrong).replace('_', '-')} is not for tflite")
    made = not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    names, rows = [], []
    try:
        for key in keys or tables:
            names.append(f"{unit_name(name)}_{identifier(key)}.tflite")
            compared = litert.export(tables, key, out, output / names[-1])
            rows.append({"key": key, "codes_compared": compared, "wrong": 0})
    except LutcError:
        if made and not any(output.iterdir()):
            output.rmdir()
        raise
    return names, rows


def _texts(context, tables, name, kind, keys, out, in_scale) -> tuple[dict[str, str], list[dict]]:
    """Texts by file name, and a row of figures for each table."""
    if wrong := typed(context) & HAND_OVER:
        raise LutcError(
            f"--{min(wrong).replace('_', '-')} is for {', '.join(handover.LANGUAGES)}; {kind} has no use for it"
        )
    if kind == "lut513":
        if in_scale is None or out is None:
            raise LutcError("lut513 maps int16 to int16; give --in-scale and --out-scale")
        if out.rounding != HALF_UP:
            raise LutcError(
                f"lut513 interpolates between knots and rounds halves up; given --out-rounding {out.rounding}"
            )
        wide = Inputs(16, out.scale, out.zero_point)
        return lut513.render(unit_name(name), tables, keys or [tables.default_key], Inputs(16, in_scale), wide)
    if in_scale is not None:
        raise LutcError(f"--in-scale is for lut513; {kind} takes the scales of the file")
    if kind in TABLE_FORMATS:
        chosen = list(keys or tables)
        files = TABLE_FORMATS[kind][1](unit_name(name), tables, chosen)
        return files, [{"key": key, "entries": tables[key].entries} for key in chosen]
    exported = units(tables, keys or None, out)
    return render(name, exported, kind), [one.parameters() for one in exported]
