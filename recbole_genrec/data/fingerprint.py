"""Fingerprints of data and of splits: equal whenever the content is, whatever the order of the file.

A line (user, item, place in the user's sequence, ...) is hashed by itself and the hashes are added up, so that nothing
has to be sorted or joined as text: 25 million interactions take seconds. Raw ids are hashed by BLAKE2, once each.
"""

from __future__ import annotations

import hashlib
from typing import Iterable

import numpy as np
from torch import Tensor

from recbole_genrec.data.catalogue import Catalogue

_BLOCK = 1 << 20  # lines at once: bounds the memory


def data_fingerprint(dataset) -> str:
    """Hash of users, items, titles, order and times of a :class:`GenRecDataset`: the data, whatever the split."""
    digest = hashlib.sha256(_lines(dataset, [np.arange(len(dataset.sequences.user))], timed=True))
    if dataset.item_feat is not None and dataset.config["title_field"] in dataset.item_feat:
        catalogue = Catalogue.from_dataset(dataset)
        digest.update("\n".join(sorted(map("\t".join, zip(catalogue.item_tokens, catalogue.titles)))).encode())
    return digest.hexdigest()[:16]


def split_fingerprint(dataset, target_rows: Iterable[Tensor]) -> str:
    """Hash of the item universe, of every user's sequence and of the places that are train, valid and test targets.

    Two runs with the same one were trained on the same samples and tested on the same targets, whatever the model.

    Args:
        dataset: the whole :class:`GenRecDataset`, built.
        target_rows: int64 target rows, in ``dataset.sequences``, of its train, valid and test part.
    """
    items = dataset.field2id_token[dataset.iid_field].astype(str)
    digest = hashlib.sha256("\n".join(sorted(items)).encode())
    # All rows first: a user's first item is nobody's target.
    digest.update(_lines(dataset, [np.arange(len(dataset.sequences.user)), *(rows.numpy() for rows in target_rows)]))
    return digest.hexdigest()[:16]


def numbering_fingerprint(dataset) -> str:
    """Hash of which internal id each user and item has. The weights of a model belong to them.

    RecBole numbers by first appearance, so another order of the same lines is the same data under other numbers.
    """
    tokens = [dataset.field2id_token[field].astype(str) for field in (dataset.uid_field, dataset.iid_field)]
    return hashlib.sha256("\n".join("\t".join(each) for each in tokens).encode(errors="surrogatepass")).hexdigest()[:16]


def _lines(dataset, parts: list[np.ndarray], timed: bool = False) -> bytes:
    """24 bytes for each part's multiset of lines (raw user, raw item, place[, time]): its sum and its size.

    Args:
        parts: int64 rows of the sequences, one array a part.
    """
    user, item, time, start = (getattr(dataset.sequences, name).numpy() for name in ("user", "item", "time", "start"))
    users, items = keys_of(dataset, dataset.uid_field), keys_of(dataset, dataset.iid_field)
    result = b""
    for rows in parts:
        total = np.zeros(2, dtype=np.uint64)
        for begin in range(0, len(rows), _BLOCK):
            block = rows[begin:begin + _BLOCK]
            line = mix(users[user[block]])
            line = mix(line + items[item[block]])
            line = mix(line + (block - start[block]).astype(np.uint64)[:, None])
            if timed:
                line = mix(line + time[block].view(np.uint64)[:, None])
            total += line.sum(axis=0, dtype=np.uint64)
        result += total.tobytes() + len(rows).to_bytes(8, "little")
    return result


def keys_of(dataset, field: str) -> np.ndarray:
    """``[ids, 2]`` uint64 hash of every raw id of a field."""
    tokens = dataset.field2id_token[field].astype(str)
    digests = b"".join(hashlib.blake2b(token.encode(errors="surrogatepass"), digest_size=16).digest()
                       for token in tokens)
    return np.frombuffer(digests, dtype="<u8").reshape(-1, 2)


def mix(key: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): each bit of the key turns half of the result's."""
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))
