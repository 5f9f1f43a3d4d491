"""What all tests share: fixtures here, helpers to import in tests/helpers."""

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples on every run: a failure in CI is one at home. No clock: CI machines stall.
settings.register_profile(
    "lutc", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("lutc")


@pytest.fixture(autouse=True)
def _seeded():
    """The same random numbers on every run, whatever ran before."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def anchors() -> Path:
    """Other projects' tables, for comparison; not part of the repository."""
    path = Path(__file__).resolve().parents[2] / "shared" / "anchors"
    if not path.is_dir():
        pytest.skip("needs the tables of other projects in ../shared/anchors")
    return path


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Paths of a tiny causal model, an encoder, and a text."""
    pytest.importorskip("transformers")
    from tests.helpers import tiny_models

    root = tmp_path_factory.mktemp("models")
    (root / "text.txt").write_text(tiny_models.text())
    models = {"llama": tiny_models.llama(), "bert": tiny_models.bert()}
    return {name: tiny_models.save(model, root / name) for name, model in models.items()} | {"text": root / "text.txt"}


@pytest.fixture
def model():
    """A whole model with blocks as BERT has them (Taylor-MLP)."""
    torch = pytest.importorskip("torch")
    from tests.helpers.taylor_model import Model

    torch.manual_seed(0)
    return Model().eval()


@pytest.fixture
def batches():
    """Sixteen batches of 16 documents of up to 10 tokens, for `model`."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(1)
    result = []
    for _ in range(16):
        lengths = torch.randint(3, 11, (16, 1), generator=generator)
        mask = (torch.arange(10)[None] < lengths).long()
        result.append({"input_ids": torch.randint(50, (16, 10), generator=generator), "attention_mask": mask})
    return result


@pytest.fixture
def block():
    """One MLP, 6 -> 24 -> 5."""
    torch = pytest.importorskip("torch")
    from torch import nn

    from lutc.taylor.blocks import Block

    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 24), nn.GELU(), nn.Linear(24, 5)).requires_grad_(False).eval()
    return Block("mlp", ("",), (module,))
