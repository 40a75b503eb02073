"""Candidate recommendation: the target is ranked among a few items that its user never had.

Which these are is a property of the evaluation: the same for every model, every run seed and every order of the files.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from recbole_genrec.data.fingerprint import keys_of, mix
from recbole_genrec.errors import UserError


class Candidates:
    """One positive and ``count - 1`` negatives for each sample: P5's direct recommendation (Geng et al. 2022).

    Every pair of user and item is hashed together with ``candidate_seed``. Of the items that a user has nowhere, in
    training, validation or test, those with the smallest hashes are the negatives; a second hash orders all candidates,
    the target among them. No generator is involved, so no version of a library changes what is drawn.

    Args:
        dataset: the whole data set, built.
        count: candidates of a sample, the target included.
        seed: ``candidate_seed``.
    """

    def __init__(self, dataset, count: int, seed: int):
        self.sequences, self.count, self.n_items = dataset.sequences, count, dataset.item_num
        self.raw_users = dataset.field2id_token[dataset.uid_field]
        salt = mix(np.array([seed, seed + 1], dtype=np.uint64))
        #: Two numbers for each user and item: with the first a pair is drawn, with the second it is placed.
        self.users, self.items = mix(keys_of(dataset, dataset.uid_field) + salt), keys_of(dataset, dataset.iid_field)
        self._negatives: dict[int, np.ndarray] = {}

    @classmethod
    def of(cls, dataset, config) -> "Candidates | None":
        """As the configuration says; None where the whole catalogue is ranked."""
        return None if config["candidates"] is None else cls(dataset, config["candidates"], config["candidate_seed"])

    def check(self) -> None:
        """Refuse a data set in which a user has too much of the catalogue.

        Raises:
            UserError: naming the user.
        """
        pairs = np.unique(self.sequences.user.numpy() * self.n_items + self.sequences.item.numpy())
        had = np.bincount(pairs // self.n_items)
        user = int(had.argmax())
        if (left := self.n_items - 1 - int(had[user])) < self.count - 1:
            raise UserError(f"candidates={self.count} needs {self.count - 1} items that a user never had, and user "
                            f"{self.raw_users[user]} leaves {left}")

    def __call__(self, rows: Tensor) -> Tensor:
        """``[B, count]`` int64 items for ``[B]`` target rows, each row in the order in which a prompt lists them."""
        users, targets = self.sequences.user[rows].tolist(), self.sequences.item[rows].tolist()
        lists = np.empty((len(users), self.count), dtype=np.int64)
        for place, (user, target) in enumerate(zip(users, targets)):
            listed = np.append(self._negatives_of(user), target)
            lists[place] = listed[mix(self.users[user, 1] + self.items[listed, 1]).argsort()]
        return torch.from_numpy(lists)

    def fingerprint(self, rows: Tensor) -> str:
        """Hash of the lists of these rows, by raw ids: equal for two runs that ranked the same candidates."""
        users = self.sequences.user[rows].tolist()
        lines = sorted(hashlib.sha256(self.users[user].tobytes() + self.items[listed].tobytes()).digest()
                       for user, listed in zip(users, self(rows).numpy()))
        return hashlib.sha256(b"".join(lines)).hexdigest()[:16]

    def _negatives_of(self, user: int) -> np.ndarray:
        """``[count - 1]`` items, kept for the user's next sample."""
        if user not in self._negatives:
            first, end = np.searchsorted(self.sequences.user.numpy(), [user, user + 1])
            unseen = np.ones(self.n_items, dtype=bool)
            unseen[0] = False
            unseen[self.sequences.item[first:end].numpy()] = False
            items = unseen.nonzero()[0]
            drawn = mix(self.users[user, 0] + self.items[items, 0]).argpartition(self.count - 2)[:self.count - 1]
            self._negatives[user] = items[drawn].astype(np.int32)
        return self._negatives[user]
