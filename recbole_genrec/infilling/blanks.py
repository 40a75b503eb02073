"""Samples of autoregressive blank infilling: the corrupted text A, then the blanked spans B, with their position ids.

GLM's construction with RecSysLLM's entity-aware ids ("Span Order", "Positional Encoding", Figure 1): B is in the order
of the text, and its tokens carry the position of their own mask in A.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from recbole_genrec.infilling.masks import LEVELS
from recbole_genrec.infilling.text import Text
from recbole_genrec.prompt import Rows

#: Label of tokens that nothing is predicted at.
IGNORED = -100


@dataclass(frozen=True)
class Specials:
    """Token ids around the text.

    Attributes:
        cls, eos: first and last token of A; None for none.
        start, end: [START], the first input of every span, and [END], the last label.
        entity, sentence, document: the mask of each level ([MASK], [sMASK], [gMASK]); equal ids where the backbone has
            but one.
    """

    cls: int | None
    eos: int | None
    start: int
    end: int
    entity: int
    sentence: int
    document: int


@dataclass
class Sample:
    """One row ``[A | B]``: A are the columns before ``sep``, B those from there.

    Attributes:
        tokens: ``[T]`` int64 input ids.
        inter: ``[T]`` int64 the column in A; in B, that of the span's mask.
        intra: ``[T]`` int64 in A 1 .. k on the tokens of an entity, by their place in it, 0 elsewhere; in B 1 on
            [START], 0 where :class:`~recbole_genrec.infilling.positions.EntityPositions` has yet to fill in the id.
        label: ``[T]`` int64 what the model must say at this very column (labels are not shifted); -100 on A.
        blank: ``[T]`` int64 ``i + 1`` on the ``i``-th mask of the text and on its columns of B; 0 elsewhere.
        sep: length of A.
    """

    tokens: np.ndarray
    inter: np.ndarray
    intra: np.ndarray
    label: np.ndarray
    blank: np.ndarray
    sep: int


def fill_in(text: Text, spans: np.ndarray, level: str, specials: Specials, order: np.ndarray | None = None,
            entity_positions: bool = True) -> Sample:
    """Blank out spans of a text.

    Args:
        text: ``n`` tokens without specials.
        spans: ``[m, 2]`` begin and end columns in ascending order, m >= 1. A span may be empty: its mask is inserted
            before the token at ``begin``, and its part of B is [START] with the label [END] (a prompt).
        level: whose mask token to use: ``entity``, ``sentence`` or ``document``.
        specials: token ids.
        order: ``[m]`` permutation; the spans of B stand in this order (GLM's shuffling) instead of the text's.
        entity_positions: false for GLM's own intra ids: 0 all through A, and 1, 2, 3, ... in every span of B.
    Returns:
        a sample of ``n + 2 m`` tokens, and cls and eos.
    Raises:
        ValueError: an unknown level, no span, spans that overlap, fall or leave the text, an order that is not a
            permutation.
    """
    if level not in LEVELS:
        raise ValueError(f"unknown mask level {level!r}; there are {', '.join(LEVELS)}")
    n, spans = len(text), np.asarray(spans, dtype=np.int64)
    if spans.ndim != 2 or spans.shape[1] != 2 or not len(spans):
        raise ValueError(f"spans of shape {spans.shape}: [m, 2] with at least one span is needed")
    line = spans.ravel()
    if line[0] < 0 or line[-1] > n or (line[1:] < line[:-1]).any():
        raise ValueError(f"spans {spans.tolist()} are not apart and ascending within {n} tokens")
    begin, length, m = spans[:, 0], spans[:, 1] - spans[:, 0], len(spans)
    # Tokens in spans, one span after another.
    ends = length.cumsum()
    masked = np.arange(ends[-1]) + np.repeat(begin - (ends - length), length)

    head, tail = [] if specials.cls is None else [specials.cls], [] if specials.eos is None else [specials.eos]
    place = len(head) + begin - (ends - length) + np.arange(m)  # of the masks in A
    sep = n - len(masked) + m + len(head) + len(tail)
    total = sep + len(masked) + m
    tokens, inter, intra, label, blank = np.zeros((5, total), dtype=np.int64)

    visible = np.ones(n, dtype=bool)
    visible[masked] = False
    words = np.ones(sep, dtype=bool)  # columns of A that hold the visible tokens
    words[place] = False
    words[:len(head)] = False
    words[sep - len(tail):] = False
    tokens[:sep][words] = text.tokens[visible]
    tokens[place], tokens[:len(head)], tokens[sep - len(tail):sep] = getattr(specials, level), head, tail
    inter[:sep] = np.arange(sep)
    blank[place] = np.arange(1, m + 1)
    if entity_positions:
        intra[:sep][words] = _within_entities(text)[visible]

    if order is None:
        order = np.arange(m)
    else:
        order = np.asarray(order, dtype=np.int64)
        if not np.array_equal(np.sort(order), np.arange(m)):
            raise ValueError(f"order {order.tolist()} is not a permutation of {m} spans")
        length, begin = length[order], begin[order]
        masked = np.arange(len(masked)) + np.repeat(begin - (length.cumsum() - length), length)
    stop = (length + 1).cumsum()
    start = stop - length - 1
    words = np.ones(total - sep, dtype=bool)
    words[start] = False
    b = slice(sep, None)
    tokens[b][start] = specials.start
    tokens[b][words] = text.tokens[masked]
    label[:sep] = IGNORED
    label[sep:-1] = tokens[sep + 1:]
    label[sep + stop - 1] = specials.end
    inter[b], blank[b] = np.repeat(place[order], length + 1), np.repeat(order + 1, length + 1)
    if entity_positions:
        intra[b][start] = 1
    else:
        intra[b] = np.arange(1, total - sep + 1) - np.repeat(start, length + 1)
    return Sample(tokens, inter, intra, label, blank, sep)


def _within_entities(text: Text) -> np.ndarray:
    """``[n]`` int64 place of each token in its entity, from 1; 0 outside entities."""
    column = np.arange(len(text))
    first = np.ones(len(text), dtype=bool)
    first[1:] = text.unit[1:] != text.unit[:-1]
    return np.where(text.entity, column - np.maximum.accumulate(np.where(first, column, 0)) + 1, 0)


@dataclass
class BlankBatch(Rows):
    """Samples as rows padded on the right; all int64 on one device.

    Attributes:
        inter, intra, label, blank: ``[B, T]`` as in :class:`Sample`; 0 where padded, labels -100.
        sep: ``[B]`` length of each row's A.
    """

    inter: Tensor
    intra: Tensor
    label: Tensor
    blank: Tensor
    sep: Tensor

    @property
    def spans(self) -> Tensor:
        """``[B, T]`` bool, true on the columns of B."""
        column = torch.arange(self.tokens.size(1), device=self.tokens.device)
        return (column >= self.sep.unsqueeze(1)) & (column < self.lengths.unsqueeze(1))

    @property
    def pairs(self) -> Tensor:
        """Number of pairs of a token and a token that it sees, itself included."""
        b = self.lengths - self.sep
        return (self.sep * self.sep + b * self.sep + b * (b + 1) // 2).sum()

    @property
    def part_a(self) -> "BlankBatch":
        """A alone."""
        return replace(self, lengths=self.sep).rows(torch.arange(len(self.sep), device=self.sep.device))


def collate(samples: Sequence[Sample]) -> BlankBatch:
    """Stack samples as rows of a batch.

    Raises:
        ValueError: no sample.
    """
    if not samples:
        raise ValueError("a batch needs at least one sample")
    lengths = np.array([len(sample.tokens) for sample in samples])
    real = np.arange(lengths.max()) < lengths[:, None]
    rows = {}
    for name in ("tokens", "inter", "intra", "label", "blank"):
        row = np.full(real.shape, IGNORED if name == "label" else 0, dtype=np.int64)
        row[real] = np.concatenate([getattr(sample, name) for sample in samples])
        rows[name] = torch.from_numpy(row)
    return BlankBatch(**rows, lengths=torch.from_numpy(lengths), sep=torch.tensor([sample.sep for sample in samples]))
