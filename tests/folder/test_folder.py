"""A folder of tables for a whole model: made, read, put into the model, refused where it does not belong."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import lutc
from lutc import functions
from lutc.calibration import calibrate
from lutc.calibration import file as calibration_file
from lutc.calibration.file import Layer
from lutc.calibration.histogram import Histogram
from lutc.errors import LutcError
from lutc.folder import manifest, worker
from lutc.folder.jobs import TableChoice, codes, dumps, jobs_of, seen
from lutc.formats.codes import Inputs
from tests.helpers import tiny_models

IDS = torch.randint(0, 50, (3, 24), generator=torch.Generator().manual_seed(1))
BATCHES = [{"input_ids": ids[None]} for ids in IDS]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of all int8 tables for a tiny Llama, and what the model with it gives."""
    folder = tmp_path_factory.mktemp("made") / "tables"
    model = tiny_models.llama()
    lutc.compile_model(
        model, BATCHES, folder, softmax="int8", norms="int8", entries=8, name="tiny", measure=False, workers=1
    )
    return folder


def outputs(model):
    with torch.inference_mode():
        return model(IDS).logits


def test_every_place_has_its_table(made):
    found = manifest.read(made)
    assert [entry.operator for entry in found.entries].count("softmax") == 3
    assert {entry.function for entry in found.entries} == {"silu", "exp", "rsqrt"} and len(found.entries) == 13
    assert sum(entry.share for entry in found.entries) == pytest.approx(1, abs=1e-4)
    assert (made / "report.html").exists() and not made.with_name("tables.partial").exists()
    for entry in found.entries:
        assert entry.bytes > 0 and entry.entries <= 8 and entry.inputs == found.tables[entry.table].inputs[entry.key]


def test_errors_are_those_of_the_model_s_own_inputs(made):
    """An activation's mean squared error against float64 on what the model really gives it."""
    found, model, given = manifest.read(made), tiny_models.llama(), []
    entry = next(e for e in found.entries if e.path == "model.layers.1.mlp.act_fn")
    model.get_submodule(entry.path).register_forward_hook(lambda m, a, y: given.append(a[0].flatten().double()))
    with torch.inference_mode():
        for batch in BATCHES:
            model(**batch)
    x = torch.cat(given).numpy()
    q = np.clip(np.rint(x / entry.scale) + entry.zero_point, -128, 127)
    table, fn = found.tables[entry.table][entry.key], functions.get("silu")
    rounded = entry.scale * (q - entry.zero_point)
    assert entry.values == x.size
    assert entry.mean_squared == pytest.approx(np.mean((table(rounded) - fn(x)) ** 2), rel=0.05)
    assert entry.exact_on_codes == pytest.approx(np.mean((fn(rounded) - fn(x)) ** 2), rel=0.05)


