"""RecBole's SequentialDataset, read exactly: raw tab-separated text, exact times, whole histories."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from recbole.data.dataset import SequentialDataset
from recbole.data.interaction import Interaction
from recbole.data.transform import construct_transform
from recbole.utils import FeatureSource, FeatureType
from torch import Tensor

from recbole_genrec.compat import atomic_files_read_by
from recbole_genrec.data.reading import read_atomic
from recbole_genrec.data.windows import Columns, Windows
from recbole_genrec.errors import UserError

log = logging.getLogger("recbole_genrec")


@dataclass
class Sequences:
    """All interactions, sorted by user and exact time (ties keep the file's order).

    Attributes:
        user, item: ``[n]`` int64 internal ids.
        time: ``[n]`` float64 exact times (seconds), NaN where unknown.
        start: ``[n]`` row at which the row's user begins.
    """

    user: Tensor
    item: Tensor
    time: Tensor
    start: Tensor

    def history(self, rows: Tensor, longest: int | None = None) -> Tensor:
        """What the user did before each row.

        Args:
            rows: ``[B]`` target rows.
            longest: of the history, the newest so many; None: everything, not only the last MAX_ITEM_LIST_LENGTH.
        Returns:
            ``[B, H]`` item ids, oldest first, 0 after the end.
        """
        start = self.start[rows] if longest is None else torch.maximum(self.start[rows], rows - longest)
        length = rows - start
        column = torch.arange(int(length.max()) if len(rows) else 0)
        inside = column < length.unsqueeze(1)
        return self.item[(start.unsqueeze(1) + column).clamp(max=len(self.item) - 1)] * inside

    def tied(self, rows: Tensor) -> Tensor:
        """``[B]`` bool: the target has the same time as the interaction before it (False where unknown)."""
        return (self.time[rows] == self.time[(rows - 1).clamp(min=0)]) & (self.start[rows] < rows)

    def timed(self, rows: Tensor) -> Tensor:
        """``[B]`` bool: the times of the target and of the interaction before it are known."""
        return ~torch.isnan(self.time[rows] + self.time[(rows - 1).clamp(min=0)])


class GenRecDataset(SequentialDataset):
    """SequentialDataset with three repairs, the same for every model:

    * Atomic files are read as raw tab-separated text: RecBole's parser lets a title that begins with a quote
      swallow lines and turns ``NA`` or ``null`` into a missing value.
    * Times stay float64: RecBole's float32 moves the last item of 149 of ml-100k's 943 users.
    * Samples are windows over the sorted sequences, written out batch by batch. They are RecBole's own, in its order.
    """

    def __init__(self, config):
        # BERT4Rec's constructor reads column names that its transform writes into the config. RecBole makes the
        # loaders, and with them the transform, before the model; here a model may choose its training rows first.
        construct_transform(config)
        super().__init__(config)

    def _load_feat(self, filepath, source):
        with open(filepath, "rb") as file:
            if not file.readline().endswith(b"\n"):  # RecBole would cut the last letter off the header
                raise UserError(f"{os.path.relpath(filepath)} has no line under its first")
        try:
            with atomic_files_read_by(read_atomic):
                feat = super()._load_feat(filepath, source)
        except UnicodeError as error:
            raise UserError(f"{os.path.relpath(filepath)} is not in the encoding {self.config['encoding'] or 'utf-8'}: "
                            f"{getattr(error, 'reason', error)}; set encoding") from None
        if source == FeatureSource.ITEM and feat is not None and self.iid_field in feat:
            #: Rows of the ``.item`` file whose item has a row before them; RecBole keeps the first.
            self.duplicate_items = int(feat[self.iid_field].duplicated().sum())
            if self.duplicate_items:
                log.warning("warning: %d rows of %s repeat an item and are left out", self.duplicate_items,
                            os.path.relpath(filepath))
        return feat

    def _filter_nan_user_or_item(self):
        """Refuse a row without an id; RecBole drops rows there, and where both ids have gaps the wrong ones."""
        for suffix, feat, fields in (("inter", self.inter_feat, (self.uid_field, self.iid_field)),
                                     ("user", self.user_feat, (self.uid_field,)),
                                     ("item", self.item_feat, (self.iid_field,))):
            for field in fields if feat is not None else ():
                missing = np.flatnonzero(feat[field].isna())
                if len(missing):
                    raise UserError(f"{len(missing)} rows of {self.dataset_name}.{suffix} have no {field}, the first "
                                    f"is row {feat.index[missing[0]] + 1} after the header")

    def _filter_inter_by_user_or_item(self):
        before = len(self.inter_feat)
        super()._filter_inter_by_user_or_item()
        #: Interactions whose user or item has no row in the ``.user`` or ``.item`` file; RecBole drops them.
        self.dropped_interactions = before - len(self.inter_feat)
        if self.dropped_interactions:
            log.warning("warning: %d of %d interactions of %s have no row in its .item or .user file and are left out",
                        self.dropped_interactions, before, self.dataset_name)

    def _fill_nan(self):
        unknown = ~np.isfinite(self.inter_feat[self.time_field].to_numpy(np.float64))
        if unknown.any():
            remedy = "set TIME_FIELD=position" if "position" in self.inter_feat else "leave those rows out"
            raise UserError(f"{int(unknown.sum())} interactions of '{self.dataset_name}' have no finite "
                            f"{self.time_field}, so their order is not known (RecBole would give them the mean and "
                            f"move them): {remedy}")
        #: By numeric column of the user or item table, the rows without a value; RecBole fills in the mean.
        self.missing = {field: frozenset(np.flatnonzero(feat[field].isna()).tolist())
                        for feat in (self.user_feat, self.item_feat) if feat is not None
                        for field in feat if self.field2type[field] == FeatureType.FLOAT}
        field = self.config["true_time_field"]
        self._times = self.inter_feat[field].to_numpy(np.float64, copy=True) if field in self.inter_feat else None
        super()._fill_nan()

    def _dataframe_to_interaction(self, data):
        plain = {FeatureType.TOKEN: torch.int64, FeatureType.FLOAT: torch.float32}
        fast = {field: plain[self.field2type[field]] for field in data
                if self.field2type[field] in plain and field not in self.config["numerical_features"]}
        others = super()._dataframe_to_interaction(data[[field for field in data if field not in fast]])
        columns = {}
        for field in data:  # RecBole makes the tensor of a column element by element
            kind = torch.float64 if field == self.time_field else fast.get(field)
            columns[field] = others[field] if kind is None else torch.from_numpy(data[field].to_numpy()).to(kind)
        return Interaction(columns)

    def data_augmentation(self):
        """RecBole's samples as :class:`Windows`: same rows, same order, same columns, none of them written out."""
        self._aug_presets()
        columns, longest = self.inter_feat.interaction, self.max_item_list_len
        user, time = columns[self.uid_field].numpy(), columns[self.time_field].numpy()
        order = np.lexsort((time, user))
        order = None if (order[1:] > order[:-1]).all() else torch.from_numpy(order)  # converted files are in order
        n = len(user)
        for field, column in columns.items():
            column = column if order is None else column[order]
            columns[field] = torch.cat([column, column.new_zeros(longest, *column.shape[1:])])
        times = torch.full((n,), torch.nan, dtype=torch.float64) if self._times is None else \
            torch.from_numpy(self._times if order is None else self._times[order])
        user = columns[self.uid_field][:n]
        is_first = torch.ones(n, dtype=torch.bool)
        is_first[1:] = user[1:] != user[:-1]
        rows = torch.arange(n)
        start = torch.cummax(torch.where(is_first, rows, 0), dim=0).values
        self.sequences = Sequences(user, columns[self.iid_field][:n], times, start)
        lists = {getattr(self, f"{field}_list_field"): field for field in columns if field != self.uid_field}
        self.inter_feat = Windows(Columns(columns, start, rows[~is_first], lists, self.item_list_length_field, longest))

    def __getitem__(self, index, join=True):
        samples = self.inter_feat[index]
        samples = samples.gather() if isinstance(samples, Windows) else samples
        return self.join(samples) if join else samples

    # RecBole groups and splits in Python loops over lists of ints: a gigabyte for 25 million samples.

    def _grouped_index(self, group_by_list):
        """Sample numbers of each group, groups in order of first appearance: a list of int64 arrays."""
        group, groups = pd.factorize(group_by_list)
        ends = np.cumsum(np.bincount(group, minlength=len(groups)))
        return np.split(np.argsort(group, kind="stable"), ends[:-1])

    def _split_index_by_leave_one_out(self, grouped_index, leave_one_num):
        """The last ``leave_one_num`` of each group a part each, the others the first part; never a group's first."""
        lengths = np.array([len(group) for group in grouped_index])
        index = np.concatenate(grouped_index) if len(lengths) else np.zeros(0, dtype=np.int64)
        from_end = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(index))  # 1: the last of its group
        left_out = np.repeat(np.minimum(leave_one_num, lengths - 1), lengths)
        return [index[from_end > left_out],
                *(index[(from_end == place) & (place <= left_out)] for place in range(leave_one_num, 0, -1))]
