"""Batched beam search on the trie: the prompt's keys and values are computed once a user and never copied per beam.

A beam is a node of the trie. One step scores the children of all beams of all users, keeps the best, and pushes
their tokens through the backbone as new leaves of a *tree* of generated tokens that share the user's prompt.
With ``norm="full"`` the search is the canonical one (Hugging Face: ``early_stopping="never"``,
``length_penalty=0``), step by step. With ``norm="trie"`` a beam ends as soon as a single item is left below it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from recbole_genrec.decoding.trie import Trie

NEVER = -torch.inf


class DecodingState(Protocol):
    """What decoding needs of a backbone, after the prompts of ``B`` users went through it."""

    hidden: Tensor
    """``[B, d]`` state that predicts the first token of the answer."""

    def push(self, tokens: Tensor, visible: Tensor, depth: Tensor) -> Tensor:
        """Run new tokens; ``visible[:, q]`` tells which generated tokens (all so far, then the new ones) ``q`` sees.

        Args:
            tokens: ``[B, Q]``.
            visible: ``[B or 1, Q, S + Q]`` bool, ``S`` the tokens pushed before. Every token sees itself.
            depth: ``[B or 1, Q]`` place in the answer, from 0.
        Returns:
            ``[B, Q, d]`` hidden states.
        """

    def logits(self, hidden: Tensor) -> Tensor:
        """``[..., d]`` -> ``[..., V]`` over the whole vocabulary."""

    def select(self, rows: Tensor) -> None:
        """Go on with these users only."""

    def forget(self) -> None:
        """Drop all pushed tokens and keep the prompts."""


@dataclass
class Ranking:
    """Decoded lists of ``B`` users, best first.

    Attributes:
        items: ``[B, k]`` item ids, 0 where fewer than ``k`` were found.
        scores: ``[B, k]`` log-probabilities, ``-inf`` where there is no item.
    """

    items: Tensor
    scores: Tensor


def child_log_probs(state: DecodingState, hidden: Tensor, trie: Trie, child: Tensor, real: Tensor,
                    norm: str) -> Tensor:
    """Log-probability of each child given its parent's state.

    Args:
        hidden: ``[..., d]`` states of the parents.
        child, real: ``[..., C]`` from :meth:`Trie.children`.
        norm: ``full`` - the language model's own probability, over the whole vocabulary; ``trie`` - over the
            children alone, so that the probabilities of all items add up to one and forced tokens are free.
    Returns:
        ``[..., C]`` float32, ``-inf`` where padded.
    """
    logits = state.logits(hidden).float()
    picked = logits.gather(-1, trie.token[child]).masked_fill(~real, NEVER)
    whole = logits if norm == "full" else picked
    # A dead beam may stand on a leaf, whose children sum to nothing: -inf, not the NaN of a difference.
    return (picked - whole.logsumexp(-1, keepdim=True)).masked_fill(~real, NEVER)


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
        norm: see :func:`child_log_probs`.
        banned: ``[B, H]`` item ids that may not be recommended (0: none), or None.
    """
    users, device = len(state.hidden), state.hidden.device
    done = Ranking(torch.zeros(users, k, dtype=torch.int64, device=device),
                   torch.full((users, k), NEVER, device=device))
    user = torch.arange(users, device=device)  # row of each user who is still searching
    banned = None if banned is None or banned.numel() == 0 else trie.sorted_ranks(banned)

    node = torch.zeros(users, 1, dtype=torch.int64, device=device)
    score = torch.zeros(users, 1, device=device)
    hidden = state.hidden.unsqueeze(1)
    sees = torch.zeros(users, 1, 0, dtype=torch.bool, device=device)  # pushed tokens on each beam's path
    best_item = torch.zeros(users, k, dtype=torch.int64, device=device)
    best_score = torch.full((users, k), NEVER, device=device)

    for depth in range(len(trie.level) - 2):
        child, real = trie.children(node)
        total = score.unsqueeze(-1) + child_log_probs(state, hidden, trie, child, real, norm)
        total, child = total.flatten(1), child.flatten(1)
        if banned is not None:
            total = total.masked_fill(trie.all_banned(child, banned), NEVER)
        # Under ``trie`` a node above one item alone settles it: the rest of its title is forced and costs nothing.
        ends = trie.is_leaf(child) if norm == "full" else trie.high[child] - trie.low[child] == 1
        # Canonically (``full``) an ending counts only among the best ``width`` of its step.
        finished, place = (total if norm == "full" else total.masked_fill(~ends, NEVER)).topk(
            min(width, total.size(1)), dim=1)
        finished = finished.masked_fill(~ends.gather(1, place), NEVER)
        found = trie.item[trie.low[child.gather(1, place)]]
        best_score, keep = torch.cat([best_score, finished], 1).topk(k, dim=1)
        best_item = torch.cat([best_item, found], 1).gather(1, keep)

        score, place = total.masked_fill(ends, NEVER).topk(min(width, total.size(1)), dim=1)
        # Scores only fall: a running beam no better than the worst of k finished ones cannot change the list.
        score = score.masked_fill(score <= best_score[:, -1:], NEVER)
        alive = max(int((score > NEVER).sum(1).max()), 1)
        score, place = score[:, :alive], place[:, :alive]
        node, beam = child.gather(1, place), place // real.size(-1)

        over = score[:, 0] == NEVER
        if over.any():
            rows = user[over]
            done.items[rows], done.scores[rows] = best_item[over], best_score[over]
            left = (~over).nonzero().squeeze(1)
            if len(left) == 0:
                break
            state.select(left)
            user, node, score, beam, sees, best_item, best_score = (
                t[left] for t in (user, node, score, beam, sees, best_item, best_score))
            banned = None if banned is None else banned[left]

        width_now = node.size(1)
        sees = sees.gather(1, beam.unsqueeze(-1).expand(-1, -1, sees.size(-1)))
        itself = torch.eye(width_now, dtype=torch.bool, device=device).expand(len(node), -1, -1)
        sees = torch.cat([sees, itself], dim=-1)
        # Every later beam descends from these: their states are pushed once and looked at by all descendants.
        hidden = state.push(trie.token[node].clamp(min=0), sees, torch.full((1, 1), depth, device=device))

    done.items = done.items.masked_fill(done.scores == NEVER, 0)
    return done
