"""A harder head, 256-1024-10 with GELU: the last digit of the sum of two drawn digits, by every kind of table.

    python benchmarks/taylor_sums.py --fonts /usr/share/fonts --work /tmp/sums

Left and right a digit is drawn in any typeface below --fonts that has all characters of taylor_vgg.py, turned, scaled
and shifted at random, light on dark, each 8 x 16 pixels. No digit alone tells anything about the answer, so a map has
to know both. The head is trained on new images all the time; tables are fitted on others, without
labels, and accuracy is that of 10,000 others again, of the same typefaces.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import taylor_vgg
import torch
from torch import Tensor, nn
from torch.nn import functional

from lutc import taylor
from lutc.taylor.module import TaylorMLP

DIGITS = slice(ord("0") - 33, ord("9") - 32)  # of taylor_vgg.CHARACTERS
TRAIN, FIT, TEST = 11, 12, 13  # seeds
TEST_IMAGES = 10_000

# Centres, order, fit, kept neurons.
DESIGNS = (
    (1, 1, "ridge", 0),
    (16, 1, "taylor", 0),
    (16, 1, "ridge", 0),
    (16, 2, "taylor", 0),
    (16, 2, "ridge", 0),
    (64, 1, "ridge", 0),
    (64, 2, "ridge", 0),
    (1, 1, "ridge", 128),
    (16, 1, "ridge", 128),
    (64, 1, "ridge", 128),
    (1, 1, "ridge", 256),
    (16, 1, "ridge", 256),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fonts", type=Path, default=Path("/usr/share/fonts"))
    parser.add_argument("--work", type=Path, required=True, help="folder for the head and its tables")
    parser.add_argument("--steps", type=int, default=2000, help="steps of 256 images that the head is trained for")
    parser.add_argument("--images", type=int, default=30_000, help="images that tables are fitted on")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    glyphs = taylor_vgg.drawn(arguments.fonts)[:, DIGITS]
    head = trained(glyphs, arguments.steps, arguments.work / "head.pt")
    test, labels = next(pairs(glyphs, TEST_IMAGES, TEST))
    exact = taylor_vgg.accuracy(head, test, labels)
    cost = 256 * 1024 + 1024 * 10
    print(f"{len(glyphs)} typefaces; head: accuracy {exact:.4f}, {cost} multiply-adds", flush=True)
    linear = nn.Linear(256, 10)
    taylor_vgg.train(linear, pairs(glyphs, 256, TRAIN), 500, 3e-3)
    print(f"one linear map, trained on the labels: accuracy {taylor_vgg.accuracy(linear, test, labels):.4f}")
    x = next(pairs(glyphs, arguments.images, FIT))[0]
    print("   k order fit    neurons  accuracy  points lost  relative error  mult-adds fewer        MB")
    for k, order, fit, neurons in DESIGNS:
        path = arguments.work / f"k{k}-order{order}-{fit}-{neurons}"
        if path.with_suffix(".json").exists():
            table = taylor.load(path)
        else:
            table = taylor.fit(head, x, taylor.TaylorSettings(k, order, fit, neurons=neurons))
            table.save(path)
        found = taylor_vgg.accuracy(TaylorMLP(table), test, labels)
        print(
            f"{k:4} {order:5} {fit:6}{neurons:8}{found:10.4f}{100 * (exact - found):13.1f}"
            f"{table.info['certificate']['relative_error']:16.4f}{cost / table.multiply_adds():17.2f}"
            f"{table.storage_bytes / 1e6:10.2f}",
            flush=True,
        )


def pairs(glyphs: Tensor, count: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches: `count` inputs [count, 256] in [-0.5, 0.5] and the last digit [count] of the sum."""
    both = [taylor_vgg.images(glyphs, count, 1000 * seed + side) for side in (0, 1)]
    while True:
        (left, a), (right, b) = (next(side) for side in both)
        # Of either polarity, as they come; the first pixel is background.
        lights = [half * -half[:, :1].sign() for half in (left, right)]
        yield (
            torch.cat([functional.avg_pool2d(half.view(-1, 1, 32, 16), 2).flatten(1) for half in lights], 1),
            (a + b) % 10,
        )


def trained(glyphs: Tensor, steps: int, path: Path) -> nn.Module:
    head = nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 10))
    if path.exists():
        head.load_state_dict(torch.load(path, weights_only=True))
    else:
        nn.init.kaiming_normal_(head[0].weight)
        taylor_vgg.train(head, pairs(glyphs, 256, TRAIN), steps, 2e-3)
        torch.save(head.state_dict(), path)
    return head.eval().requires_grad_(False)


if __name__ == "__main__":
    main()
