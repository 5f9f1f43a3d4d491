"""Files are replaced in one step or not at all."""

import os
import stat

import pytest

from lutc.errors import LutcError
from lutc.files import atomic_write


def left_over(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_text_and_bytes(tmp_path):
    path = tmp_path / "a.json"
    atomic_write(path, "größe\n")
    assert path.read_bytes() == "größe\n".encode()
    atomic_write(str(path), b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff" and left_over(tmp_path) == []


def test_a_new_file_follows_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        atomic_write(tmp_path / "a", "x")
    finally:
        assert os.umask(old) == 0o027
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755])
def test_the_mode_of_a_file_is_kept(tmp_path, mode):
    path = tmp_path / "a"
    path.write_text("old")
    path.chmod(mode)
    atomic_write(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == mode and path.read_text() == "new"


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt, MemoryError, OSError(28, "No space left on device"), PermissionError(13, "Permission denied")],
)
@pytest.mark.parametrize("step", ["chmod", "replace"])
def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch, step, error):
    path = tmp_path / "a"
    path.write_text("old")

    def fail(*_):
        raise error

    monkeypatch.setattr(f"lutc.files.os.{step}", fail)
    expected = LutcError if isinstance(error, OSError) else error
    with pytest.raises(expected):
        atomic_write(path, "new" * 100_000)
    assert path.read_text() == "old" and left_over(tmp_path) == []


def test_a_write_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    class Broken:
        def __init__(self, handle, _mode):
            os.close(handle)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return False

        def write(self, _):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("lutc.files.os.fdopen", Broken)
    with pytest.raises(LutcError, match="cannot write .*: No space left on device; give a path"):
        atomic_write(tmp_path / "a", "new")
    assert list(tmp_path.iterdir()) == []


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "folder").mkdir()
    target = tmp_path / "folder" / "a"
    target.write_text("old")
    (tmp_path / "link").symlink_to(target)
    atomic_write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and target.read_text() == "new" and left_over(tmp_path / "folder") == []


def test_a_pipe_is_written_to_and_stays(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        atomic_write(path, "new")
        assert os.read(reader, 100) == b"new" and stat.S_ISFIFO(path.stat().st_mode) and left_over(tmp_path) == []
    finally:
        os.close(reader)


def test_text_that_utf8_cannot_hold(tmp_path):
    with pytest.raises(
        LutcError, match=r"cannot write .*a: the text has a character that is none of Unicode's \('.udcff'\)"
    ):
        atomic_write(tmp_path / "a", "g\udcff")
    assert list(tmp_path.iterdir()) == []


def test_unwritable_paths_are_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "missing" / "a", tmp_path / "file" / "a", tmp_path):
        with pytest.raises(LutcError, match="cannot write") as error:
            atomic_write(path, "new")
        assert "\n" not in str(error.value)
    assert (tmp_path / "file").read_text() == "x" and left_over(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(LutcError, match="Permission denied"):
            atomic_write(tmp_path / "a", "new")
    finally:
        tmp_path.chmod(0o700)
