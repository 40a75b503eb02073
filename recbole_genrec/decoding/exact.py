"""Exact scoring: the true log-probability of every item, or of given ones, by teacher forcing on the trie."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_genrec.decoding.tree import (NEVER, DecodingState, Ranking, child_log_probs, edge_log_probs,
                                          log_partition, tokens_to_push)
from recbole_genrec.decoding.trie import Trie, ragged

#: Trie tokens that go through the backbone in one pass. Bounds the memory of a pass; the result does not depend on it.
TOKENS_PER_PASS = 768


@torch.no_grad()
def score_catalogue(state: DecodingState, trie: Trie, norm: str = "full") -> Tensor:
    """Log-probability of every item for each user.

    The trie is walked in slices of neighbouring items. A slice is one pass over the union of its items' paths,
    in which a token sees the prompt and its own ancestors: shared prefixes are computed once per slice. Under
    ``trie`` the forced ends of titles are not computed at all.

    Args:
        state: prompts of ``B`` users; its pushed tokens are forgotten.
        trie: over the item index, on the same device.
        norm: see :func:`recbole_genrec.decoding.tree.child_log_probs`.
    Returns:
        ``[B, max item id + 1]`` float32; ``-inf`` for ids that are no item.
    """
    scores = torch.full((len(state.hidden), len(trie.rank)), NEVER, device=state.hidden.device)
    node = torch.arange(len(trie), device=trie.item.device)
    pushed = tokens_to_push(trie, node, norm)
    cost = torch.zeros(trie.n_items, dtype=torch.int64, device=node.device).index_add_(0, trie.low.long(), pushed)
    cost = cost.cumsum(0) // TOKENS_PER_PASS
    ends = [0, *(cost[1:] != cost[:-1]).nonzero().add(1).flatten().tolist(), trie.n_items]
    for low, high in zip(ends[:-1], ends[1:]):
        scores[:, trie.item[low:high]] = _score_slice(state, trie, low, high, pushed, norm)
    return scores


@torch.no_grad()
def exact_top_k(state: DecodingState, trie: Trie, k: int, norm: str = "full", banned: Tensor | None = None) -> Ranking:
    """The true best ``k`` items of each user, by scoring all of them.

    Arguments as :func:`recbole_genrec.decoding.beam.beam_search`.
    """
    scores = score_catalogue(state, trie, norm)
    if banned is not None:
        scores = scores.scatter(1, torch.where(banned < scores.size(1), banned, 0), NEVER)  # 0 is no item
    scores = torch.nn.functional.pad(scores, (0, max(0, k - scores.size(1))), value=NEVER)
    best, items = scores.topk(k, dim=1)
    return Ranking(items.masked_fill(best == NEVER, 0), best, torch.ones_like(best[:, 0], dtype=torch.bool))


def _score_slice(state: DecodingState, trie: Trie, low: int, high: int, pushed: Tensor, norm: str) -> Tensor:
    """``[B, high - low]`` log-probabilities of neighbouring items; ``pushed`` tokens of each edge are needed."""
    users, device = len(state.hidden), state.hidden.device
    node = ((trie.low < high) & (trie.high > low)).nonzero().squeeze(1)  # breadth-first, the root at the front
    each = ragged(trie.edge_begin(node), pushed[node])
    edge, depth = node[each.row], each.child
    hidden = state.hidden.unsqueeze(1)
    if len(edge):
        begin, end = trie.low[edge], trie.high[edge]
        visible = (begin <= begin.unsqueeze(1)) & (end >= end.unsqueeze(1)) & (depth <= depth.unsqueeze(1))
        pushed_states = state.push(trie.token_at(edge, depth).expand(users, -1), visible.unsqueeze(0),
                                   depth.unsqueeze(0))
        hidden = torch.cat([hidden, pushed_states], 1)
        state.forget()

    # Of each node: the log-probability of its first token among its siblings, or of all tokens on its edge.
    step = torch.zeros(users, len(trie), device=device)
    inner = (~trie.is_leaf(node)).nonzero().squeeze(1)
    fan = trie.children(node[inner])
    end_states = hidden[:, pushed[node].cumsum(0)[inner]].flatten(0, 1)
    chosen = child_log_probs(state, end_states, fan.tiled(users), trie.token[fan.child].long().repeat(users), norm)
    step[:, fan.child] = chosen.view(users, -1)
    if norm == "full":
        step[:, node] += edge_log_probs(state, trie, hidden[:, 1:].flatten(0, 1), node.repeat(users),
                                        each.tiled(users)).view(users, -1)
    total = torch.zeros(users, high - low, device=device)
    node = trie.leaf[low:high].long()
    while node.any():
        total += step[:, node]
        node = trie.parent[node].long().clamp(min=0)  # the root's step is 0
    return total


@torch.no_grad()
def score_items(state: DecodingState, trie: Trie, items: Tensor, norm: str = "full") -> Tensor:
    """Log-probability of given items, by teacher forcing: branches after the prompt that do not see each other.

    Args:
        state: prompts of ``B`` users; its pushed tokens are forgotten.
        trie: over the item index, on the same device.
        items: ``[B, C]`` item ids.
        norm: see :func:`recbole_genrec.decoding.tree.child_log_probs`.
    Returns:
        ``[B, C]`` float32.
    """
    tokens, node, length = (part.view(*items.shape, *part.shape[1:]) for part in trie.paths(items.flatten()))
    users, count, width = tokens.shape
    hidden = state.hidden[:, None, None].expand(-1, count, 1, -1)
    if width > 1:
        place = torch.arange(width - 1, device=tokens.device).repeat(count)
        branch = torch.arange(count, device=tokens.device).repeat_interleave(width - 1)
        visible = (branch == branch.unsqueeze(1)) & (place <= place.unsqueeze(1))
        pushed = state.push(tokens[:, :, :-1].flatten(1), visible.unsqueeze(0), place.unsqueeze(0))
        hidden = torch.cat([hidden, pushed.view(users, count, width - 1, -1)], dim=2)
        state.forget()
    scored = torch.arange(width, device=tokens.device) < length.unsqueeze(2) if norm == "full" else node > 0
    states = hidden[scored]
    if norm == "full":
        own = torch.arange(len(states), device=states.device)
        step = state.logits_at(states, own, tokens[scored]).float() - log_partition(state, states)
    else:
        step = step_log_probs(state.logits(states), node[scored], trie)
        if state.prior is not None:
            step = step + state.prior[scored.nonzero()[:, 0], node[scored]]
    return torch.zeros(tokens.shape, device=tokens.device).masked_scatter(scored, step).sum(2)


def step_log_probs(logits: Tensor, node: Tensor, trie: Trie, smoothing: float = 0.0) -> Tensor:
    """Log-probability of each choice on an item's path, among the children of the node that it leaves.

    Summed over a path this is the item's log-probability in the catalogue, so its negative is exactly the
    cross-entropy over all items (the loss that SASRec is trained with), computed through the title tree:
    ``-log p(item) = -sum log p(child | parent)``.

    Args:
        logits: ``[N, V]`` over the vocabulary, at the parent of each node.
        node: ``[N]`` nodes taken; none is the root.
        trie: over the item index.
        smoothing: share of a choice's weight that its siblings, itself included, have alike (label smoothing, Szegedy
            et al. 2016, section 7).
    Returns:
        ``[N]`` float32.
    """
    parent = trie.parent[node].long()
    fan = trie.children(parent)
    steps = fan.log_softmax(logits[fan.row, trie.token[fan.child].long()])
    taken = steps[fan.count.cumsum(0) - fan.count + node - trie.first[parent]]
    if smoothing == 0:
        return taken
    siblings = torch.zeros_like(taken).index_add(0, fan.row, steps) / fan.count
    return (1 - smoothing) * taken + smoothing * siblings
