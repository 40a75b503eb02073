"""The tree of tokens that decoding grows after each user's prompt, and what a search reads off it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from recbole_genrec.decoding.trie import Fan, Trie, ragged

NEVER = -torch.inf
#: Rank that no item has, of a token that nothing may see.
NOBODY = torch.iinfo(torch.int32).max
#: States that go through the language-model head together where only a sum over the vocabulary is kept.
ROWS_PER_CHUNK = 64


class DecodingState(Protocol):
    """What decoding needs of a backbone, after the prompts of ``B`` users went through it."""

    hidden: Tensor
    """``[B, d]`` state that predicts the first token of the answer."""

    prior: Tensor | None
    """``[B, nodes]`` what another judge adds to the log-probability of each choice under ``norm="trie"``, or None."""

    def push(self, tokens: Tensor, visible: Tensor, depth: Tensor, intra: Tensor | None = None) -> Tensor:
        """Run new tokens; ``visible[:, q]`` tells which generated tokens (all so far, then the new ones) ``q`` sees.

        Args:
            tokens: ``[B, Q]``.
            visible: ``[B or 1, Q, S + Q]`` bool, ``S`` the tokens pushed before. Every token sees itself.
            depth: ``[B or 1, Q]`` place in the answer, from 0.
            intra: ``[B, Q]`` place within the entity that the token is part of, for models that read it; None: the
                answer is one entity, so it is ``depth`` + 2 (1 is the token that starts the answer).
        Returns:
            ``[B, Q, d]`` hidden states.
        """

    def logits(self, hidden: Tensor) -> Tensor:
        """``[..., d]`` -> ``[..., V]`` over the whole vocabulary."""

    def logits_at(self, hidden: Tensor, row: Tensor, token: Tensor) -> Tensor:
        """``[R, d]`` -> ``[M]``: the logit of ``token[m]`` after state ``row[m]``; ascending by row, then by token."""

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
        exact: ``[B]`` bool, true if the list is proven to be the best of the whole catalogue.
    """

    items: Tensor
    scores: Tensor
    exact: Tensor

    @classmethod
    def empty(cls, users: int, k: int, device) -> "Ranking":
        """Lists without an item."""
        return cls(torch.zeros(users, k, dtype=torch.int64, device=device),
                   torch.full((users, k), NEVER, device=device),
                   torch.zeros(users, dtype=torch.bool, device=device))

    def put(self, rows: Tensor, part: "Ranking") -> None:
        """Write the lists of some users."""
        self.items[rows], self.scores[rows], self.exact[rows] = part.items, part.scores.float(), part.exact

    def rows(self, rows: Tensor) -> "Ranking":
        return Ranking(self.items[rows], self.scores[rows], self.exact[rows])

    def add(self, items: Tensor, scores: Tensor) -> None:
        """Merge ``[B, M]`` new items into the lists, in place."""
        k = self.items.size(1)
        self.scores, keep = torch.cat([self.scores, scores], 1).topk(k, dim=1)
        self.items = torch.cat([self.items, items.long()], 1).gather(1, keep).masked_fill(self.scores == NEVER, 0)


def side_by_side(values: Tensor, count: Tensor, fill) -> Tensor:
    """``[M]`` values, ``count[b]`` of them user ``b``'s, one user after another -> ``[B, K]``, padded with ``fill``."""
    width = max(int(count.max()), 1)
    real = torch.arange(width, device=count.device) < count.unsqueeze(1)
    return values.new_full(real.shape, fill).masked_scatter_(real, values)


