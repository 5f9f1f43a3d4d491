"""`lutc compile`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from lutc import functions
from lutc.calibration.scales import METHODS, choose
from lutc.calibration.weights import is_calibration, measured
from lutc.commands import fplut
from lutc.commands.compiled import report, report_felt, report_seen
from lutc.commands.fplut import fplut_options
from lutc.commands.options import (
    NUMBER,
    GroupedCommand,
    echo_json,
    json_option,
    progress_bar,
    rounding_option,
    save_or_print,
    typed,
)
from lutc.compiler.fit import coarse
from lutc.compiler.pipeline import compile
from lutc.compiler.request import FLOAT_INPUTS, INT8, PROLOGUES, SHARING, TAILS
from lutc.costs.objectives import OBJECTIVES
from lutc.errors import LutcError
from lutc.formats.codes import HALF_UP, Inputs, Outputs
from lutc.functions.promises import PROMISES
from lutc.functions.spelling import file_name
from lutc.search.gradient import INITIALISATIONS, GradientSettings
from lutc.search.registry import SEARCHES


def promise_options(command: Callable) -> Callable:
    """A flag for every promise that a table may keep."""
    for name, what in reversed(PROMISES.items()):
        command = click.option(f"--{name}", is_flag=True, help=f"{what[0].upper()}{what[1:]}.")(command)
    return command


class CompileCommand(GroupedCommand):
    groups = {
        "What is approximated": ("interval", "tails", "symmetry", "prologue"),
        "Over which inputs": (
            *("inputs", "bits", "scales", "zero_point", "weights", "calibrated_scale", "asymmetric"),
        ),
        "In which numbers": (
            "entries",
            "coefficients",
            "slopes",
            "intercepts",
            "share",
            "cut_step",
            "out_scale",
            "out_bits",
            "out_zero_point",
            "out_rounding",
        ),
        "Judged how": ("objective", "max_error"),
        "Promises, kept whatever they cost": tuple(name.replace("-", "_") for name in PROMISES),
        "Found how": ("search", "seed", "population", "generations", "init"),
        "Found how: --search cutpoints (FPLUT)": fplut.FIELDS,
        "Written where": ("name", "output", "force", "as_json"),
    }


@click.command("compile", cls=CompileCommand)
@click.argument("function")
@click.option("--entries", type=int, default=8, show_default=True, help="Most segments of a table, tails included.")
@click.option(
    "--range",
    "interval",
    type=(NUMBER, NUMBER),
    metavar="LO HI",
    help="Interval to fit; by default the function's own.",
)
@click.option(
    "--inputs",
    type=click.Choice(["codes", *FLOAT_INPUTS]),
    help="What the table is fed with.  [default: codes; grid for gradient]",
)
@click.option("--bits", type=int, default=8, show_default=True, help="Width of input codes, 2 to 16.")
@click.option(
    "--scale",
    "scales",
    type=NUMBER,
    multiple=True,
    help="Scale of input codes, may be repeated.  [default: 2^0 .. 2^-6]",
)
@click.option("--zero-point", type=int, default=0, show_default=True, help="Zero point of input codes.")
@click.option(
    "--coefficients",
    metavar="FORMAT",
    help="Format of slopes and intercepts: q1.6, fp16, bf16, "
    "fp8_e4m3, fp32, ...  [default: one that holds the function]",
)
@click.option("--slopes", metavar="NUMBERS", help="Of slopes alone: pot, apot:2 (sums of powers of two), q1.4, uq0.8.")
@click.option("--intercepts", metavar="NUMBERS", help="Of intercepts alone, likewise.")
@click.option(
    "--cut-step",
    type=int,
    default=1,
    show_default=True,
    metavar="CODES",
    help="Segments begin at multiples of so many codes, a power of two: bits of a code address them, not comparators.",
)
@click.option(
    "--search",
    type=click.Choice([name for name, search in SEARCHES.items() if search.takes != "tables"]),
    help="How to search.  [default: genetic; greedy with --max-error]",
)
@click.option(
    "--objective",
    type=click.Choice(list(OBJECTIVES)),
    default="squared",
    help="What to minimise.  [default: squared; relative for cutpoints]",
)
@click.option("--max-error", metavar="BOUND", help="Fewest entries within a bound: 0.01, 0.5%, 1lsb or 2ulp.")
@promise_options
@click.option("--out-scale", type=NUMBER, help="Scale of output codes; the certificate then counts wrong ones.")
@click.option("--out-bits", type=int, default=8, show_default=True, help="Width of output codes.")
@click.option("--out-zero-point", type=int, default=0, show_default=True, help="Zero point of output codes.")
@rounding_option
@click.option(
    "--share",
    type=click.Choice(SHARING),
    default="none",
    show_default=True,
    help="What the scales share.",
)
@click.option(
    "--tails",
    type=click.Choice(TAILS),
    default="exact",
    show_default=True,
    help="Keep the first and last entry for the tails.",
)
@click.option("--symmetry", is_flag=True, help="Store one half; an identity gives the other.")
@click.option(
    "--prologue",
    type=click.Choice([*PROLOGUES, "abs"]),
    help="Range reduction for float inputs, so that the table holds for every x.  [default: auto, which is reduce for "
    "gradient and cutpoints]",
)
@click.option(
    "--init",
    type=click.Choice(INITIALISATIONS),
    help="gradient: where breakpoints begin.  [default: curvature]",
)
@click.option(
    "--weights",
    metavar="WEIGHTS",
    help="Of the inputs: uniform, gauss:SIGMA, gauss:MEAN:SIGMA, calibration.json:LAYER, or samples (.npy, .csv, .txt)."
    "  [default: uniform]",
)
@click.option(
    "--calibrated-scale", type=click.Choice(METHODS), is_flag=False, flag_value="power-of-two",
    help="Take the scale from the calibration of --weights; power-of-two where none is named.",
)  # fmt: skip
@click.option("--asymmetric", is_flag=True, help="Take a zero point from the calibration too.")
@click.option("--seed", type=int, default=42, show_default=True, help="Seed of the search.")
@click.option("--population", type=int, help="Individuals of the genetic search.  [default: 50]")
@click.option("--generations", type=int, help="Generations.  [default: 40; 500 for classic]")
@fplut_options
@click.option("--name", help="Top key of the file.  [default: the function as typed]")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="File to write, - for standard output.  [default: NAME_ENTRIES.json here, never over another table]",
)
@click.option(
    "--force",
    is_flag=True,
    help="Replace a file of the default name that holds another table; go on where a format cannot hold the function.",
)
@json_option
@click.pass_context
def compile_command(
    context: click.Context,
    function: str,
    entries: int,
    interval: tuple[float, float] | None,
    inputs: str | None,
    output: Path | None,
    force: bool,
    name: str | None,
    as_json: bool,
    **options,
) -> None:
    """Compile FUNCTION into a table and write it as JSON.

    FUNCTION is a name that `lutc functions` lists, with parameters as in "elu(alpha=0.5)", or your own:
    package.module:name with --range.

    \b
    lutc compile gelu --entries 8                              int8 codes at scales 2^0 .. 2^-6
    lutc compile gelu --share all                        one set of breakpoints for all scales, as GQA-LUT stores it
    lutc compile silu --max-error 1lsb --out-scale 2^-4        the fewest entries within a bound
    lutc compile gelu --entries 32 --inputs fp16               every fp16 value, fp16 coefficients
    lutc compile "leaky_relu(negative_slope=0.2)"              a function with parameters; `lutc functions` lists them
    lutc compile mypackage.activations:wave --range -4 4
    lutc compile silu --search gradient --entries 16     breakpoints learned by a ReLU network (NN-LUT); needs torch
    lutc compile silu --search cutpoints                       floating-point values over 11 cut points (FPLUT)
    lutc compile silu --weights calibration.json:layers.3.mlp.act_fn --calibrated-scale   for what a layer is fed with
    """
    name = name or function.split(":")[-1]
    promises = tuple(promise for promise in PROMISES if options.pop(promise.replace("-", "_")))
    cutpoints = options["search"] == "cutpoints"
    suffix = {"cutpoints": "fplut", "gradient": f"nnlut_{entries}"}.get(options["search"], entries)
    default, output = output is None, output or Path(f"{file_name(name)}_{suffix}.json")
    if not output.parent.is_dir():
        raise LutcError(f"there is no folder {output.parent} to write {output.name} to; make it, or give another path")
    if cutpoints:
        tables = fplut.compile_float(context, function, name, {"interval": interval, "inputs": inputs, **options})
    else:
        fplut.refuse(options)
        _refuse(typed(context), options)
        options = {key: value for key, value in options.items() if key not in fplut.FIELDS}
        _calibrated(function, inputs, options)
        request = _request(typed(context), inputs, **options)
        with progress_bar(f"compile {name}") as progress:
            request["promises"] = promises
            tables = compile(function, entries, name=name, range=interval, force=force, progress=progress, **request)
    if default and tables.meta["search"].get("name") == "greedy":  # which chooses the entries
        output = Path(f"{file_name(name)}_{max(table.entries for table in tables.values())}.json")
    said = save_or_print(tables.dumps(), output, force or not default)
    if not said:
        return
    if as_json:
        told = {
            key: _plain(tables.meta[key])
            for key in ("search", "weights", "layer_error", "certificate")
            if key in tables.meta
        }
        echo_json({"file": str(output), **told})
    else:
        if cutpoints:
            fplut.report(tables, ranged=interval is not None)
        else:
            report(tables)
        if isinstance(tables.meta.get("weights"), dict):
            request = {**request, "range": tables.range, "weights": None}
            if request["objective"].startswith("layer"):
                request["objective"] = "squared"
            request.pop("settings", None)
            even = compile(
                function,
                entries,
                force=True,
                **{**request, "inputs": tuple(tables.inputs.values()) or request["inputs"]},
            )
            report_seen(tables, even, measured(options["weights"], function))
        if "layer_error" in tables.meta:
            report_felt(tables)
        if line := coarse(tables):
            click.echo(line)
        click.echo(said)


def _refuse(given: set[str], options: dict) -> None:
    """LutcError for an option that would have no effect."""
    search, bound = options["search"] or "genetic", options["max_error"]
    if bound is not None and "entries" in given:
        raise LutcError("--max-error searches the fewest entries; leave --entries out")
    if options["objective"] == "ulp":
        raise LutcError("the objective ulp belongs to --search cutpoints; add that or choose another objective")
    for name in ("out_bits", "out_zero_point", "out_rounding"):
        if name in given and options["out_scale"] is None:
            raise LutcError(f"--{name.replace('_', '-')} describes output codes; add --out-scale")
    for name, searches in (("population", ("genetic",)), ("generations", ("genetic", "classic"))):
        if name in given and (search not in searches or bound is not None):
            raise LutcError(f"--{name} belongs to the {' and the '.join(searches)} search; leave it out")


def _calibrated(function: str, inputs: str | None, options: dict) -> None:
    """Put the scale that --calibrated-scale asks for in the place of --scale, and with --asymmetric its zero point in
    that of --zero-point.
    """
    method, asymmetric = options.pop("calibrated_scale"), options.pop("asymmetric")
    if method is None:
        if asymmetric:
            raise LutcError("--asymmetric goes with --calibrated-scale; --zero-point gives one by hand")
        return
    if options["scales"] or options["zero_point"] or inputs not in (None, "codes"):
        raise LutcError(
            "--calibrated-scale gives the scale of input codes; leave out --scale, --zero-point and --inputs"
        )
    if not is_calibration(options["weights"]):
        raise LutcError("--calibrated-scale needs a calibration: give --weights calibration.json:LAYER")
    histogram = measured(options["weights"], function).histogram
    found = choose(histogram, method, options["bits"], not asymmetric, function=functions.load(function, None))
    options["scales"], options["zero_point"] = (found.scale,), found.zero_point


def _request(
    given, inputs, bits, scales, zero_point, search, max_error, out_scale, out_bits, out_zero_point,
    out_rounding, population, generations, prologue, symmetry, init, **same,
) -> dict:  # fmt: skip
    """Options of the command line as fields of `lutc.compiler.request.Request`."""
    search = search or ("greedy" if max_error is not None else "genetic")
    coded = bool(given & {"scales", "bits", "zero_point"} or scales or zero_point)
    inputs = inputs or ("grid" if search == "gradient" and not coded else "codes")
    if inputs == "codes":
        inputs = tuple(Inputs(bits, scale, zero_point) for scale in scales or [i.scale for i in INT8])
    elif coded:
        raise LutcError(f"--scale, --bits and --zero-point describe codes; leave them out with --inputs {inputs}")
    options = {
        "inputs": inputs,
        "search": search,
        "max_error": max_error,
        "symmetry": symmetry or prologue == "abs",
        **same,
    }
    if prologue is not None:
        options["prologue"] = "none" if prologue == "abs" else prologue
    if init is not None:
        if search != "gradient":
            raise LutcError("--init belongs to --search gradient; add that or leave it out")
        options["settings"] = GradientSettings(init=init)
    if out_scale is not None:
        options["out"] = Outputs(out_bits, out_scale, out_zero_point, out_rounding or HALF_UP)
    chosen = {"population": population, "generations": generations}
    chosen = {key: value for key, value in chosen.items() if value is not None}
    if chosen:
        layered = search == "genetic" and same["objective"] in SEARCHES["quadratic"].objectives
        options["settings"] = SEARCHES["quadratic" if layered else search].settings(**chosen)
    return options


def _plain(value):
    """Arrays inside dicts as lists."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value
