"""A marker for tests on real models, whose packages are fetched separately; the same random numbers on every run."""

import pytest


def pytest_configure(config):
    config.addinivalue_line("markers", "models: needs the weights of a real model in an installed package; skips where it is absent")


@pytest.fixture(autouse=True)
def _seeded():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
