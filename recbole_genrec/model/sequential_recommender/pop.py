"""Pop: the most popular training items for everybody. Evaluation only, on the sequential split."""

from __future__ import annotations

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor

from recbole_genrec.evaluation.popularity import training_counts


class Pop(SequentialRecommender):
    """Scores an item by how often it occurs in training (RecBole's own ``Pop`` cannot share a sequential split)."""

    input_type = InputType.POINTWISE
    evaluation_only = True

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.register_buffer("count", torch.from_numpy(training_counts(dataset)).float())

    def full_sort_predict(self, interaction) -> Tensor:
        """``[B * n_items]`` counts."""
        return self.count.repeat(len(interaction[self.ITEM_SEQ]))

    def predict(self, interaction) -> Tensor:
        """``[B]`` counts."""
        return self.count[interaction[self.ITEM_ID]]
