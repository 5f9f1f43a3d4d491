"""What the two image recipes (taylor_vgg16.py, taylor_deit.py) share: images from a folder, weights from a file,
training with checkpoints, and the table and plot at the end.

Every stage writes into the folder WORK when it is done and is skipped when it is there, so an interrupted recipe goes
on by the same command. Images are read in batches; nothing holds the data set.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn
from torch.nn import functional

from lutc import plots
from lutc.errors import LutcError
from lutc.files import atomic_write

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
MEAN, SPREAD = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))  # ImageNet's
TRAIN, TEST = "train", ("val", "test")


@dataclass(frozen=True)
class Images:
    """A list of images with labels; iterating gives batches (x [n, 3, size, size] float32, labels [n]), the same ones
    each time.
    """

    items: Sequence[tuple[object, int]]  # a path, or an image of PIL
    classes: tuple[str, ...]
    size: int
    batch: int = 64

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.items), self.batch):
            part = [self.items[at] for at in range(start, min(start + self.batch, len(self.items)))]
            yield torch.stack([self.read(item) for item, _ in part]), torch.tensor([label for _, label in part])

    def inputs(self) -> Inputs:
        return Inputs(self)

    def shuffled(self, seed: int) -> Images:
        order = torch.randperm(len(self.items), generator=torch.Generator().manual_seed(seed)).tolist()
        return Images([self.items[at] for at in order], self.classes, self.size, self.batch)

    def first(self, count: int | None) -> Images:
        """`count` of them, spread over all classes."""
        chosen = self.shuffled(0).items[:count] if count is not None else self.items
        return Images(chosen, self.classes, self.size, self.batch)

    def read(self, item: object) -> Tensor:
        """One image, its shorter side scaled to `size`, the middle cut out, normalised as ImageNet's were."""
        try:
            image = Image.open(item) if isinstance(item, Path) else item
            if image.mode.startswith("I"):  # 16 bits of grey, which PIL would clip to 8
                image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
            image = image.convert("RGB")
        except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
            raise LutcError(f"{item} cannot be read as an image; replace it or take it out of the folder") from error
        scale = self.size / min(image.size)
        wide, high = (max(self.size, round(side * scale)) for side in image.size)
        left, top = (wide - self.size) // 2, (high - self.size) // 2
        image = image.resize((wide, high), Image.Resampling.BICUBIC)
        pixels = np.asarray(image.crop((left, top, left + self.size, top + self.size)), np.float32) / 255
        return ((torch.from_numpy(pixels) - MEAN) / SPREAD).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class Inputs:
    """The images of a data set without their labels, as often as asked for."""

    images: Images

    def __iter__(self) -> Iterator[Tensor]:
        return (x for x, _ in self.images)


