"""`compile_model`: calibrate once, compile a table for every place, measure what they cost, and write the folder."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lutc
from lutc.calibration.file import Calibration
from lutc.calibration.file import read as read_calibration
from lutc.errors import LutcError
from lutc.evaluation.results import Result
from lutc.evaluation.running import evaluate
from lutc.files import atomic_write
from lutc.folder.applying import FolderVariant
from lutc.folder.entries import entries_of, short
from lutc.folder.identity import digest, identity
from lutc.folder.jobs import Job, TableChoice, jobs_of
from lutc.folder.manifest import CALIBRATION, TABLES, Folder, read, write
from lutc.folder.page import REPORT, page
from lutc.folder.spending import TRIES, Ladder, Spent, spend
from lutc.folder.worker import run_all
from lutc.models.hugging_face import kind_of
from lutc.models.loading import Loaded
from lutc.models.texts import several
from lutc.nn.patching.apply import refuse_patched
from lutc.observe.ranks import Ranks
from lutc.observe.running import calibrate

REQUEST = "request.json"
MEASURED = 128  # tokens of the first batch, with one layer's tables at a time
Progress = Callable[[str, int], object]


def compile_model(
    model: nn.Module | Loaded,
    batches: Iterable,
    folder: str | os.PathLike,
    *,
    activations: str = "int8",
    softmax: str = "fplut",
    norms: str = "fplut",
    entries: int = 16,
    bits: int = 8,
    max_kl: float | None = None,
    own: Mapping[str, int] | None = None,
    name: str | None = None,
    workers: int | None = None,
    measure: bool = True,
    force: bool = False,
    progress: Progress | None = None,
) -> Folder:
    """Make a table for every activation, softmax and norm of a model, and write them to a folder.

    batches: as `lutc.calibrate` takes them. activations, softmax, norms: "int8" (a table of at most `entries` over the
    place's own int8 codes, made for what the place is fed with; of softmax the codes are of x - max(x), of norms of the
    mantissa of the mean square), "fplut" (floating-point tables that serve every input), for activations also
    "exponent", or "exact" (left as it is). bits: of the codes of activations. max_kl: of tables over codes take, not
    `entries`, but the fewest that keep the KL of the model (nats per token, on the last batch) within this, more where
    they pay. own: entries of single places by path.
    name: of the model. workers: processes that compile, by default as many as there are cores. measure: also run the
    first tokens of a batch with one layer's tables at a time, for the report: a forward for each layer. force: replace
    a folder that is there. progress: called as progress(stage, number done).

    What is done is kept in FOLDER.partial until all is; the same call goes on there after an interruption. The same
    call gives the same bytes, however many processes; under torchrun every rank calibrates its share of the batches and
    compiles its share of the tables, with the same bytes as one. Raises LutcError for a model with nothing to replace,
    one that is patched, and for a folder that is there.
    """
    loaded = model if isinstance(model, Loaded) else None
    exact = model.model if isinstance(model, Loaded) else model
    refuse_patched(exact, "compile a folder for")
    choice = TableChoice(activations, softmax, norms, entries, bits, dict(own or {}), max_kl)
    folder, batches, ranks = Path(folder), list(several(batches)), Ranks.here()
    told = progress or (lambda stage, number: None)
    if workers is not None and workers < 1:
        raise LutcError(f"`workers` are 1 process or more; given {workers}")
    if not batches:
        raise LutcError("there are no batches to calibrate on; give at least one")
    check_target(folder, force)
    if max_kl is not None:
        _check_budget(exact, kind_of(exact) if loaded is None else loaded.kind, choice)
    name = str(name or (Path(loaded.path).name if loaded is not None else type(exact).__name__))
    partial = folder.with_name(f"{folder.name}.partial")
    of_model, of_batches = digest(exact), _digest(batches)
    request = {"model": of_model, "batches": of_batches, "choice": asdict(choice), "name": name}
    ranks.agree(of_model, "model")
    ranks.agree(of_batches, "text")
    ranks.agree(json.dumps(asdict(choice), sort_keys=True), "choice of tables")
    if ranks.first:
        _begin(partial, request)
    ranks.wait()
    calibration = _calibrated(exact, batches, partial, name, ranks, told)
    count = workers if workers is not None else max(1, (os.cpu_count() or 1) // ranks.count)
    compiled = functools.partial(_compiled, partial, count, ranks, told)
    spent = None
    if choice.max_kl is not None:
        ladder = Ladder.of(calibration, choice, partial)
        (partial / TRIES).mkdir(exist_ok=True)
        compiled(ladder.jobs)
        spent = ranks.of_first(lambda: spend(model, batches[-1], _few(batches[-1]), ladder, told))
        choice = ladder.keep(spent.own) if ranks.first else replace(choice, own=spent.own)
        ranks.wait()
    jobs = jobs_of(calibration, choice)
    compiled(list({job.file: job for job in jobs.values()}.values()))
    if not ranks.first:
        ranks.wait()
        return read(folder)
    told_model, data = identity(exact, name), {**calibration.data, "batches": len(batches)}
    made = entries_of(calibration, jobs, partial)
    cost = {} if spent is None else {"spent": _spent(spent)}
    write(partial, told_model, data, asdict(choice), made, cost, calibration.left)
    if measure:
        cost |= _cost(model, [_few(batches[0])], read(partial), told)
        write(partial, told_model, data, asdict(choice), made, cost, calibration.left)
    atomic_write(partial / REPORT, page(read(partial), calibration))
    _finish(partial, folder)
    ranks.wait()
    return read(folder)


def _compiled(partial: Path, workers: int, ranks: Ranks, told: Progress, jobs: list[Job]) -> None:
    """Jobs, shared over ranks and processes; done on all ranks."""
    run_all(partial, jobs, workers, lambda n: told("compile", n), ranks.index, ranks.count)
    ranks.wait()


def _spent(spent: Spent) -> dict:
    """What the manifest says of a budget."""
    return {"kl": short(spent.kl), "codes": short(spent.codes), "tokens": spent.tokens}


def _check_budget(model: nn.Module, kind: str, choice: TableChoice) -> None:
    """LutcError where `max_kl` cannot choose entries."""
    if kind != "causal":
        raise LutcError(
            f"`max_kl` is of models that give next-token logits; {type(model).__name__} gives none: choose `entries`"
        )
    if choice.own:
        raise LutcError("`max_kl` chooses the entries of every place; give it or `own`, not both")


def check_target(folder: Path, force: bool = False) -> None:
    """LutcError where the folder is there, or has nowhere to be."""
    if folder.exists() and not force:
        raise LutcError(f"{folder} is there already; give another path (-o), or `force` to replace it")
    if folder.exists() and not (folder / "manifest.json").exists():
        raise LutcError(f"{folder} is there and is no folder of a model's tables, so it is not replaced; give another")
    if not folder.absolute().parent.is_dir():
        raise LutcError(f"there is no folder {folder.parent} to make {folder.name} in; make it, or give another path")


def _begin(partial: Path, request: dict) -> None:
    """The folder in which work goes on: what another request left there is removed, all but the calibration where that
    request chose other tables for the same model and batches.
    """
    request, file = {**request, "version": lutc.__version__}, partial / REQUEST
    if partial.exists():
        earlier = _earlier(file)
        if earlier is None and any(partial.iterdir()):
            raise LutcError(f"{partial} is in the way and is not of this command; move it")
        if earlier is None or {**earlier, "choice": None} != {**request, "choice": None}:
            shutil.rmtree(partial)
        elif earlier["choice"] != request["choice"]:
            for name in (TABLES, TRIES):
                shutil.rmtree(partial / name, ignore_errors=True)
    (partial / TABLES).mkdir(parents=True, exist_ok=True)
    atomic_write(file, json.dumps(request, indent=1, sort_keys=True))


def _earlier(file: Path) -> dict | None:
    """The request that a folder was begun for."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "choice" in found else None


