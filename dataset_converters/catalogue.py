"""The item metadata of a dump: one row an item, lines of other items skipped unread."""

from __future__ import annotations

from typing import Any, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .corpus import TITLE
from .parsing import numpy_mask, parse_record, split_lines
from .reading import BLANKS, InputFile

_QUOTED = r"""(?:"(?P<double>[^"\\]*)"|'(?P<single>[^'\\]*)')"""  # one group is empty


class Catalogue:
    """Columns of the item file, filled line by line.

    The dumps describe some items more than once: the first line with a title wins, the others
    are counted in ``duplicates``. ``others`` counts the lines of items without an interaction.
    """

    def __init__(self, *headers: str) -> None:
        self.columns: dict[str, dict[str, str]] = {TITLE: {}, **{h: {} for h in headers}}
        self.duplicates = self.others = 0

    def add(self, item: str, fields: dict[str, str]) -> None:
        """One line's fields by header; all lines have the same headers."""
        known = self.columns[TITLE].get(item)
        self.duplicates += known is not None
        if known is None or (not known and fields[TITLE]):
            for header, text in fields.items():
                self.columns[header][item] = text


def read_records(
    file: InputFile, key: str, wanted: pa.Array, catalogue: Catalogue
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``(item, record)`` of the JSON (or Python literal) lines of wanted items.

    A line whose one and only ``"key": "..."`` names another item is skipped without a look at
    the rest, since most of a metadata dump is about items without an interaction here; any other
    line is parsed, and is a reject if that fails. ``catalogue`` counts the lines of other items.
    """
    known = set(wanted.to_pylist())
    mark = rf"""["']{key}["']\s*:\s*"""
    for block in file.blocks():
        lines = split_lines(block)
        found = pc.extract_regex(lines, mark + _QUOTED)
        double, single = (pc.struct_field(found, group) for group in ("double", "single"))
        item = pc.if_else(pc.equal(double, ""), single, double)
        once = pc.equal(pc.count_substring_regex(lines, mark), 1)
        other = pc.invert(pc.is_in(item, wanted))
        skip = numpy_mask(pc.and_(pc.and_(found.is_valid(), once), other))
        file.count_lines(int(skip.sum()))
        catalogue.others += int(skip.sum())
        for place in np.flatnonzero(~skip).tolist():
            line, number = lines[place].as_py(), block.first + place
            if not line.strip(BLANKS + "\n"):
                continue
            file.count_lines(1)
            try:
                record = parse_record(line)
            except ValueError as error:
                file.reject(number, str(error))
                continue
            item = record.get(key)
            if not isinstance(item, str):
                file.reject(number, f"no {key}")
            elif item in known:
                yield item, record
            else:
                catalogue.others += 1
