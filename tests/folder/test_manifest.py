"""A manifest of which any field is another: read as it stands, or refused in one line."""

import copy
import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lutc
from lutc.commands import model as command
from lutc.errors import LutcError
from lutc.folder import manifest
from tests.helpers import tiny_models

pytest.importorskip("transformers")
from tests.folder.test_folder import BATCHES  # noqa: E402

ODD = [None, "", -1, 0, True, 1e999, float("nan"), "x", "../x", [], [1], {}, {"a": 1}, 10**30, 1.5, "manifest.json"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("made") / "tables"
    return lutc.compile_model(tiny_models.llama(), BATCHES, made, entries=4, norms="exact", workers=1).path


def write(folder, content) -> None:
    """With a digest that holds."""
    content["sha256"] = manifest._digest(content)
    (folder / "manifest.json").write_text(json.dumps(content))


def places(content, path=()):
    """Paths of everything in a manifest but its own digest."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        if path or key != "sha256":
            yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_other_value_is_read_or_refused(folder, tmp_path, data, capsys):
    content = json.loads((folder / "manifest.json").read_text())
    path = data.draw(st.sampled_from(sorted(places(content), key=str)))
    odd = data.draw(st.sampled_from([*ODD, "nothing"]))
    changed = copy.deepcopy(content)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    if odd == "nothing":
        del inner[path[-1]]
    else:
        inner[path[-1]] = odd
    copied = shutil.copytree(folder, tmp_path / "copy", dirs_exist_ok=True)
    write(copied, changed)
    try:
        found = manifest.read(copied)
        command._echo(found)
        json.dumps(command._json(found), allow_nan=False)
        lutc.apply(tiny_models.llama(), found)
    except LutcError as error:
        assert "\n" not in str(error)
    capsys.readouterr()


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def test_a_table_without_a_digest_is_not_read(copied):
    """Nor is anything outside the folder, where a place names that."""
    content = json.loads((copied / "manifest.json").read_text())
    (copied.parent / "outside.json").write_text("{")
    content["entries"][0]["table"] = "../outside.json"
    write(copied, content)
    with pytest.raises(LutcError, match="../outside.json has no digest"):
        manifest.read(copied)


def test_places_stand_once_and_as_what_they_are(copied):
    content = json.loads((copied / "manifest.json").read_text())
    write(copied, {**content, "entries": [*content["entries"], content["entries"][0]]})
    with pytest.raises(LutcError, match="two tables for model.layers.0.self_attn"):
        manifest.read(copied)
    content["entries"][0]["operator"] = "rms_norm"
    write(copied, content)
    with pytest.raises(LutcError, match="is to have a table of exp as 'rms_norm'"):
        manifest.read(copied)
