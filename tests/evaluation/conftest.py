import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Paths of a tiny causal model, an encoder, and a text."""
    import tiny_models

    root = tmp_path_factory.mktemp("models")
    (root / "text.txt").write_text(tiny_models.text())
    models = {"llama": tiny_models.llama(), "bert": tiny_models.bert()}
    return {name: tiny_models.save(model, root / name) for name, model in models.items()} | {"text": root / "text.txt"}