@pytest.mark.slow  # another process
def test_apply_in_another_process_gives_the_same(made, tmp_path):
    model = tiny_models.llama()
    exact = outputs(model)
    report = lutc.apply(model, made)
    assert len(report.replaced) == 13 and not report.left
    here = outputs(model)
    assert 0 < (here - exact).abs().max() < 0.5 * exact.abs().max()
    code = (
        "import torch, lutc; from tests.helpers import tiny_models; from tests.folder.test_folder import IDS, outputs\n"
        f"m = tiny_models.llama(); lutc.apply(m, {str(made)!r}); torch.save(outputs(m), {str(tmp_path / 'y.pt')!r})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert torch.equal(torch.load(tmp_path / "y.pt"), here)
    lutc.unpatch(model)
    assert torch.equal(outputs(model), exact)


def test_only_some_places(made):
    model = tiny_models.llama()
    assert len(lutc.apply(model, made, only="model.layers.0").replaced) == 4
    with pytest.raises(LutcError, match="patched with tables already"):
        lutc.apply(model, made)


@pytest.mark.slow  # starts processes
def test_the_same_call_gives_the_same_bytes(made, tmp_path):
    """In several processes instead of one."""
    again = tmp_path / "tables"
    arguments = {"softmax": "int8", "norms": "int8", "entries": 8, "name": "tiny", "measure": False}
    lutc.compile_model(tiny_models.llama(), BATCHES, again, **arguments, workers=2)
    files = sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert [f for f in files if (made / f).read_bytes() != (again / f).read_bytes()] == []


def test_goes_on_after_an_interruption(tmp_path):
    """What was there is kept: an interrupted run leaves no folder, and the next one only does what is left."""
    model, folder = tiny_models.llama(), tmp_path / "tables"

    def stop(stage, number):
        if stage == "compile" and (tmp_path / "tables.partial" / "tables").glob("*act_fn.json"):
            raise KeyboardInterrupt

    arguments = {"softmax": "exact", "norms": "exact", "workers": 1, "measure": False}
    with pytest.raises(KeyboardInterrupt):
        lutc.compile_model(model, BATCHES, folder, **arguments, progress=stop)
    partial = tmp_path / "tables.partial"
    assert not folder.exists() and (partial / "calibration.json").exists()
    before = (partial / "calibration.json").stat().st_mtime_ns
    stages = []
    lutc.compile_model(model, BATCHES, folder, **arguments, progress=lambda stage, n: stages.append(stage))
    assert "calibrate" not in stages and (folder / "calibration.json").stat().st_mtime_ns == before
    assert not partial.exists() and len(manifest.read(folder).entries) == 3


def test_another_choice_takes_the_calibration_that_is_there(tmp_path):
    """Other batches do not; tables of the earlier choice are none of this one."""
    model, folder, stages = tiny_models.llama(), tmp_path / "tables", []

    def stop(stage, number):
        if stage == "measure":
            raise KeyboardInterrupt

    arguments = {"softmax": "exact", "norms": "exact", "workers": 1}
    with pytest.raises(KeyboardInterrupt):
        lutc.compile_model(model, BATCHES, folder, **arguments, entries=4, progress=stop)
    arguments |= {"measure": False, "progress": lambda stage, n: stages.append(stage)}
    found = lutc.compile_model(model, BATCHES, folder, **arguments, entries=8)
    assert "calibrate" not in stages and max(entry.entries for entry in found.entries) == 8
    with pytest.raises(KeyboardInterrupt):
        lutc.compile_model(model, BATCHES, folder, **arguments | {"measure": True, "progress": stop}, force=True)
    lutc.compile_model(model, BATCHES[:2], folder, **arguments, force=True)
    assert "calibrate" in stages


def test_what_another_process_wrote_is_no_part_of_a_folder(made, tmp_path, monkeypatch):
    """A worker whose parent is gone stops before it writes."""
    calls = iter([1, 1, 2])
    monkeypatch.setattr(worker.os, "getppid", lambda: next(calls))
    partial = shutil.copytree(made, tmp_path / "partial")
    calibration = calibration_file.read(partial / "calibration.json")
    jobs = list(jobs_of(calibration, TableChoice(softmax="exact", norms="exact")).values())
    (partial / "jobs.json").write_text(dumps(jobs))
    for job in jobs:
        (partial / job.file).unlink(missing_ok=True)
    assert worker.main([str(partial), "jobs.json", "0", "1"]) == 1
    assert [(partial / job.file).exists() for job in jobs] == [True, False, False]


def test_what_tables_cost_is_measured(tmp_path):
    """KL of the whole in the manifest is that of outputs, and of a layer that of its tables alone."""
    model = tiny_models.llama().requires_grad_(False)
    found = lutc.compile_model(model, BATCHES[:1], tmp_path / "tables", softmax="exact", norms="exact", workers=1)
    exact = model(**BATCHES[0]).logits[0, :-1].double().log_softmax(-1)
    for only, told in ((None, found.cost["kl"]), ("model.layers.1", found.cost["layers"][1]["kl"])):
        lutc.apply(model, found, only=only)
        y = model(**BATCHES[0]).logits[0, :-1].double().log_softmax(-1)
        lutc.unpatch(model)
        assert told == pytest.approx(float((exact.exp() * (exact - y)).sum(-1).mean()), rel=1e-3)


def test_mantissas_are_folded_exactly():
    """What a norm looks up, m in [1, 4) of x = m 4^e, counted bin by bin."""
    x = np.float32(2.0) ** np.random.default_rng(0).uniform(-30, 30, 10000).astype(np.float32)
    m = x / np.float32(4.0) ** np.floor(np.log2(x.astype(np.float64)) / 2).astype(np.float32)
    assert m.min() >= 1 and m.max() < 4
    expected = Histogram.of(m)
    found = seen(Layer("rsqrt", "rms_norm", "mean(x^2) + eps", Histogram.of(x)))
    assert np.array_equal(found.codes, expected.codes) and np.array_equal(found.counts, expected.counts)
    assert np.array_equal(found.residues, expected.residues) and 1 <= found.low < found.high < 4


def test_codes_of_every_kind():
    layers = calibrate(tiny_models.llama(), BATCHES).layers
    softmax = codes(layers["model.layers.0.self_attn"])
    assert softmax.zero_point == 127 and softmax.x()[-1] == 0 and softmax.x()[0] <= -7.9
    assert codes(layers["model.norm"]) == Inputs(8, 2**-6, -128)
    assert codes(layers["model.layers.0.mlp.act_fn"]).power is not None


def test_kinds_share_tables_of_floats():
    calibration = calibrate(tiny_models.llama(), BATCHES)
    jobs = jobs_of(calibration, TableChoice("exponent", "fplut", "exact"))
    assert len(jobs) == 6 and len({job.file for job in jobs.values()}) == 2
    with pytest.raises(LutcError, match="everything is to stay exact"):
        TableChoice("exact", "exact", "exact")
    with pytest.raises(LutcError, match="`activations` is one of int8, fplut, exponent, exact; given 'int4'"):
        TableChoice("int4")


@pytest.fixture
def copied(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


def signed(folder, change):
    """The manifest changed, with a digest that holds."""
    content = json.loads((folder / "manifest.json").read_text())
    change(content)
    content["sha256"] = manifest._digest(content)
    (folder / "manifest.json").write_text(json.dumps(content))


def test_another_model_is_refused(made):
    for other in (tiny_models.bert(), tiny_models.llama(hidden_size=16), tiny_models.llama(rms_norm_eps=1e-3)):
        before = {name: type(module) for name, module in other.named_modules()}
        with pytest.raises(LutcError, match="the folder was made for tiny"):
            lutc.apply(other, made)
        assert {name: type(module) for name, module in other.named_modules()} == before


def test_changed_and_truncated_folders_are_refused(copied):
    table = next((copied / "tables").iterdir())
    whole = table.read_bytes()
    table.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LutcError, match="was altered or cut off"):
        manifest.read(copied)
    table.unlink()
    with pytest.raises(LutcError, match="lacks tables/"):
        manifest.read(copied)
    table.write_bytes(whole)
    text = (copied / "manifest.json").read_text()
    (copied / "manifest.json").write_text(text.replace('"tiny"', '"other"'))
    with pytest.raises(LutcError, match="its digest does not hold"):
        manifest.read(copied)
    (copied / "manifest.json").write_text(text[:200])
    with pytest.raises(LutcError, match="broken or cut off"):
        manifest.read(copied)
    with pytest.raises(LutcError, match="is no folder of a model's tables"):
        manifest.read(copied / "tables")


def test_a_layer_s_table_on_another_layer_is_refused(copied):
    def swap(content):
        one, two = (e for e in content["entries"] if e["function"] == "exp" and e["path"].split(".")[2] in "01")
        for key in ("table", "scale", "zero_point", "bits", "key"):
            one[key], two[key] = two[key], one[key]

    signed(copied, swap)
    with pytest.raises(LutcError, match="was made for model.layers.1.self_attn, not for model.layers.0.self_attn"):
        manifest.read(copied)


@pytest.mark.parametrize("name", ["../outside.json", "/etc/hostname", "tables/../../outside.json", "tables/link.json"])
def test_paths_stay_in_the_folder(copied, name):
    (copied.parent / "outside.json").write_text("{}")
    (copied / "tables" / "link.json").symlink_to(copied.parent / "outside.json")
    signed(copied, lambda content: content["files"].update({name: "0"}))
    with pytest.raises(LutcError, match="lies outside the folder"):
        manifest.read(copied)


def test_bad_requests(made, tmp_path):
    model = tiny_models.llama()
    with pytest.raises(LutcError, match="is there already"):
        lutc.compile_model(model, BATCHES, made)
    with pytest.raises(LutcError, match="there is no folder"):
        lutc.compile_model(model, BATCHES, tmp_path / "no" / "where")
    with pytest.raises(LutcError, match="no batches"):
        lutc.compile_model(model, [], tmp_path / "new")
    with pytest.raises(LutcError, match="no activation, softmax or norm"):
        lutc.compile_model(torch.nn.Sequential(torch.nn.Linear(2, 2)), [torch.ones(1, 2)], tmp_path / "new")
    with pytest.raises(LutcError, match="`max_kl` is of models that give next-token logits; BertModel gives none"):
        lutc.compile_model(tiny_models.bert(), BATCHES, tmp_path / "new", max_kl=1e-3)
    for batches in (IDS, BATCHES[0], "text", None):
        with pytest.raises(LutcError, match="batches are a list of tensors, tuples or dicts; given one"):
            lutc.compile_model(model, batches, tmp_path / "new")
    with pytest.raises(LutcError, match="a model is a torch.nn.Module; given NoneType"):
        lutc.compile_model(None, BATCHES, tmp_path / "new")
    with pytest.raises(LutcError, match="give it or `own`, not both"):
        lutc.compile_model(model, BATCHES, tmp_path / "new", max_kl=1e-3, own={"model.layers.0.mlp.act_fn": 4})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(LutcError, match="`own` names 'layers.9', which has no table over codes; such have model.l"):
        lutc.compile_model(model, BATCHES, tmp_path / "new", own={"layers.9": 4})


def test_functions_with_parameters_have_files_of_their_own(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ELU(0.5), torch.nn.LeakyReLU(0.2))
    x = torch.randn(16, 4) * 2
    want = model(x)
    lutc.compile_model(model, [x], tmp_path / "folder", activations="fplut", workers=1, measure=False)
    files = {path.name for path in (tmp_path / "folder" / "tables").iterdir()}
    assert files == {"elu_alpha_0.5_fplut.json", "leaky_relu_negative_slope_0.2_fplut.json"}
    lutc.apply(model, tmp_path / "folder")
    torch.testing.assert_close(model(x), want, atol=2e-3, rtol=2e-3)
