"""Quantisation-aware training with tables, on a small language model: what tables cost before and after a second round
of training.

    python examples/finetune_tables.py              3 seeds, some five minutes on one core
    python examples/finetune_tables.py --quick      a tiny model, seconds: shows the steps; its figures mean nothing

A causal transformer learns Python's own documentation (`pydoc_data.topics`, part of every Python) letter by letter.
Then, as GQA-LUT does it: the inputs of all activations and linear layers become int8 codes with learned power-of-two
scales and the model is trained on with exact functions; tables of 8, 4 and 3 entries replace GELU, softmax and
LayerNorm's 1/sqrt; a second round of training. Printed are the bits that a letter of held-out topics takes and how many
are predicted right.
"""

from __future__ import annotations

import argparse
import copy
import math
import pydoc_data.topics
import random
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

import lutc
from lutc.nn import FakeQuantize

CONTEXT = 64  # letters
ENTRIES = (8, 4, 3)
EXACT, AS_LONG = "int8 activations, exact functions", "int8 activations, exact functions, trained on as long"


def tables(entries: int) -> dict:
    """What `lutc.patch` takes: the shipped tables of 8 entries, others compiled here in seconds."""
    if entries == 8:
        return {"activation": "gelu_8", "softmax": ("exp_8", "reci_8"), "norm": "sqrt_reci_8"}
    gelu, exp, reciprocal, rsqrt = (lutc.compile(name, entries) for name in ("gelu", "exp", "reciprocal", "rsqrt"))
    return {"activation": gelu, "softmax": (exp, reciprocal), "norm": rsqrt}


class Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.activation, self.softmax = nn.GELU(), nn.Softmax(-1)

    def forward(self, x, mask):
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = self.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + mask)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(batch, length, width))
        return x + self.down(self.activation(self.up(self.norm2(x))))


class Letters(nn.Module):
    """tokens (batch, length), int64 below 128 -> logits (batch, length, 128)."""

    def __init__(self, width: int, layers: int, heads: int = 4):
        super().__init__()
        self.token, self.place = nn.Embedding(128, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 128)
        self.register_buffer("mask", torch.full((CONTEXT, CONTEXT), -math.inf).triu(1), persistent=False)

    def forward(self, tokens):
        length = tokens.shape[1]
        x = self.token(tokens) + self.place.weight[:length]
        for block in self.blocks:
            x = block(x, self.mask[:length, :length])
        return self.head(self.norm(x))


def texts() -> dict[str, torch.Tensor]:
    """Letters of whole topics, eight tenths to train on, a tenth each to choose settings with ("validation") and to
    report ("test").
    """
    topics = sorted(pydoc_data.topics.topics.items())
    random.Random(0).shuffle(topics)
    whole = "".join(text for _, text in topics).encode("ascii", "replace")
    letters = torch.tensor(list(whole))
    ends, total = [], 0
    for _, text in topics:
        total += len(text)
        ends.append(total)
    cuts = [min(ends, key=lambda end, share=share: abs(end - share * total)) for share in (0.8, 0.9)]
    return dict(zip(("train", "validation", "test"), letters.tensor_split(cuts), strict=True))


