"""Array-backed, path-compressed prefix tree over an item index.

A node stands where titles part: every inner node but the root has at least two children, and the edge into a node
carries all the tokens that no choice is left about. Nodes are numbered breadth-first and, within a level, in the
lexicographic order of their prefixes, so the children of a node are contiguous and every node owns a contiguous
range of *ranks* (items in trie order). The root is node 0; a leaf stands for exactly one item. A catalogue of ``N``
items has at most ``2 N`` nodes, however long its titles are.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_LARGEST = np.iinfo(np.int32).max


class Fan(NamedTuple):
    """All children of some nodes, one after another.

    Attributes:
        row: ``[M]`` int64 place of the parent among the nodes asked for.
        child: ``[M]`` int64 child nodes, those of one parent together and in order.
        count: ``[R]`` int64 children of each node asked for.
    """

    row: Tensor
    child: Tensor
    count: Tensor

    def tiled(self, times: int) -> "Fan":
        """The same fan for ``times`` users, one after another."""
        offset = torch.arange(times, device=self.row.device).unsqueeze(1) * len(self.count)
        return Fan((self.row + offset).flatten(), self.child.repeat(times), self.count.repeat(times))

    def log_softmax(self, scores: Tensor) -> Tensor:
        """``[M]`` scores -> ``[M]`` float32, normalised among the children of each parent."""
        scores = scores.float()
        some = self.count[self.count > 0]
        if len(some) == 1:
            return scores.log_softmax(0)
        highest = torch.segment_reduce(scores.detach(), "max", lengths=some, unsafe=True)
        shifted = scores - highest.repeat_interleave(some, output_size=len(scores))
        total = torch.zeros_like(highest).index_add(0, _numbers(some, len(scores)), shifted.exp())
        return shifted - total.log().repeat_interleave(some, output_size=len(scores))


@dataclass
class Trie:
    """The tree, as 1-D int32 tensors on one device.

    Attributes:
        token: ``[n]`` first token on the edge into the node (root: -1).
        parent: ``[n]`` parent node (root: -1).
        first: ``[n + 1]`` children of node ``i`` are ``first[i] .. first[i + 1] - 1``.
        depth: ``[n]`` tokens from the root to the end of the edge into the node (root: 0).
        low, high: ``[n]`` the node's items are those of rank ``low .. high - 1``.
        tokens: ``[total]`` the spellings, in order of rank.
        start: ``[N + 1]`` rank ``r`` is spelled ``tokens[start[r]:start[r + 1]]``.
        item: ``[N]`` item id of each rank.
        rank: ``[max item id + 1]`` rank of each item id (-1 for ids that are not in the trie).
        leaf: ``[N]`` leaf node of each rank.
    """

    token: Tensor
    parent: Tensor
    first: Tensor
    depth: Tensor
    low: Tensor
    high: Tensor
    tokens: Tensor
    start: Tensor
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
            ValueError: no sequence, an empty one, two equal ones, or one that is a prefix of another; item ids that are
                not different whole numbers from 1; tokens beyond int32.
        """
        flat, offsets, items = np.asarray(flat), np.asarray(offsets, dtype=np.int64), np.asarray(items)
        if len(items) == 0 or len(offsets) != len(items) + 1 or np.diff(offsets).min() == 0:
            raise ValueError("a trie needs a sequence for each item, at least one, and none may be empty")
        if items.min() < 1 or len(np.unique(items)) < len(items):
            raise ValueError("each sequence needs an item id of its own, from 1")
        if len(flat) > _LARGEST or flat.min() < 0 or flat.max() > _LARGEST:
            raise ValueError("sequences must hold token ids from 0 to 2**31 - 1, and no more than that many")
        order = _sorted(flat, offsets)
        lengths = np.diff(offsets)[order]
        start = np.concatenate([[0], lengths.cumsum()])
        tokens = flat[np.repeat(offsets[order] - start[:-1], lengths) + np.arange(start[-1])]
        common = _common_prefixes(tokens, start)
        if (common[1:] >= np.minimum(lengths[1:], lengths[:-1])).any():
            raise ValueError("two sequences are equal, or one is a prefix of another: end each with a terminator")

        parent, depth, low, high = _nodes(common, lengths)
        # Breadth-first numbers make ``parent`` non-decreasing, so child ranges are binary searches.
        first = np.searchsorted(parent[1:], np.arange(len(parent) + 1)) + 1
        token = np.append(-1, tokens[start[low[1:]] + depth[parent[1:]]])
        leaves = np.flatnonzero(first[1:] == first[:-1])
        leaf = np.empty(len(items), dtype=np.int64)
        leaf[low[leaves]] = leaves
        items = items[order]
        rank = np.full(int(items.max()) + 1, -1)
        rank[items] = np.arange(len(items))
        arrays = (token, parent, first, depth, low, high, tokens, start, items, rank, leaf)
        return cls(*(torch.from_numpy(np.ascontiguousarray(array, dtype=np.int32)) for array in arrays))

    def save(self, path: Path) -> None:
        """Write the arrays to a safetensors file."""
        save_file({field.name: getattr(self, field.name) for field in fields(self)}, path)

    @classmethod
    def load(cls, path: Path) -> "Trie":
        """The trie in a file, memory-mapped: pages are read when they are looked at, and shared by processes."""
        return cls(**load_file(path))

    def to(self, device: torch.device | str) -> "Trie":
        """The same trie on another device."""
        return Trie(*(getattr(self, field.name).to(device) for field in fields(self)))

    def __len__(self) -> int:
        """Number of nodes, the root included."""
        return len(self.token)

    @property
    def n_items(self) -> int:
        return len(self.item)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))

    def children(self, nodes: Tensor) -> Fan:
        """Children of each of ``nodes`` (``[R]``)."""
        begin = self.first[nodes].long()
        return ragged(begin, self.first[nodes + 1].long() - begin)

    def is_leaf(self, nodes: Tensor) -> Tensor:
        """Whether each node is a leaf; bool, the shape of ``nodes``."""
        return self.first[nodes] == self.first[nodes + 1]

    def edge_begin(self, nodes: Tensor) -> Tensor:
        """Place of the first token on the edge into each node (root: 0); int64, the shape of ``nodes``."""
        return self.depth[self.parent[nodes].clamp(min=0)].long()

    def edge_length(self, nodes: Tensor) -> Tensor:
        """Tokens on the edge into each node (root: 0); int64, the shape of ``nodes``."""
        return self.depth[nodes] - self.edge_begin(nodes)

    def token_at(self, nodes: Tensor, place: Tensor | int) -> Tensor:
        """Token at ``place`` (from 0, on the path to the node) for each node; int64, the shape of ``nodes``."""
        return self.tokens[self.start[self.low[nodes]] + place].long()

    def paths(self, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """How items are spelled.

        Args:
            items: ``[B]`` item ids, all in the trie.
        Returns:
            ``[B, T]`` int64 tokens, 0 after the end; ``[B, T]`` int64 the node that a token chooses among its
            siblings, 0 where the token is forced (or padding); ``[B]`` lengths.
        Raises:
            ValueError: an id that is not in the trie.
        """
        known = (items > 0) & (items < len(self.rank))
        if not (known & (self.rank[items.clamp(0, len(self.rank) - 1)] >= 0)).all():
            raise ValueError("an item is not in the trie")
        rank = self.rank[items]
        length = (self.start[rank + 1] - self.start[rank]).long()
        place = torch.arange(int(length.max()) if len(items) else 0, device=items.device)
        inside = place < length.unsqueeze(1)
        tokens = self.tokens[(self.start[rank].unsqueeze(1) + place).clamp(max=len(self.tokens) - 1)].long()
        row, place, node = self.choices(items)
        chosen = torch.zeros_like(tokens)
        chosen[row, place] = node
        return tokens.masked_fill(~inside, 0), chosen, length

    def choices(self, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The nodes on the way to each of ``B`` items (root excluded), in no order.

        Returns:
            ``[M]`` int64 each: which of ``items``; place of the first token of the edge into the node; the node.
        """
        row, node = torch.arange(len(items), device=items.device), self.leaf[self.rank[items]].long()
        rows, nodes = [], []
        while len(row):
            rows.append(row)
            nodes.append(node)
            node = self.parent[node].long()
            row, node = row[node > 0], node[node > 0]
        row, node = torch.cat(rows), torch.cat(nodes)
        return row, self.edge_begin(node), node

    def sorted_ranks(self, items: Tensor) -> Tensor:
        """Ranks of each row's items in ascending order; padding and unknown ids become ``N`` and sort last.

        Args:
            items: ``[B, H]`` item ids, 0 where there is none (an id may stand there twice).
        """
        ranks = self.rank[items.clamp(0, len(self.rank) - 1)].long()
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
        low, high = self.low[nodes].long(), self.high[nodes].long()
        inside = torch.searchsorted(banned, high) - torch.searchsorted(banned, low)
        return inside == high - low


def ragged(begin: Tensor, count: Tensor) -> Fan:
    """The numbers ``begin[r] .. begin[r] + count[r] - 1`` of each row, one after another."""
    total = int(count.sum())
    row = _numbers(count, total)
    return Fan(row, torch.arange(total, device=begin.device) + (begin - (count.cumsum(0) - count))[row], count)


def _numbers(count: Tensor, total: int) -> Tensor:
    """``0`` ``count[0]`` times, ``1`` ``count[1]`` times, and so on."""
    return torch.repeat_interleave(torch.arange(len(count), device=count.device), count, output_size=total)


def _sorted(flat: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Order of the sequences: lexicographic by token, a prefix before what it begins."""
    data = np.ascontiguousarray(flat, dtype=">u4")  # big-endian bytes compare as the numbers do
    spellings = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(offsets) - 1, [None, pa.py_buffer(offsets * 4), pa.py_buffer(data)])
    return pyarrow.compute.array_sort_indices(spellings).to_numpy().astype(np.int64)


def _common_prefixes(tokens: np.ndarray, start: np.ndarray) -> np.ndarray:
    """``[N]`` tokens that each sequence begins with like the one before it (the first: 0)."""
    common = np.zeros(len(start) - 1, dtype=np.int64)
    rows = np.arange(1, len(common))
    for place in range(int(np.diff(start).max())):
        mine, before = start[rows] + place, start[rows - 1] + place
        rows, mine, before = (part[(mine < start[rows + 1]) & (before < start[rows])] for part in (rows, mine, before))
        rows = rows[tokens[mine] == tokens[before]]
        if not len(rows):
            break
        common[rows] += 1
    return common


def _nodes(common: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, ...]:
    """Parent, depth, low and high of every node, level by level.

    Items ``low .. high - 1`` of a node part where their common prefix ends, and at each item whose common prefix
    with the one before it is just that long.
    """
    parents, depths, lows, highs = [np.array([-1])], [np.array([0])], [np.array([0])], [np.array([len(common)])]
    numbered = 0  # nodes before this level
    while len(inner := np.flatnonzero((highs[-1] - lows[-1] > 1) | (parents[-1] < 0))):
        low, high, depth = (part[-1][inner] for part in (lows, highs, depths))
        size = high - low
        owner = np.repeat(np.arange(len(inner)), size)
        rows = np.arange(len(owner)) + np.repeat(low - (size.cumsum() - size), size)
        starts = (rows == low[owner]) | (common[rows] == depth[owner])
        low, owner = rows[starts], owner[starts]
        upper = high[owner]
        same = np.append(owner[1:] == owner[:-1], False)
        upper[same] = low[1:][same[:-1]]
        # The shortest common prefix within; the item that begins a node shares it with none before.
        inside = np.where(starts, np.iinfo(np.int64).max, common[rows])
        shortest = np.minimum.reduceat(inside, np.flatnonzero(starts))
        parents.append(inner[owner] + numbered)
        depths.append(np.where(upper - low > 1, shortest, lengths[low]))
        numbered += len(lows[-1])
        lows.append(low)
        highs.append(upper)
    return tuple(np.concatenate(part) for part in (parents, depths, lows, highs))
