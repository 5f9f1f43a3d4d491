"""The package as users install it: wheel, editable install and plain checkout; and that the compiler needs no torch."""

import os
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
USE = (
    "import sys, lutc, lutc.kernels, lutc.pretrained; tables = lutc.load('gelu_8'); assert tables.function == 'gelu';"
    "tables = lutc.compile('gelu', 8, promises=('through-zero',));"
    "assert tables.dumps() == lutc.load('gelu_8').dumps();"
    "assert 'torch' not in sys.modules and 'numba' not in sys.modules and 'matplotlib' not in sys.modules; "
    "print(lutc.__file__)"
)


def python(*arguments, cwd, path=None):
    environment = {**os.environ, "PYTHONPATH": str(path or "")}
    result = subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout.strip()


@pytest.fixture(scope="module")
def tracked():
    """Paths of what the repository holds."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, tracked):
    folder, checkout = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("checkout")
    for name in tracked:  # a copy, so that building leaves nothing in the checkout
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes((ROOT / name).read_bytes())
    python("-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(checkout), cwd=folder)
    return next(folder.glob("lutc-*.whl"))


def test_the_wheel_works_without_the_checkout(wheel, tmp_path):
    python("-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "site"), str(wheel), cwd=tmp_path)
    where = python("-c", USE, cwd=tmp_path, path=tmp_path / "site")
    assert Path(where).is_relative_to(tmp_path / "site")


def test_the_wheel_holds_every_module_and_table_and_no_top_level_kernels(wheel, tracked):
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in tracked:
        if name.startswith(("lutc/", "kernels/", "pretrained/")) and name.endswith((".py", ".json", ".hpp")):
            assert (name if name.startswith("lutc/") else f"lutc/{name}") in names
    assert not any(name.startswith(("kernels/", "pretrained/", "tests/")) for name in names)


def test_the_checkout_works_uninstalled():
    assert Path(python("-c", USE, cwd=ROOT)).is_relative_to(ROOT)


def test_the_editable_install_works_from_anywhere(tmp_path):
    assert Path(python("-c", USE, cwd=tmp_path)).is_relative_to(ROOT)


def test_every_package_is_listed():
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = {"lutc", *(".".join(p.parent.relative_to(ROOT).parts) for p in ROOT.glob("lutc/**/__init__.py"))}
    assert listed == found | {"lutc.kernels", "lutc.pretrained"}


def test_the_version_is_the_same_everywhere():
    import lutc

    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["metadata"]["version"] == lutc.__version__
