"""Reading raw text files: plain, gzip or in an archive, in blocks of whole lines."""

from __future__ import annotations

import argparse
import codecs
import gzip
import hashlib
import lzma
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tarfile import TarError
from typing import BinaryIO, Iterable, Iterator, NamedTuple, Sequence
from zipfile import BadZipFile

from tqdm import tqdm

from . import archives
from .encoding import Detector, blank_misfits, foreign_form

BLANKS = " \t\r\v\f"  # ASCII only: an id may hold any other character, U+00A0 included
BLOCK_BYTES = 16 << 20  # text parsed at once: what bounds the memory of a big file
_CHUNK = 1 << 20
_LONGEST_LINE = 64 << 20
SHOWN = 100  # rejects listed in full; the others are only counted
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, BadZipFile, TarError)


class ConversionError(Exception):
    """A mistake in the input or the arguments; its text is one line for the user."""


def find_files(path: str, names: Iterable[str]) -> dict[str, archives.Place]:
    """:func:`archives.find` with one clear line for what goes wrong (ConversionError)."""
    if not Path(path).exists():
        raise ConversionError(f"{path}: no such file or folder")
    if not (Path(path).is_file() or Path(path).is_dir()):  # a pipe would be waited for
        raise ConversionError(f"{path}: neither a file nor a folder")
    try:
        return archives.find(Path(path), names)
    except ValueError as error:
        raise ConversionError(f"{path}: {error}") from None
    except _DAMAGE as error:
        raise ConversionError(f"{path}: damaged archive ({error})") from None


def single_files(args: argparse.Namespace, whole: str, *roles: str) -> dict[str, str]:
    """The paths of the files that are given one by one, by role; empty if ``--<whole>`` is given
    instead. ConversionError for neither, both, or only some of the files."""
    paths = {role: getattr(args, role) for role in roles}
    names = " and ".join(f"--{role}" for role in roles)
    if bool(getattr(args, whole)) == any(paths.values()):
        raise ConversionError(f"give either --{whole}, or {names}")
    if not any(paths.values()):
        return {}
    if not all(paths.values()):
        raise ConversionError(f"{names} belong together")
    return paths


@dataclass
class Rejects:
    """Malformed lines: all counted, the first 100 kept as ``{file, line, reason}``.

    ``limit`` is the tolerated share of all lines read, 0..1.
    """

    limit: float
    count: int = 0
    lines_read: int = 0
    lines: list[dict[str, str | int]] = field(default_factory=list)

    def add(self, file: str, line: int, reason: str) -> None:
        """Record line ``line`` (from 1) of ``file`` (base name) as malformed."""
        self.count += 1
        if len(self.lines) < SHOWN:
            self.lines.append({"file": file, "line": line, "reason": reason})

    def add_many(self, file: str, count: int, shown: list[tuple[int, str]]) -> None:
        """Record ``count`` lines of ``file``, of which ``shown`` are the first SHOWN or all."""
        for line, reason in shown:
            self.add(file, line, reason)
        self.count += count - len(shown)

    def check(self) -> None:
        """Raise ConversionError if the share of malformed lines exceeds the limit."""
        if self.count > self.limit * self.lines_read:
            first = self.lines[0]
            raise ConversionError(
                f"{self.count} of {self.lines_read} input lines are malformed, more than "
                f"--max-rejects {self.limit:g} allows; the first: "
                f"{first['file']} line {first['line']}: {first['reason']}"
            )


class Block(NamedTuple):
    """Whole lines: ``text`` is UTF-8 and ends with a line feed; ``first`` is the number of its
    first line in the file, from 1. Lines that were not UTF-8 are blank in it, their numbers are
    in ``misfits``."""

    first: int
    text: bytes
    misfits: Sequence[int] = ()

    def without(self, number: int) -> Block:
        """The block with line ``number`` blank, should that be one of its lines."""
        start = 0 if number >= self.first else -1
        for _ in range(number - self.first):
            start = self.text.find(b"\n", start) + 1
            if start == 0:
                return self
        if start < 0 or start == len(self.text):
            return self
        return self._replace(text=self.text[:start] + self.text[self.text.index(b"\n", start) :])


