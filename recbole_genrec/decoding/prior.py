"""What is known of the items before a word of a title is read, told as choices in the trie."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_genrec.decoding.trie import Trie

#: Probability that the items below a node have at least: what double precision leaves of a difference of sums.
LEAST = 1e-12


def branch_log_probs(logits: Tensor, trie: Trie) -> Tensor:
    """Log-probability of each node given its parent, where the items have these logits.

    The items below a node are neighbours in rank, so what they add up to is a difference of two running sums. Along
    the path to an item the steps add up to the item's own log-probability.

    Args:
        logits: ``[B, max item id + 1]`` of each user.
        trie: over the item index, on the same device.
    Returns:
        ``[B, nodes]`` float32, at most 0; 0 for the root.
    """
    below = torch.nn.functional.pad(logits[:, trie.item.long()].double().softmax(1).cumsum(1), (1, 0))
    mass = (below[:, trie.high.long()] - below[:, trie.low.long()]).clamp(min=LEAST).log()
    return (mass - mass[:, trie.parent.clamp(min=0).long()]).clamp(max=0).float()
