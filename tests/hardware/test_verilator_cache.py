"""Objects of Verilator's runtime are made once, kept, and made again where they are of no use."""

import pytest

from lutc.errors import LutcError
from lutc.hardware import tools, verilator

pytestmark = pytest.mark.skipif(not tools.installed("make"), reason="needs apt-get install make")
MAKEFILE = """\
simulation: verilated.o bench.o
\tgrep -q good verilated.o && cp verilated.o simulation
verilated.o: Vt.mk
\tcp ../include/verilated.cpp verilated.o && echo compiled >> ../log
bench.o:
\techo bench > bench.o
"""


@pytest.fixture
def build(tmp_path, monkeypatch):
    """build() -> how often the runtime has been compiled by now"""
    monkeypatch.setenv("LUTC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "verilated.cpp").write_text("good\n")
    count = 0

    def run(makefile=MAKEFILE):
        nonlocal count
        count += 1
        folder = tmp_path / f"build{count}"
        folder.mkdir()
        (folder / "Vt.mk").write_text(makefile)
        verilator._build(folder, ["make", "-f", "Vt.mk"])
        assert (folder / "simulation").read_text() == "good\n"
        return (tmp_path / "log").read_text().count("compiled")

    return run


def test_the_runtime_is_compiled_once(build, tmp_path):
    assert [build(), build(), build()] == [1, 1, 1]
    (kept,) = (tmp_path / "cache").iterdir()
    assert [file.name for file in kept.iterdir()] == ["verilated.o"]


def test_another_command_has_objects_of_its_own(build, tmp_path):
    assert [build(), build(MAKEFILE.replace("cp ..", "cp -f ..")), build()] == [1, 2, 2]
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_broken_objects_are_made_again(build, tmp_path):
    build()
    (kept,) = (tmp_path / "cache").iterdir()
    (kept / "verilated.o").write_text("bad")
    assert [build(), build()] == [2, 2]


def test_without_a_folder_to_keep_them_in(build, tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert [build(), build()] == [1, 2]


def test_a_build_that_fails_keeps_nothing(build, tmp_path):
    with pytest.raises(LutcError, match="make failed"):
        build(MAKEFILE.replace("grep -q good", "grep -q better"))
    assert not (tmp_path / "cache").exists()
