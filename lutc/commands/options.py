"""Options and printing that commands share."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from lutc import functions
from lutc.certify.certificate import function_of
from lutc.errors import LutcError
from lutc.files import atomic_write
from lutc.formats.codes import ROUNDINGS, parse_number
from lutc.functions import Function
from lutc.table.library import load
from lutc.table.table_set import TableSet

if TYPE_CHECKING:
    from lutc.models.loading import Loaded


class Number(click.ParamType):
    """A number, also as a power of two or a fraction: 0.0625, 2^-4, 2**-4, 1/16."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return value if isinstance(value, float) else parse_number(value)
        except LutcError as error:
            self.fail(str(error), param, ctx)


NUMBER = Number()


class GroupedCommand(click.Command):
    """A command whose help shows its options under headings. groups: heading -> names of parameters, in order; the rest
    comes last.
    """

    groups: Mapping[str, Sequence[str]] = {}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        records = {param.name: param.get_help_record(ctx) for param in self.get_params(ctx)}
        grouped = {name for names in self.groups.values() for name in names}
        rest = [name for name in records if name not in grouped]
        for heading, names in {**self.groups, "Other options": rest}.items():
            rows = [record for name in names if (record := records.get(name)) is not None]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


def save_or_print(text: str, output: Path, force: bool) -> str:
    """Write a file's text to `output`, "-" for standard output; what to say of it. Without `force` a file that holds
    something else stays: LutcError.
    """
    if str(output) == "-":
        click.echo(text, nl=False)
        return ""
    if not force and output.exists() and output.read_bytes() != text.encode():
        raise LutcError(
            f"{output} is there and holds another table; give another path with -o, or --force to replace it"
        )
    atomic_write(output, text)
    return f"wrote {output}"


folder_option = click.option(
    "-o",
    "--output",
    default=".",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder, made if need be.  [default: the current one]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")
rounding_option = click.option(
    "--out-rounding",
    type=click.Choice(ROUNDINGS),
    help="How halves round to output codes: half_away as TFLite and CMSIS-NN, half_even as PyTorch and ONNX.  "
    "[default: the file's, else half_up]",
)
function_option = click.option(
    "--function", "function", help="The function a foreign table stands for, where its file does not say."
)

MODEL_OPTIONS = (
    click.argument("model", type=click.Path()),
    click.option(
        "--text",
        type=click.Path(dir_okay=False),
        help="A text for causal models; for others one document on each line.",
    ),
    click.option(
        "--max-tokens", default=4096, show_default=True, type=click.IntRange(2), help="Tokens of the text to use."
    ),
    click.option(
        "--seqlen",
        default=512,
        show_default=True,
        type=click.IntRange(2),
        help="Tokens of a window; of a document at most.",
    ),
    click.option(
        "--batch",
        type=click.IntRange(1),
        help="Windows or documents that run together.  [default: 1 window, 16 documents]",
    ),
    click.option(
        "--dtype",
        type=click.Choice(["fp32", "fp16", "bf16"]),
        help="Of the model.  [default: fp32 on a CPU, else the checkpoint's]",
    ),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:1."),
    click.option(
        "--device-map",
        help="auto spreads a large model over GPUs, memory and disk; auto:0=20GiB,cpu=8GiB at most so much.",
    ),
    click.option(
        "--tokenizer",
        type=click.Path(exists=True, file_okay=False),
        help="A folder with the tokenizer, where the model has none.",
    ),
    click.option("--task", help="transformers' class that loads the model.  [default: by its config]"),
)


def model_options(command: Callable) -> Callable:
    """The model that a command runs over a text, and how."""
    for option in reversed(MODEL_OPTIONS):
        command = option(command)
    return command


def load_with_batches(
    model: str, text: str | None, *, max_tokens: int | None, seqlen: int, batch: int | None, **loading: Any
) -> tuple[Loaded, list]:
    """The model and its batches as the values of `model_options` ask for them."""
    from lutc.models.loading import load  # brings torch
    from lutc.models.texts import batches  # brings torch

    loaded = load(model, **loading)
    return loaded, batches(loaded, text, seqlen=seqlen, max_tokens=max_tokens, batch=batch)


def typed(context: click.Context) -> set[str]:
    """Names of the parameters that stand on the command line."""
    return {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}


def echo_json(data: object) -> None:
    """Print data as JSON; NaN and Infinity are refused."""
    click.echo(json.dumps(data, indent=2, allow_nan=False))


def echo_table(header: Sequence[str], rows: Sequence[Sequence]) -> None:
    """Columns aligned to the right, the first to the left."""
    cells = [[str(c) for c in row] for row in [header, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells)]
    for row in cells:
        click.echo(
            "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))).rstrip()
        )


def figure(value: float | None) -> str:
    """Three digits, as in 2.68e-05; a dash for nothing."""
    return "-" if value is None else f"{value:.3g}"


@contextlib.contextmanager
def progress_bar(description: str, total: int | None = None, unit: str = "generation") -> Iterator[Any]:
    """A callback that advances a bar, `advance(n)` or `advance(n, total=...)`; there is one on a terminal, none in a
    pipe.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=description, unit=f" {unit}", leave=False, file=sys.stderr) as bar:

        def advance(n: int = 1, total: int | None = None) -> None:
            if total is not None:
                bar.reset(total)
            bar.update(n)

        yield advance


def append_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence]) -> None:
    """Append rows to a file; a new or empty one gets the columns' names first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    try:
        if not path.exists() or path.stat().st_size == 0:
            writer.writerow(columns)
        writer.writerows(rows)
        with open(path, "a", encoding="utf-8") as file:
            file.write(text.getvalue())
    except OSError as error:
        raise LutcError(
            f"cannot append to {path}: {error.strerror or error}; give a path in an existing, writable folder"
        ) from error


def load_for(name: str, function: str | None) -> tuple[TableSet, Function]:
    """(tables, function): a table by name or path, and the function that it is held against."""
    tables = load(name)
    if function is not None:
        return tables, functions.load(function, tables.range if ":" in function else None)
    try:
        if "function_sample" in tables.meta and not functions.known(tables.function or ""):
            click.echo(f"{name}: judged by the sample of {tables.function} that the file carries", err=True)
        return tables, function_of(tables)
    except LutcError as error:
        raise LutcError(f"{name}: {error}") from error
