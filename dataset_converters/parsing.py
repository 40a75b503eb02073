"""From a block of lines to columns, vectorised; every line that does not fit keeps its number."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from dataclasses import dataclass, field
from typing import Any, Iterable, Mapping, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from .reading import BLANKS, Block

# What str.splitlines splits at, and the tab: neither can stand in a field of an atomic file.
BREAKS = "[\t\n\v\f\r\x1c-\x1e\u0085\u2028\u2029]"
LATEST = 4102444800  # 2100-01-01 in Unix seconds; every time lies between 0 and this
_LONGEST_RECORD = 4 << 20
_INT64 = range(-(2**63), 2**63)


@dataclass
class Rows:
    """The well-formed lines of one block.

    Attributes:
        columns: name -> array ``[n]``.
        line: int64 ``[n]``, the number of each line in its file.
        lines_read: all lines of the block that are not blank.
        rejects: ``(line, reason)`` of the others.
    """

    columns: dict[str, pa.Array]
    line: np.ndarray
    lines_read: int
    rejects: list[tuple[int, str]] = field(default_factory=list)

    def reject(self, bad: np.ndarray, reason: str) -> None:
        """Move the rows of the bool mask ``bad`` ``[n]`` to the rejects."""
        if bad.any():
            self.rejects += [(line, reason) for line in self.line[bad].tolist()]
            good = pa.array(~bad)
            self.columns = {name: column.filter(good) for name, column in self.columns.items()}
            self.line = self.line[~bad]

    def reject_null(self, name: str, reason: str) -> None:
        """Reject the rows that have no value in column ``name``."""
        self.reject(numpy_mask(self.columns[name].is_null()), reason)


def numpy_mask(mask: pa.Array) -> np.ndarray:
    """A boolean arrow array without nulls as numpy."""
    return mask.to_numpy(zero_copy_only=False)


def split_lines(block: Block) -> pa.StringArray:
    """The lines of a block, each with its line end; no text is copied."""
    ends = np.flatnonzero(np.frombuffer(block.text, dtype=np.uint8) == ord("\n")) + 1
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    buffers = pa.py_buffer(offsets), pa.py_buffer(block.text)
    return pa.StringArray.from_buffers(len(ends), *buffers)


def match(block: Block, pattern: str, form: str) -> Rows:
    """Lines that match an RE2 ``pattern`` whole; its named groups become string columns.

    ``form`` is the reason at a line that does not match ("not userId,movieId,...").
    """
    lines = split_lines(block)
    found = pc.extract_regex(lines, rf"\A(?:{pattern})[ \t\r]*\n\z")
    fits = numpy_mask(found.is_valid())
    others = {
        block.first + place: line
        for place, line in zip(np.flatnonzero(~fits).tolist(), lines.filter(found.is_null()))
    }
    rejects = [(n, form) for n, line in others.items() if line.as_py().strip(BLANKS + "\n")]
    matched = found.filter(pa.array(fits))
    columns = dict(zip((f.name for f in matched.type), matched.flatten()))
    numbers = np.flatnonzero(fits) + block.first
    return Rows(columns, numbers, len(numbers) + len(rejects), rejects)


class Field(NamedTuple):
    """A field of a JSON record: its key and pa.string(), pa.int64() or pa.float64()."""

    key: str
    type: pa.DataType


def json_lines(block: Block, fields: Mapping[str, Field]) -> Rows:
    """One JSON object a line; the named fields become columns, null where missing.

    Arrow parses a block at once. It takes many forms that are not one object a line, and does
    not say at which line it fails, so any block with which it is not content, or whose lines are
    not all ``{...}``, is parsed again line by line. The one known difference: Arrow lets pass
    ``Inf`` and nesting beyond a thousand levels in a field that is not read.
    """
    starts, ends = _line_bounds(block)
    text = np.frombuffer(block.text, dtype=np.uint8)
    # With this and as many rows as lines, each line is one object: none can span two lines,
    # for "}" and "{" never meet inside one. (Arrow also crashes on a lone "null".)
    if (text[starts] == ord("{")).all() and (text[ends - 1] == ord("}")).all():
        schema = pa.schema([(key, type_) for key, type_ in fields.values()])
        options = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        whole = pa.json.ReadOptions(use_threads=False, block_size=len(block.text) + 1)
        try:
            table = pa.json.read_json(pa.py_buffer(block.text), whole, options)
        except (pa.ArrowInvalid, UnicodeDecodeError):
            table = None
        if table is not None and len(table) == len(starts):
            columns = {name: table[f.key].combine_chunks() for name, f in fields.items()}
            return Rows(columns, np.arange(len(starts)) + block.first, len(starts))
    return json_lines_slowly(block, fields)


def _line_bounds(block: Block) -> tuple[np.ndarray, np.ndarray]:
    """Where each line starts and where its text ends, before the ``\\r\\n`` or ``\\n``."""
    text = np.frombuffer(block.text, dtype=np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    starts = np.concatenate([[0], ends[:-1] + 1])
    return starts, ends - (text[ends - 1] == ord("\r"))


def json_lines_slowly(block: Block, fields: Mapping[str, Field]) -> Rows:
    """:func:`json_lines` by Python, line by line: the meaning that the fast way must have.
    Python literals, as some of the older dumps are written, are read too."""
    values: dict[str, list[Any]] = {name: [] for name in fields}
    numbers, rejects, lines_read = [], [], 0
    for number, line in enumerate(block.text.decode()[:-1].split("\n"), block.first):
        if not line.strip(BLANKS):
            continue
        lines_read += 1
        try:
            parsed = parse_record(line)
            row = {name: _typed(parsed.get(key), key, kind) for name, (key, kind) in fields.items()}
        except ValueError as error:
            rejects.append((number, str(error)))
            continue
        numbers.append(number)
        for name, value in row.items():
            values[name].append(value)
    columns = {name: pa.array(values[name], f.type) for name, f in fields.items()}
    return Rows(columns, np.array(numbers, dtype=np.int64), lines_read, rejects)


def parse_record(line: str) -> dict[str, Any]:
    """A JSON object or, failing that, a Python dict literal, which is never evaluated as code.

    Raises ValueError for anything else.
    """
    if len(line) > _LONGEST_RECORD:
        raise ValueError("too long for a record")
    try:
        try:
            record = json.loads(line)
        except ValueError:
            if not re.match(r"\s*\{\s*u?['\"}]", line):
                raise
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a "\d" in a text is no fault of ours
                record = ast.literal_eval(line.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        raise ValueError("neither a JSON object nor a Python literal") from None
    if not isinstance(record, dict):
        raise ValueError("no JSON object")
    return record


def _typed(value: Any, key: str, kind: pa.DataType) -> Any:
    """``value`` as ``kind``, None where missing; ValueError where it is something else."""
    if value is None:
        return None
    if pa.types.is_string(kind):
        if isinstance(value, str) and not re.search("[\ud800-\udfff]", value):
            return value
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if pa.types.is_floating(kind):
            try:
                return float(value)
            except OverflowError:
                pass
        elif math.isfinite(value) and int(value) == value and int(value) in _INT64:
            return int(value)
    raise ValueError(f"{key} is no {'text' if pa.types.is_string(kind) else 'number'}")


def reject_bad_times(rows: Rows, per_second: int) -> None:
    """Reject rows whose time is missing, or outside what any data set can hold: the bound above
    catches milliseconds taken for seconds."""
    rows.reject_null("time", "no time")
    rows.columns["time"] = rows.columns["time"].cast(pa.int64())
    time = rows.columns["time"].to_numpy()
    rows.reject((time < 0) | (time >= LATEST * per_second), "time before 1970 or after 2100")


def reject_bad_ids(rows: Rows, names: Iterable[str]) -> None:
    """Reject rows whose id is missing, empty, or holds a tab or a line break."""
    for name in names:
        rows.reject_null(name, f"no {name} id")
        rows.reject(numpy_mask(pc.equal(rows.columns[name], "")), f"no {name} id")
        broken = numpy_mask(pc.match_substring_regex(rows.columns[name], BREAKS))
        rows.reject(broken, f"{name} id with a tab or a line break")
