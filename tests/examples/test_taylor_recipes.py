"""The image recipes from end to end, on images made here and small networks with random weights."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lutc import taylor
from lutc.errors import LutcError

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CLASSES = ("flat", "rows", "columns")


@pytest.fixture
def recipes(monkeypatch):
    """The modules of the recipes, as they find each other when run as programs."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    names = ("taylor_images", "taylor_vgg16", "taylor_deit")
    yield [importlib.import_module(name) for name in names]
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture
def folder(tmp_path):
    """Stripes one way, the other way, and none, in random colours; 40 to train on and 20 to test on of each."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 40), ("val", 20)):
        for label, name in enumerate(CLASSES):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.full((32, 40, 3), generator.integers(60, 200, 3), np.float64)
                pixels[:: 1 if label == 0 else 2] *= 0.9 if label == 0 else 0.6 if label == 1 else 1
                if label == 2:
                    pixels[:, ::2] *= 0.6
                pixels += generator.normal(0, 4, pixels.shape)
                picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
                picture.save(tmp_path / "images" / part / name / f"{number}.png")
    return tmp_path / "images"


class SmallVGG(nn.Module):
    """As torchvision's: feature maps, pooled to 7 x 7, and a classifier of three layers."""

    def __init__(self, classes):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        wide = [nn.Linear(12 * 49, 64), nn.ReLU(inplace=True), nn.Dropout()]
        hidden = [nn.Linear(64, 64), nn.ReLU(inplace=True), nn.Dropout()]
        self.classifier = nn.Sequential(*wide, *hidden, nn.Linear(64, classes))

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


class SmallDeiT(nn.Module):
    """As timm's: blocks with an mlp, and a head."""

    def __init__(self, classes):
        super().__init__()
        torch.manual_seed(0)
        self.patch = nn.Conv2d(3, 16, 8, 8)
        self.blocks = nn.Sequential(*(SmallBlock(16) for _ in range(2)))
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        return self.head(self.blocks(self.patch(x).flatten(2).transpose(1, 2)).mean(1))


class SmallBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width))

    def forward(self, x):
        return x + self.mlp(self.norm(x))


@pytest.mark.slow
def test_vgg_from_a_folder_to_a_plot_and_on_again(recipes, folder, tmp_path, monkeypatch, capsys):
    _, vgg, _ = recipes
    monkeypatch.setattr(vgg, "network", lambda classes, size, weights: vgg.folded(SmallVGG(classes)))
    work = tmp_path / "work"
    common = [str(folder), str(work), "--rate", "0.01", "--epochs", "8", "--threads", "1", "--batch", "16"]
    vgg.main([*common, "--k", "3", "--order", "1"])
    first = json.loads((work / "results.json").read_text())["rows"]
    assert set(first) == {"k=3 order=1 fp32"}
    adapted, table = (work / "adapted.pt").stat().st_mtime_ns, (work / "table-k3-order1.json").stat().st_mtime_ns
    vgg.main([*common, "--k", "3", "6", "--order", "1", "2", "--format", "fp32", "int8"])
    rows = json.loads((work / "results.json").read_text())["rows"]
    assert len(rows) == 8 and rows["k=3 order=1 fp32"] == first["k=3 order=1 fp32"]
    # what was there was not made again
    assert (work / "adapted.pt").stat().st_mtime_ns == adapted
    assert (work / "table-k3-order1.json").stat().st_mtime_ns == table
    printed = capsys.readouterr().out
    exact = float(printed.split("exact: accuracy ")[1].split()[0])
    assert exact > 0.6  # a third by chance
    assert rows["k=6 order=1 fp32"]["accuracy"] > exact - 0.15
    assert rows["k=6 order=1 fp32"]["same"] > 0.8 and rows["k=6 order=1 int8"]["same"] > 0.8
    assert rows["k=6 order=2 fp32"]["fewer"] < rows["k=6 order=1 fp32"]["fewer"]
    assert (work / "accuracy.png").stat().st_size > 5000
    with pytest.raises(LutcError, match="epochs = 8, now 9"):
        vgg.main([*common, "--epochs", "9", "--k", "3"])


