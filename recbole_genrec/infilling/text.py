"""Text made of segments that were tokenised on their own: plain words, and entities that count as one unit each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np


@dataclass
class Text:
    """A tokenised text that knows its entities (RecSysLLM, "Training Phase": ``x`` with its ``e``).

    Attributes:
        tokens: ``[n]`` int64.
        unit: ``[n]`` int64 number of each token's unit, from 0: an entity is one unit, every plain token is one.
        entity: ``[n]`` bool, true inside entities.
        maskable: ``[n]`` bool, false where no mask may fall (an instruction).
    """

    tokens: np.ndarray
    unit: np.ndarray
    entity: np.ndarray
    maskable: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)


class Segments:
    """A flat table of tokenised segments, from which texts are laid out.

    Args:
        pieces: token ids of each of ``S`` segments; one may be empty.
        entity: ``[S]`` bool, whether the segment is an entity (an item's title, an attribute's value).
        maskable: ``[S]`` bool, whether masks may fall on it.

    Attributes:
        lengths: ``[S]`` int64 tokens of each segment.

    Raises:
        ValueError: flags for another number of segments; a negative token id.
    """

    def __init__(self, pieces: Sequence[Sequence[int]], entity: np.ndarray, maskable: np.ndarray):
        self.entity, self.maskable = np.asarray(entity, dtype=bool), np.asarray(maskable, dtype=bool)
        for name, flags in (("entity", self.entity), ("maskable", self.maskable)):
            if flags.shape != (len(pieces),):
                raise ValueError(f"{name} has shape {flags.shape}, but there are {len(pieces)} segments")
        self.lengths = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
        self.begin = self.lengths.cumsum() - self.lengths
        self.flat = np.fromiter(chain.from_iterable(pieces), dtype=np.int64, count=int(self.lengths.sum()))
        if len(self.flat) and self.flat.min() < 0:
            raise ValueError(f"token id {self.flat.min()} is negative")

    def __len__(self) -> int:
        """Number of segments."""
        return len(self.lengths)

    def text(self, ids: np.ndarray) -> Text:
        """Lay segments side by side.

        Args:
            ids: ``[k]`` segment numbers, in the order of the text; one may come up more than once.
        Raises:
            ValueError: a number that no segment has.
        """
        ids = np.asarray(ids, dtype=np.int64)
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(self):
            wrong = ids[(ids < 0) | (ids >= len(self))][0]
            raise ValueError(f"segment {wrong} does not exist: there are {len(self)}")
        lengths = self.lengths[ids]
        before = lengths.cumsum() - lengths
        # Where a token stands in the table, less where it stands in the text, is the same all through a segment.
        shift, entity, maskable = self.begin[ids] - before, self.entity[ids], self.maskable[ids]
        piece = np.repeat(np.arange(len(ids)), lengths)
        inside = entity[piece]
        first = ~inside
        first[before[lengths > 0]] = True
        tokens = self.flat[np.arange(len(piece)) + shift[piece]]
        return Text(tokens, first.cumsum() - 1, inside, maskable[piece])