def arguments(
    description: str | None, argv: Sequence[str] | None, ks: Sequence[int], images: int | None = None, **more: dict
) -> argparse.Namespace:
    """What the command line gives: the options of both recipes, with `ks` and `images` as defaults, and `more`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "data", type=Path, help="images: DATA/train/CLASS/*.png and DATA/val/CLASS/*.png, or torchvision's"
    )
    parser.add_argument("work", type=Path, help="folder for everything that is made; the same command goes on there")
    parser.add_argument("--weights", help="a file of weights, or imagenet to download them; without it they are random")
    parser.add_argument("--epochs", type=int, default=10, help="passes over the training images to adapt the model in")
    parser.add_argument("--rate", type=float, default=1e-3, help="of AdamW")
    parser.add_argument("--k", type=int, nargs="+", default=list(ks), help="numbers of centres")
    parser.add_argument(
        "--order", type=int, nargs="+", default=[1, 2], choices=(1, 2), help="2: the diagonal Hessian too"
    )
    parser.add_argument(
        "--format", nargs="+", default=["fp32"], choices=("fp32", "fp16", "bf16", "int8"), help="of tables"
    )
    parser.add_argument("--images", type=int, default=images, help=f"fit on so many; default: {images or 'all'}")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--memory", type=float, default=4.0, help="GiB for Jacobians and for the regression's sums")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    for name, options in more.items():
        parser.add_argument(f"--{name}", **options)
    return parser.parse_args(argv)


def data(root: Path, size: int, batch: int) -> tuple[Images, Images]:
    """Training and test images. LutcError for a folder that is missing, empty, or whose two parts differ in classes."""
    if not root.is_dir():
        raise LutcError(f"no folder {root}; give one with {TRAIN}/CLASS/*.png and {TEST[0]}/CLASS/*.png below it")
    if (root / "cifar-100-python").is_dir():
        return cifar100(root, size, batch)
    test = next((name for name in TEST if (root / name).is_dir()), None)
    if not (root / TRAIN).is_dir() or test is None:
        held = ", ".join(sorted(path.name for path in root.iterdir())[:6]) or "nothing"
        raise LutcError(
            f"{root} holds {held}; it has to hold {TRAIN} and {' or '.join(TEST)}, or CIFAR-100's cifar-100-python"
        )
    first, second = (listed(root / name) for name in (TRAIN, test))
    if first.keys() != second.keys():
        differ = sorted(first.keys() ^ second.keys())
        raise LutcError(
            f"{root / TRAIN} has {len(first)} classes and {root / test} {len(second)}; {', '.join(differ[:4])} "
            f"{'is' if len(differ) == 1 else 'are'} in one of them alone"
        )
    classes = tuple(first)
    return tuple(  # type: ignore[return-value]
        Images([(path, classes.index(name)) for name, paths in part.items() for path in paths], classes, size, batch)
        for part in (first, second)
    )


def listed(folder: Path) -> dict[str, list[Path]]:
    """Class -> its images, both sorted."""
    found = {}
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        found[path.name] = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        if not found[path.name]:
            raise LutcError(f"{path} holds no images ({', '.join(SUFFIXES)}); put some there or take the class out")
    if len(found) < 2:
        raise LutcError(f"{folder} has {len(found)} classes; it needs a folder of images for each of two or more")
    return found


def cifar100(root: Path, size: int, batch: int) -> tuple[Images, Images]:
    """torchvision's copy of CIFAR-100, as it downloads it."""
    try:
        from torchvision.datasets import CIFAR100
    except (ImportError, RuntimeError) as error:
        raise LutcError(f"CIFAR-100's own files need torchvision, which does not load: {error}") from error
    parts = []
    for train in (True, False):
        try:
            held = CIFAR100(str(root), train=train)
        except (RuntimeError, OSError, ValueError) as error:
            raise LutcError(f"{root}/cifar-100-python cannot be read: {str(error).splitlines()[0]}") from error
        items = [(Image.fromarray(pixels), label) for pixels, label in zip(held.data, held.targets)]
        parts.append(Images(items, tuple(held.classes), size, batch))
    return parts[0], parts[1]


