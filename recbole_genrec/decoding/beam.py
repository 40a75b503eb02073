"""Batched beam search on the trie: the prompt's keys and values are computed once a user and never copied per beam.

With ``norm="full"`` the search is the canonical one (Hugging Face: ``early_stopping="never"``, ``length_penalty=0``),
token by token. With ``norm="trie"`` forced tokens have probability one, so a step is a choice: a beam goes from one
node of the trie to the next, the whole edge between them in one push, and ends where a single item is left.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_genrec.decoding.tree import NEVER, DecodingState, Ranking, Tree, child_log_probs, side_by_side
from recbole_genrec.decoding.trie import Trie, ragged


@torch.no_grad()
def beam_search(state: DecodingState, trie: Trie, k: int, width: int, norm: str = "full",
                banned: Tensor | None = None) -> Ranking:
    """The best ``k`` items of each user that a beam of ``width`` finds.

    With ``width`` >= the number of items the result is exact. A catalogue with fewer than ``width`` items is
    searched whole.

    Args:
        state: prompts of ``B`` users; used up.
        trie: over the item index, on the same device.
        k: length of the lists, at most ``width``.
        width: beams a user.
        norm: see :func:`recbole_genrec.decoding.tree.child_log_probs`.
        banned: ``[B, H]`` item ids that may not be recommended (0: none), or None.
    Raises:
        ValueError: lists longer than the beam is wide.
    """
    if k > width:
        raise ValueError(f"{width} beams cannot fill a list of {k}")
    users, device = len(state.hidden), state.hidden.device
    canonical = norm == "full"
    done, best = Ranking.empty(users, k, device), Ranking.empty(users, k, device)
    user = torch.arange(users, device=device)  # row of each user who is still searching
    banned = None if banned is None or banned.numel() == 0 else trie.sorted_ranks(banned)
    tree = Tree(state, trie)
    node = torch.zeros(users, 1, dtype=torch.int64, device=device)
    score = torch.zeros(users, 1, device=device)
    hidden, last = state.hidden, torch.arange(users, device=device).unsqueeze(1)  # the state of each beam: hidden[last]

    step = 0
    while len(user):
        alive = (score > NEVER).flatten()
        begin, end = trie.first[node].long().flatten(), trie.first[node + 1].long().flatten()
        if canonical:  # within an edge there is one way to go on
            within = trie.depth[node].flatten() > step
            begin, end = torch.where(within, node.flatten(), begin), torch.where(within, node.flatten() + 1, end)
        fan = ragged(begin, (end - begin) * alive)
        token = trie.token_at(fan.child, step) if canonical else trie.token[fan.child].long()
        total = score.flatten()[fan.row] + child_log_probs(state, hidden[last.flatten()], fan, token, norm)
        per_user = fan.count.view_as(node).sum(1)
        total, child, beam = (side_by_side(values, per_user, fill) for values, fill in
                              ((total, NEVER), (fan.child, 0), (fan.row % node.size(1), 0)))
        if banned is not None:
            total = total.masked_fill(trie.all_banned(child, banned), NEVER)

        ends = trie.is_leaf(child)
        if canonical:
            ends &= trie.depth[child] == step + 1
        # Canonically an ending counts only among the best ``width`` of its step.
        finished, place = (total if canonical else total.masked_fill(~ends, NEVER)).topk(
            min(width, total.size(1)), dim=1)
        best.add(trie.item[trie.low[child.gather(1, place)]], finished.masked_fill(~ends.gather(1, place), NEVER))

        score, place = total.masked_fill(ends, NEVER).topk(min(width, total.size(1)), dim=1)
        # Scores only fall: a running beam no better than the worst of k finished ones cannot change the list.
        score = score.masked_fill(score <= best.scores[:, -1:], NEVER)
        width_now = max(int((score > NEVER).sum(1).max()), 1)
        score, place = score[:, :width_now], place[:, :width_now]
        node, beam = child.gather(1, place), beam.gather(1, place)

        over = score[:, 0] == NEVER
        if 8 * int(over.sum()) >= len(over):  # each time somebody leaves, all that remains is copied
            done.put(user[over], best.rows(over))
            left = (~over).nonzero().squeeze(1)
            tree.select(left)
            user, node, score, best = user[left], node[left], score[left], best.rows(left)
            banned = None if banned is None else banned[left]
        if len(user) == 0:
            break
        running = score > NEVER
        if canonical:
            hidden = tree.push(trie.token_at(node, step), node, torch.full_like(node, step), running).flatten(0, 1)
            last = torch.arange(node.numel(), device=device).view_as(node)
        else:
            hidden, last, _ = tree.push_edges(node, trie.edge_length(node) * running)
        step += 1
    done.exact |= width >= trie.n_items
    return done