class Tree:
    """The tokens pushed after the prompts, and who sees whom.

    A token belongs to the edge into a trie node. Edges and their ranges of items nest alike, so a token sees another
    just if its node's items lie within the other's and it stands no earlier: nothing is remembered but that.
    """

    def __init__(self, state: DecodingState, trie: Trie):
        self.state, self.trie = state, trie
        # [3, B, S]: first and last item of each token's node, negated where a wider range must compare as larger, and
        # its place in the answer.
        self.pushed = torch.zeros(3, len(state.hidden), 0, dtype=torch.int32, device=state.hidden.device)

    def push(self, tokens: Tensor, node: Tensor, depth: Tensor, real: Tensor) -> Tensor:
        """Push tokens, each with all that stands before it on its path pushed earlier or along with it.

        Args:
            tokens: ``[B, Q]``.
            node: ``[B, Q]`` trie node whose edge the token is on.
            depth: ``[B, Q]`` place in the answer, from 0.
            real: ``[B, Q]`` bool; nothing sees padding.
        Returns:
            ``[B, Q, d]`` hidden states.
        """
        low, high = self.trie.low[node], self.trie.high[node]
        new = torch.stack([low.masked_fill(~real, NOBODY), -high, depth.to(low.dtype)])
        self.pushed = torch.cat([self.pushed, new], -1)
        own, all_ = new.unsqueeze(-1), self.pushed.unsqueeze(-2)
        visible = (all_[0] <= own[0]) & (all_[1] <= own[1]) & (all_[2] <= own[2])
        visible[:, :, -tokens.size(1):] |= torch.eye(tokens.size(1), dtype=torch.bool, device=tokens.device)
        return self.state.push(tokens, visible, depth)

    def push_edges(self, node: Tensor, length: Tensor) -> tuple[Tensor, Tensor, Fan]:
        """Push the first ``length`` tokens of the edges into some nodes.

        Args:
            node: ``[B, W]``.
            length: ``[B, W]`` tokens to push, 0 for none.
        Returns:
            ``[M, d]`` hidden states of the tokens, one user and edge after another; ``[B, W]`` place among them of
            each edge's last token (of a token before where ``length`` is 0); the tokens' edges and places in the
            answer, as ``row`` and ``child``.
        """
        each = ragged(self.trie.edge_begin(node).flatten(), length.flatten())
        edge, per_user = node.flatten()[each.row], length.sum(1)
        own = (self.trie.token_at(edge, each.child), edge, each.child)
        tokens, edge, depth = (side_by_side(part, per_user, 0) for part in own)
        real = torch.arange(tokens.size(1), device=tokens.device) < per_user.unsqueeze(1)
        hidden = self.push(tokens, edge, depth, real)[real]
        return hidden, (length.flatten().cumsum(0) - 1).view_as(length).clamp(min=0), each

    def select(self, rows: Tensor) -> None:
        """Go on with these users only."""
        self.state.select(rows)
        if self.state.prior is not None:
            self.state.prior = self.state.prior[rows]
        self.pushed = self.pushed[:, rows]


def tokens_to_push(trie: Trie, node: Tensor, norm: str) -> Tensor:
    """Tokens that must be pushed before a node's children are known, or its title's probability is; 0: it is."""
    edge = trie.edge_length(node)
    # The last token of a title is followed by nothing; if forced, it is free under ``trie``, like all of the tail.
    return torch.where(trie.is_leaf(node), edge - 1 if norm == "full" else 0, edge)


def child_log_probs(state: DecodingState, hidden: Tensor, fan: Fan, token: Tensor, norm: str) -> Tensor:
    """Log-probability of each child given its parent's state.

    Args:
        hidden: ``[R, d]`` states of the parents, as many a user, one user after another.
        fan: the children.
        token: ``[M]`` int64 token that leads to each child.
        norm: ``full`` - the language model's own probability, over the whole vocabulary; ``trie`` - over the
            children alone, so that the probabilities of all items add up to one and forced tokens are free.
    Returns:
        ``[M]`` float32.
    Raises:
        ValueError: another normaliser.
        FloatingPointError: the model's logits are NaN.
    """
    if norm not in ("full", "trie"):
        raise ValueError(f"norm={norm!r} is neither full nor trie")
    picked = state.logits_at(hidden, fan.row, token).float()
    if norm == "full":
        return _sane(picked - log_partition(state, hidden)[fan.row])
    step = fan.log_softmax(picked)
    if state.prior is not None:
        step = step + state.prior[fan.row // (len(hidden) // len(state.hidden)), fan.child]
    return _sane(step)


def _sane(log_probs: Tensor) -> Tensor:
    """None above 0, as half-precision logits would give; searches rely on scores that only fall.

    Raises:
        FloatingPointError: NaN, which no list may be made of.
    """
    if log_probs.isnan().any():
        raise FloatingPointError("the model's logits are not numbers (NaN), or all of a choice are infinite")
    return log_probs.clamp(max=0)


def log_partition(state: DecodingState, hidden: Tensor) -> Tensor:
    """``[R, d]`` -> ``[R]`` float32, log of the sum over the vocabulary; a few rows at a time, to stay in cache."""
    return torch.cat([state.logits(part).float().logsumexp(-1) for part in hidden.split(ROWS_PER_CHUNK)])


def edge_log_probs(state: DecodingState, trie: Trie, hidden: Tensor, node: Tensor, each: Fan) -> Tensor:
    """``[E]`` log-probability, over the vocabulary, of the tokens on each edge after its first one.

    Args:
        hidden: ``[M, d]`` states of the edges' tokens.
        node: ``[E]`` nodes that the edges lead to.
        each: the tokens' edges and places in the answer (see :meth:`Tree.push_edges`).
    """
    edge = node[each.row]
    rows = (each.child + 1 < trie.depth[edge]).nonzero().squeeze(1)
    total = torch.zeros(len(node), device=hidden.device)
    if len(rows):
        states, token = hidden[rows], trie.token_at(edge[rows], each.child[rows] + 1)
        step = state.logits_at(states, torch.arange(len(rows), device=rows.device), token).float()
        total.index_add_(0, each.row[rows], _sane(step - log_partition(state, states)))
    return total
