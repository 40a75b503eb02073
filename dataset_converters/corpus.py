"""A data set in memory: some 20 bytes an interaction, each id and each title once."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Mapping

import numpy as np
import pyarrow as pa

UNKNOWN_TIME = int(np.iinfo(np.int64).min)

TITLE, CATEGORIES, ATTRIBUTES = "title:token", "categories:token_seq", "attributes:token_seq"
BRAND, PRICE, YEAR = "brand:token", "price:float", "year:token"


@dataclass
class Corpus:
    """What a source hands to the writer.

    Attributes:
        users, items: ``[users]``, ``[items]`` string arrays, numbered by first appearance.
        user, item: ``[n]`` int32 codes into them, grouped by user in the order of ``users``;
            a user's rows are in the order in which they are to be written.
        time: ``[n]`` int64 in units of ``1 / per_second`` seconds since 1970, or UNKNOWN_TIME.
        rating: ``[n]`` float32, None where the source has none.
        per_second: 1 for seconds, 1000 for milliseconds.
        columns: columns of the item file by their header ("title:token"), in order. Each maps
            item ids to text; it may lack items ("" is written) and hold others.
        inputs: what the report says of the input files.
        lines_of_others: lines of metadata that are about items without an interaction and so
            have left nothing in ``columns``.
        notes: counts that only this source has, for the report.
    """

    users: pa.Array
    items: pa.Array
    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    rating: np.ndarray | None = None
    per_second: int = 1
    columns: dict[str, Mapping[str, str]] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    lines_of_others: int = 0
    notes: dict[str, int] = field(default_factory=dict)

    @property
    def titles(self) -> Mapping[str, str]:
        """The title by item id."""
        return self.columns.get(TITLE, {})

    def rows(self, chosen: np.ndarray) -> Corpus:
        """The same with other rows: ``chosen`` is a bool mask ``[n]`` or row numbers."""
        rating = None if self.rating is None else self.rating[chosen]
        return replace(
            self, user=self.user[chosen], item=self.item[chosen], time=self.time[chosen],
            rating=rating,
        )  # fmt: skip

    def compact(self) -> Corpus:
        """The same without users and items that have no rows."""
        users, user = _without_gaps(self.users, self.user)
        items, item = _without_gaps(self.items, self.item)
        return replace(self, users=users, items=items, user=user, item=item)

    def in_time_order(self) -> Corpus:
        """Rows grouped by user and sorted by time; ties keep their order."""
        if ((np.diff(self.user) > 0) | _ascends(self.user, self.time)).all():
            return self
        return self.rows(np.lexsort((self.time, self.user)))

    def untitled(self) -> np.ndarray:
        """bool ``[items]``: the item has no title."""
        return np.array([not self.titles.get(item) for item in self.items.to_pylist()], dtype=bool)


def _ascends(user: np.ndarray, time: np.ndarray) -> np.ndarray:
    return (np.diff(user) == 0) & (time[1:] >= time[:-1])


def _without_gaps(names: pa.Array, codes: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    used = np.bincount(codes, minlength=len(names)) > 0
    if used.all():
        return names, codes
    number = np.cumsum(used, dtype=np.int32) - np.int32(1)
    return names.filter(pa.array(used)), number[codes]


def tied_pairs(corpus: Corpus) -> np.ndarray:
    """bool ``[n - 1]``: row i and row i + 1 are of one user and of one known time."""
    time = corpus.time
    same = (time[1:] == time[:-1]) & (corpus.user[1:] == corpus.user[:-1])
    return same & (time[1:] != UNKNOWN_TIME)


def repeats(corpus: Corpus) -> int:
    """How many rows repeat an earlier row's user and item."""
    pair = _pairs(corpus)
    pair.sort()
    return int((pair[1:] == pair[:-1]).sum())


def occurrence(corpus: Corpus) -> np.ndarray:
    """int64 ``[n]``: how often the row's user had the row's item before."""
    result = np.zeros(len(corpus.user), dtype=np.int64)
    if repeats(corpus):  # else spare a big data set the memory of what follows
        pair = _pairs(corpus)
        order = np.argsort(pair, kind="stable")
        starts = np.flatnonzero(np.diff(pair[order], prepend=-1))
        counts = np.diff(np.append(starts, len(pair)))
        result[order] = np.arange(len(pair)) - np.repeat(starts, counts)
    return result


def _pairs(corpus: Corpus) -> np.ndarray:
    """int64 ``[n]``: one number for each pair of user and item."""
    return corpus.user.astype(np.int64) * len(corpus.items) + corpus.item
