"""IDAdjacency: the rule that a spelled id in order of appearance gives away. Evaluation only, a probe for leaks."""

from __future__ import annotations

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor


class IDAdjacency(SequentialRecommender):
    """Recommends "largest id so far + 1", then + 2 and so on, from the last MAX_ITEM_LIST_LENGTH items.

    RecBole numbers items by first appearance in the file. If the file is grouped by user, an item that nobody
    had before gets the next free number, so the rule finds test items with no training at all. Any model to
    which such ids are spelled can learn it; a harness that shows this row shows how much that is worth.
    """

    input_type = InputType.POINTWISE
    evaluation_only = True

    def full_sort_predict(self, interaction) -> Tensor:
        """``[B * n_items]``: higher for ids sooner after the largest id of the history, the rest last."""
        largest = interaction[self.ITEM_SEQ].max(dim=1, keepdim=True).values
        ids = torch.arange(self.n_items, device=largest.device)
        return self._score(ids, largest).flatten()

    def predict(self, interaction) -> Tensor:
        """``[B]`` the same score for one item each."""
        largest = interaction[self.ITEM_SEQ].max(dim=1).values
        return self._score(interaction[self.ITEM_ID], largest)

    def _score(self, ids: Tensor, largest: Tensor) -> Tensor:
        return -((ids - largest - 1) % self.n_items).float()
