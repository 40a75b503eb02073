"""Seeded orders that no file order can leak into: of tied interactions, of item ids, of samples.

Each distinct id is hashed once (blake2b, so the same on every machine); what depends on pairs of
them is mixed from those hashes for whole arrays at once.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from .corpus import UNKNOWN_TIME, Corpus, occurrence, tied_pairs
from .reading import ConversionError

TIE_ORDERS = ("source", "hash")
ITEM_IDS = ("source", "shuffled")
SOURCE_ID = "source_id:token"


class TieOrder(NamedTuple):
    """The order of one user's neighbouring items at one time: of the source, or by a hash."""

    kind: Literal["source", "hash"]
    seed: int


def hash_ids(ids: pa.Array, purpose: str, seed: int) -> np.ndarray:
    """uint64 ``[len(ids)]``: a hash of each id that depends on nothing but it, ``purpose`` and
    ``seed``."""
    start = hashlib.blake2b(f"{purpose}\0{seed}\0".encode(), digest_size=8)
    digests = bytearray()
    for text in ids.to_pylist():
        one = start.copy()
        one.update(text.encode())
        digests += one.digest()
    return np.frombuffer(bytes(digests), dtype=">u8").astype(np.uint64)


def _mix(value: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: every input bit reaches every output bit."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def break_ties(corpus: Corpus, seed: int) -> Corpus:
    """Reorder each run of neighbouring rows of one user with one known time by a seeded hash of
    (user, item, how often the item came before).

    Raises ConversionError if no time is known.
    """
    if (corpus.time == UNKNOWN_TIME).all():
        raise ConversionError("--tie_order hash needs timestamps, and there are none")
    tied = tied_pairs(corpus)
    rows = np.flatnonzero(np.append(False, tied) | np.append(tied, False))
    run = np.append(0, np.cumsum(~tied))[rows]
    key = np.zeros(len(rows), dtype=np.uint64)
    for number in (occurrence(corpus)[rows].astype(np.uint64),
                   _hash_used(corpus.items, corpus.item[rows], "tie item", seed),
                   _hash_used(corpus.users, corpus.user[rows], "tie user", seed)):  # fmt: skip
        key = _mix(key ^ number)
    # Runs are numbered in row order, so each keeps the places that it has.
    order = np.arange(len(corpus.user))
    order[rows] = rows[np.lexsort((key, run))]
    return corpus.rows(order)


def _hash_used(names: pa.Array, codes: np.ndarray, purpose: str, seed: int) -> np.ndarray:
    """uint64 ``[len(codes)]``: the hash of each code's name; names without a code cost nothing."""
    used, place = np.unique(codes, return_inverse=True)
    return hash_ids(names.take(pa.array(used)), purpose, seed)[place]


def shuffle_items(corpus: Corpus, seed: int) -> Corpus:
    """Items renamed to 1..n by the order of a seeded hash of their id, which is kept in the
    column ``source_id:token``. ``items`` is then in the order of the new ids."""
    order = np.argsort(hash_ids(corpus.items, "item id", seed), kind="stable")
    number = np.empty(len(order), dtype=np.int32)
    number[order] = np.arange(len(order), dtype=np.int32)
    sources = corpus.items.take(pa.array(order)).to_pylist()
    fresh = [str(n) for n in range(1, len(order) + 1)]
    columns = {
        header: {new: texts[old] for new, old in zip(fresh, sources) if old in texts}
        for header, texts in corpus.columns.items()
    }
    columns[SOURCE_ID] = dict(zip(fresh, sources))
    return replace(corpus, items=pa.array(fresh), item=number[corpus.item], columns=columns)
