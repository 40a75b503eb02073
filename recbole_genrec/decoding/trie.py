"""Array-backed (CSR) prefix tree over an item index.

Nodes are numbered breadth-first and, within a depth, in the lexicographic order of their prefixes, so the
children of a node are contiguous and every node owns a contiguous range of *ranks* (items in trie order).
The root is node 0. A node without children is a leaf and stands for exactly one item.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor


@dataclass
class Trie:
    """The tree, as 1-D int64 tensors on one device.

    Attributes:
        token: ``[n]`` token on the edge into the node (root: -1).
        parent: ``[n]`` parent node (root: -1).
        first: ``[n + 1]`` children of node ``i`` are ``first[i] .. first[i + 1] - 1``.
        low, high: ``[n]`` the node's items are those of rank ``low .. high - 1``.
        level: ``[depth + 2]`` nodes of depth ``d`` are ``level[d] .. level[d + 1] - 1``.
        item: ``[N]`` item id of each rank.
        rank: ``[max item id + 1]`` rank of each item id (-1 for ids that are not in the trie).
        leaf: ``[N]`` leaf node of each rank.
    """

    token: Tensor
    parent: Tensor
    first: Tensor
    low: Tensor
    high: Tensor
    level: Tensor
    item: Tensor
    rank: Tensor
    leaf: Tensor

    @classmethod
    def build(cls, flat: np.ndarray, offsets: np.ndarray, items: np.ndarray) -> "Trie":
        """Build the trie of ``N`` token sequences.

        Args:
            flat: ``[total]`` token ids of all sequences, one after another.
            offsets: ``[N + 1]`` sequence ``i`` is ``flat[offsets[i]:offsets[i + 1]]``.
            items: ``[N]`` item id of each sequence, all different.
        Raises:
            ValueError: no sequence, an empty one, two equal ones, or one that is a prefix of another.
        """
        count, lengths = len(items), np.diff(offsets)
        if count == 0 or lengths.min() == 0:
            raise ValueError("a trie needs at least one sequence, and none may be empty")
        width = int(lengths.max())
        # One padded row a sequence; token + 1, so that the padding (0) sorts before every token. Big-endian
        # bytes compare like the numbers, so one sort of raw bytes is the lexicographic order.
        padded = np.zeros((count, width), dtype=">u4")
        row = np.repeat(np.arange(count), lengths)
        padded[row, np.arange(len(flat)) - np.repeat(offsets[:-1], lengths)] = flat + 1
        order = np.argsort(padded.view(f"V{4 * width}").ravel(), kind="stable")
        padded, lengths, items = padded[order].astype(np.int64) - 1, lengths[order], np.asarray(items)[order]

        differs = padded[1:] != padded[:-1]
        # Depth at which each row leaves the path of the row before it (0 for the first row).
        branch = np.concatenate([[0], np.where(differs.any(1), differs.argmax(1), width)])
        if count > 1 and (branch[1:] >= np.minimum(lengths[1:], lengths[:-1])).any():
            raise ValueError("two sequences are equal, or one is a prefix of another: end each with a terminator")

        token, parent, low, level = [np.array([-1])], [np.array([-1])], [np.array([0])], [0, 1]
        leaf = np.zeros(count, dtype=np.int64)
        above = np.zeros(count, dtype=np.int64)  # node of each row at the depth before
        for depth in range(width):
            alive = lengths > depth
            starts = alive & (branch <= depth)
            node = np.cumsum(starts) - 1 + level[-1]
            rows = np.flatnonzero(starts)
            token.append(padded[rows, depth])
            parent.append(above[rows])
            low.append(rows)
            above = np.where(alive, node, above)
            leaf = np.where(lengths == depth + 1, above, leaf)
            level.append(level[-1] + len(rows))
        token, parent, low = map(np.concatenate, (token, parent, low))
        # Breadth-first numbers make ``parent`` non-decreasing, so child ranges are two binary searches.
        first = np.searchsorted(parent[1:], np.arange(len(token) + 1), side="left") + 1
        high = _subtree_ends(parent, low, level, count)
        rank = np.full(int(items.max()) + 1, -1, dtype=np.int64)
        rank[items] = np.arange(count)
        arrays = (token, parent, first, low, high, np.array(level), items, rank, leaf)
        return cls(*(torch.as_tensor(np.ascontiguousarray(array), dtype=torch.int64) for array in arrays))

    def to(self, device: torch.device | str) -> "Trie":
        """The same trie on another device."""
        return Trie(*(getattr(self, field.name).to(device) for field in fields(self)))

    def __len__(self) -> int:
        """Number of nodes, the root included."""
        return len(self.token)

    @property
    def n_items(self) -> int:
        return len(self.item)

    def children(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Children of each node, padded to the widest.

        Args:
            nodes: ``[...]`` node numbers.
        Returns:
            child nodes ``[..., C]`` (clamped to a valid number where padded) and a bool mask of the real ones.
        """
        start, end = self.first[nodes], self.first[nodes + 1]
        width = int((end - start).max()) if nodes.numel() else 0
        child = start.unsqueeze(-1) + torch.arange(width, device=nodes.device)
        real = child < end.unsqueeze(-1)
        return child.clamp(max=len(self) - 1), real

    def depth(self, nodes: Tensor) -> Tensor:
        """Tokens from the root to each node (root: 0); the shape of ``nodes``."""
        return torch.searchsorted(self.level, nodes, right=True) - 1

    def paths(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Nodes that spell each item, from the root's child to the leaf.

        Args:
            items: ``[B]`` item ids, all in the trie.
        Returns:
            ``[B, T]`` nodes, 0 after the end, and ``[B]`` lengths.
        """
        node = self.leaf[self.rank[items]]
        length = self.depth(node)
        path = torch.zeros(len(items), int(length.max()) if len(items) else 0, dtype=torch.int64, device=node.device)
        row = torch.arange(len(items), device=node.device)
        for step in range(path.size(1)):
            inside = step < length
            path[row[inside], (length - 1 - step)[inside]] = node[inside]
            node = torch.where(inside, self.parent[node], 0)
        return path, length

    def is_leaf(self, nodes: Tensor) -> Tensor:
        """Whether each node is a leaf; bool, the shape of ``nodes``."""
        return self.first[nodes] == self.first[nodes + 1]

    def sorted_ranks(self, items: Tensor) -> Tensor:
        """Ranks of each row's items in ascending order; padding and unknown ids become ``N`` and sort last.

        Args:
            items: ``[B, H]`` item ids, 0 where there is none (an id may stand there twice).
        """
        ranks = self.rank[items.clamp(max=len(self.rank) - 1)]
        ranks = torch.where((items <= 0) | (items >= len(self.rank)) | (ranks < 0), self.n_items, ranks)
        ranks = ranks.sort(dim=1).values
        repeated = torch.zeros_like(ranks, dtype=torch.bool)
        repeated[:, 1:] = ranks[:, 1:] == ranks[:, :-1]
        return ranks.masked_fill(repeated, self.n_items).sort(dim=1).values

    def all_banned(self, nodes: Tensor, banned: Tensor) -> Tensor:
        """Whether every item below a node is banned, so that no allowed item can be reached through it.

        Args:
            nodes: ``[B, M]``.
            banned: ``[B, H]`` from :meth:`sorted_ranks`.
        Returns:
            ``[B, M]`` bool.
        """
        low, high = self.low[nodes], self.high[nodes]
        inside = torch.searchsorted(banned, high) - torch.searchsorted(banned, low)
        return inside == high - low


def _subtree_ends(parent: np.ndarray, low: np.ndarray, level: list[int], count: int) -> np.ndarray:
    """First rank after each node's items: the next node of its depth begins there, or its parent's items end."""
    high = np.full(len(parent), count, dtype=np.int64)
    for depth in range(1, len(level) - 1):
        nodes = np.arange(level[depth], level[depth + 1])
        if not len(nodes):
            break
        following = np.append(low[nodes[1:]], count)
        high[nodes] = np.minimum(following, high[parent[nodes]])
    return high
