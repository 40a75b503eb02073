"""RecBole's SequentialDataset, read exactly: raw tab-separated text, exact times, whole histories."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass

import numpy as np
import torch
from recbole.data.dataset import SequentialDataset
from recbole.data.transform import construct_transform
from torch import Tensor

from recbole_genrec.compat import raw_atomic_files
from recbole_genrec.errors import UserError

log = logging.getLogger("recbole_genrec")

#: Row number (in the sorted interactions) of each sample's target; lets every stage find the whole history.
TARGET_ROW = "target_row"


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

    def history(self, rows: Tensor) -> Tensor:
        """Everything the user did before each row, not only the last MAX_ITEM_LIST_LENGTH items.

        Args:
            rows: ``[B]`` target rows.
        Returns:
            ``[B, H]`` item ids, oldest first, 0 after the end.
        """
        start = self.start[rows]
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
    * The sorted sequences and each sample's target row are kept, so that a whole history can be masked.

    Samples are RecBole's own (``data_augmentation`` is inherited).
    """

    def __init__(self, config):
        # BERT4Rec's constructor reads column names that its transform writes into the config. RecBole makes the
        # loaders, and with them the transform, before the model; here a model may choose its training rows first.
        construct_transform(config)
        super().__init__(config)

    def _load_feat(self, filepath, source):
        with raw_atomic_files():
            return super()._load_feat(filepath, source)

    def _filter_inter_by_user_or_item(self):
        before = len(self.inter_feat)
        super()._filter_inter_by_user_or_item()
        #: Interactions whose user or item has no row in the ``.user`` or ``.item`` file; RecBole drops them.
        self.dropped_interactions = before - len(self.inter_feat)
        if self.dropped_interactions:
            log.warning("warning: %d of %d interactions of %s have no row in its .item or .user file and are left out",
                        self.dropped_interactions, before, self.dataset_name)

    def _fill_nan(self):
        if missing := int(self.inter_feat[self.time_field].isna().sum()):
            raise UserError(f"{missing} interactions of '{self.dataset_name}' have no {self.time_field}: RecBole would "
                            "give them the mean and move them")
        field = self.config["true_time_field"]
        self._times = self.inter_feat[field].to_numpy(np.float64, copy=True) if field in self.inter_feat else None
        super()._fill_nan()

    def _dataframe_to_interaction(self, data):
        interaction = super()._dataframe_to_interaction(data)
        if self.time_field in data:
            interaction.interaction[self.time_field] = torch.from_numpy(data[self.time_field].to_numpy(np.float64))
        return interaction

    def data_augmentation(self):
        uid = self.inter_feat[self.uid_field].numpy()
        # The order that RecBole's two stable sorts give, computed here because the times must follow it too.
        order = np.lexsort((self.inter_feat[self.time_field].numpy(), uid))
        user = torch.from_numpy(uid[order])
        changes = torch.ones(len(user), dtype=torch.bool)
        changes[1:] = user[1:] != user[:-1]
        rows = torch.arange(len(user))
        start = torch.cummax(torch.where(changes, rows, 0), dim=0).values
        times = np.full(len(user), np.nan) if self._times is None else self._times[order]
        self.sequences = Sequences(user, self.inter_feat[self.iid_field][torch.from_numpy(order)],
                                   torch.from_numpy(times), start)
        super().data_augmentation()
        self.inter_feat.interaction[TARGET_ROW] = rows[~changes]

    # ------------------------------------------------------------------------------------------- fingerprints

    def fingerprint(self) -> str:
        """Hash of users, items, titles, order and times: the data, whatever the split."""
        digest = hashlib.sha256()
        for column in (self._raw(self.uid_field, self.sequences.user), self._raw(self.iid_field, self.sequences.item)):
            digest.update("\n".join(column).encode())
        digest.update(self.sequences.time.numpy().tobytes())
        if self.item_feat is not None and self.config["title_field"] in self.item_feat:
            from recbole_genrec.data.catalogue import Catalogue

            catalogue = Catalogue.from_dataset(self)
            digest.update("\n".join(sorted(map("\t".join, zip(catalogue.item_tokens, catalogue.titles)))).encode())
        return digest.hexdigest()[:16]

    def _raw(self, field: str, ids: Tensor) -> np.ndarray:
        return self.field2id_token[field].astype(str)[ids.numpy()]


def split_fingerprint(dataset: GenRecDataset, parts) -> str:
    """Hash of the item universe, of every user's sequence and of the places that are train, valid and test targets.

    Two runs with the same one were trained on the same samples and tested on the same targets, whatever the model.

    Args:
        dataset: the whole data set, built.
        parts: its train, valid and test data sets.
    """
    digest = hashlib.sha256("\n".join(sorted(dataset.field2id_token[dataset.iid_field].astype(str))).encode())
    everything = torch.arange(len(dataset.sequences.user))  # a user's first item is nobody's target
    for rows in (everything, *(part.inter_feat[TARGET_ROW] for part in parts)):
        place = (rows - dataset.sequences.start[rows]).numpy().astype(str)
        users = dataset._raw(dataset.uid_field, dataset.sequences.user[rows])
        items = dataset._raw(dataset.iid_field, dataset.sequences.item[rows])
        lines = sorted(map("\t".join, zip(users, items, place)))
        digest.update(b"|" + "\n".join(lines).encode())
    return digest.hexdigest()[:16]
