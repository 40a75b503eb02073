"""RecBole's trainer with a fair evaluation step, which several processes may share."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from recbole.data.interaction import Interaction
from recbole.evaluator.collector import Collector
from recbole.trainer import Trainer
from torch import Tensor

from recbole_genrec import compat
from recbole_genrec.data.candidates import Candidates
from recbole_genrec.data.windows import CANDIDATES, HISTORY, TARGET_ROW
from recbole_genrec.evaluation.ranking import keep_items, mask_items, masks_history, settle, target_rank
from recbole_genrec.running import parallel


class BatchCollector(Collector):
    """RecBole's collector, batch by batch: those of all processes stand in the order of one process in the end.

    RecBole evaluates each process by itself and averages the results; ours are evaluated once, over all users.
    """

    _OF_USERS = ("rec.items", "rec.topk", "rec.meanrank", "rec.score", "data.label")

    def begin(self) -> None:
        """Forget what an evaluation that was broken off may have left."""
        self.number, self.batches = 0, {}

    def eval_batch_collect(self, scores_tensor, interaction, positive_u, positive_i):
        if len(interaction):
            super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
            found = self.data_struct._data_dict
            self.batches[self.number] = {key: found.pop(key).cpu() for key in self._OF_USERS if key in found}
        self.number += 1

    def get_data_struct(self):
        batches = in_order(self.batches)
        for key in batches[0]:
            self.data_struct.set(key, torch.cat([batch[key] for batch in batches]))
        # RecBole takes all that it collected for tensors: its counts of the training data are none.
        found = self.data_struct._data_dict
        counts = {key: found.pop(key) for key in list(found) if not isinstance(found[key], Tensor)}
        result = super().get_data_struct()
        for struct in (self.data_struct, result):
            struct._data_dict.update(counts)
        return result


def in_order(batches: dict[int, object]) -> list:
    """What all processes have of each batch, in the order of the batches."""
    together = {number: batch for part in parallel.gather(batches) for number, batch in part.items()}
    return [together[number] for number in sorted(together)]


class FairTrainer(Trainer):
    """Evaluates any model: policy masks, candidates, ties and blanks that never hit, a row for every user.

    Args:
        config: the run's configuration.
        model: the model.
        dataset: the whole data set (histories to mask, exact times).
    """

    def __init__(self, config, model, dataset):
        with compat.no_tensorboard():
            super().__init__(config, model)
        self.sequences = dataset.sequences
        self.candidates = Candidates.of(dataset, config)
        self.mask_history = masks_history(config)
        self.eval_collector = BatchCollector(config)
        self._per_user: dict[int, pd.DataFrame] | None = None

    def load_best(self) -> None:
        """Give the model the weights of the best epoch."""
        raise NotImplementedError  # of whoever trains

    def evaluate(self, eval_data, load_best_model=False, model_file=None, show_progress=False):
        """RecBole's ``evaluate``; weights come from :meth:`load_best` (RecBole would unpickle them)."""
        if load_best_model:
            self.load_best()
        self.eval_collector.begin()
        parallel.same_buffers(self.model)
        return super().evaluate(eval_data, load_best_model=False, show_progress=show_progress and parallel.is_main())

    def test(self, eval_data, mask_history: bool, show_progress=False) -> tuple[dict, pd.DataFrame]:
        """Evaluate and keep every user's list.

        Returns:
            metrics by RecBole's names, and a table with one row a user: ``user, target, rank`` (from 1, NaN if the
            target was not recommended), ``tied`` (same time as the item before it; NA: unknown), ``history`` (its
            length), ``in_history`` (the target is among the items that the user had), ``topk`` (list of item ids,
            best first).
        """
        policy, self.mask_history, self._per_user = self.mask_history, mask_history, {}
        try:
            metrics = self.evaluate(eval_data, show_progress=show_progress)
            return dict(metrics), pd.concat(in_order(self._per_user), ignore_index=True)
        finally:
            self.mask_history, self._per_user = policy, None

    def _full_sort_batch_eval(self, batched_data):
        interaction = batched_data[0]
        if self._is_anothers():
            return self._nothing_of(interaction)
        if self.mask_history:
            interaction.update(Interaction({HISTORY: self.sequences.history(interaction[TARGET_ROW])}))
        if self.candidates is not None:
            interaction.update(Interaction({CANDIDATES: self.candidates(interaction[TARGET_ROW])}))
        return self._fair(*super()._full_sort_batch_eval(batched_data))

    def _neg_sample_batch_eval(self, batched_data):
        interaction, row, _, _ = batched_data
        if self._is_anothers():
            return self._nothing_of(interaction)
        # A user's rows stand together, the positive first: its row tells the user and the history.
        users = interaction[torch.searchsorted(row, torch.arange(int(row[-1]) + 1))]
        _, scores, positive_u, positive_i = super()._neg_sample_batch_eval(batched_data)
        return self._fair(users, scores, positive_u, positive_i)

    def _nothing_of(self, interaction):
        none = torch.empty(0, dtype=torch.long)
        return interaction[:0], torch.empty(0, self.tot_item_num, device=self.device), none, none

    def _is_anothers(self) -> bool:
        """Whether the batch that is up is left to another process."""
        if self.config["fsdp"]:
            return False  # a layer is put together by all processes at once: all must compute the same
        return self.eval_collector.number % parallel.size() != parallel.rank()

    def _fair(self, interaction, scores, positive_u, positive_i):
        """What RecBole's evaluator gets to see.

        The candidates, where there are such; history masked by the policy; the target behind its ties.
        """
        history = interaction[HISTORY] if HISTORY in interaction else \
            self.sequences.history(interaction[TARGET_ROW].cpu())
        target = positive_i.to(scores.device)
        if self.mask_history:
            scores = mask_items(scores, history.to(scores.device))
        if CANDIDATES in interaction:
            scores = keep_items(scores, interaction[CANDIDATES].to(scores.device))
        scores = settle(scores, target)
        if self._per_user is not None:
            self._per_user[self.eval_collector.number] = self._user_rows(interaction, scores, target, history)
        return interaction, scores, positive_u, positive_i

    def _user_rows(self, interaction, scores, target, history) -> pd.DataFrame:
        best, items = scores.topk(max(self.config["topk"]), dim=1)
        items = items.masked_fill(best <= torch.finfo(best.dtype).min, 0).cpu().numpy()
        rank = target_rank(scores, target).cpu().numpy().astype(np.float64)
        rows = interaction[TARGET_ROW].cpu()
        tied = pd.array(self.sequences.tied(rows).numpy(), dtype="boolean")
        tied[~self.sequences.timed(rows).numpy()] = pd.NA
        return pd.DataFrame({
            "user": interaction[self.config["USER_ID_FIELD"]].cpu().numpy(), "target": target.cpu().numpy(),
            "rank": np.where(rank == 0, np.nan, rank), "tied": tied,
            "history": (history > 0).sum(1).numpy(),
            "in_history": (history == target.cpu().unsqueeze(1)).any(1).numpy(),
            "topk": [row[row > 0].tolist() for row in items],
        })
