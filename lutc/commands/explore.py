"""`lutc explore`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lutc import explore as exploring
from lutc.commands.options import NUMBER, echo_json, echo_table, figure, json_option, progress_bar, rounding_option
from lutc.errors import LutcError
from lutc.formats.codes import HALF_UP, Inputs, Outputs
from lutc.hardware.bits import FIGURES
from lutc.hardware.synth import TARGETS
from lutc.plots.figure import save

if TYPE_CHECKING:
    from lutc.explore.evolution import Exploration


@click.command()
@click.argument("function")
@click.option(
    "--range",
    "interval",
    type=(NUMBER, NUMBER),
    metavar="LO HI",
    help="Interval to fit; by default the function's own.",
)
@click.option("--bits", type=int, default=8, show_default=True, help="Width of input codes, 2 to 16.")
@click.option(
    "--scale", "scales", type=NUMBER, multiple=True, help="Scale of input codes, may be repeated.  [default: 2^-4]"
)
@click.option("--zero-point", type=int, default=0, show_default=True, help="Zero point of input codes.")
@click.option(
    "--objective",
    type=click.Choice(["squared", "absolute", "maximum", "codes"]),
    help="The error that counts.  [default: squared; codes with --out-scale]",
)
@click.option("--out-scale", type=NUMBER, help="Scale of output codes.")
@click.option("--out-bits", type=int, default=8, show_default=True, help="Width of output codes.")
@click.option("--out-zero-point", type=int, default=0, show_default=True, help="Zero point of output codes.")
@rounding_option
@click.option(
    "--entries", type=(int, int), default=(2, 64), show_default=True, metavar="LEAST MOST", help="Entries to try."
)
@click.option(
    "--fraction-bits",
    type=(int, int),
    default=(3, 10),
    show_default=True,
    metavar="LEAST MOST",
    help="Fraction bits to try.",
)
@click.option("--no-symmetry", is_flag=True, help="Leave out tables that store one half.")
@click.option(
    "--tails",
    type=click.Choice(["exact", "free"]),
    default="exact",
    show_default=True,
    help="Keep entries for the tails.",
)
@click.option(
    "--minimise",
    default="bits",
    show_default=True,
    metavar="COSTS",
    help="One or more of bits, comparators, multiplier, entries, gates.",
)
@click.option(
    "--gain",
    type=float,
    default=0.1,
    show_default=True,
    help="Share of the error that a higher cost has to save; 0 prints all.",
)
@click.option("--seed", type=int, default=42, show_default=True, help="Seed of the evolution.")
@click.option("--population", type=int, default=64, show_default=True, help="Designs per generation, a multiple of 4.")
@click.option("--generations", type=int, default=100, show_default=True, help="Most generations.")
@click.option(
    "--synth",
    "target",
    type=click.Choice(list(TARGETS)),
    help="Have Yosys synthesise every unit, and print its cells: gates, or LUTs and DSPs.",
)
@click.option(
    "--plot",
    "picture",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Draw the front: .png, .svg or .pdf.",
)
@click.option("--write", "index", type=int, metavar="N", help="Compile design N of the front and write its table.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for --write.  [default: FUNCTION_ENTRIES.json here]",
)
@json_option
def explore(
    function: str,
    target: str | None,
    picture: Path | None,
    index: int | None,
    output: Path | None,
    as_json: bool,
    minimise: str,
    seed: int,
    population: int,
    generations: int,
    gain: float,
    **options,
) -> None:
    """Evolve the front of error against hardware cost for FUNCTION.

    The best table of every design is the exact optimum; NSGA-II chooses entries, coefficient format, whole or half
    tables and, with several scales, sharing. Direct and uniform tables are listed for comparison. The same options give
    the same front.

    \b
    lutc explore gelu                              int8 codes at scale 2^-4, mean squared error against stored bits
    lutc explore gelu --out-scale 2^-4                         int8 in, int8 out: errors of output codes
    lutc explore gelu --minimise bits,comparators,multiplier --plot gelu.png
    lutc explore gelu --out-scale 2^-4 --minimise gates --synth gates    shifts and steps of cuts too; measured cells
    lutc explore gelu --write 12 -o gelu.json                  the table of design 12
    """
    if output is not None and index is None:
        raise LutcError(
            "-o names the file of the table that --write N writes; add --write N, or --plot FILE for a picture"
        )
    settings = exploring.EvolutionSettings(population=population, generations=generations, gain=gain)
    with progress_bar(f"explore {function}", generations) as progress:
        found = exploring.explore(_space(function, **options), _names(minimise), seed, settings, progress)
    cells = _cells(found, target) if target is not None else None
    written = _write(found, index, output) if index is not None else None
    if picture is not None:
        from lutc.plots.front import front_figure  # brings deap

        save(front_figure(found), picture)
    if as_json:
        echo_json(as_dict(found, cells) | ({"written": written} if written else {}))
        return
    _report(found, cells)
    for what in filter(None, (written, picture and str(picture))):
        click.echo(f"wrote {what}")


def _space(
    function,
    interval,
    bits,
    scales,
    zero_point,
    objective,
    out_scale,
    out_bits,
    out_zero_point,
    out_rounding,
    no_symmetry,
    **same,
):
    """Options of the command line as a `lutc.explore.designs.Space`."""
    from lutc.explore.designs import Space  # brings deap

    inputs = tuple(Inputs(bits, scale, zero_point) for scale in scales or [2.0**-4])
    out = Outputs(out_bits, out_scale, out_zero_point, out_rounding or HALF_UP) if out_scale is not None else None
    objective = objective or ("codes" if out is not None else "squared")
    return Space(function, inputs, out, objective, interval, symmetry=not no_symmetry, **same)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _write(found, index: int, output: Path | None) -> str:
    from lutc.explore.evolution import compile_design  # brings deap

    if not 1 <= index <= len(found.front):
        raise LutcError(f"there is no design {index}: the front has designs 1 to {len(found.front)}")
    design = found.front[index - 1]
    name = found.space.function.split(":")[-1]
    output = output or Path(f"{name}_{design.choice.entries}.json")
    compile_design(found.space, design, name).save(output)
    return str(output)


def _cells(found: Exploration, target: str) -> list:
    """Cells of the front's designs, then of the baselines, None for those that are no unit."""
    from lutc.explore.synthesis import measure  # brings deap

    with progress_bar(f"synthesise for {target}", len(found.front) + len(found.baselines)) as progress:
        front, others = measure(found, target, progress)
    return [*front, *others]