def test_an_interrupted_adaptation_goes_on_where_it_was(recipes, folder, tmp_path):
    images, _, _ = recipes
    train, _ = images.data(folder, 32, 16)
    whole = images.adapted(SmallVGG(3), train, tmp_path / "a.pt", 3, 0.01)
    images.adapted(SmallVGG(3), train, tmp_path / "b.pt", 3, 0.01)
    state = torch.load(tmp_path / "b.pt", weights_only=True)
    assert state["epochs"] == 3

    class Stop(Exception):
        pass

    class Stopping(type(train)):
        def shuffled(self, seed):
            if seed == 2:
                raise Stop
            return super().shuffled(seed)

    with pytest.raises(Stop):
        images.adapted(SmallVGG(3), Stopping(**vars(train)), tmp_path / "c.pt", 3, 0.01)
    assert torch.load(tmp_path / "c.pt", weights_only=True)["epochs"] == 2
    again = images.adapted(SmallVGG(3), train, tmp_path / "c.pt", 3, 0.01)
    for one, other in zip(whole.state_dict().values(), again.state_dict().values()):
        assert torch.equal(one, other)


def test_the_folded_classifier_is_the_same_function(recipes):
    _, vgg, _ = recipes
    model = SmallVGG(5).eval()
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        wanted = model(x)
        torch.testing.assert_close(vgg.folded(model)(x), wanted, rtol=1e-5, atol=1e-5)
    assert model.classifier[0].in_features == 12


def test_deit_from_a_folder_to_a_plot_and_on_again(recipes, folder, tmp_path, monkeypatch, capsys):
    _, _, deit = recipes
    monkeypatch.setattr(deit, "network", lambda name, classes, size, weights: SmallDeiT(classes))
    work = tmp_path / "work"
    common = [str(folder), str(work), "--size", "32", "--train", "all", "--rate", "0.01", "--epochs", "6"]
    common += ["--threads", "1", "--images", "90"]
    deit.main([*common, "--k", "4", "--order", "1"])
    once = capsys.readouterr().out
    deit.main([*common, "--k", "4", "8", "--order", "1", "2"])
    rows = json.loads((work / "results.json").read_text())["rows"]
    assert len(rows) == 4 and not list(work.glob("k*/inputs-*"))
    assert "k = 4, order 1" in once and "k = 4, order 1" not in capsys.readouterr().out
    assert min(row["same"] for row in rows.values()) > 0.8
    assert (work / "accuracy.png").exists()
    deit.main([*common, "--k", "4", "--order", "1", "--format", "int8"])
    rows = json.loads((work / "results.json").read_text())["rows"]
    assert rows["k=4 order=1 int8"]["same"] > 0.8 and not list(work.glob("k*/inputs-*"))


def test_deits_int8_is_chosen_on_the_inputs_of_each_block(recipes, folder, tmp_path, monkeypatch):
    images, _, deit = recipes
    batches = images.data(folder, 32, 16)[0].first(60).inputs()
    model = SmallDeiT(3).eval().requires_grad_(False)
    tables = taylor.fit_sequential(model, deit.PATTERN, batches, tmp_path, taylor.TaylorSettings(k=3), dtype="fp16")
    wanted = [
        taylor.BlockInputs(tmp_path / f"inputs-{number}").sample(name, deit.ROUNDED_FOR)
        for number, name in enumerate(tables)
    ]
    given, stored = [], taylor.TaylorTable.stored

    def noted(table, format, inputs=None):
        given.append(inputs)
        return stored(table, format, inputs)

    monkeypatch.setattr(taylor.TaylorTable, "stored", noted)
    deit.rounded(model, tables, batches, tmp_path, "int8")
    for inputs in tmp_path.glob("inputs-*"):
        shutil.rmtree(inputs)
    deit.rounded(model, tables, batches, tmp_path, "int8")  # collected anew
    assert len(wanted[0]) > 500 and len(given) == 4
    assert all(torch.equal(x, one) for x, one in zip(given, wanted * 2))
    assert all(type(block.mlp) is nn.Sequential for block in model.blocks)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
def test_images_of_any_mode_are_read_as_they_look(recipes, mode, tmp_path):
    images, _, _ = recipes
    grey = np.linspace(40, 210, 32 * 32).reshape(32, 32).round().astype(np.uint8)
    picture = Image.fromarray(grey)
    if mode == "I;16":
        picture = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode != "L":
        picture = (picture if mode == "P" else picture.convert("RGB")).convert(mode)
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    picture.save(path, **({"quality": 100} if mode == "CMYK" else {}))
    given = images.Images([], (), 32).read(path)
    wanted = ((torch.from_numpy(grey).float() / 255)[..., None] - images.MEAN) / images.SPREAD
    assert (given - wanted.permute(2, 0, 1)).abs().max() < 0.05


