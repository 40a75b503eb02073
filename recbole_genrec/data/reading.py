"""Atomic files as raw tab-separated text, by Arrow's parser: RecBole's own is slow and misreads titles."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv

from recbole_genrec.errors import UserError


def read_atomic(path: str, delimiter: str, usecols: list[str], dtype: dict[str, type], encoding: str | None = None,
                engine: str = "pyarrow") -> pd.DataFrame:
    """What RecBole asks of ``pd.read_csv``, with one meaning for every character: only an empty field is missing.

    RecBole uses pandas' Python engine with default quoting: a title that begins with a quote swallows lines, and
    ``NA``, ``null`` or ``nan`` becomes a missing value. Equal strings of a column are one object here: 25 million
    interactions take 200 MB a column.

    Args:
        path: the file; its first line names the columns.
        delimiter: one character.
        usecols: columns to read.
        dtype: by column, ``str`` or ``np.float64``.
        encoding: of the file; UTF-8 if None.
        engine: ignored.
    Returns:
        a frame with the columns in the file's order; object (str, NaN where missing) or float64.
    Raises:
        UserError: a line with more or fewer fields than the header, text that is not in the encoding, or a value
            that is no number.
    """
    text = pa.dictionary(pa.int32(), pa.string())
    try:
        with open(path, encoding=encoding or "utf-8", newline="\n") as file:
            header = file.readline().rstrip("\r\n").split(delimiter)
        table = csv.read_csv(
            path,
            csv.ReadOptions(encoding=encoding or "utf8", column_names=header, skip_rows=1),
            csv.ParseOptions(delimiter=delimiter, quote_char=False, double_quote=False),
            csv.ConvertOptions(include_columns=[name for name in header if name in set(usecols)],
                               column_types={name: text if kind is str else pa.float64()
                                             for name, kind in dtype.items()},
                               null_values=[""], strings_can_be_null=True))
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        _check_fields(path, delimiter)
        raise UserError(f"{os.path.relpath(path)} cannot be read: {' '.join(str(error).split())}") from None
    columns = {}
    for name in table.column_names:  # each is let go of when it has been converted
        columns[name] = _column(table.column(name))
        table = table.drop_columns(name)
    pa.default_memory_pool().release_unused()
    return pd.DataFrame(columns, copy=False)


def _column(column: pa.ChunkedArray) -> np.ndarray:
    """``[n]`` float64, or object with every distinct string made once."""
    if not pa.types.is_dictionary(column.type):
        return column.to_numpy().copy()  # not a view that holds Arrow's memory
    array = column.unify_dictionaries().combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    values = np.array([*array.dictionary.to_pylist(), np.nan], dtype=object)  # the last one is for nulls
    return values[array.indices.fill_null(len(values) - 1).to_numpy(zero_copy_only=False)]


def _check_fields(path: str, separator: str) -> None:
    """Refuse an atomic file in which a line has more or fewer fields than the header, naming the line."""
    content = np.fromfile(path, dtype=np.uint8)
    ends = np.flatnonzero(content == ord("\n"))
    if len(content) and content[-1] != ord("\n"):
        ends = np.append(ends, len(content))
    fields = np.diff(np.searchsorted(np.flatnonzero(content == ord(separator)), ends), prepend=0) + 1
    blank = np.diff(ends, prepend=-1) == 1
    if len(wrong := np.flatnonzero((fields != fields[0]) & ~blank)):
        more = f" (and {len(wrong) - 1} more such lines)" if len(wrong) > 1 else ""
        raise UserError(f"{os.path.relpath(path)} line {wrong[0] + 1} has {fields[wrong[0]]} fields, its header "
                        f"{fields[0]}{more}")
