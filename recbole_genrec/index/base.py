"""The item index: item <-> token sequence, and the trie over it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_genrec.decoding.trie import Trie


@dataclass
class ItemIndex:
    """Spelling of every item, as one ragged array.

    Each item's sequence ends with ``terminator``, which occurs nowhere else in it: history items and targets
    are spelled alike, and a title that is a prefix of another is still distinct.

    Attributes:
        tokens: ``[total]`` int64, all spellings one after another, in order of the item id.
        offsets: ``[n_items + 1]`` int64; item ``i`` is ``tokens[offsets[i]:offsets[i + 1]]``, id 0 (padding) is empty.
        texts: ``[n_items]`` what each spelling says, for people; "" for the padding.
        terminator: token id.
        report: counts for the result record (collisions, missing titles, lengths).
    """

    tokens: Tensor
    offsets: Tensor
    texts: list[str]
    terminator: int
    report: dict[str, Any]

    @property
    def n_items(self) -> int:
        """Number of item ids, the padding included."""
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> Tensor:
        """``[n_items]`` tokens of each item, terminator included."""
        return self.offsets.diff()

    @cached_property
    def trie(self) -> Trie:
        """The trie over all real items."""
        return Trie.build(self.tokens.numpy(), self.offsets[1:].numpy(), np.arange(1, self.n_items))

    @cached_property
    def nodes(self) -> Tensor:
        """``[total]`` trie node that each token of ``tokens`` chooses among its siblings; 0 where it is forced."""
        row, place, node = self.trie.choices(torch.arange(1, self.n_items))
        nodes = torch.zeros_like(self.tokens)
        nodes[self.offsets[row + 1] + place] = node
        return nodes

    @cached_property
    def fingerprint(self) -> str:
        """Hash of every spelling: two runs with the same one decode over the same trie."""
        digest = hashlib.sha256(self.tokens.numpy().tobytes())
        digest.update(self.offsets.numpy().tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def numbers(self) -> np.ndarray | None:
        """``[n_items]`` int64 number that each text says, behind the same words for all; None if one says no number.

        What a leak probe reads (see :func:`recbole_genrec.data.leakage.index_leak`).
        """
        found = [re.fullmatch(r"(\D*)(\d{1,18})", text) for text in self.texts[1:]]
        if not all(found) or len({match[1] for match in found}) > 1:
            return None
        return np.array([-1, *(int(match[2]) for match in found)])

    def spelling(self, item: int) -> list[int]:
        """Token ids of one item."""
        return self.tokens[self.offsets[item]:self.offsets[item + 1]].tolist()

    @classmethod
    def from_spellings(cls, spellings: list[list[int]], texts: list[str], terminator: int,
                       report: dict[str, Any]) -> "ItemIndex":
        """Build from token ids of items 1, 2, ... without their terminator, which is added here.

        Args:
            spellings: ``n_items - 1`` lists of token ids.
            texts: ``n_items`` strings.
        """
        lengths = np.array([0] + [len(spelling) + 1 for spelling in spellings])
        tokens = np.fromiter((token for spelling in spellings for token in (*spelling, terminator)),
                             dtype=np.int64, count=int(lengths.sum()))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        report = {**report, "tokens_median": float(np.median(lengths[1:])), "tokens_max": int(lengths.max())}
        return cls(torch.from_numpy(tokens), torch.from_numpy(offsets), texts, terminator, report)
