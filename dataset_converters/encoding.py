"""UTF-8 or Latin-1? And which lines of a UTF-8 text hold bytes that are not UTF-8."""

from __future__ import annotations

import codecs
import re

# A character of two to four bytes. Latin-1 text hardly ever spells one ("Ã©").
_MULTIBYTE = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}"
    rb"|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}"
    rb"|\xf4[\x80-\x8f][\x80-\xbf]{2}"
)
_MAGIC = {
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"\xfd7zXZ\x00": "compressed by xz; unpack it first",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it first",
    b"\xff\xfe": "UTF-16; convert it to UTF-8 first",
    b"\xfe\xff": "UTF-16; convert it to UTF-8 first",
}
_BZIP2 = re.compile(rb"BZh[1-9]1AY&SY")


def foreign_form(start: bytes) -> str | None:
    """What a file with these first bytes is, where that is no text that is read here."""
    if _BZIP2.match(start):
        return "compressed by bzip2; unpack it first"
    if start[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    return next((what for magic, what in _MAGIC.items() if start.startswith(magic)), None)


class Detector:
    """Fed a text chunk by chunk, says if it is blank and what its encoding is.

    One stray byte must not garble every accented letter of a UTF-8 text. So a text is Latin-1
    only if it has bytes that are no UTF-8, and not one character of several bytes that is.
    """

    def __init__(self) -> None:
        self.blank = True
        self._start = True
        self._multibyte = self._misfit = False
        self._tail = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def feed(self, chunk: bytes) -> None:
        """The next bytes; the first ones must be at least three, if there are so many."""
        if self._start:
            chunk, self._start = chunk.removeprefix(codecs.BOM_UTF8), False
        self.blank = self.blank and not chunk.strip()
        if not self._multibyte and not chunk.isascii():
            self._multibyte = bool(_MULTIBYTE.search(self._tail + chunk))
        self._tail = chunk[-3:]
        if not self._misfit:
            try:
                self._decoder.decode(chunk)
            except UnicodeDecodeError:
                self._misfit = True

    def encoding(self) -> str:
        """ "utf-8" or "latin-1", after the last chunk."""
        if not self._misfit:
            try:
                self._decoder.decode(b"", final=True)
            except UnicodeDecodeError:
                self._misfit = True
        return "latin-1" if self._misfit and not self._multibyte else "utf-8"


def blank_misfits(text: bytes) -> tuple[bytes, list[int]]:
    """The text with the lines blanked that are not UTF-8, and their places from 0."""
    try:
        text.decode()
        return text, []
    except UnicodeDecodeError:
        lines, misfits = text.split(b"\n"), []
    for place, line in enumerate(lines):
        try:
            line.decode()
        except UnicodeDecodeError:
            lines[place] = b""
            misfits.append(place)
    return b"\n".join(lines), misfits
