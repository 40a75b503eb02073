"""ItemLM: a small decoder-only language model whose tokens are items, or several of them multiplied."""

from __future__ import annotations

from recbole.model.abstract_recommender import SequentialRecommender
from torch import Tensor

from recbole_genrec.backbone.items import ItemReaders, reader_settings
from recbole_genrec.data.windows import one_in, with_target
from recbole_genrec.errors import UserError
from recbole_genrec.evaluation.cost import Work


class ItemLM(SequentialRecommender):
    """GenRec's ``item_reader`` without the titles: what numbers alone can do, and several readers of them.

    ``members`` models that share no weight learn from the same windows, every item in one a target, by cross-entropy
    over all items. A score is the mean of their log-probabilities. Two models are better than one whatever they read,
    so this is what a model of titles times one of numbers must be compared with.
    """

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.readers = ItemReaders(reader_settings(config["item_reader"]), self.n_items, config["members"])
        self.label_smoothing = config["label_smoothing"]

    @classmethod
    def check_config(cls, config) -> None:
        """Raises UserError for a loss that it does not have, or no such architecture."""
        if config["loss_type"] != "CE":
            raise UserError(f"ItemLM has no loss_type={config['loss_type']}: it learns by CE")
        reader_settings(config["item_reader"])

    def training_rows(self, dataset) -> Tensor:
        """Samples whose windows cover each training interaction once."""
        return one_in(dataset, self.max_seq_length + 1)

    def calculate_loss(self, interaction) -> Tensor:
        """Mean cross-entropy of all targets in the windows, summed over the members; scalar."""
        items = with_target(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN], interaction[self.ITEM_ID])
        learnt = items[:, 1:] > 0
        count = learnt.sum()
        self.work = Work(targets=count, terms=count)
        return self.readers.loss(items, learnt, self.label_smoothing) / count

    def _scores(self, interaction) -> Tensor:
        """``[B, n_items]`` means of log-probabilities, ``-inf`` for the padding."""
        length = interaction[self.ITEM_SEQ_LEN]
        return self.readers.log_probs(interaction[self.ITEM_SEQ][:, :int(length.max())], length)

    def full_sort_predict(self, interaction) -> Tensor:
        """``[B * n_items]`` scores."""
        return self._scores(interaction).flatten()

    def predict(self, interaction) -> Tensor:
        """``[B]`` scores of each row's item."""
        return self._scores(interaction).gather(1, interaction[self.ITEM_ID].unsqueeze(1)).squeeze(1)
