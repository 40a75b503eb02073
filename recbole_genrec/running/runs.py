"""Folders of runs: which is whose, which is done, which can be gone on with; one process at a time in each."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from recbole_genrec.files import write_atomically
from recbole_genrec.running import parallel

#: What makes two runs the same: all that bears on the numbers, and what the record says besides.
_SAME = ("model", "dataset", "seed", "config_hash", "version", "dataset_fingerprint", "split_fingerprint",
         "numbering_fingerprint", "inputs_fingerprint", "ablation", "variant", "reference_hash", "variant_hash",
         "settings_label", "tested")
_BEGUN = "run.json"


class Busy(Exception):
    """Another process is carrying out the very same run."""


@dataclass
class Place:
    """A run's folder.

    Attributes:
        folder: ``<output_dir>/runs/<run_id>``.
        begun: the start of its record, as it was when the run began first.
        record: the record of the run, if it is done.
    """

    folder: Path
    begun: dict[str, Any]
    record: dict[str, Any] | None = None


@contextlib.contextmanager
def taken(output_dir: Path, facts: dict[str, Any], resume: bool = True, force: bool = False,
         wait: bool = False) -> Iterator[Place]:
    """The folder for a run, this process's alone within the block.

    It is, in this order: that of the same run, if it is done (``record`` is given then, and nothing is to be trained);
    that of the same run, if it was broken off; a new one.

    Args:
        output_dir: where ``runs/`` is.
        facts: the start of the record.
        resume: whether a run that was broken off may be gone on with.
        force: whether what is done is done again, in a new folder; such a run too may be gone on with.
        wait: whether to wait for a process that carries out the same run.
    Raises:
        Busy: there is such a process, and ``wait`` was not asked for.
    """
    runs = output_dir / "runs"
    while True:
        with FileLock(str(runs / ".lock")):
            place, lock = _find(runs, facts, resume, force)
            if place is None:
                place = _make(runs, {**facts, "forced": force})
                lock = _lock(place.folder)
        if lock is not None or place.record is not None:
            break
        if not wait:
            raise Busy(f"run {place.folder.name} is being carried out by another process")
        with FileLock(str(place.folder / ".lock")):
            pass  # whatever became of it is looked up above
    try:
        yield place
    finally:
        if lock is not None:
            lock.release()


@contextlib.contextmanager
def taken_by_all(*arguments) -> Iterator[Place]:
    """:func:`taken` by process 0 for all processes of the run, which share the folder, or the refusal."""
    with contextlib.ExitStack() as stack:
        place = None
        if parallel.is_main():
            try:
                place = stack.enter_context(taken(*arguments))
            except (Busy, OSError) as error:
                place = error
        place = parallel.from_main(place)
        if isinstance(place, Exception):
            raise place
        yield place


def whole(folder: Path, record: dict[str, Any]) -> bool:
    """Whether a run is done and all that it left is there."""
    return record.get("status") == "ok" \
        and ((folder / "per_user.parquet").exists() or record.get("tested") is False) \
        and ((folder / "model").is_dir() or not record.get("trainable_parameters"))


def record_since(folder: Path, began: float) -> dict[str, Any] | None:
    """The record of a run, if another of its processes has written it since that moment (seconds since 1970)."""
    path = folder / "record.json"
    return _read(path) if path.exists() and path.stat().st_mtime >= began else None


def _find(runs: Path, facts: dict[str, Any], resume: bool, force: bool) -> tuple[Place | None, FileLock | None]:
    """The same run's folder and its lock, taken; no lock if another process has it; nothing if there is no such run."""
    begun = []
    for folder in sorted(runs.glob(f"{_name(facts)}-*")):
        record, start = (_read(folder / name) for name in ("record.json", _BEGUN))
        found = record or start
        if found is None or any(found.get(key) != facts.get(key) for key in _SAME):
            continue
        if not force and record is not None and whole(folder, record):
            return Place(folder, start or {}, record), None
        done = record is not None and record.get("status") == "ok"
        if start is not None and not done and (start.get("forced") or not force):
            begun.append(Place(folder, start))
    locks = [(place, _lock(place.folder)) for place in begun]
    busy = [place for place, lock in locks if lock is None]
    newest = locks.pop() if locks and not busy and resume else (None, None)
    for _, lock in locks:
        if lock is not None:
            lock.release()
    return (busy[0], None) if busy else newest


def _make(runs: Path, facts: dict[str, Any]) -> Place:
    run_id = f"{_name(facts)}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    begun = {"run_id": run_id, "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **facts}
    folder = runs / run_id
    folder.mkdir(parents=True)
    try:
        write_atomically(folder / _BEGUN, json.dumps(begun, indent=1, ensure_ascii=False, default=str) + "\n")
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Place(folder, begun)


def _name(facts: dict[str, Any]) -> str:
    return f"{facts['dataset']}-{facts['model']}-{facts['seed']}"


def _lock(folder: Path) -> FileLock | None:
    """The folder's lock, taken; None if another process has it."""
    lock = FileLock(str(folder / ".lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else None
    except (OSError, ValueError, RecursionError):
        return None
