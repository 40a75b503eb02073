"""Intra ids of blanked spans, by one automaton for training and generation (RecSysLLM's "dynamic position mechanism").

"When one token is generated, it will be judged as one part of an entity or not. If it and the previous token belong to
one entity, the intra-position id will continue to grow. Otherwise, it will start at 1 again" (Figure 2). Training and
generation ask the same automaton, so teacher forcing sees the ids that generation would give, whatever the titles are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import count

import numpy as np
import torch
from torch import Tensor

from recbole_genrec.decoding.trie import Trie
from recbole_genrec.infilling.blanks import BlankBatch

RULES = ("grow", "literal")
ROOT, NONE = 0, -1
#: Stands for every token that is on no path; no key and no edge has it.
NO_LETTER = -1


def pool(spellings: Sequence[Sequence[int]], end: int) -> Trie:
    """The trie of all entities, equal spellings once; its "items" are the numbers 1, 2, ... of the distinct ones.

    Args:
        spellings: token ids of each entity, without a terminator.
        end: [END], the terminator of every path.
    Raises:
        ValueError: no spelling, an empty one, or one that holds ``end``.
    """
    distinct = dict.fromkeys(map(tuple, spellings))
    for spelling in distinct:
        if not spelling or end in spelling:
            raise ValueError(f"entity {list(spelling)} is empty or holds the end token {end}")
    flat = np.array([token for spelling in distinct for token in (*spelling, end)], dtype=np.int64)
    offsets = np.cumsum([0, *(len(spelling) + 1 for spelling in distinct)])
    return Trie.build(flat, offsets, np.arange(1, len(distinct) + 1))


@dataclass
class State:
    """Where every sequence is after its last token; all tensors of one shape.

    Attributes:
        intra: int64 id of the last token.
        node: int64 trie node whose edge the path of the last tokens is on; the root where an entity may start, -1
            where none may (rule ``grow``: in a run of plain tokens).
        place: int64 tokens from the root.
        fresh: bool, the last token was [START].
        whole: bool, the last token ends an entity (a longer one may yet go on).
    """

    intra: Tensor
    node: Tensor
    place: Tensor
    fresh: Tensor
    whole: Tensor

    def gather(self, parent: Tensor) -> "State":
        """``[B, W]`` state -> ``[B, K]``: in each row the state of the beams ``parent`` (``[B, K]``)."""
        return State(*(getattr(self, part.name).gather(1, parent) for part in fields(self)))


class EntityPositions:
    """Gives every token of a blanked span its intra id.

    Both rules: [START] has 1, and what follows it counts on. A token that continues the path of an entity counts on.
    A separator ends every path, even inside an entity. They part where a path does not go on:

    * ``grow``: a run of plain tokens counts on like an entity (GLM's own ids in plain text). An entity may start only
      after [START] or a separator, and starts at 1; so does the first plain token after a whole entity. One after a
      path that was left unfinished counts on.
    * ``literal``: the paper's sentence to the letter. An entity may start anywhere; it starts at 1, and every plain
      token has 1.

    Args:
        trie: all entities, from :func:`pool`.
        start: [START].
        separator: the token after which an entity may start.
        rule: ``grow`` or ``literal``.
        limit: greatest id that the model has a position for; greater ones become this one.

    Attributes:
        clamped: how many ids were greater than ``limit``, in :meth:`step` and :meth:`fill` so far.

    Raises:
        ValueError: an unknown rule, a limit below 1, a trie whose paths do not all end with the same token, or in which
            that token stands elsewhere.
    """

    def __init__(self, trie: Trie, start: int, separator: int, rule: str, limit: int):
        if rule not in RULES:
            raise ValueError(f"plain_positions {rule!r} is neither {' nor '.join(RULES)}")
        if limit < 1:
            raise ValueError(f"limit {limit} leaves no id for [START]")
        self.end = int(trie.tokens[-1])
        if not (trie.tokens[trie.start[1:] - 1] == self.end).all() or (trie.tokens == self.end).sum() > trie.n_items:
            raise ValueError(f"every entity must end with the token {self.end}, which may stand nowhere else in it")
        self.start, self.separator, self.rule, self.limit = start, separator, rule, limit
        self._separators_inside = bool((trie.tokens == separator).any())
        self._vocabulary = int(trie.tokens.max()) + 1
        # One key for each node, made of its parent and its token. Children of a node are contiguous and ascending, and
        # so are nodes by their parents: the keys are sorted. Nothing has the root's key or the one behind the last.
        keys = trie.parent.long() * (self._vocabulary + 1) + trie.token
        self._keys = torch.cat([keys, keys.new_full((1,), torch.iinfo(torch.int64).max)])
        self._ends = torch.zeros(len(trie), dtype=torch.bool, device=keys.device)
        self._ends[trie.parent[trie.token == self.end].long()] = True
        self._depth, self._tokens, self._path = trie.depth, trie.tokens, trie.start[trie.low.long()]
        self._clamped = torch.zeros((), dtype=torch.int64, device=trie.token.device)

    def to(self, device: torch.device | str) -> "EntityPositions":
        """Move the tables to another device (in place)."""
        for name in ("_keys", "_ends", "_depth", "_tokens", "_path", "_clamped"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    @property
    def clamped(self) -> int:
        return int(self._clamped)

    def begin(self, shape: int | Sequence[int], device: torch.device | str | None = None) -> State:
        """The state after [START], ``shape`` times."""
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        zeros = torch.zeros(shape, dtype=torch.int64, device=device or self._keys.device)
        no = torch.zeros_like(zeros, dtype=torch.bool)
        return State(zeros + 1, zeros + ROOT, zeros, ~no, no)

    def step(self, state: State, token: Tensor) -> State:
        """Read one token more.

        Args:
            state: of any shape.
            token: int64 of that shape; [START] begins anew (the next mask's span). [END] is never an input; like any
                other token of no entity it would count as plain.
        """
        letter = self._letters(token)
        node = state.node.clamp(min=ROOT)
        found, child = self._child(node, state.place, letter.masked_fill(state.node == NONE, NO_LETTER))
        entering = state.node == ROOT
        if self.rule == "grow":
            again = torch.where(found, entering, state.whole)
            place = torch.where(found, state.place + 1, 0)
        else:
            anew, first = self._child(torch.zeros_like(node), torch.zeros_like(node), letter)
            again = entering | ~found
            place = torch.where(found, state.place + 1, anew.long())
            found, child = found | anew, torch.where(found, child, first)
        node = torch.where(found, child, NONE)
        whole = self._is_whole(node, place)
        fresh = token == self.start
        intra = self._clamp(torch.where(fresh | again & ~state.fresh, 1, state.intra + 1))
        # An entity may start next: after [START] and separators; under ``literal`` wherever no path is under way.
        ready = fresh | (token == self.separator)
        if self.rule == "literal":
            ready |= node == NONE
        return State(intra, node.masked_fill(ready, ROOT), place.masked_fill(ready, 0), fresh, whole)

    def fill(self, batch: BlankBatch) -> BlankBatch:
        """A batch with the ids that :meth:`step` gives, on all columns of B at once; A's are only clamped.

        Whatever ids B has are overwritten, GLM's own (``entity_positions=False``) too.

        Paths are followed from all places where one may start together, one token at a time, so the work goes with
        the longest entity and not with the longest span. Under ``grow`` those places are the columns after [START]
        and after separators, as nothing that stands before them matters to what follows; under ``literal`` an entity
        starts where the one before it was left. An id is then the distance from the last column that starts at 1.
        """
        spans = batch.spans
        tokens = batch.tokens[spans]
        start = tokens == self.start
        line = torch.zeros_like(start)
        line[1:] = (start | (tokens == self.separator))[:-1]
        length, whole = self._paths(line if self.rule == "grow" else torch.ones_like(line), tokens)
        column = torch.arange(len(tokens), device=tokens.device)
        again = start.clone()
        again[1:] |= self._again(line, column, length, whole)[1:] & ~start[:-1]
        ids = column - torch.where(again, column, 0).cummax(0).values + 1 if len(tokens) else column
        intra = batch.intra.masked_scatter(spans, ids)
        return replace(batch, intra=self._clamp(intra))

    def _again(self, line: Tensor, column: Tensor, length: Tensor, whole: Tensor) -> Tensor:
        """``[n]`` bool, whether the id of a column starts at 1 unless [START] stands before it.

        Args:
            line: ``[n]`` bool, the first columns of lines.
            column: ``[n]`` the columns' numbers.
            length: ``[n]`` tokens of the path that starts at a column; 0 where none was looked for, too.
            whole: ``[n]`` bool, whether that path is an entity.
        """
        if self.rule == "grow":
            after = (column + length)[whole]
            again = length > 0
            again[after[after < len(again)]] = True
            return again
        # A path starts (or a plain token stands) where the chain of paths from its line's beginning comes by. Each
        # round goes twice as far along the chains as the round before; they end in one column behind the last.
        again = torch.cat([line, line.new_zeros(1)])
        jump = torch.cat([column + length.clamp(min=1), column.new_full((1,), len(column))])
        reached = 0
        while reached != (now := int(again.sum())):
            reached = now
            again[jump[again]] = True
            jump = jump[jump]
        return again[:-1]

    def _paths(self, begins: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Follow the trie from many columns at once, up to a separator (included) at the most.

        Args:
            begins: ``[n]`` bool, from which columns.
            tokens: ``[n]``.
        Returns:
            ``[n]`` int64 tokens of the path from each column on, 0 where there is none; ``[n]`` bool, whether the path
            is a whole entity.
        """
        at = begins.nonzero().squeeze(1)
        letters = torch.cat([self._letters(tokens), tokens.new_full((1,), NO_LETTER)])
        node, last, length = torch.zeros_like(at), torch.zeros_like(tokens), torch.zeros_like(tokens)
        for place in count():
            found, node = self._child(node, place, letters[at + place])
            at, node = at[found], node[found]
            if not len(at):
                return length, self._is_whole(last, length)
            last[at], length[at] = node, place + 1
            if self._separators_inside:
                goes_on = tokens[at + place] != self.separator
                at, node = at[goes_on], node[goes_on]

    def _letters(self, token: Tensor) -> Tensor:
        """The tokens, but for those that are on no path."""
        outside = (token < 0) | (token >= self._vocabulary) | (token == self.end) | (token == self.start)
        return token.masked_fill(outside, NO_LETTER)

    def _child(self, node: Tensor, place: Tensor | int, letter: Tensor) -> tuple[Tensor, Tensor]:
        """One token further from ``place`` on the edge into ``node``: whether there is a way, and the node there."""
        on_edge = place < self._depth[node]
        forced = self._tokens[self._path[node] + place] == letter
        key = node * (self._vocabulary + 1) + letter
        child = torch.searchsorted(self._keys, key)
        return torch.where(on_edge, forced, self._keys[child] == key), torch.where(on_edge, node, child)

    def _is_whole(self, node: Tensor, place: Tensor) -> Tensor:
        """Whether an entity ends here: the terminator may follow."""
        node = node.clamp(min=ROOT)
        return torch.where(place < self._depth[node], self._tokens[self._path[node] + place] == self.end,
                           self._ends[node])

    def _clamp(self, intra: Tensor) -> Tensor:
        self._clamped += (intra > self.limit).sum()
        return intra.clamp(max=self.limit)
