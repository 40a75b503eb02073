"""Samples that are made when a batch is asked for: the interactions are stored once, a sample is one row number.

RecBole's augmentation writes out every window of every field in a Python loop: for 25 million interactions and windows
of 50 items that is 10 GB a field. The window of a sample follows from its target's row, so nothing else need be kept.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

#: Row number (in the sorted interactions) of each sample's target; lets every stage find the whole history.
TARGET_ROW = "target_row"
#: Column of an interaction that holds the user's whole history, for models that decode without it.
HISTORY = "whole_history"
#: Column of an interaction that holds the items which alone are ranked, where the protocol lists them.
CANDIDATES = "candidates"

#: What selects samples.
Index = Tensor | np.ndarray | list | slice | range


def one_in(dataset, step: int) -> Tensor:
    """One of every ``step`` samples of each user of a part of a data set, counted back from the last.

    With windows of ``step - 1`` items before each target, the windows and targets of these samples cover each of a
    user's items once, but for a first one that would stand alone.

    Args:
        dataset: the part; its ``N`` samples know their user and their target's row.
        step: at least 1.
    Returns:
        ``[M]`` int64 places among the samples, ascending.
    """
    user, row = dataset.inter_feat[dataset.uid_field], dataset.inter_feat[TARGET_ROW]
    last = torch.zeros(int(user.max()) + 1, dtype=row.dtype).scatter_reduce(0, user, row, "amax")
    return ((last[user] - row) % step == 0).nonzero().squeeze(1)


def with_target(history: Tensor, length: Tensor, target: Tensor) -> Tensor:
    """``[B, L]`` histories, padded by 0 on the right, and the item that followed each -> ``[B, longest + 1]``.

    Args:
        length: ``[B]`` items of each history.
        target: ``[B]``.
    """
    items = torch.nn.functional.pad(history[:, :int(length.max())], (0, 1))
    return items.scatter(1, length.unsqueeze(1), target.unsqueeze(1))


def last_of_each(dataset) -> Tensor:
    """``[M]`` int64 place of each user's last sample."""
    return one_in(dataset, int(dataset.inter_feat[TARGET_ROW].max()) + 1)


@dataclass
class Columns(MutableMapping):
    """The columns of RecBole's augmented samples by name, each computed when it is read.

    Attributes:
        base: by field, ``[n + longest, ...]`` interactions sorted by user and time, zeros behind them.
        start: ``[n]`` int64 row at which the row's user begins.
        rows: ``[N]`` int64 target rows, one a sample.
        lists: by name of a window column, the field whose window it is.
        length_field: name of the column of window lengths.
        longest: MAX_ITEM_LIST_LENGTH.
        own: ``[N, ...]`` columns written into these samples.
        dropped: names of columns taken out of these samples.
    """

    base: dict[str, Tensor]
    start: Tensor
    rows: Tensor
    lists: dict[str, str]
    length_field: str
    longest: int
    own: dict[str, Tensor] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[str]:
        names = dict.fromkeys([*self.base, self.length_field, *self.lists, TARGET_ROW, *self.own])
        yield from (name for name in names if name not in self.dropped)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return any(name == known for known in self)  # the inherited one would compute the column

    def __getitem__(self, name: str) -> Tensor:
        if name not in self:
            raise KeyError(name)
        if name in self.own:
            return self.own[name]
        if name in self.lists:
            return self._window(self.lists[name], *self._spans())
        if name == TARGET_ROW:
            return self.rows
        return self.rows - self._begin() if name == self.length_field else self.base[name][self.rows]

    def __setitem__(self, name: str, column: Tensor) -> None:
        self.own = {**self.own, name: column}
        self.dropped = self.dropped - {name}

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        self.dropped = self.dropped | {name}

    def take(self, index: Index) -> "Columns":
        """These columns for some of the samples, in the order of ``index``."""
        if isinstance(index, (list, range)):
            index = np.asarray(index, dtype=np.int64)
        if isinstance(index, np.ndarray):
            index = torch.from_numpy(index)
        return replace(self, rows=self.rows[index], own={name: column[index] for name, column in self.own.items()})

    def gather(self) -> dict[str, Tensor]:
        """All columns, computed together."""
        spans = self._spans()
        return {name: self._window(self.lists[name], *spans) if name in self.lists and name not in self.own
                else self[name] for name in self}

    def _begin(self) -> Tensor:
        """``[N]`` row of the first interaction in each window."""
        return torch.maximum(self.start[self.rows], self.rows - self.longest)

    def _spans(self) -> tuple[Tensor, Tensor]:
        """``[N]`` first row of each window, and bool ``[N, longest]``: the place is behind its end."""
        begin = self._begin()
        return begin, torch.arange(self.longest) >= (self.rows - begin).unsqueeze(1)

    def _window(self, field_name: str, begin: Tensor, behind: Tensor) -> Tensor:
        """``[N, longest, ...]`` of a field, oldest first, zeros behind the window's end."""
        column = self.base[field_name]
        # A view in which row i is column[i:i + longest]: whole rows are copied, no index per element.
        window = column.unfold(0, self.longest, 1)[begin].movedim(-1, 1)
        return window.masked_fill_(behind.view(*behind.shape, *[1] * (column.dim() - 1)), 0)


class Windows(Interaction):
    """RecBole's Interaction over :class:`Columns`: an index selects samples, :meth:`gather` writes them out."""

    def __init__(self, columns: Columns):
        self.interaction = columns

    @property
    def length(self) -> int:
        """Number of samples."""
        return len(self.interaction.rows)

    def __getitem__(self, index: str | Index) -> Tensor | Windows:
        return self.interaction[index] if isinstance(index, str) else Windows(self.interaction.take(index))

    def _reindex(self, index) -> None:
        self.interaction = self.interaction.take(torch.as_tensor(index))

    def gather(self) -> Interaction:
        """All columns, written out: what RecBole's augmentation holds for these samples."""
        return Interaction(self.interaction.gather())
