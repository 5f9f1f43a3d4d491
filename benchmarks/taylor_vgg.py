"""A VGG-16-shaped classifier head, 512-4096-4096-100, replaced by a Taylor table: accuracy kept, and speed at batch 1 and 256.

    python benchmarks/taylor_vgg.py --fonts /usr/share/fonts --work /tmp/vgg

The data: 100 characters in the typefaces found below --fonts (some hundreds of files from Debian's fonts-* packages), drawn at 16 x 32
pixels = 512 inputs, shifted, turned and scaled at random, half of them white on black. Whole families are held out for testing. The head is
trained here; one linear map, however it is fitted, loses far more than 10 points. Single thread, all times in one run.
"""

from __future__ import annotations

import argparse
import time
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from lutc import taylor
from lutc.nn.taylor import TaylorMLP

CHARACTERS = "".join(chr(code) for code in range(33, 127)) + "éüñçøß"
WIDTH, HEIGHT = 16, 32
COPIES = 4
BATCH = 128
CLOSED_FORM = 30_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fonts", type=Path, default=Path("/usr/share/fonts"))
    parser.add_argument("--work", type=Path, required=True, help="folder for images, head and tables")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--samples", type=int, default=120_000, help="images that the tables are fitted on")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, labels, test = dataset(arguments.fonts, arguments.work / "images.npz")
    print(f"{len(images)} images, {int(test.sum())} of held-out families", flush=True)
    head = trained(images[~test], labels[~test], arguments.epochs, arguments.work / "head.pt")
    with torch.inference_mode():
        truth = accuracy(head, images[test], labels[test])
    print(f"head: accuracy {truth:.4f}, {4096 * (512 + 4096 + 100) / 1e6:.1f} M multiply-adds", flush=True)
    linear = nn.Linear(512, len(CHARACTERS))
    train(linear, images[~test], labels[~test], 3, 1e-3)
    report("linear, trained on labels", linear, head, images[test], labels[test], truth)
    for k in (120, 1, 30):
        start = time.perf_counter()
        table = taylor.fit(head, images[~test][: arguments.samples], taylor.Settings(k=k))
        table.save(arguments.work / f"head-{k}")
        spent = time.perf_counter() - start
        print(f"k = {k}: fitted in {spent:.0f} s, strength {table.info['strength']}, {table.storage_bytes / 1e6:.1f} MB", flush=True)
        report(f"k = {k}", TaylorMLP(table), head, images[test], labels[test], truth)


def dataset(fonts: Path, path: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Images [n, 512] in [0, 1], labels [n], and which are of held-out families [n]."""
    if not path.exists():
        generator = np.random.default_rng(0)
        images, labels, test = [], [], []
        for file in sorted(file for kind in ("ttf", "otf") for file in fonts.rglob(f"*.{kind}")):
            family = file.stem.split("-")[0].lower()
            for label, character in enumerate(CHARACTERS):
                for _ in range(COPIES):
                    image = drawn(file, character, generator)
                    if image is not None:
                        images.append(image)
                        labels.append(label)
                        test.append(zlib.crc32(family.encode()) % 6 == 0)
        order = generator.permutation(len(images))
        np.savez_compressed(path, images=np.array(images)[order], labels=np.array(labels)[order], test=np.array(test)[order])
    data = np.load(path)
    return torch.from_numpy(data["images"]).float() / 255, torch.from_numpy(data["labels"]), torch.from_numpy(data["test"])


_FONTS: dict = {}


def drawn(file: Path, character: str, generator: np.random.Generator) -> np.ndarray | None:
    """One character as 512 bytes, or None where the typeface lacks it."""
    size = int(generator.integers(19, 25))
    if (file, size) not in _FONTS:
        font = ImageFont.truetype(str(file), size)
        _FONTS[file, size] = font, bytes(font.getmask("\uffff"))
    font, missing = _FONTS[file, size]
    mask = font.getmask(character)
    if not any(bytes(mask)) or bytes(mask) == missing:
        return None
    canvas = Image.new("L", (WIDTH + 8, HEIGHT + 8))
    x = (WIDTH + 8 - font.getlength(character)) / 2 + generator.uniform(-1, 1)
    ImageDraw.Draw(canvas).text((x, 28 + generator.uniform(-1, 1)), character, fill=255, font=font, anchor="ls")
    canvas = canvas.rotate(generator.uniform(-5, 5), Image.Resampling.BILINEAR).crop((4, 4, WIDTH + 4, HEIGHT + 4))
    image = np.asarray(canvas).reshape(-1)
    return 255 - image if generator.integers(2) else image


def trained(x: Tensor, y: Tensor, epochs: int, path: Path) -> nn.Module:
    head = nn.Sequential(nn.Linear(512, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, len(CHARACTERS)))
    if path.exists():
        head.load_state_dict(torch.load(path, weights_only=True))
    else:
        solve_last(head, x[:CLOSED_FORM], y[:CLOSED_FORM])
        train(head, x, y, epochs, 3e-4)
        torch.save(head.state_dict(), path)
    return head.eval().requires_grad_(False)


@torch.no_grad()
def solve_last(head: nn.Sequential, x: Tensor, y: Tensor) -> None:
    """The last layer by ridge regression on the labels, hidden layers as drawn: a start from which training needs few steps."""
    for layer in (head[0], head[2]):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    gram, products = torch.zeros(4097, 4097), torch.zeros(4097, len(CHARACTERS))
    for part, labels in zip(x.split(2048), y.split(2048)):
        h = torch.cat([head[:4](part), torch.ones(len(part), 1)], 1)
        gram.addmm_(h.T, h)
        products.addmm_(h.T, nn.functional.one_hot(labels, len(CHARACTERS)).float())
    gram.diagonal().add_(1e-4 * float(gram.diagonal().mean()))
    # One-hot targets are small logits; the factor brings the softmax to a sensible confidence.
    solution = 10 * torch.linalg.solve(gram, products)
    head[4].weight.copy_(solution[:-1].T)
    head[4].bias.copy_(solution[-1])


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int, rate: float) -> None:
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate)
    steps = round(epochs * (len(x) // BATCH))
    if not steps:
        return
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    for step in range(steps):
        rows = torch.randint(len(x), (BATCH,))
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            print(f"  step {step} of {steps}: loss {float(loss.detach()):.3f}", flush=True)


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float(torch.cat([model(part).argmax(1) for part in x.split(1024)]).eq(y).float().mean())


def report(name: str, model: nn.Module, head: nn.Module, x: Tensor, y: Tensor, truth: float) -> None:
    with torch.inference_mode():
        found = accuracy(model, x, y)
        times = []
        for batch in (1, 256):
            exact, given = (seconds(module, x, batch) for module in (head, model))
            times.append(f"batch {batch}: {given * 1e6:.0f} us, {exact / given:.0f}x")
    lost = f"{100 * found / truth:.2f} % of the head's, {100 * (truth - found):.1f} points lost"
    print(f"{name}: accuracy {found:.4f}, {lost}; {', '.join(times)}", flush=True)


def seconds(model: nn.Module, x: Tensor, batch: int) -> float:
    """Median of 40 calls on different inputs."""
    parts = x[: 40 * batch].split(batch)
    model(parts[0])
    found = []
    for part in parts:
        start = time.perf_counter()
        model(part)
        found.append(time.perf_counter() - start)
    return sorted(found)[len(found) // 2]


if __name__ == "__main__":
    main()
