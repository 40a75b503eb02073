"""Catalogues of any size that are spelled like a given one: a walk over the pairs of tokens that follow each other."""

from __future__ import annotations

import numpy as np

from recbole_genrec.index import ItemIndex

#: Tokens after which a title is ended, if it does not end by itself.
LONGEST = 30


def spellings_like(index: ItemIndex, items: int, seed: int = 2023) -> tuple[np.ndarray, np.ndarray]:
    """Different token sequences, each ended by the index's terminator.

    Args:
        index: the catalogue to imitate: how titles begin, and which token follows which how often.
        items: how many sequences.
    Returns:
        flat tokens and offsets, as :meth:`recbole_genrec.decoding.trie.Trie.build` takes them.
    """
    dice, end = np.random.default_rng(seed), index.terminator
    tokens, offsets = index.tokens.numpy(), index.offsets.numpy()
    begins = tokens[offsets[1:-1]]
    inside = np.ones(len(tokens), dtype=bool)
    inside[offsets[2:] - 1] = False  # a terminator is followed by nothing
    pairs = np.flatnonzero(inside)
    order = pairs[np.argsort(tokens[pairs], kind="stable")]
    follows = tokens[order + 1]
    first = np.searchsorted(tokens[order], np.arange(tokens.max() + 2))

    found: np.ndarray | None = None
    while found is None or len(found) < items:
        count = items // 2 + 1000
        rows = np.zeros((count, LONGEST + 1), dtype=np.int32)
        rows[:, 0] = dice.choice(begins, count)
        for place in range(1, LONGEST + 1):
            last = rows[:, place - 1]
            going = (last != end) & (last != 0)
            choice = first[last] + (dice.random(count) * (first[last + 1] - first[last])).astype(np.int64)
            rows[:, place] = np.where(going, end if place == LONGEST else follows[np.minimum(choice, len(follows) - 1)],
                                      0)
        found = np.unique(rows if found is None else np.concatenate([found, rows]), axis=0)
    found = found[dice.choice(len(found), items, replace=False)]
    real = found != 0
    return found[real].astype(np.int64), np.concatenate([[0], real.sum(1).cumsum()])