def load_weights(model: nn.Module, path: Path, head: str) -> list[str]:
    """Load a file of weights (.safetensors, or .pth without code) into `model`; tensors of the layer `head` that have
    another number of classes stay as they are, and their names are returned. LutcError for any other that is missing
    or of another shape.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and safetensors raise errors of many kinds
        raise LutcError(f"{path} cannot be read as weights: {(str(error).splitlines() or [''])[0]}") from error
    found = found.get("model", found) if isinstance(found, dict) else {}
    own = model.state_dict()
    left = []
    for name, tensor in own.items():
        if name not in found:
            raise LutcError(
                f"{path} has no {name}; it holds {', '.join(list(found)[:3])}, ...: another model's weights"
            )
        if found[name].shape == tensor.shape:
            own[name] = found[name]
        elif name.startswith(head):
            left.append(name)
        else:
            raise LutcError(
                f"{path}: {name} is {list(found[name].shape)}, the model's {list(tensor.shape)}; give this model's "
                "weights"
            )
    model.load_state_dict(own)
    return left


def adapted(
    model: nn.Module,
    images: Images,
    path: Path,
    epochs: int,
    rate: float,
    trained: Sequence[nn.Parameter] | None = None,
) -> nn.Module:
    """`model` after `epochs` passes with AdamW and a cosine over `trained` (default: all); `path` is written after each
    and read first.
    """
    parameters = list(model.parameters() if trained is None else trained)
    optimiser = torch.optim.AdamW(parameters, lr=rate)
    done = 0
    if path.exists():
        try:
            held = torch.load(path, weights_only=True)
        except Exception as error:  # torch and pickle raise errors of many kinds
            raise LutcError(f"{path} cannot be read; delete it to adapt again") from error
        if held["classes"] != list(images.classes):
            raise LutcError(
                f"{path} was adapted to {len(held['classes'])} classes ({', '.join(held['classes'][:3])}, ...), the "
                f"images have {len(images.classes)} ({', '.join(images.classes[:3])}, ...); give another WORK"
            )
        model.load_state_dict(held["model"])
        done = held["epochs"]
        if done < epochs:
            optimiser.load_state_dict(held["optimiser"])
    for parameter in model.parameters():
        parameter.requires_grad_(any(parameter is one for one in parameters))
    for epoch in range(done, epochs):
        model.train()
        torch.manual_seed(epoch)
        total, steps = 0.0, 0
        count = -(-len(images) // images.batch)
        for step, (x, y) in enumerate(images.shuffled(epoch)):
            for group in optimiser.param_groups:
                group["lr"] = rate * (1 + math.cos(math.pi * (epoch + step / count) / epochs)) / 2
            x = x.flip(3) if torch.rand(()) < 0.5 else x
            loss = functional.cross_entropy(model(x), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total, steps = total + float(loss.detach()), steps + 1
        print(f"adapt: epoch {epoch + 1} of {epochs}, loss {total / steps:.3f}", flush=True)
        buffer = io.BytesIO()
        state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "epochs": epoch + 1}
        torch.save({**state, "classes": list(images.classes)}, buffer)
        atomic_write(path, buffer.getvalue())
    return model.eval().requires_grad_(False)


@torch.inference_mode()
def answers(model: Callable[[Tensor], Tensor], images: Images) -> tuple[Tensor, float]:
    """The class that `model` gives to each image [n], and the share that is right."""
    given = torch.cat([model(x).argmax(1) for x in images.inputs()])
    right = given == torch.tensor([label for _, label in images.items])
    return given, float(right.float().mean())


@torch.inference_mode()
def seconds(module: Callable[[Tensor], Tensor], x: Tensor, batch: int, calls: int = 20) -> float:
    """Median time of a call on `batch` rows of x."""
    times = []
    for call in range(calls + 2):
        start = (call * batch) % max(1, len(x) - batch + 1)
        part = x[start : start + batch].contiguous()
        begun = time.perf_counter()
        module(part)
        times.append(time.perf_counter() - begun)
    return sorted(times[2:])[calls // 2]


class Results:
    """Rows of the final table, kept in WORK/results.json as they come; a row that is there is not made again."""

    def __init__(self, work: Path, about: dict):
        self.path = work / "results.json"
        self.about = about
        self.rows: dict[str, dict] = {}
        if self.path.exists():
            held = json.loads(self.path.read_text())
            if held["about"] != about:
                differ = next(key for key in about if held["about"].get(key) != about[key])
                raise LutcError(
                    f"{self.path} was made with {differ} = {held['about'].get(differ)}, now {about[differ]}; give the "
                    "same settings to go on, or another WORK"
                )
            self.rows = held["rows"]

    def add(self, row: dict) -> None:
        self.rows[f"k={row['k']} order={row['order']} {row['format']}"] = row
        atomic_write(self.path, json.dumps({"about": self.about, "rows": self.rows}, indent=1, allow_nan=False) + "\n")

    def has(self, k: int, order: int, format: str) -> bool:
        return f"k={k} order={order} {format}" in self.rows

    def show(self, exact: float) -> None:
        print(f"\nexact: accuracy {exact:.4f}")
        print("  k order format  accuracy  of exact  same answer  mult-adds fewer        MB  batch 1  batch 32")
        for row in sorted(self.rows.values(), key=lambda row: (row["format"], row["order"], row["k"])):
            print(
                f"{row['k']:3} {row['order']:5} {row['format']:6}{row['accuracy']:10.4f}{row['kept']:9.2%}"
                f"{row['same']:13.2%}{row['fewer']:17.2f}{row['megabytes']:10.2f}{row['batch 1']:8.2f}x"
                f"{row['batch 32']:9.2f}x"
            )

    def plot(self, exact: float, path: Path, title: str) -> None:
        """Accuracy over k, and over multiply-adds and speed."""
        with plots.new_figure(12, 4) as figure:
            panels = figure.subplots(1, 3, sharey=True)
            lines = sorted({(row["format"], row["order"]) for row in self.rows.values()})
            for (format, order), colour in zip(lines, (plots.BLUE, plots.ORANGE, plots.GREEN, plots.RED) * 2):
                line = [row for row in self.rows.values() if (row["format"], row["order"]) == (format, order)]
                line.sort(key=lambda row: row["k"])
                for axes, key in zip(panels, ("k", "fewer", "batch 1")):
                    axes.plot(
                        [row[key] for row in line],
                        [row["accuracy"] for row in line],
                        "o-",
                        color=colour,
                        ms=4,
                        label=f"order {order}, {format}",
                    )
            labels = ("centres k", "multiply-adds, times fewer", "times faster at batch 1, measured")
            for axes, label in zip(panels, labels):
                axes.axhline(exact, ls=":", color=plots.GREY, label="exact")
                axes.set_xlabel(label)
            panels[0].set_ylabel("accuracy")
            panels[0].set_title(title, fontsize=9)
            panels[0].legend(fontsize=7)
            plots.save(figure, path)


def make(folder: Path) -> None:
    """Make `folder`; LutcError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LutcError(f"cannot make {folder}: {error.strerror}; give a folder that can be written") from error


def run(main: Callable[[], None]) -> None:
    """Call `main`; bad input is one line."""
    try:
        main()
    except LutcError as error:
        raise SystemExit(f"error: {error}") from None
