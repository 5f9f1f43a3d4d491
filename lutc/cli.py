"""The command line: a group that imports a command only when it is called, and turns LutcError into one line."""

from __future__ import annotations

import errno
import re
from importlib import import_module
from typing import IO, Any

import click

import lutc
from lutc.errors import LutcError

# name: (module:attribute, one line of help). The help stands here so that `lutc --help` imports no command.
COMMANDS = {
    "compile": ("lutc.commands.compile:compile_command", "Compile a function into a table and write it as JSON."),
    "batch": ("lutc.commands.batch:batch", "Compile many tables, a line of a file for each."),
    "show": ("lutc.commands.show:show", "Print a table and how it was made."),
    "certify": (
        "lutc.commands.certify:certify",
        "Recompute a table's errors over all inputs; fail where the file claims otherwise.",
    ),
    "compare": ("lutc.commands.compare:compare", "Put tables side by side, scale by scale."),
    "plot": ("lutc.commands.plot:plot", "Draw function, segments and errors of a table."),
    "export": ("lutc.commands.export:export", "Write a table's integers and golden vectors for a hardware flow."),
    "simulate": (
        "lutc.commands.simulate:simulate",
        "Run an exported unit's test bench on all codes; write the verdict.",
    ),
    "synth": ("lutc.commands.synth:synth", "Count the cells that exported units take, by Yosys."),
    "explore": ("lutc.commands.explore:explore", "Evolve the front of error against hardware cost."),
    "functions": ("lutc.commands.functions:functions", "List the functions that lutc knows."),
    "formats": ("lutc.commands.formats:formats", "Explain number formats, or show how each stores a number."),
    "evaluate": ("lutc.commands.evaluate:evaluate", "Run a model exactly and with tables; say what they cost."),
    "audit": ("lutc.commands.audit:audit", "List the transcendental operations a model runs, by table or exact."),
    "calibrate": (
        "lutc.commands.calibrate:calibrate",
        "Count what a model's functions are fed with, for scales and weights.",
    ),
    "model": ("lutc.commands.model:model", "A folder of tables for every function of a whole model."),
    "bench": ("lutc.commands.bench:bench", "Time tables in torch against the exact functions."),
    "taylor": ("lutc.commands.taylor:taylor", "Compile a whole MLP into centres and local maps."),
}
EXTRAS = {
    "torch": "torch",
    "triton": "torch",
    "sklearn": "taylor",
    "safetensors": "taylor",
    "transformers": "models",
    "onnx": "onnx",
}


class CliError(click.ClickException):
    """Bad input: one line on stderr, exit code 2."""

    exit_code = 2

    def show(self, file: IO[str] | None = None) -> None:
        click.echo(f"lutc: {self.message}", err=True)


class LazyGroup(click.Group):
    """Commands by name from COMMANDS."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, attribute = COMMANDS[name][0].split(":")
        try:
            return getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            raise _missing(error) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help) for name, (_, help) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LutcError as error:
            message = _as_options(" ".join(str(error).split()), self.get_command(ctx, ctx.invoked_subcommand or ""))
            raise CliError(message) from error
        except ModuleNotFoundError as error:
            raise _missing(error) from error
        except (
            OSError
        ) as error:  # a full disk, a folder that may not be made; where nobody reads on, click ends without a word
            if error.errno in (None, errno.EPIPE):
                raise
            raise CliError(f"{error.strerror}{'' if error.filename is None else f': {error.filename}'}") from error


def _as_options(message: str, command: click.Command | None) -> str:
    """The message with every field that it names, as in `max_error`, as the option of the command: --max-error."""
    commands = [command, *command.commands.values()] if isinstance(command, click.Group) else [command]
    names = {
        option.lstrip("-").replace("-", "_"): option
        for one in commands
        if one is not None
        for param in one.params
        if isinstance(param, click.Option)
        for option in param.opts
        if option.startswith("--")
    }
    if "out_scale" in names:
        names.setdefault("out", names["out_scale"])
    return re.sub(r"`(\w+)`", lambda found: names.get(found[1], found[0]), message)


def _missing(error: ModuleNotFoundError) -> Exception:
    """A clear line for a package of an extra that is not installed; any other missing module is a bug and stays a
    traceback.
    """
    package = (error.name or "").split(".")[0]
    if package not in EXTRAS:
        return error
    return CliError(f"this needs {package}, which is not installed: pip install 'lutc[{EXTRAS[package]}]'")


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(lutc.__version__, prog_name="lutc")
def main() -> None:
    """Compile lookup tables for the non-linear functions of neural networks.

    \b
    lutc compile gelu --entries 8 -o gelu_8.json    search a table
    lutc certify gelu_8.json                        how wrong it can be on every input
    lutc plot gelu_8.json                           a picture of it
    """


if __name__ == "__main__":
    main()
