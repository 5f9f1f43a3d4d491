"""Writing files so that a reader never sees half of one, and the folder of what may be made again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from lutc.errors import LutcError


def atomic_write(path: str | os.PathLike, data: str | bytes) -> None:
    """Replace `path` by `data` in one step: the old file stays until the new one is complete.

    Text is written as UTF-8. A link stays a link, what it points to is replaced; a device or a pipe (/dev/stdout) stays
    one and is written to. Raises LutcError where the folder is missing or not writable; the old file is then untouched.
    """
    path = Path(path)
    temporary = None
    try:
        payload = data.encode() if isinstance(data, str) else data
        if path.exists() and not (path.is_file() or path.is_dir()):
            path.write_bytes(payload)
            return
        target = Path(os.path.realpath(path))
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
        os.chmod(temporary, mode)
        os.replace(temporary, target)
    except UnicodeEncodeError as error:
        raise LutcError(
            f"cannot write {path}: the text has a character that is none of Unicode's ({error.object[error.start]!a})"
        ) from error
    except OSError as error:
        raise LutcError(
            f"cannot write {path}: {error.strerror or error}; give a path in an existing, writable folder"
        ) from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def cache_folder() -> Path:
    """$LUTC_CACHE, else $XDG_CACHE_HOME/lutc, else ~/.cache/lutc; it may be missing, and deleted at any time."""
    if own := os.environ.get("LUTC_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lutc"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