def as_dict(found: Exploration, cells: list | None = None) -> dict:
    """An exploration as plain numbers and strings. cells: of its designs and baselines, in their order."""
    space = found.space
    measured = [None if one is None else asdict(one) for one in cells or []]
    front = [{**asdict(d.choice), "error": d.error, "proven": d.proven, **_cost(d.cost)} for d in found.front]
    others = [_baseline(b) for b in found.baselines]
    for row, one in zip([*front, *others], measured):
        row["cells"] = one
    return {
        "function": space.function,
        "inputs": [asdict(inputs) for inputs in space.inputs],
        "output": asdict(space.out) if space.out else None,
        "objective": space.objective,
        "minimise": list(found.minimise),
        "front": front,
        "baselines": others,
        "search": {**found.record, "evaluations": found.evaluations},
    }


def _baseline(b) -> dict:
    return {
        "kind": b.kind,
        "coefficients": b.coefficients,
        "symmetry": b.half,
        "share": b.share,
        "error": b.error,
        **_cost(b.cost),
    }


def _cost(cost) -> dict:
    return {**asdict(cost), "multiplier": list(cost.multiplier), "gates": round(cost.gates)}


def _report(found, cells: list | None) -> None:
    from lutc.explore.designs import OBJECTIVES  # brings deap

    space, record = found.space, found.record
    scales, costs = (
        ", ".join(_scale(inputs) for inputs in space.inputs),
        ", ".join(FIGURES[name][0] for name in found.minimise),
    )
    click.echo(
        f"{space.function}, {space.inputs[0].bits}-bit codes at scale {scales}"
        + (f", output scale {_scale(space.out)}" if space.out else "")
    )
    click.echo(
        f"{OBJECTIVES[space.objective]}, against {costs}: {len(found.front)} of {found.evaluations} designs "
        f"(NSGA-II, seed {record['seed']}, {record['generations']} generations)\n"
    )
    several = len(space.inputs) > 1
    header = ["", "entries", "stored", "format", "error", "bits", "comparators", "multiplier", "adder"]
    rows = [
        [n, *_row(_numbers(d.choice), _stored(d.choice.symmetry, d.choice.share, several), d)]
        for n, d in enumerate(found.front, 1)
    ]
    rows += [[b.kind, *_row(b.coefficients, _stored(b.half, b.share, several), b)] for b in found.baselines]
    if cells is not None:
        header, rows = [*header, "cells", "depth", "front"], _with_cells(found, cells, rows)
    echo_table(header, rows)
    if cells is not None:
        _report_ranks(found, cells)
    if not all(d.proven for d in found.front):
        click.echo(
            "\nFormats of more than 8 bits, or more than 512 places for breakpoints: best rounded lines, not proven "
            "optimal."
        )


