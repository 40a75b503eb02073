"""What is known of the items before a word of a title is read: probability mass below every node of the trie."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_genrec.decoding.trie import Trie

#: Mass below which an item counts as this much: what double precision leaves of a difference of sums.
LEAST = 1e-12


@dataclass
class ItemPrior:
    """A distribution over the catalogue for each of ``B`` readers, looked up by node.

    A node's items are neighbours in rank, so its mass is a difference of two running sums.

    Attributes:
        below: ``[B, N + 1]`` float64, probability of all items of lower rank.
        trie: over the item index.
    """

    below: Tensor
    trie: Trie

    @classmethod
    def of(cls, logits: Tensor, trie: Trie) -> "ItemPrior":
        """From ``[B, max item id + 1]`` logits."""
        by_rank = logits[:, trie.item.long()].double().softmax(1)
        return cls(torch.nn.functional.pad(by_rank.cumsum(1), (1, 0)), trie)

    def log_mass(self, reader: Tensor, node: Tensor) -> Tensor:
        """``[M]`` float32 log-probability of all items below ``node[m]`` to ``reader[m]``."""
        high, low = self.trie.high[node].long(), self.trie.low[node].long()
        return (self.below[reader, high] - self.below[reader, low]).clamp(min=LEAST).log().float()

    def rows(self, rows: Tensor) -> "ItemPrior":
        """That of some readers."""
        return ItemPrior(self.below[rows], self.trie)
