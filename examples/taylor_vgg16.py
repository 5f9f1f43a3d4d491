"""VGG16's classifier (three layers) as one function: accuracy against centres and order.

    python examples/taylor_vgg16.py DATA WORK --weights imagenet            # CIFAR-100, or any folder of images
    python examples/taylor_vgg16.py DATA WORK --weights vgg16.pth --k 5 30 120 --order 1

DATA holds train/CLASS/*.png and val/CLASS/*.png, or CIFAR-100 as torchvision keeps it (cifar-100-python). The stages:
prepare (torchvision's VGG16, its last layer as wide as there are classes), adapt (all of it is trained on the
training images), collect (what the classifier is given), centre and fit (a table for each k and order), verify (on the
test images), a table and WORK/accuracy.png. Below 64 pixels the feature map is 1 x 1, and the first layer, which sees
it 49 times over, is folded into 512 inputs: the same function. From 64 on it has 25,088 inputs, whose regression takes
5 GB a centre: give --fit taylor there.

An interrupted run goes on by the same command. Needs torchvision, and Pillow.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import taylor_images as recipe
import torch
from torch import Tensor, nn

from lutc import taylor
from lutc.errors import LutcError
from lutc.taylor.accounting import exact_multiply_adds
from lutc.taylor.module import TaylorMLP

KS = (5, 10, 20, 30, 60, 90, 120)
ROUNDED_FOR = 20_000  # inputs that int8 loses least on
FOLDED = 64  # pixels; below, the feature map is 1 x 1


def network(classes: int, size: int, weights: str | None) -> nn.Module:
    """VGG16 for `classes`, its classifier folded where the feature map is 1 x 1."""
    try:
        from torchvision.models import vgg16
    except (ImportError, RuntimeError) as error:
        raise LutcError(f"VGG16 needs torchvision, which does not load: {error}") from error
    model = vgg16(weights="IMAGENET1K_V1" if weights == "imagenet" else None)
    model.classifier[6] = nn.Linear(4096, classes)
    if weights not in (None, "imagenet"):
        recipe.load_weights(model, Path(weights), "classifier.6.")
    return folded(model) if size < FOLDED else model


def folded(model: nn.Module) -> nn.Module:
    """The same function of 1 x 1 feature maps without repeating them 7 x 7."""
    wide = model.classifier[0]
    channels = wide.in_features // 49
    narrow = nn.Linear(channels, wide.out_features)
    with torch.no_grad():
        narrow.weight.copy_(wide.weight.view(-1, channels, 49).sum(2))
        narrow.bias.copy_(wide.bias)
    model.avgpool, model.classifier[0] = nn.AdaptiveAvgPool2d(1), narrow
    return model


def main(argv: Sequence[str] | None = None) -> None:
    more = {
        "size": {"type": int, "default": 32, "help": "pixels of an image's side"},
        "fit": {
            "default": "ridge",
            "choices": ("ridge", "taylor"),
            "help": "regression upon the expansion, or it alone",
        },
    }
    given = recipe.arguments(__doc__, argv, KS, **more)
    torch.set_num_threads(given.threads)
    train, test = recipe.data(given.data, given.size, given.batch)
    recipe.make(given.work)
    print(f"prepare: {len(train)} training and {len(test)} test images of {len(train.classes)} classes", flush=True)
    about = {"classes": len(train.classes), "size": given.size, "fit": given.fit, "epochs": given.epochs}
    results = recipe.Results(given.work, about | {"images": given.images, "weights": given.weights})
    model = network(len(train.classes), given.size, given.weights)
    model = recipe.adapted(model, train, given.work / "adapted.pt", given.epochs, given.rate)
    block = taylor.find_blocks(model, "classifier")[0]
    fitted, seen = train.first(given.images), given.work / "inputs"
    inputs = taylor.collect(model, "classifier", fitted.inputs(), seen)
    # The test images' inputs of the classifier, so that each table is verified without the layers before it.
    held = taylor.collect(model, "classifier", test.inputs(), given.work / "test")
    x = torch.cat(list(held.chunks("classifier")))
    labels = torch.tensor([label for _, label in test.items])
    wanted, exact = judged(block.as_module, x, labels)
    print(f"collect: {inputs.rows} inputs of the classifier; the exact model is right on {exact:.2%}", flush=True)
    cost = exact_multiply_adds(block, x.shape[1])
    memory = int(given.memory * 2**30)
    for order in given.order:
        for k in given.k:
            name = given.work / f"table-k{k}-order{order}"
            missing = [format for format in given.format if not results.has(k, order, format)]
            if not missing:
                continue
            if name.with_suffix(".json").exists():
                table = taylor.load(name)
            else:
                table = taylor.fit(block, inputs, taylor.TaylorSettings(k, order, given.fit, memory=memory))
                table.save(name)
            for format in missing:
                mlp = TaylorMLP(table.stored(format, inputs.sample(block.name, ROUNDED_FOR)))
                answers, accuracy = judged(mlp, x, labels)
                faster = {
                    batch: recipe.seconds(block.as_module, x, batch) / recipe.seconds(mlp, x, batch)
                    for batch in (1, 32)
                }
                row = {
                    "k": k,
                    "order": order,
                    "format": format,
                    "accuracy": accuracy,
                    "kept": accuracy / max(exact, 1e-9),
                }
                row |= {"same": float((answers == wanted).float().mean()), "fewer": cost / mlp.table().multiply_adds()}
                row |= {"megabytes": mlp.table().storage_bytes / 1e6}
                results.add(row | {f"batch {batch}": times for batch, times in faster.items()})
                print(f"fit, verify: k = {k}, order {order}, {format}: accuracy {accuracy:.4f}", flush=True)
    results.show(exact)
    size = sum(parameter.nbytes for parameter in block.as_module.parameters()) / 1e6
    print(f"the exact classifier: {cost / 1e6:.1f} M multiply-adds, {size:.1f} MB")
    results.plot(exact, given.work / "accuracy.png", f"VGG16's classifier, {len(train.classes)} classes")
    print(f"wrote {given.work / 'results.json'} and {given.work / 'accuracy.png'}")


@torch.inference_mode()
def judged(module: nn.Module, x: Tensor, labels: Tensor) -> tuple[Tensor, float]:
    """The classes that a classifier gives to its inputs x, and the share that is right."""
    given = torch.cat([module(part).argmax(1) for part in x.split(1024)])
    return given, float((given == labels).float().mean())


if __name__ == "__main__":
    recipe.run(main)
