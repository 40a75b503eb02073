"""All review or rating files as one compact table, block by block, resumable."""

from __future__ import annotations

import json
from functools import partial
from typing import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .corpus import Corpus
from .parsing import Rows, numpy_mask, reject_bad_ids, reject_bad_times
from .reading import SHOWN, Block, InputFile, Rejects
from .staging import Staging

Parse = Callable[[InputFile, Block], Rows]


def collect(
    files: Sequence[InputFile], parse: Parse, staging: Staging, rejects: Rejects,
    per_second: int = 1,
) -> Corpus:  # fmt: skip
    """Parse every block of every file, in order, to a corpus sorted by user and time.

    Args:
        files: the interactions; several count as one, in the given order.
        parse: gives the rows of a block: columns ``user``, ``item`` (string), ``time`` (int64,
            in ``1 / per_second`` seconds) and ``rating`` (numbers).
        staging: where finished blocks are kept (its ``begin`` has been called).
        rejects: where malformed lines are recorded.
    Returns:
        users by first appearance; within a user by time, equal times as in the files.
    """
    tables = []
    for place, file in enumerate(files):
        for number, block in enumerate(file.blocks()):
            table = staging.part(f"{place}-{number}", partial(_table, parse, file, block, per_second))
            found = json.loads(table.schema.metadata[b"lines"])
            rejects.lines_read += found["read"]
            rejects.add_many(file.name, found["rejected"], found["rejects"])
            if not number and not len(table):
                rejects.check()  # the wrong file: say so now, not after all of its gigabytes
            tables.append(table.replace_schema_metadata())
    table = pa.concat_tables(tables).unify_dictionaries()
    users, user = _codes(table, "user")
    items, item = _codes(table, "item")
    corpus = Corpus(users, items, user, item, _numbers(table, "time"), _numbers(table, "rating"))
    corpus.per_second = per_second
    del table, tables
    return corpus.in_time_order()


def _table(parse: Parse, file: InputFile, block: Block, per_second: int) -> pa.Table:
    """One part: dictionary-encoded ids, int64 time, float32 rating, and what was rejected."""
    rows = parse(file, block)
    reject_bad_ids(rows, ("user", "item"))
    reject_bad_times(rows, per_second)
    rows.reject_null("rating", "no rating")
    rows.columns["rating"] = rows.columns["rating"].cast(pa.float32())
    rows.reject(~numpy_mask(pc.is_finite(rows.columns["rating"])), "rating is no number")
    columns = {
        "user": rows.columns["user"].dictionary_encode(),
        "item": rows.columns["item"].dictionary_encode(),
        "rating": rows.columns["rating"],
        "time": rows.columns["time"],
    }
    rejects = sorted(rows.rejects)
    lines = {"read": rows.lines_read, "rejected": len(rejects), "rejects": rejects[:SHOWN]}
    return pa.table(columns).replace_schema_metadata({"lines": json.dumps(lines)})


def _codes(table: pa.Table, name: str) -> tuple[pa.Array, np.ndarray]:
    """The distinct values by first appearance, and int32 ``[n]`` codes into them."""
    chunks = table[name].chunks
    codes = np.concatenate([chunk.indices.to_numpy() for chunk in chunks])
    return chunks[-1].dictionary, codes


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    return np.concatenate([chunk.to_numpy() for chunk in table[name].chunks])

