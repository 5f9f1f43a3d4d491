"""What all tests share. Helpers to import stand in oracles.py beside this file, which puts their folder on the path."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# The same examples on every run: a failure in CI is one at home. No clock: CI machines stall.
settings.register_profile("lutc", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lutc")


@pytest.fixture(scope="session")
def anchors() -> Path:
    """Other projects' tables, for comparison; not part of the repository."""
    path = Path(__file__).resolve().parents[2] / "shared" / "anchors"
    if not path.is_dir():
        pytest.skip("needs the tables of other projects in ../shared/anchors")
    return path
