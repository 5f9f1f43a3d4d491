"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from lutc.errors import LutcError


def atomic_write(path: str | os.PathLike, data: str | bytes) -> None:
    """Replace `path` by `data` in one step: the old file stays until the new one is complete.

    Text is written as UTF-8. Raises LutcError where the folder is missing or not writable; the old file is then untouched.
    """
    path = Path(path)
    payload = data.encode() if isinstance(data, str) else data
    temporary = None
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except OSError as error:
        raise LutcError(f"cannot write {path}: {error.strerror or error}; give a path in an existing, writable folder") from error
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
