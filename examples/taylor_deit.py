"""All MLP blocks of DeiT-S or DeiT-B, replaced in sequence: accuracy against centres and order.

    python examples/taylor_deit.py DATA WORK --weights imagenet
    python examples/taylor_deit.py DATA WORK --model deit_base_patch16_224 --weights deit_base.safetensors --memory 8

DATA holds train/CLASS/*.jpg and val/CLASS/*.jpg. The stages: prepare (timm's model, its head as wide as there are
classes), adapt (the head is trained, or with --train all everything), collect, centre and fit (block after block, each
on what it is given with those before it replaced), verify (the whole model on the test images), a table and
WORK/accuracy.png. DeiT-B at order 2 and k = 100 takes --memory 12. What 2,000 images give to the twelve blocks of
DeiT-S takes 4 GB in WORK while a table is fitted and measured.

An interrupted run goes on by the same command. Needs timm, and Pillow.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import taylor_images as recipe
import torch
from torch import nn

from lutc import taylor
from lutc.errors import LutcError
from lutc.taylor.accounting import exact_multiply_adds
from lutc.taylor.module import TaylorMLP

KS = (16, 32, 64, 100)
PATTERN = "blocks.*.mlp"
ROUNDED_FOR = 20_000  # inputs that int8 loses least on


def network(name: str, classes: int, size: int, weights: str | None) -> nn.Module:
    """timm's model `name` for `classes`."""
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        raise LutcError(f"DeiT needs timm, which does not load: {error}") from error
    try:
        model = timm.create_model(name, pretrained=weights == "imagenet", num_classes=classes, img_size=size)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise LutcError(f"timm makes no {name} of {size} pixels: {str(error).splitlines()[0]}") from error
    if weights not in (None, "imagenet"):
        recipe.load_weights(model, Path(weights), "head.")
    return model


def rounded(
    model: nn.Module, tables: dict[str, taylor.TaylorTable], batches: recipe.Inputs, folder: Path, format: str
) -> dict[str, taylor.TaylorTable]:
    """The tables in a storage format; int8 loses least on the inputs that each was fitted on, which are collected again
    where `folder` does not hold them any more.
    """
    if format != "int8":
        return {name: table.stored(format) for name, table in tables.items()}
    stores = {}
    try:
        for number, (name, table) in enumerate(tables.items()):
            inputs = taylor.collect(model, name, batches, folder / f"inputs-{number}", dtype="fp16")
            stores[name] = table.stored(format, inputs.sample(name, ROUNDED_FOR))
            taylor.replace(model, {name: TaylorMLP(table)})
    finally:
        taylor.restore(model)
    return stores


def main(argv: Sequence[str] | None = None) -> None:
    more = {
        "model": {"default": "deit_small_patch16_224", "help": "timm's name; its MLPs are blocks.N.mlp"},
        "size": {"type": int, "default": 224, "help": "pixels of an image's side"},
        "train": {"default": "head", "choices": ("head", "all"), "help": "what adapts to the images"},
        "fit": {
            "default": "ridge",
            "choices": ("ridge", "taylor"),
            "help": "regression upon the expansion, or it alone",
        },
        "neurons": {"type": int, "default": 0, "help": "neurons to keep exactly, at order 1"},
    }
    given = recipe.arguments(__doc__, argv, KS, images=2000, **more)
    torch.set_num_threads(given.threads)
    train, test = recipe.data(given.data, given.size, given.batch)
    recipe.make(given.work)
    print(f"prepare: {len(train)} training and {len(test)} test images of {len(train.classes)} classes", flush=True)
    about = {
        key: getattr(given, key) for key in ("model", "size", "train", "fit", "neurons", "epochs", "images", "weights")
    }
    results = recipe.Results(given.work, about | {"classes": len(train.classes)})
    model = network(given.model, len(train.classes), given.size, given.weights)
    trained = list(model.get_submodule("head").parameters()) if given.train == "head" else None
    model = recipe.adapted(model, train, given.work / "adapted.pt", given.epochs, given.rate, trained)
    blocks = taylor.find_blocks(model, PATTERN)
    wanted, exact = recipe.answers(model, test)
    print(f"adapt: the exact model is right on {exact:.2%}", flush=True)
    width = [module for module in blocks[0].as_module.modules() if isinstance(module, nn.Linear)][0].in_features
    cost = sum(exact_multiply_adds(block, width) for block in blocks)
    pixels = torch.cat([x for x, _ in test.first(33)])
    batches = train.first(given.images).inputs()
    for order in given.order:
        for k in given.k:
            missing = [format for format in given.format if not results.has(k, order, format)]
            if not missing:
                continue
            neurons = given.neurons if order == 1 else 0
            settings = taylor.TaylorSettings(k, order, given.fit, memory=int(given.memory * 2**30), neurons=neurons)
            folder = given.work / f"k{k}-order{order}"
            tables = taylor.fit_sequential(model, PATTERN, batches, folder, settings, dtype="fp16")
            for format in missing:
                stores = rounded(model, tables, batches, folder, format)
                mlps = {name: TaylorMLP(table) for name, table in stores.items()}
                times = {batch: recipe.seconds(model, pixels, batch, 5) for batch in (1, 32)}
                taylor.replace(model, mlps)
                try:
                    answers, accuracy = recipe.answers(model, test)
                    faster = {batch: times[batch] / recipe.seconds(model, pixels, batch, 5) for batch in times}
                finally:
                    taylor.restore(model)
                row = {
                    "k": k,
                    "order": order,
                    "format": format,
                    "accuracy": accuracy,
                    "kept": accuracy / max(exact, 1e-9),
                }
                row |= {"same": float((answers == wanted).float().mean())}
                row |= {"fewer": cost / sum(table.multiply_adds() for table in stores.values())}
                row |= {"megabytes": sum(table.storage_bytes for table in stores.values()) / 1e6}
                results.add(row | {f"batch {batch}": times for batch, times in faster.items()})
                print(f"fit, verify: k = {k}, order {order}, {format}: accuracy {accuracy:.4f}", flush=True)
            for inputs in folder.glob("inputs-*"):
                shutil.rmtree(inputs)
    results.show(exact)
    size = sum(parameter.nbytes for block in blocks for parameter in block.as_module.parameters()) / 1e6
    print(f"the exact MLPs: {cost / 1e6:.1f} M multiply-adds, {size:.1f} MB; speed is that of the whole model")
    results.plot(exact, given.work / "accuracy.png", f"{given.model}, all {len(blocks)} MLPs")
    print(f"wrote {given.work / 'results.json'} and {given.work / 'accuracy.png'}")


if __name__ == "__main__":
    recipe.run(main)