class _Hashing:
    """A stream that takes the checksum of what is read from it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        chunk = self._stream.read(size)
        self.digest.update(chunk)
        return chunk


class InputFile:
    """One raw text file, read in blocks of lines or line by line.

    Opening it reads it once through, for its checksum and encoding (:mod:`encoding`; a byte
    order mark is dropped). A line that is not UTF-8 in a text that is, is a reject. Compression
    is seen by the content, not by the name. Raises ConversionError if the file is missing, no
    plain file, unreadable, damaged, of a form that is not read, or without any text.

    Args:
        path: the file, or the archive (zip, tar, tar.gz) that holds it.
        rejects: where its malformed lines are recorded.
        member: name inside the archive; it is read without unpacking to disk.
        utf8: the form is always UTF-8, so it is never taken for Latin-1.
    """

    def __init__(
        self, path: str | Path, rejects: Rejects, member: str | None = None, utf8: bool = False
    ) -> None:
        self.path = Path(path)
        self.member = member
        # A name need not be UTF-8 either, but the report is.
        self.name = Path(member or path).name.encode("utf-8", "backslashreplace").decode()
        self._shown = f"{path}: {member}" if member else str(path)
        self._rejects = rejects
        if not self.path.exists():
            raise ConversionError(f"{path}: no such file")
        if not self.path.is_file():
            raise ConversionError(f"{path}: not a file")
        with self._open_raw() as (raw, _):
            start = raw.read(512)
        self._gzip = start.startswith(b"\x1f\x8b")
        self._refuse(foreign_form(start))
        self.sha256, text = self._examine()
        self._refuse("empty file" if text.blank else None)
        self.encoding = "utf-8" if utf8 else text.encoding()

    def _refuse(self, reason: str | None) -> None:
        if reason:
            raise ConversionError(f"{self._shown}: {reason}")

    def _examine(self) -> tuple[str, Detector]:
        """The checksum of the stored bytes and what the text is, in one reading."""
        text = Detector()
        with self._open_raw() as (raw, _):
            stored = _Hashing(raw)
            stream = gzip.GzipFile(fileobj=stored) if self._gzip else stored  # type: ignore
            first = True
            while chunk := stream.read(_CHUNK):
                if first:
                    self._refuse(foreign_form(chunk[:512]))
                    first = False
                text.feed(chunk)
            while stored.read(_CHUNK):
                pass
        return stored.digest.hexdigest(), text

    @contextmanager
    def _open_raw(self) -> Iterator[tuple[BinaryIO, int]]:
        """The stored bytes and their number; damage anywhere below becomes a ConversionError."""
        try:
            if self.member is not None:
                with archives.open_member(self.path, self.member) as opened:
                    yield opened
            else:
                with self.path.open("rb") as raw:
                    yield raw, self.path.stat().st_size
        except _DAMAGE as error:
            kind = "gzip file" if self.member is None else "archive"
            raise ConversionError(f"{self._shown}: damaged {kind} ({error})") from None

    @contextmanager
    def _open(self) -> Iterator[tuple[BinaryIO, BinaryIO, int]]:
        """The text's bytes, the stored bytes below them (for the progress), their number."""
        with self._open_raw() as (raw, size):
            if self._gzip:
                with gzip.GzipFile(fileobj=raw, mode="rb") as unpacked:
                    yield unpacked, raw, size  # type: ignore[misc]
            else:
                yield raw, raw, size

    def blocks(self) -> Iterator[Block]:
        """Yield the text in blocks of whole lines, about BLOCK_BYTES each; the cuts depend on
        the content alone. Only a line feed ends a line: a lone carriage return or U+2028 inside
        a title does not."""
        number, rest = 1, b""
        with self._open() as (stream, stored, total), tqdm(
            total=total, desc=self.name, unit="B", unit_scale=True, disable=None, leave=False
        ) as bar:
            while chunk := stream.read(BLOCK_BYTES):
                lines, line_feed, tail = chunk.rpartition(b"\n")
                if line_feed:
                    block = self._block(number, rest + lines + line_feed)
                    yield block
                    number, rest = number + block.text.count(b"\n"), tail
                else:
                    rest += tail
                if len(rest) > _LONGEST_LINE:
                    raise ConversionError(f"{self._shown}: line {number} is no line of text")
                bar.update(stored.tell() - bar.n)
            if rest:
                yield self._block(number, rest + b"\n")

    def _block(self, number: int, text: bytes) -> Block:
        if self.encoding != "utf-8":
            return Block(number, text.decode(self.encoding).encode())
        if number == 1:
            text = text.removeprefix(codecs.BOM_UTF8)
        text, places = blank_misfits(text)
        misfits = [number + place for place in places]
        for misfit in misfits:
            self.count_lines(1)
            self.reject(misfit, "not UTF-8")
        return Block(number, text, misfits)

    def lines(self, misfits: bool = False) -> Iterator[tuple[int, str]]:
        """Yield ``(number from 1, text without its line end)`` of each line that is not blank.

        Lines that are not UTF-8 are rejects already; with ``misfits`` they come as "", for those
        to whom the n-th line of a file belongs to the n-th of another.
        """
        for block in self.blocks():
            wrong = set(block.misfits) if misfits else ()
            for number, line in enumerate(block.text.decode()[:-1].split("\n"), block.first):
                if line.strip(BLANKS):
                    self.count_lines(1)
                    yield number, line.rstrip("\r")
                elif number in wrong:
                    yield number, ""

    def head(self, count: int) -> list[tuple[int, str]]:
        """The first ``count`` lines that are neither blank nor wrongly encoded, each with its
        number; nothing is counted or shown."""
        with self._open() as (stream, _, _):
            return list(islice(self._readable(stream), count))

    def _readable(self, stream: BinaryIO) -> Iterator[tuple[int, str]]:
        for number, raw in enumerate(stream, 1):
            if number == 1 and self.encoding == "utf-8":
                raw = raw.removeprefix(codecs.BOM_UTF8)
            try:
                line = raw.decode(self.encoding)
            except UnicodeDecodeError:
                continue
            if line.strip(BLANKS + "\n"):
                yield number, line.rstrip("\r\n")

    def first_line(self) -> tuple[int, str]:
        """The first of :meth:`head`; ConversionError if there is none."""
        head = self.head(1)
        self._refuse(None if head else "no line is UTF-8")
        return head[0]

    def count_lines(self, number: int) -> None:
        """Add to the lines read, of which rejects are a share (:meth:`lines` does it itself)."""
        self._rejects.lines_read += number

    def reject(self, line: int, reason: str) -> None:
        """Record line ``line`` (from 1) of this file as malformed."""
        self._rejects.add(self.name, line, reason)

    def describe(self) -> dict[str, str]:
        """What ``conversion.json`` says of this file; no folder, so that runs are comparable."""
        return {"file": self.name, "sha256": self.sha256, "encoding": self.encoding}