def test_bad_folders_and_weights_are_one_line(recipes, folder, tmp_path, monkeypatch):
    images, vgg, _ = recipes
    empty = tmp_path / "empty"
    (empty / "train").mkdir(parents=True)
    other = SmallVGG(3)
    other.features[0] = nn.Conv2d(3, 5, 3)
    torch.save(other.state_dict(), tmp_path / "other.pth")
    torch.save({"x": torch.zeros(1)}, tmp_path / "foreign.pth")
    (tmp_path / "text.pth").write_text("no weights")
    train, _ = images.data(folder, 32, 16)
    (folder / "train" / "flat" / "bad.png").write_bytes(b"no image")
    broken, _ = images.data(folder, 32, 16)
    cases = [
        (lambda: images.data(tmp_path / "none", 32, 16), "no folder"),
        (lambda: images.data(empty, 32, 16), "it has to hold train and val or test"),
        (lambda: list(broken), "bad.png cannot be read as an image"),
        (
            lambda: images.load_weights(SmallVGG(3), tmp_path / "other.pth", "classifier.6."),
            r"features.0.weight is \[5",
        ),
        (
            lambda: images.load_weights(SmallVGG(3), tmp_path / "foreign.pth", "classifier.6."),
            "another model's weights",
        ),
        (lambda: images.load_weights(SmallVGG(3), tmp_path / "text.pth", "classifier.6."), "cannot be read as weights"),
        (lambda: images.load_weights(SmallVGG(3), tmp_path / "none.pth", "classifier.6."), "cannot be read as weights"),
    ]
    (folder / "val" / "dots").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "val" / "dots" / "0.png")
    cases.append((lambda: images.data(folder, 32, 16), "dots is in one of them alone"))
    for call, words in cases:
        with pytest.raises(LutcError, match=words) as error:
            call()
        assert "\n" not in str(error.value)
    images.adapted(SmallVGG(3), train, tmp_path / "a.pt", 1, 0.01)
    fewer = images.Images(train.items, ("one", "two"), 32)
    with pytest.raises(LutcError, match="adapted to 3 classes"):
        images.adapted(SmallVGG(2), fewer, tmp_path / "a.pt", 1, 0.01)
    with pytest.raises(SystemExit, match="error: no folder"):
        images.run(lambda: vgg.main([str(tmp_path / "none"), str(tmp_path / "w")]))
    (folder / "val" / "dots" / "0.png").unlink()
    (folder / "val" / "dots").rmdir()
    with pytest.raises(SystemExit, match="cannot make .*text.pth"):
        images.run(lambda: vgg.main([str(folder), str(tmp_path / "text.pth")]))


def test_weights_of_another_number_of_classes_keep_the_new_head(recipes, tmp_path):
    images, _, _ = recipes
    torch.save(SmallVGG(7).state_dict(), tmp_path / "seven.pth")
    model = SmallVGG(3)
    nn.init.zeros_(model.features[0].weight)
    left = images.load_weights(model, tmp_path / "seven.pth", "classifier.6.")
    assert left == ["classifier.6.weight", "classifier.6.bias"]
    assert torch.equal(model.features[0].weight, SmallVGG(7).features[0].weight)


@pytest.mark.slow
def test_torchvisions_vgg16_and_timms_deit(recipes, folder, tmp_path):
    """The networks themselves, with random weights."""
    pytest.importorskip("torchvision", exc_type=(ImportError, RuntimeError))
    pytest.importorskip("timm")
    _, vgg, deit = recipes
    common = ["--epochs", "1", "--k", "3", "--order", "1", "--threads", "1", "--batch", "32"]
    vgg.main([str(folder), str(tmp_path / "v"), *common])
    deit.main([str(folder), str(tmp_path / "d"), *common, "--model", "deit_tiny_patch16_224", "--images", "40"])
    assert (tmp_path / "v" / "accuracy.png").exists() and (tmp_path / "d" / "accuracy.png").exists()
