"""`lutc synth`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from lutc.commands.options import echo_json, echo_table, json_option
from lutc.hardware.place import DEVICES
from lutc.hardware.synth import TARGETS, synthesise
from lutc.hardware.tools import installed


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--target",
    "targets",
    multiple=True,
    type=click.Choice(list(TARGETS)),
    help="May be repeated.  [default: all of them]",
)
@json_option
def synth(folder: Path, targets: tuple[str, ...], as_json: bool) -> None:
    """Count what the units in FOLDER, which `lutc export --format sv` wrote, take when Yosys synthesises them.

    LUTs, carries, flip-flops, multipliers (DSPs) and block memories of ice40, ice40up and xc7, or plain gates, and the
    cells on the longest path. Where nextpnr-ice40 is installed, the unit is placed on an iCE40 (HX8K, UP5K) between
    registers, and mhz is how fast they run; '-' where the device has too few cells.

    \b
    lutc export gelu_8 --format sv --key 4 --out-scale 2^-4 -o rtl
    lutc synth rtl --target ice40
    """
    found = [asdict(cells) for cells in synthesise(folder, targets or tuple(TARGETS))]
    if as_json:
        echo_json(found)
    else:
        for row in found:
            row["mhz"] = "-" if row["mhz"] is None else f"{row['mhz']:.1f}"
        echo_table([name.replace("_", " ") for name in found[0]], [list(row.values()) for row in found])
    placed = any(row["target"] in DEVICES for row in found)
    if placed and not installed("nextpnr-ice40"):
        click.echo("no frequencies: they need nextpnr-ice40 (apt-get install nextpnr-ice40)", err=True)