def _with_cells(found, cells: list, rows: list[list]) -> list[list]:
    """Rows with measured cells; a star where no other row has less error and fewer cells."""
    from lutc.explore.synthesis import size, undominated  # brings deap

    errors = [point.error for point in (*found.front, *found.baselines)]
    known = [i for i, one in enumerate(cells) if one is not None]
    best = dict(zip(known, undominated([(errors[i], size(cells[i])) for i in known])))
    more = [
        ["-", "-", ""] if one is None else [_cell_text(one), one.depth, "*" * best[i]] for i, one in enumerate(cells)
    ]
    return [[*row, *added] for row, added in zip(rows, more)]


def _cell_text(one) -> str:
    if one.target == "gates":
        return str(one.gates)
    return f"{one.luts} LUTs" + (f" {one.dsps} DSP" if one.dsps else "")


def _report_ranks(found, cells: list) -> None:
    from lutc.explore.synthesis import rank_correlation, size  # brings deap

    costs = [point.cost for point in (*found.front, *found.baselines)]
    known = [(cost, size(one)) for cost, one in zip(costs, cells) if one is not None]
    said = []
    for name in ("bits", "gates"):
        what, figure_of = FIGURES[name]
        alike = rank_correlation([figure_of(cost) for cost, _ in known], [measured for _, measured in known])
        said.append(f"{what} {alike:.2f}")
    click.echo(f"\nrank correlation with the cells: {', '.join(said)}")


def _stored(half: bool, share: str, several: bool) -> str:
    return ("half" if half else "whole") + (", shared" if share == "all" else ", per scale" if several else "")


def _numbers(choice) -> str:
    step = f", step {choice.cut_step}" if choice.cut_step > 1 else ""
    return choice.coefficients + (f" {choice.slopes}" if choice.slopes else "") + step


def _row(coefficients: str, stored: str, point) -> list:
    cost = point.cost
    multiplier, adder = (f"{cost.multiplier[0]} x {cost.multiplier[1]}", cost.adder) if cost.adder else ("-", "-")
    return [
        cost.entries,
        stored,
        coefficients,
        _error(point.error),
        cost.stored_bits,
        cost.comparators,
        multiplier,
        adder,
    ]


def _error(error: float) -> str:
    return f"{error:.0f}" if error == int(error) else figure(error)


def _scale(inputs) -> str:
    return inputs.written
