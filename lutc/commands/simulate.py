"""`lutc simulate`."""

from __future__ import annotations

from pathlib import Path

import click

from lutc.commands.options import echo_json, echo_table, json_option
from lutc.hardware.simulate import SIMULATORS
from lutc.hardware.simulate import simulate as run


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--simulator",
    type=click.Choice(sorted({program for programs in SIMULATORS.values() for program in programs})),
    help="Which one.  [default: the first that is installed]",
)
@json_option
def simulate(folder: Path, simulator: str | None, as_json: bool) -> None:
    """Run the test bench in FOLDER, which `lutc export` wrote, and compare every word with the integer model in numpy.

    The verdict goes into FOLDER/manifest.json. Exit code 1 where a word is wrong.

    \b
    lutc export gelu_8 --format sv --out-scale 2^-4 -o rtl
    lutc simulate rtl
    """
    verdict = run(folder, simulator)
    if as_json:
        echo_json(verdict)
    else:
        rows = [[name, module["words"], module["wrong"]] for name, module in verdict["modules"].items()]
        echo_table(["module", "words", "wrong"], rows)
        said = "passed" if verdict["passed"] else "FAILED"
        click.echo(f"{said}: {verdict['words']} words, {verdict['wrong']} wrong, by {verdict['simulator']}")
    if not verdict["passed"]:
        raise click.exceptions.Exit(1)