def _finish(partial: Path, folder: Path) -> None:
    """The whole folder in its place, in one step."""
    (partial / REQUEST).unlink()
    shutil.rmtree(partial / TRIES, ignore_errors=True)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(partial, folder)


def _digest(batches: Sequence) -> str:
    """Of all tensors of the batches."""
    found = hashlib.sha256()

    def add(value) -> None:
        if isinstance(value, torch.Tensor):
            found.update(f"{value.dtype} {tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        elif isinstance(value, Mapping):
            for key in sorted(value):
                found.update(str(key).encode())
                add(value[key])
        elif isinstance(value, (tuple, list)):
            for one in value:
                add(one)

    add(batches)
    return found.hexdigest()


def _calibrated(model: nn.Module, batches: list, partial: Path, name: str, ranks: Ranks, told: Progress) -> Calibration:
    """The calibration of all ranks' batches, from the file where it is there."""
    file = partial / CALIBRATION
    if ranks.same(file.exists()):
        return read_calibration(file)
    try:
        found = ranks.sum(calibrate(model, ranks.share(batches), name=name, progress=lambda n: told("calibrate", n)))
    except BaseException:
        if ranks.first:  # nothing is there yet to go on from
            shutil.rmtree(partial, ignore_errors=True)
        raise
    if ranks.first:
        found.save(file)
    ranks.wait()
    return read_calibration(file)


def _few(batch: Any) -> Any:
    """The first tokens of a batch, for a forward each layer; a batch without ids as it is."""
    if not isinstance(batch, Mapping) or "input_ids" not in batch:
        return batch
    shape = batch["input_ids"].shape
    return {
        key: value[:, :MEASURED] if isinstance(value, torch.Tensor) and value.shape == shape else value
        for key, value in batch.items()
    }


def _cost(model: nn.Module | Loaded, batches: list, folder: Folder, told: Progress) -> dict:
    """What the tables cost the model on these batches, whole and one layer at a time."""
    variant: Any = FolderVariant("tables", folder)
    report = lambda n=1, total=None: told("measure", n)  # noqa: E731
    found = evaluate(model, batches, [variant], each_layer=True, progress=report)
    result: Result = found["tables"]
    if result.failed:
        raise LutcError(f"with its tables the model computes {result.failed}; take more `entries` or another kind")
    whole = {"kl": result.kl, "perplexity": result.perplexity, "exact": found["exact"].perplexity}
    whole |= {"change": result.change, "cosine": result.cosine}
    layers = [
        {"name": layer.name, "error": layer.error, "own": layer.own, "kl": layer.kl, "change": layer.change}
        for layer in result.layers
    ]
    return {
        **{key: short(value) for key, value in whole.items()},
        "tokens": found.tokens,
        "layers": [{k: v if isinstance(v, str) else short(v) for k, v in layer.items()} for layer in layers],
    }
