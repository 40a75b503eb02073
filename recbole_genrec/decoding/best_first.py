"""Exact top-k: best-first search over the trie, in batches, until nothing that is left can enter the list.

A prefix is at least as probable as any item below it. So when the k-th best item found is no worse than every prefix
still open, the list is the true one of the whole catalogue, proven, however small a part of it was looked at.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_genrec.decoding.tree import (NEVER, DecodingState, Ranking, Tree, child_log_probs, edge_log_probs,
                                          side_by_side, tokens_to_push)
from recbole_genrec.decoding.trie import Trie, ragged

#: Tokens a user that one pass takes from the best open prefixes. More of them: fewer passes, more of them in vain.
TOKENS_PER_PASS = 32
#: Open prefixes that a user keeps. The best one dropped bounds what the list can prove.
FRONTIER = 4096


@torch.no_grad()
def best_first(state: DecodingState, trie: Trie, k: int, norm: str = "trie", banned: Tensor | None = None,
               budget: int | None = None) -> Ranking:
    """The true best ``k`` items of each user, or the best found within the budget.

    Args:
        state: prompts of ``B`` users; used up.
        trie: over the item index, on the same device.
        k: length of the lists.
        norm: see :func:`recbole_genrec.decoding.tree.child_log_probs`. Under ``full`` the tail of a title costs
            probability too, bounds stay open for long, and the budget matters.
        banned: ``[B, H]`` item ids that may not be recommended (0: none), or None.
        budget: tokens a user after which no further pass begins, proven or not; None for no end but the proof.
    """
    users, device = len(state.hidden), state.hidden.device
    done, best = Ranking.empty(users, k, device), Ranking.empty(users, k, device)
    user = torch.arange(users, device=device)  # row of each user who is still searching
    banned = None if banned is None or banned.numel() == 0 else trie.sorted_ranks(banned)
    tree = Tree(state, trie)
    spent = torch.zeros(users, dtype=torch.int64, device=device)
    dropped = torch.full((users,), NEVER, device=device)
    cut = torch.zeros(users, dtype=torch.bool, device=device)

    fan = trie.children(torch.zeros(users, dtype=torch.int64, device=device))
    reached, ends = torch.zeros(users, 1, device=device), state.hidden
    node = torch.zeros(users, 0, dtype=torch.int64, device=device)  # open prefixes
    score = torch.zeros(users, 0, device=device)
    while True:
        token = trie.token[fan.child].long()
        total = reached.flatten()[fan.row] + child_log_probs(state, ends, fan, token, norm)
        owner = fan.row // reached.size(1)
        hopeful = (total > best.scores[:, -1][owner]).nonzero().squeeze(1)
        per_user = torch.bincount(owner[hopeful], minlength=len(reached))
        total, child = (side_by_side(values[hopeful], per_user, fill)
                        for values, fill in ((total, NEVER), (fan.child, 0)))
        if banned is not None:
            total = total.masked_fill(trie.all_banned(child, banned), NEVER)
        complete = tokens_to_push(trie, child, norm) == 0
        best.add(trie.item[trie.low[child]], total.masked_fill(~complete, NEVER))

        worst = best.scores[:, -1]
        score = torch.cat([score, total.masked_fill(complete, NEVER)], 1)
        score = score.masked_fill(score <= worst.unsqueeze(1), NEVER)  # cannot enter the list any more
        node = torch.cat([node, child], 1)
        open_prefixes = int((score > NEVER).sum(1).max())
        if 2 * open_prefixes < score.size(1) or score.size(1) > FRONTIER:
            score, place = score.topk(max(1, min(FRONTIER + 1, open_prefixes)), dim=1)
            node = node.gather(1, place)
            if score.size(1) > FRONTIER:
                dropped = torch.maximum(dropped, score[:, FRONTIER])
                score, node = score[:, :FRONTIER], node[:, :FRONTIER]

        proven = score.amax(1) == NEVER
        if budget is not None:
            cut |= ~proven & (spent >= budget)
            score = score.masked_fill(cut.unsqueeze(1), NEVER)
        over = proven | cut
        if 8 * int(over.sum()) >= len(over):  # each time somebody leaves, all that remains is copied
            best.exact = ~cut & (dropped <= best.scores[:, -1])
            done.put(user[over], best.rows(over))
            left = (~over).nonzero().squeeze(1)
            if len(left) == 0:
                return done
            tree.select(left)
            user, node, score, best, spent, dropped, cut = (
                user[left], node[left], score[left], best.rows(left), spent[left], dropped[left], cut[left])
            banned = None if banned is None else banned[left]

        # The best open prefixes, as many as the pass has room for, but one at the least.
        reached, place = score.topk(min(TOKENS_PER_PASS, score.size(1)), dim=1)
        taken = node.gather(1, place)
        length = tokens_to_push(trie, taken, norm) * (reached > NEVER)
        fits = length.cumsum(1) <= TOKENS_PER_PASS
        fits[:, 0] = True
        length = length * fits
        score = score.scatter(1, place, reached.masked_fill(length > 0, NEVER))
        spent += length.sum(1)
        hidden, last, each = tree.push_edges(taken, length)
        if norm == "full":
            reached = reached + edge_log_probs(state, trie, hidden, taken.flatten(), each).view_as(reached)
            titles = trie.is_leaf(taken) & (length > 0)
            if banned is not None:
                titles &= ~trie.all_banned(taken, banned)
            best.add(trie.item[trie.low[taken]], reached.masked_fill(~titles, NEVER))
        begin = trie.first[taken].long()
        fan = ragged(begin.flatten(), ((trie.first[taken + 1] - begin) * (length > 0)).flatten())
        ends = hidden[last.flatten()]