def train(model: nn.Module, letters: torch.Tensor, steps: int, rate: float, seed: int, batch: int = 16) -> None:
    """AdamW, the rate falling to 0; learned scales are not decayed, which would draw them to 1."""
    generator = torch.Generator().manual_seed(seed)
    scales = [p for name, p in model.named_parameters() if name.endswith("log2_scale")]
    others = [p for name, p in model.named_parameters() if not name.endswith("log2_scale")]
    optimiser = torch.optim.AdamW([{"params": others}, {"params": scales, "weight_decay": 0.0}], rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    model.train()
    for _ in range(steps):
        starts = torch.randint(len(letters) - CONTEXT - 1, (batch, 1), generator=generator)
        window = letters[starts + torch.arange(CONTEXT + 1)]
        loss = F.cross_entropy(model(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(others, 1.0)
        optimiser.step()
        schedule.step()
    model.eval()


@torch.no_grad()
def judge(model: nn.Module, letters: torch.Tensor) -> tuple[float, float]:
    """(bits per letter, letters predicted right in percent), in windows of CONTEXT side by side."""
    count = (len(letters) - 1) // CONTEXT
    inputs, targets = (letters[i : i + count * CONTEXT].view(count, CONTEXT) for i in (0, 1))
    bits = right = 0.0
    for x, y in zip(inputs.split(64), targets.split(64), strict=True):
        logits = model(x)
        bits += F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum").item() / math.log(2)
        right += (logits.argmax(-1) == y).sum().item()
    return bits / targets.numel(), 100 * right / targets.numel()


def quantise_linears(model: nn.Module) -> None:
    """A quantiser of its own before every linear layer."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, nn.Sequential(FakeQuantize("learned"), child))


def run(
    seed: int, letters: torch.Tensor, held_out: torch.Tensor, width: int, layers: int, steps: int, more: int
) -> dict[str, tuple[float, float]]:
    """What `judge` finds on the held-out letters, by row."""
    torch.manual_seed(seed)
    rows = {}
    model = Letters(width, layers)
    train(model, letters, steps, 3e-3, seed)
    rows["float"] = judge(model, held_out)

    quantise_linears(model)
    lutc.patch(model, activation="gelu", quantise="learned")
    train(model, letters, more, 1e-3, seed + 100)
    rows[EXACT] = judge(model, held_out)
    longer = copy.deepcopy(model)
    train(longer, letters, more, 1e-3, seed + 200)
    rows[AS_LONG] = judge(longer, held_out)

    for entries in ENTRIES:
        fitted = copy.deepcopy(model)
        lutc.patch(fitted, **tables(entries))
        rows[f"tables of {entries} entries, not trained on"] = judge(fitted, held_out)
        train(fitted, letters, more, 1e-3, seed + 200)
        rows[f"tables of {entries} entries, trained on"] = judge(fitted, held_out)
    return rows


def report(results: list[dict[str, tuple[float, float]]]) -> None:
    """A table for each figure: mean, standard deviation, and differences within a seed to the exact functions, least
    and largest in brackets.
    """
    for figure, name in enumerate(("bits per letter", "letters predicted right, %")):
        print(f"\n{name:56s}{'mean':>8s}{'deviation':>11s}{'difference to [A]':>28s}{'difference to [B]':>28s}")
        for row in results[0]:
            values = [result[row][figure] for result in results]
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            shown = []
            for base in (EXACT, AS_LONG):
                differences = [result[row][figure] - result[base][figure] for result in results]
                shown.append(
                    f"{statistics.mean(differences):+.3f} ({min(differences):+.3f} .. {max(differences):+.3f})"
                )
            mark = {EXACT: " [A]", AS_LONG: " [B]"}.get(row, "")
            print(f"{row + mark:56s}{statistics.mean(values):8.3f}{deviation:11.3f}{shown[0]:>28s}{shown[1]:>28s}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="a tiny model, few steps, little text")
    parser.add_argument(
        "--validation",
        action="store_true",
        help="judge by the topics that settings were chosen with, not by the test topics",
    )
    arguments = parser.parse_args()
    data = texts()
    held_out = data["validation" if arguments.validation else "test"]
    size = {"width": 64, "layers": 2, "steps": 1200, "more": 200}
    if arguments.quick:
        size, held_out = {"width": 32, "layers": 1, "steps": 30, "more": 5}, held_out[:4097]
    print(
        f"{len(data['train'])} letters to train on, {len(held_out)} to judge by; {size['steps']} steps in float, then "
        f"{size['more']} a round"
    )
    results = []
    for seed in arguments.seeds:
        start = time.perf_counter()
        results.append(run(seed, data["train"], held_out, **size))
        print(
            f"seed {seed}: {', '.join(f'{bits:.4f}' for bits, _ in results[-1].values())} bits "
            f"({time.perf_counter() - start:.0f} s)",
            flush=True,
        )
    report(results)


if __name__ == "__main__":
    main()
