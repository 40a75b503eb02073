"""SASRecPlus: RecBole's SASRec, trained at every position of a window instead of at its end alone."""

from __future__ import annotations

import torch
from recbole.model.sequential_recommender.sasrec import SASRec
from torch import Tensor

from recbole_genrec.data.windows import one_in, with_target
from recbole_genrec.errors import UserError
from recbole_genrec.evaluation.cost import Work


class SASRecPlus(SASRec):
    """SASRec with cross-entropy over all items at all positions ("SASRec+", Klenitskiy and Vasilev, RecSys 2023).

    RecBole makes a sample of every prefix of a history and learns from the last position of each. Here a window is
    read once and every item in it is a target, as in the original SASRec and in GenRec's ``layout: continuation``:
    the same targets for a fiftieth of the work where histories are long. Weights, scores and lists are SASRec's own.
    """

    @classmethod
    def check_config(cls, config) -> None:
        """Raises UserError for a loss that it does not have."""
        if config["loss_type"] != "CE":
            raise UserError(f"SASRecPlus has no loss_type={config['loss_type']}: it learns by CE; SASRec has BPR")

    def training_rows(self, dataset) -> Tensor:
        """Samples whose windows cover each training interaction once."""
        return one_in(dataset, self.max_seq_length + 1)

    def calculate_loss(self, interaction) -> Tensor:
        """Mean cross-entropy of all targets in the windows; scalar."""
        items = with_target(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN], interaction[self.ITEM_ID])
        learnt = items[:, 1:] > 0
        states, target = self._states(items[:, :-1])[learnt], items[:, 1:][learnt]
        self.work = Work(targets=len(target), terms=len(target))
        return self.loss_fct(states @ self.item_embedding.weight.T, target)

    def _states(self, history: Tensor) -> Tensor:
        """``[B, L, d]`` outputs at all positions: SASRec's own forward pass, which picks one of them, picks none."""
        self.gather_indexes = lambda output, _: output
        try:
            return self.forward(history, torch.zeros_like(history[:, 0]))
        finally:
            del self.gather_indexes
