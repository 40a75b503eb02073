"""Writing files: whole or not at all, onto the disk, into folders that can be written to, cells that run nothing."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

from recbole_genrec.errors import UserError


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        # A name that is no valid Unicode (a folder's) is written escaped: JSON reads \udcff back as it was.
        with os.fdopen(handle, "w", encoding="utf-8", newline="", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # a machine may lose its power
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def flush(path: Path) -> None:
    """Have the system put a file or a folder's names on the disk now: a machine may lose its power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot sync a folder
            raise
    finally:
        os.close(handle)


def writable_folder(path: str | Path, *parts: str) -> Path:
    """The folder, made if need be with ``runs`` and ``parts`` in it, and all proven writable.

    Raises:
        UserError: it cannot be made or written to.
    """
    folder = Path(path).expanduser()
    try:
        for part in (folder, *(folder / name for name in ("runs", *parts))):
            part.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=part, prefix=".writable-"):
                pass
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"output folder '{folder}' cannot be written: {getattr(error, 'strerror', error)}") from None
    return folder


def csv_cell(value: Any) -> Any:
    """A value for a CSV cell. Text that a spreadsheet would run as a formula gets a quote in front."""
    if value is None:
        return ""
    if isinstance(value, str):
        value = value.replace("\r", "\n")  # the csv module quotes only the latter
        return "'" + value if value.lstrip()[:1] in ("=", "+", "-", "@") else value
    return value
