"""Finding and opening raw files in a folder, a zip or a tar, without unpacking to disk."""

from __future__ import annotations

import tarfile
import zipfile
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Iterable, Iterator, NamedTuple


class Place(NamedTuple):
    """Where a raw file lies: a path, or the path of an archive and the name in it."""

    path: Path
    member: str | None = None


def find(path: Path, names: Iterable[str]) -> dict[str, Place]:
    """The files of those base names (or with ``.gz`` added) in a folder, or at any depth of an
    archive, where the shallowest counts. A name that is not there is not in the result.

    Raises ValueError if ``path`` is neither, zipfile.BadZipFile, tarfile.TarError, EOFError or
    zlib.error for a damaged archive, OSError for an unreadable one.
    """
    if path.is_dir():
        places = {entry.name: Place(entry) for entry in path.iterdir() if entry.is_file()}
    else:
        members = sorted(_members(path), key=lambda name: (name.count("/"), name), reverse=True)
        places = {PurePosixPath(member).name: Place(path, member) for member in members}
    spelled = {name: name if name in places else f"{name}.gz" for name in names}
    return {name: places[there] for name, there in spelled.items() if there in places}


def _members(path: Path) -> list[str]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            return [entry.name for entry in archive if entry.isfile()]
    raise ValueError("neither a folder nor a zip or tar archive")


@contextmanager
def open_member(path: Path, member: str) -> Iterator[tuple[BinaryIO, int]]:
    """The bytes of one member, seekable, and their number. Errors as :func:`find`."""
    with ExitStack() as stack:
        if zipfile.is_zipfile(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            try:
                stream = stack.enter_context(archive.open(member))
            except (RuntimeError, NotImplementedError) as error:  # encrypted; unknown method
                raise zipfile.BadZipFile(str(error)) from None
            yield stream, archive.getinfo(member).file_size  # type: ignore[misc]
        else:
            archive = stack.enter_context(tarfile.open(path))
            entry = archive.getmember(member)
            stream = archive.extractfile(entry)
            assert stream is not None  # find() lists plain files only
            yield stack.enter_context(stream), entry.size  # type: ignore[misc]
