"""A VGG-16-shaped classifier head, 512-4096-4096-100, replaced by a Taylor table: accuracy kept, and speed at batch 1
and 256.

    apt-get download fonts-liberation2 && dpkg -x fonts-liberation2_*.deb /tmp/fonts
    python benchmarks/taylor_vgg.py --fonts /tmp/fonts --work /tmp/vgg

The task: which of 100 characters is it? Each is drawn 16 x 32 pixels large (512 inputs) in every typeface found below
--fonts, turned, scaled and shifted at random by a fraction of a pixel, in dark on light or in light on dark. The
polarity is what no linear map can see through; two maps can, as the row of k = 2 shows. Head, tables and test draw
their images from three seeds. All layers of the head are trained here, with Adam and dropout. Single thread, all times
in one run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn import functional

from lutc import taylor
from lutc.taylor.module import TaylorMLP

CHARACTERS = "".join(chr(code) for code in range(33, 127)) + "éüñçøß"
WIDTH, HEIGHT, MARGIN, SIZE = 16, 32, 4, 22
TURN, SCALE, SHIFT = 2.0, 0.04, 0.5  # degrees, share, pixels, to either side
BATCH = 256
TRAIN, FIT, TEST, TIMES = 1, 2, 3, 4  # seeds
TEST_IMAGES = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fonts", type=Path, default=Path("/usr/share/fonts"))
    parser.add_argument("--work", type=Path, required=True, help="folder for head and tables")
    parser.add_argument("--steps", type=int, default=600, help=f"steps of {BATCH} images that the head is trained for")
    parser.add_argument("--images", type=int, default=100_000, help="images that tables are fitted on, labels not used")
    parser.add_argument("--others", type=Path, help="folder of typefaces that neither head nor tables have seen")
    parser.add_argument("--k", type=int, nargs="*", default=[120, 2, 1])
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    glyphs = drawn(arguments.fonts)
    print(f"{len(CHARACTERS)} characters in {len(glyphs)} typefaces", flush=True)
    head = trained(glyphs, arguments.steps, arguments.work / "head.pt")
    test, labels = next(images(glyphs, TEST_IMAGES, TEST))
    truth = accuracy(head, test, labels)
    print(f"head: accuracy {truth:.4f}, {4096 * (512 + 4096 + 100) / 1e6:.1f} M multiply-adds", flush=True)
    linear = nn.Linear(512, len(CHARACTERS))
    train(linear, images(glyphs, BATCH, TRAIN), 800, 3e-3)
    report("one linear map trained on the labels", linear, head, glyphs, truth)
    others = next(images(drawn(arguments.others), TEST_IMAGES, TEST)) if arguments.others else None
    x = next(images(glyphs, arguments.images, FIT))[0]
    for k in arguments.k:
        table = fitted(head, x, k, arguments.work / f"head-{k}")
        stores = {format: table.stored(format, x) for format in ("fp32", "fp16", "int8")} | {
            "int8, inputs unknown": table.stored("int8"),
            "int8 by rows": by_rows(table),
        }
        for format, stored in stores.items():
            report(f"k = {k}, {format}, {stored.storage_bytes / 1e6:.1f} MB", TaylorMLP(stored), head, glyphs, truth)
        if others:
            print(
                f"    other typefaces: head {accuracy(head, *others):.4f}, table "
                f"{accuracy(TaylorMLP(table), *others):.4f}",
                flush=True,
            )


def drawn(fonts: Path) -> Tensor:
    """Every character in every typeface that has all of them, upright and in place: bytes [typefaces, characters,
    height, width], with a margin.
    """
    result = []
    for file in sorted(file for kind in ("ttf", "otf") for file in fonts.rglob(f"*.{kind}")):
        font = ImageFont.truetype(str(file), SIZE)
        missing = bytes(font.getmask("\uffff"))
        if any(
            not any(mask) or mask == missing for mask in (bytes(font.getmask(character)) for character in CHARACTERS)
        ):
            continue
        result.append([])
        for character in CHARACTERS:
            canvas = Image.new("L", (WIDTH + 2 * MARGIN, HEIGHT + 2 * MARGIN))
            middle = WIDTH / 2 + MARGIN - font.getlength(character) / 2
            ImageDraw.Draw(canvas).text((middle, HEIGHT - MARGIN), character, fill=255, font=font, anchor="ls")
            result[-1].append(np.asarray(canvas))
    if not result:
        raise SystemExit(f"no typeface below {fonts} has all of {CHARACTERS}; see the first lines of this file")
    return torch.from_numpy(np.array(result))


def images(glyphs: Tensor, count: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches: `count` images [count, 512] in [-0.5, 0.5] and their characters [count], distorted at random,
    half of them inverted.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = glyphs.shape[2:]
    while True:
        face = torch.randint(len(glyphs), (count,), generator=generator)
        label = torch.randint(glyphs.shape[1], (count,), generator=generator)
        turn, scale, right, down, polarity = (2 * torch.rand(count, 5, generator=generator) - 1).unbind(1)
        scale, turn = 1 + SCALE * scale, torch.deg2rad(TURN * turn)
        c, s = scale * turn.cos(), scale * turn.sin()
        # From places in the image to places in the glyph's canvas, both in [-1, 1].
        rows = [
            c * WIDTH / width,
            -s * HEIGHT / width,
            2 * SHIFT * right / width,
            s * WIDTH / height,
            c * HEIGHT / height,
            2 * SHIFT * down / height,
        ]
        places = torch.stack(rows, 1).reshape(count, 2, 3)
        parts = []
        for part in torch.arange(count).split(8192):
            grid = functional.affine_grid(places[part], [len(part), 1, HEIGHT, WIDTH], align_corners=False)
            canvas = glyphs[face[part], label[part]][:, None].float() / 255
            parts.append(functional.grid_sample(canvas, grid, align_corners=False).reshape(len(part), -1) - 0.5)
        yield torch.cat(parts) * torch.where(polarity < 0, -1.0, 1.0)[:, None], label


def trained(glyphs: Tensor, steps: int, path: Path) -> nn.Module:
    hidden = [nn.Linear(512, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout()]
    head = nn.Sequential(*hidden, nn.Linear(4096, len(CHARACTERS)))
    if path.exists():
        head.load_state_dict(torch.load(path, weights_only=True))
    else:
        for layer in (head[0], head[3]):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        start = time.perf_counter()
        train(head, images(glyphs, BATCH, TRAIN), steps, 1e-3)
        print(f"head trained on {steps * BATCH} images in {(time.perf_counter() - start) / 60:.1f} minutes", flush=True)
        torch.save(head.state_dict(), path)
    return head.eval().requires_grad_(False)


def train(model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], steps: int, rate: float) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    for step in range(steps):
        x, y = next(batches)
        with torch.autocast("cpu", torch.bfloat16):
            output = model(x)
        loss = functional.cross_entropy(output.float(), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            print(f"  step {step} of {steps}: loss {float(loss.detach()):.3f}", flush=True)


def fitted(head: nn.Module, x: Tensor, k: int, path: Path) -> taylor.TaylorTable:
    if path.with_suffix(".json").exists():
        return taylor.load(path)
    start = time.perf_counter()
    table = taylor.fit(head, x, taylor.TaylorSettings(k=k))
    print(
        f"k = {k}: fitted on {len(x)} images in {time.perf_counter() - start:.0f} s, strength {table.info['strength']}",
        flush=True,
    )
    table.save(path)
    return table


def by_rows(table: taylor.TaylorTable) -> taylor.TaylorTable:
    """`table` in int8 with a scale per row alone, for comparison."""
    stored = table.stored("int8")
    scales = table.slopes.abs().amax(2).clamp_min(1e-30) / 127
    return replace(
        stored, slopes=(table.slopes / scales[..., None]).round().to(torch.int8), scales=scales, columns=None
    )


@torch.inference_mode()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float(torch.cat([model(part).argmax(1) for part in x.split(1024)]).eq(y).float().mean())


@torch.inference_mode()
def report(name: str, model: nn.Module, head: nn.Module, glyphs: Tensor, truth: float) -> None:
    found = accuracy(model, *next(images(glyphs, TEST_IMAGES, TEST)))
    times = []
    for batch in (1, 256):
        parts = next(images(glyphs, 20 * batch, TIMES))[0].split(batch)
        exact, given = (sorted(seconds(module, part) for part in parts)[len(parts) // 2] for module in (head, model))
        times.append(f"batch {batch}: {given * 1e6:.0f} us, {exact / given:.0f}x")
    lost = f"{100 * found / truth:.2f} % of the head's, {100 * (truth - found):.1f} points lost"
    print(f"{name}: accuracy {found:.4f}, {lost}; {', '.join(times)}", flush=True)


def seconds(module: nn.Module, x: Tensor) -> float:
    start = time.perf_counter()
    module(x)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
