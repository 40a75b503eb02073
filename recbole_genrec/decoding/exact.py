"""Exact scoring: the true log-probability of every item, or of given ones, by teacher forcing on the trie."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_genrec.decoding.beam import NEVER, DecodingState, Ranking
from recbole_genrec.decoding.trie import Trie

#: Trie nodes that go through the backbone in one pass. Bounds the memory of a pass; the result does not depend on it.
NODES_PER_PASS = 768


@torch.no_grad()
def score_catalogue(state: DecodingState, trie: Trie, norm: str = "full") -> Tensor:
    """Log-probability of every item for each user.

    The trie is walked in slices of neighbouring items. A slice is one pass over the union of its items' paths,
    in which a token sees the prompt and its own ancestors: shared prefixes are computed once per slice.

    Args:
        state: prompts of ``B`` users; its pushed tokens are forgotten.
        trie: over the item index, on the same device.
        norm: see :func:`recbole_genrec.decoding.beam.child_log_probs`.
    Returns:
        ``[B, max item id + 1]`` float32; ``-inf`` for ids that are no item.
    """
    scores = torch.full((len(state.hidden), len(trie.rank)), NEVER, device=state.hidden.device)
    for begin, end in _slices(trie):
        ranks = torch.arange(begin, end, device=trie.item.device)
        scores[:, trie.item[ranks]] = _score_slice(state, trie, ranks, norm)
    return scores


@torch.no_grad()
def exact_top_k(state: DecodingState, trie: Trie, k: int, norm: str = "full", banned: Tensor | None = None) -> Ranking:
    """The true best ``k`` items of each user (arguments as :func:`recbole_genrec.decoding.beam.beam_search`)."""
    scores = score_catalogue(state, trie, norm)
    if banned is not None:
        scores = scores.scatter(1, banned, NEVER)
    scores = torch.nn.functional.pad(scores, (0, max(0, k - scores.size(1))), value=NEVER)
    best, items = scores.topk(k, dim=1)
    return Ranking(items.masked_fill(best == NEVER, 0), best)


def _slices(trie: Trie) -> list[tuple[int, int]]:
    """Ranges of ranks whose paths have at most NODES_PER_PASS tokens altogether (one item at the least)."""
    depth = trie.depth(trie.leaf)
    ends, cost = [0], 0
    for rank, length in enumerate(depth.tolist()):
        if cost and cost + length > NODES_PER_PASS:
            ends.append(rank)
            cost = 0
        cost += length
    ends.append(trie.n_items)
    return list(zip(ends[:-1], ends[1:]))


def _score_slice(state: DecodingState, trie: Trie, ranks: Tensor, norm: str) -> Tensor:
    """``[B, len(ranks)]`` log-probabilities of neighbouring items."""
    users, device = len(state.hidden), state.hidden.device
    low, high = int(ranks[0]), int(ranks[-1]) + 1
    inside = (trie.low < high) & (trie.high > low)
    inside[0] = False
    nodes = inside.nonzero().squeeze(1)  # breadth-first: a parent stands before its children
    place = torch.full((len(trie),), -1, dtype=torch.int64, device=device)
    inner = nodes[~trie.is_leaf(nodes)]
    place[inner] = torch.arange(len(inner), device=device)

    # States: the root's (from the prompt), then one per inner node; a leaf's own state predicts nothing.
    hidden = state.hidden.unsqueeze(1)
    if len(inner):
        depth = trie.depth(inner) - 1
        above = place[trie.parent[inner]]
        visible = torch.zeros(len(inner), len(inner), dtype=torch.bool, device=device)
        for level in range(int(depth.max()) + 1):
            at = (depth == level).nonzero().squeeze(1)
            if level:
                visible[at] = visible[above[at]]
            visible[at, at] = True
        pushed = state.push(trie.token[inner].expand(users, -1), visible.unsqueeze(0), depth.unsqueeze(0))
        hidden = torch.cat([hidden, pushed], dim=1)
        state.forget()

    # Log-probability of each node given its parent, then summed along the paths, level by level.
    parent_place = place[trie.parent[nodes]] + 1  # 0: the root
    step = torch.empty(users, len(nodes), device=device)
    for chunk in torch.arange(hidden.size(1), device=device).split(256):  # bounds the logits' memory
        logits = state.logits(hidden[:, chunk]).float()
        mine = ((parent_place >= chunk[0]) & (parent_place <= chunk[-1])).nonzero().squeeze(1)
        column = parent_place[mine] - chunk[0]
        if norm == "full":
            whole = logits.logsumexp(-1)[:, column]
        else:
            owner = torch.cat([nodes.new_zeros(1), inner])[chunk]
            child, real = trie.children(owner)
            whole = logits.gather(-1, trie.token[child].expand(users, -1, -1)).masked_fill(~real, NEVER)
            whole = whole.logsumexp(-1)[:, column]
        step[:, mine] = logits[:, column, trie.token[nodes[mine]]] - whole
    total = torch.zeros(users, len(trie), device=device)
    level_of = trie.depth(nodes)
    for level in range(1, int(level_of.max()) + 1):
        at = (level_of == level).nonzero().squeeze(1)
        total[:, nodes[at]] = total[:, trie.parent[nodes[at]]] + step[:, at]
    return total[:, trie.leaf[ranks]]


@torch.no_grad()
def score_items(state: DecodingState, trie: Trie, items: Tensor, norm: str = "full") -> Tensor:
    """Log-probability of one given item per row, by teacher forcing.

    Args:
        state: prompts of ``B`` rows; its pushed tokens are forgotten.
        trie: over the item index, on the same device.
        items: ``[B]`` item ids.
        norm: see :func:`recbole_genrec.decoding.beam.child_log_probs`.
    Returns:
        ``[B]`` float32.
    """
    path, length = trie.paths(items)
    hidden = state.hidden.unsqueeze(1)
    if (width := path.size(1)) > 1:
        visible = torch.ones(width - 1, width - 1, dtype=torch.bool, device=path.device).tril().unsqueeze(0)
        depth = torch.arange(width - 1, device=path.device).unsqueeze(0)
        hidden = torch.cat([hidden, state.push(trie.token[path[:, :-1]].clamp(min=0), visible, depth)], dim=1)
        state.forget()
    inside = path > 0
    logits, node = state.logits(hidden[inside]).float(), path[inside]
    if norm == "full":
        step = logits.gather(-1, trie.token[node].unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)
    else:
        step = step_log_probs(logits, node, trie)
    return torch.zeros(path.shape, device=path.device).masked_scatter(inside, step).sum(1)


def step_log_probs(logits: Tensor, node: Tensor, trie: Trie) -> Tensor:
    """Log-probability of each step of an item's path among the children of the node it leaves.

    Summed over a path this is the item's log-probability in the catalogue, so its negative is exactly the
    cross-entropy over all items (the loss that SASRec is trained with), computed through the title tree:
    ``-log p(item) = -sum log p(child | parent)``.

    Args:
        logits: ``[N, V]`` over the vocabulary, at the parent of each node.
        node: ``[N]`` nodes taken; none is the root.
        trie: over the item index.
    Returns:
        ``[N]`` float32.
    """
    parent = trie.parent[node]
    count = trie.first[parent + 1] - trie.first[parent]
    row = torch.repeat_interleave(torch.arange(len(node), device=node.device), count)
    begin = count.cumsum(0) - count
    child = trie.first[parent][row] + torch.arange(len(row), device=node.device) - begin[row]
    scores = logits[row, trie.token[child]].float()
    highest = torch.full((len(node),), NEVER, device=node.device).scatter_reduce(0, row, scores.detach(), "amax")
    total = torch.zeros_like(highest).index_add(0, row, (scores - highest[row]).exp())
    return scores[begin + node - trie.first[parent]] - highest - total.log()
