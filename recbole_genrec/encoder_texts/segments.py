"""Items, users and wording as one flat table of tokens, from which texts are laid out."""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_genrec.index import ItemIndex
from recbole_genrec.prompt import newest_that_fit


class SegmentTable:
    """Segments, each tokenised on its own: items 0 .. ``n_items`` - 1 (without their terminators; 0 is empty), then
    users, then pieces of wording.

    Args:
        index: spelling of every item.
        users: ``n_users`` token lists, one a user; the first is the padding's.
        pieces: token lists of all else; one may be empty.

    Attributes:
        tokens: ``[total]`` int64.
        length, begin: ``[segments]`` int64 tokens of each segment, and where it stands in ``tokens``.
        first_piece: number of the first piece.
    """

    def __init__(self, index: ItemIndex, users: list[list[int]], pieces: list[list[int]]):
        own = torch.ones_like(index.tokens, dtype=torch.bool)
        own[index.offsets[1:][index.lengths > 0] - 1] = False  # the terminators
        others = [*users, *pieces]
        extra = torch.tensor([token for segment in others for token in segment], dtype=torch.int64)
        self.tokens = torch.cat([index.tokens[own], extra])
        self.length = torch.cat([(index.lengths - 1).clamp(min=0), torch.tensor([len(segment) for segment in others])])
        self.begin = self.length.cumsum(0) - self.length
        self.n_items, self.n_users = index.n_items, len(users)
        self.first_piece = self.n_items + self.n_users
        self.longest_item = int(self.length[:self.n_items].max())
        self.longest_user = int(self.length[self.n_items:self.first_piece].max())

    @property
    def largest_token(self) -> int:
        """Largest token id in any text."""
        return int(self.tokens.max())

    def to(self, device: torch.device):
        """Move the tables to the device on which texts are made (in place)."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        return self

    def newest(self, user: Tensor, items: Tensor, room: Tensor | int, beside: int = 0) -> Tensor:
        """``[B, L]`` items, 0 where one is dropped so that they and their user take at most ``room`` tokens.

        Args:
            user: ``[B]`` user ids.
            items: ``[B, L]`` item ids, oldest first, 0 where there is none.
            room: a row, or one for all.
            beside: tokens that stand beside each item.
        """
        cost = self.length[:self.n_items] + beside
        cost[0] = 0
        return newest_that_fit(items, cost, (room - self.length[self.n_items + user]).unsqueeze(1))
