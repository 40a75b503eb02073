"""A hidden folder beside the target: finished parts, so that an interrupted conversion goes on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Callable

import pyarrow as pa
from filelock import FileLock, Timeout

from . import __version__, reading
from .reading import ConversionError

_KEY = "key.json"


class Staging:
    """``<output>/.<name>.staging``: parts of the parsed input, and the output being written.

    A context manager. It leaves nothing behind after success and after a ConversionError; after
    anything else (a kill, Ctrl-C, a full disk) the parts stay for the next run.

    Two conversions to one target do not run at a time: the second is refused (ConversionError).

    A part is an Arrow table in its own file, renamed into place when complete. Parts belong to a
    key, the hash of all they depend on: with another key they are thrown away.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.folder = target.parent / f".{target.name}.staging"
        self._lock = FileLock(target.parent / f".{target.name}.lock", timeout=0)
        self._made: list[Path] = []

    def __enter__(self) -> Staging:
        self._make_parent()
        try:
            self._lock.acquire()
        except Timeout:
            message = f"{self.target.name}: another conversion to this folder is running"
            raise ConversionError(message) from None
        old = self.folder / "old"
        if old.exists() and not self.target.exists():
            os.replace(old, self.target)  # killed between the two renames of publish()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, traceback: Any) -> None:
        if kind is None or issubclass(kind, ConversionError):
            shutil.rmtree(self.folder, ignore_errors=True)
        Path(self._lock.lock_file).unlink(missing_ok=True)  # while it is held: nobody waits for it
        self._lock.release()
        for parent in self._made:
            if not any(parent.iterdir()):
                parent.rmdir()

    def _make_parent(self) -> None:
        if not self.target.parent.exists():
            self._made = [p for p in self.target.parents if not p.exists()]
            self.target.parent.mkdir(parents=True)

    def begin(self, **depends_on: Any) -> None:
        """Keep the parts of an interrupted run if they depend on the same, else drop them."""
        shared = {"converter": __version__, "block": reading.BLOCK_BYTES}
        text = json.dumps({**shared, **depends_on}, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()
        self.folder.mkdir(exist_ok=True)
        path = self.folder / _KEY
        if path.exists() and path.read_text() == key:
            if parts := len(list(self.folder.glob("*.arrow"))):
                print(f"resuming: {parts} parts are parsed already", file=sys.stderr)
            return
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        _write_whole(path, lambda file: file.write_bytes(key.encode()))

    def part(self, name: str, make: Callable[[], pa.Table]) -> pa.Table:
        """The part ``name``: as an earlier run left it, or made and kept now."""
        path = self.folder / f"{name}.arrow"
        if path.exists():
            try:
                with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
                    return reader.read_all()
            except pa.ArrowInvalid:
                pass  # damaged, as by a loss of power: make it again
        table = make()

        def write(half: Path) -> None:
            with pa.OSFile(str(half), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)

        _write_whole(path, write)
        return table

    def output(self) -> Path:
        """An empty folder to write the output in, for :meth:`publish`."""
        self.folder.mkdir(exist_ok=True)
        folder = self.folder / "output"
        shutil.rmtree(folder, ignore_errors=True)  # a killed run's
        folder.mkdir()
        return folder

    def publish(self) -> None:
        """Rename the output folder to the target. A folder in the way steps aside until that is
        done: a directory cannot be renamed over one that has content."""
        old = self.folder / "old"
        if self.target.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(self.target, old)
        try:
            os.replace(self.folder / "output", self.target)
        except OSError:
            if old.exists():
                os.replace(old, self.target)
            raise


def _write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write under another name and rename, so that ``path`` is never half a file."""
    half = path.with_suffix(".half")
    write(half)
    os.replace(half, path)
