"""Reading raw text files: plain, gzip or in an archive, UTF-8 or Latin-1, in blocks of lines."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import lzma
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tarfile import TarError
from typing import BinaryIO, Iterable, Iterator, NamedTuple
from zipfile import BadZipFile

from tqdm import tqdm

from . import archives

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
    try:
        return archives.find(Path(path), names)
    except ValueError as error:
        raise ConversionError(f"{path}: {error}") from None
    except _DAMAGE as error:
        raise ConversionError(f"{path}: damaged archive ({error})") from None


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
    first line in the file, from 1."""

    first: int
    text: bytes


class InputFile:
    """One raw text file, read in blocks of lines or line by line.

    Opening it reads it once through, for its checksum and encoding: UTF-8 (a byte order mark is
    dropped) or, where any byte does not fit, Latin-1 for the whole file. Compression is seen by
    the content, not by the name. Raises ConversionError if the file is missing, no plain file,
    unreadable, damaged or without any text.

    Args:
        path: the file, or the archive (zip, tar, tar.gz) that holds it.
        rejects: where its malformed lines are recorded.
        member: name inside the archive; it is read without unpacking to disk.
    """

    def __init__(self, path: str | Path, rejects: Rejects, member: str | None = None) -> None:
        self.path = Path(path)
        self.member = member
        self.name = Path(member or path).name
        self._shown = f"{path}: {member}" if member else str(path)
        self._rejects = rejects
        if not self.path.exists():
            raise ConversionError(f"{path}: no such file")
        if not self.path.is_file():
            raise ConversionError(f"{path}: not a file")
        with self._open_raw() as (raw, _):
            self._gzip = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            digest = hashlib.sha256()
            while chunk := raw.read(_CHUNK):
                digest.update(chunk)
        self.sha256 = digest.hexdigest()
        self.encoding = self._find_encoding()

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

    def _find_encoding(self) -> str:
        decoder, encoding, blank = codecs.getincrementaldecoder("utf-8")(), "utf-8", True
        with self._open() as (stream, _, _):
            # To the end even after a misfit: the gzip checksum comes last.
            while chunk := stream.read(_CHUNK):
                blank = blank and not chunk.strip()
                if encoding == "utf-8":
                    try:
                        decoder.decode(chunk)
                    except UnicodeDecodeError:
                        encoding = "latin-1"
        if blank:
            raise ConversionError(f"{self._shown}: empty file")
        if encoding == "utf-8":
            try:
                decoder.decode(b"", final=True)
            except UnicodeDecodeError:
                encoding = "latin-1"
        return encoding

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
            text = text.decode(self.encoding).encode()
        elif number == 1:
            text = text.removeprefix(codecs.BOM_UTF8)
        return Block(number, text)

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield ``(number from 1, text without its line end)`` of each line that is not blank."""
        for block in self.blocks():
            for number, line in enumerate(block.text.decode()[:-1].split("\n"), block.first):
                if line.strip(BLANKS):
                    self._rejects.lines_read += 1
                    yield number, line.rstrip("\r")

    def head(self, count: int) -> list[str]:
        """The first ``count`` lines that are not blank; nothing is counted or shown."""
        encoding = "utf-8-sig" if self.encoding == "utf-8" else self.encoding
        with self._open() as (stream, _, _):
            text = io.TextIOWrapper(stream, encoding, newline="\n")
            lines = (line.rstrip("\r\n") for line in text if line.strip(BLANKS + "\n"))
            return list(islice(lines, count))

    def first_line(self) -> str:
        """The first line that is not blank; nothing is counted or shown."""
        return self.head(1)[0]

    def count_lines(self, number: int) -> None:
        """Add to the lines read, of which rejects are a share (:meth:`lines` does it itself)."""
        self._rejects.lines_read += number

    def reject(self, line: int, reason: str) -> None:
        """Record line ``line`` (from 1) of this file as malformed."""
        self._rejects.add(self.name, line, reason)

    def describe(self) -> dict[str, str]:
        """What ``conversion.json`` says of this file; no folder, so that runs are comparable."""
        return {"file": self.name, "sha256": self.sha256, "encoding": self.encoding}
