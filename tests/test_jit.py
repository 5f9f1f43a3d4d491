"""Kernels compile where no folder is writable, as in a container without a home."""

import subprocess
import sys
from pathlib import Path

from lutc.jit import njit

# numba as in a package that is read-only, for a user whose cache folder cannot be made: it then refuses to cache, where
# a function is decorated
ALONE = """
from numba.core import caching
caching.FunctionCache._impl_class._locator_classes = []
import lutc.costs.half_intervals, lutc.costs.interval_kernels
import lutc.search.closest, lutc.search.absolute_kernels, lutc.search.absolute_sweeps, lutc.search.quadratic_kernels
from lutc.formats.float16_numba import add
print(hex(add(0x3C00, 0x4000, False)))
"""


def test_kernels_compile_without_a_cache():
    run = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=Path(__file__).resolve().parents[1], capture_output=True, text=True
    )
    assert run.stdout.strip() == "0x4200", run.stderr


def test_kernels_are_cached_where_they_can_be():
    assert njit(_plus_one)(1) == 2 and njit(_plus_one).stats.cache_path


def _plus_one(x):
    return x + 1
