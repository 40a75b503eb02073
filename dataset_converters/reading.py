"""Reading raw text files: gzip or plain, UTF-8 or Latin-1, every malformed line on record."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Iterator

from tqdm import tqdm

BLANKS = " \t\r\v\f"  # ASCII only: an id may hold any other character, U+00A0 included
_CHUNK = 1 << 20
_SHOWN = 100  # rejects listed in full; the others are only counted


class ConversionError(Exception):
    """A mistake in the input or the arguments; its text is one line for the user."""


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
        if len(self.lines) < _SHOWN:
            self.lines.append({"file": file, "line": line, "reason": reason})

    def check(self) -> None:
        """Raise ConversionError if the share of malformed lines exceeds the limit."""
        if self.count > self.limit * self.lines_read:
            first = self.lines[0]
            raise ConversionError(
                f"{self.count} of {self.lines_read} input lines are malformed, more than "
                f"--max-rejects {self.limit:g} allows; the first: "
                f"{first['file']} line {first['line']}: {first['reason']}"
            )


class InputFile:
    """One raw text file, read line by line.

    Opening it reads it once through, for its checksum and encoding: UTF-8 (a byte order mark is
    dropped) or, where any byte does not fit, Latin-1 for the whole file. Compression is seen by
    the content, not by the name. Raises ConversionError if the file is missing, no plain file,
    unreadable, damaged or without any text.
    """

    def __init__(self, path: str, rejects: Rejects) -> None:
        self.path = Path(path)
        self.name = self.path.name
        self._rejects = rejects
        if not self.path.exists():
            raise ConversionError(f"{path}: no such file")
        if not self.path.is_file():
            raise ConversionError(f"{path}: not a file")
        try:
            with self.path.open("rb") as raw:
                self._gzip = raw.read(2) == b"\x1f\x8b"
                raw.seek(0)
                self.sha256 = hashlib.file_digest(raw, "sha256").hexdigest()
            self.encoding = self._find_encoding()
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ConversionError(f"{path}: damaged gzip file ({error})") from None

    def _open(self) -> BinaryIO:
        return gzip.open(self.path, "rb") if self._gzip else self.path.open("rb")

    def _find_encoding(self) -> str:
        decoder, encoding, blank = codecs.getincrementaldecoder("utf-8")(), "utf-8", True
        with self._open() as stream:
            # To the end even after a misfit: the gzip checksum comes last.
            while chunk := stream.read(_CHUNK):
                blank = blank and not chunk.strip()
                if encoding == "utf-8":
                    try:
                        decoder.decode(chunk)
                    except UnicodeDecodeError:
                        encoding = "latin-1"
        if blank:
            raise ConversionError(f"{self.path}: empty file")
        if encoding == "utf-8":
            try:
                decoder.decode(b"", final=True)
            except UnicodeDecodeError:
                encoding = "latin-1"
        return encoding

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield ``(number from 1, text without its line end)`` of each line that is not blank."""
        encoding = "utf-8-sig" if self.encoding == "utf-8" else self.encoding
        # newline="\n": a lone carriage return or U+2028 inside a title ends no line.
        with self._open() as raw, io.TextIOWrapper(raw, encoding, newline="\n") as text:
            bar = tqdm(text, desc=self.name, unit=" lines", disable=None, leave=False)
            for number, line in enumerate(bar, 1):
                if line.strip(BLANKS + "\n"):
                    self._rejects.lines_read += 1
                    yield number, line.rstrip("\r\n")

    def reject(self, line: int, reason: str) -> None:
        """Record line ``line`` (from 1) of this file as malformed."""
        self._rejects.add(self.name, line, reason)

    def describe(self) -> dict[str, str]:
        """What ``conversion.json`` says of this file; no folder, so that runs are comparable."""
        return {"file": self.name, "sha256": self.sha256, "encoding": self.encoding}
