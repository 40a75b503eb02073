"""A hidden folder beside the target: finished parts, so that an interrupted conversion goes on."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable

import pyarrow as pa
from filelock import FileLock, Timeout

from . import __version__, reading
from .reading import ConversionError

_KEY, _HALF_KEY = "key.json", "key.half"
_DIGEST = hashlib.sha256().digest_size


class Staging:
    """``<output>/.<name>.staging``: parts of the parsed input, and the output being written.

    A context manager. It leaves nothing behind after success and after a ConversionError; after
    anything else (a kill, Ctrl-C, a full disk) the parts stay for the next run.

    Two conversions to one target do not run at a time: the second is refused (ConversionError).

    A part is an Arrow table in its own file, renamed into place when complete. Parts belong to a
    key, the hash of all they depend on: with another key they are thrown away. The key file also
    marks the folder as ours: a folder of that name that has none is never deleted.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = target.parent / f".{target.name}.staging"
        self._lock = FileLock(target.parent / f".{target.name}.lock", timeout=0)
        self._made: list[Path] = []

    def __enter__(self) -> Staging:
        try:
            self._made = [p for p in self.target.parents if not p.exists()]
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            self._remove_parents()
            message = f"{self.target.name}: another conversion to this folder is running"
            raise ConversionError(message) from None
        except BaseException:
            self._remove_parents()
            raise
        try:
            self._check_ours()
            self._restore()
        except BaseException:
            self._unlock()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, traceback: Any) -> None:
        self._restore()
        if kind is None or issubclass(kind, ConversionError) or not self.parts():
            with suppress(OSError):
                self._clear()
                self.folder.rmdir()
        self._unlock()

    def _unlock(self) -> None:
        Path(self._lock.lock_file).unlink(missing_ok=True)  # while it is held: nobody waits for it
        self._lock.release()
        self._remove_parents()

    def _remove_parents(self) -> None:
        with suppress(OSError):  # of the first that is not empty, or was not made
            for parent in self._made:
                parent.rmdir()

    def _check_ours(self) -> None:
        if not os.path.lexists(self.folder):
            return
        ours = self.folder.is_dir() and not self.folder.is_symlink()
        names = {entry.name for entry in self.folder.iterdir()} if ours else set()
        if not ours or (names - {_HALF_KEY} and _KEY not in names):
            raise ConversionError(f"{self.folder}: in the way, and not from an earlier conversion")

    def _restore(self) -> None:
        """Put back what stepped aside, if a run ended between the two renames of publish()."""
        old = self.folder / "old"
        if old.exists() and not self.target.exists():
            os.replace(old, self.target)

    def _clear(self) -> None:
        """Empty our folder; the key goes last, so that the rest is known to be ours."""
        if self.folder.exists():
            for entry in self.folder.iterdir():
                if entry.name != _KEY:
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            (self.folder / _KEY).unlink(missing_ok=True)

    def parts(self) -> int:
        """How many finished parts there are, for the next run to go on from."""
        return len(list(self.folder.glob("*.arrow")))

    def begin(self, **depends_on: Any) -> None:
        """Keep the parts of an interrupted run if they depend on the same, else drop them."""
        shared = {"converter": __version__, "block": reading.BLOCK_BYTES}
        text = json.dumps({**shared, **depends_on}, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()
        path = self.folder / _KEY
        if path.exists() and path.read_bytes() == key.encode():
            if parts := self.parts():
                print(f"resuming: {parts} parts are parsed already", file=sys.stderr)
            return
        self._clear()
        self._mark(key)

    def _mark(self, key: str) -> None:
        self.folder.mkdir(exist_ok=True)
        _write_whole(self.folder / _KEY, key.encode())

    def part(self, name: str, make: Callable[[], pa.Table]) -> pa.Table:
        """The part ``name``: as an earlier run left it, or made and kept now."""
        path = self.folder / f"{name}.arrow"
        if path.exists():
            content = path.read_bytes()
            if hashlib.sha256(content[_DIGEST:]).digest() == content[:_DIGEST]:
                return pa.ipc.open_file(pa.py_buffer(content[_DIGEST:])).read_all()
            # Damaged, as by a failing disk: make it again.
        table = make()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        content = sink.getvalue().to_pybytes()
        _write_whole(path, hashlib.sha256(content).digest() + content)
        return table

    def output(self) -> Path:
        """An empty folder to write the output in, for :meth:`publish`."""
        if not (self.folder / _KEY).exists():
            self._mark("")  # of a source that stages nothing
        folder = self.folder / "output"
        shutil.rmtree(folder, ignore_errors=True)  # a killed run's
        folder.mkdir()
        return folder

    def publish(self) -> None:
        """Rename the output folder to the target. A folder in the way steps aside until that is
        done: a directory cannot be renamed over one that has content."""
        output, old = self.folder / "output", self.folder / "old"
        for path in [*output.iterdir(), output]:
            _sync(path)
        if self.target.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(self.target, old)
        try:
            os.replace(output, self.target)
        except BaseException:
            self._restore()
            raise
        _sync(self.target.parent)


def _write_whole(path: Path, content: bytes) -> None:
    """Write under another name and rename, so that ``path`` is never half a file."""
    half = path.with_suffix(".half")
    half.write_bytes(content)
    _sync(half)
    os.replace(half, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, would survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot sync a folder
            raise
    finally:
        os.close(handle)
