"""Texts with one masked item for an encoder-decoder, without a prompt around them (Cao and Lio 2024).

A text is the user, then items oldest first, one of them replaced by a mask, then the end of the text. Besides its token
a column has the number of the whole user or item that it is part of: all tokens of one item share one ID embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_genrec.encoder_texts.segments import SegmentTable
from recbole_genrec.index import ItemIndex
from recbole_genrec.prompt import Rows, lay_out


@dataclass
class MaskedBatch(Rows):
    """Masked texts.

    Attributes:
        user: ``[B, T]`` int64 user of the tokens that spell one, else 0.
        item: ``[B, T]`` int64 item of the tokens that spell one, else 0: the masked item's number is nowhere.
    """

    user: Tensor
    item: Tensor


class MaskedTexts(SegmentTable):
    """Lays out texts from item ids.

    Args:
        index: spelling of every item; its terminator ends an answer and is left out in texts.
        users: ``n_users`` token lists, one a user; the first is the padding's.
        begin, end: tokens around a text; None for none.
        mask: the mask token.
        max_tokens: of a text. The oldest items go first. Raised where needed so that the user, the mask and one item
            always fit.
    """

    def __init__(self, index: ItemIndex, users: list[list[int]], begin: int | None, end: int | None, mask: int,
                 max_tokens: int):
        super().__init__(index, users, [[] if begin is None else [begin], [] if end is None else [end], [mask]])
        self.opening, self.ending, self.mask = (self.first_piece + place for place in range(3))
        self.max_tokens = max(max_tokens, self.longest_user + self.longest_item + 3)

    def fitting(self, user: Tensor, items: Tensor) -> Tensor:
        """``[B, L]`` items, 0 where one is dropped so that the text fits with a mask added to it."""
        return self.newest(user, items, self.max_tokens - 3)

    def __call__(self, user: Tensor, items: Tensor, masked: Tensor | None = None) -> MaskedBatch:
        """The texts.

        Args:
            user: ``[B]`` user ids; 0 for an unknown one, who is not written.
            items: ``[B, L]`` item ids, oldest first, 0 where there is none.
            masked: ``[B]`` column of the item that the mask replaces, in items that :meth:`fitting` gave; None: the
                mask follows the newest items that fit.
        """
        rows = len(items)
        column = items.new_full((rows, 1), self.mask)
        if masked is None:
            items = torch.cat([self.fitting(user, items), column], 1)
        else:
            items = items.scatter(1, masked.unsqueeze(1), column)
        segments = torch.cat([items.new_full((rows, 1), self.opening), (self.n_items + user).unsqueeze(1), items,
                              items.new_full((rows, 1), self.ending)], 1)
        lengths, to, source, place = lay_out(segments, self.begin, self.length)
        tokens, users, items = torch.zeros((3, rows, int(lengths.max())), dtype=torch.int64, device=segments.device)
        owner = segments[to[0], place]
        tokens[to] = self.tokens[source]
        users[to] = torch.where((owner >= self.n_items) & (owner < self.opening), owner - self.n_items, 0)
        items[to] = torch.where(owner < self.n_items, owner, 0)
        return MaskedBatch(tokens, lengths, users, items)
