"""Recommendations in words: a finished run is loaded, titles go in, titles and probabilities come out."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any, Sequence

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_genrec.config import Config
from recbole_genrec.data.catalogue import Catalogue
from recbole_genrec.data.loading import Data
from recbole_genrec.data.windows import HISTORY
from recbole_genrec.errors import UserError
from recbole_genrec.evaluation.ranking import mask_items, masks_history
from recbole_genrec.saved_run import read_run
from recbole_genrec.titles import Found, Titles

#: Histories that go through a model together.
BATCH = 256
#: Models of RecBole's whose scores are probabilities, or the parts of a mixture, and no logits of a softmax.
_NO_LOGITS = {"RepeatNet", "GRU4RecCPR", "SASRecCPR"}


@dataclass(frozen=True)
class Recommendation:
    """One place of a list.

    Attributes:
        rank: from 1.
        item: raw id.
        title: its title.
        probability, log_probability: of the item, given the history, among all items (those of the history included,
            whether or not they are masked). Generative models: of the item's spelling along the prefix tree (``norm:
            trie``; these add up to one) or in the language model (``norm: full``; less than one). Classical models
            trained with cross-entropy: the softmax of the scores over the catalogue. None for all others.
    """

    rank: int
    item: str
    title: str
    probability: float | None
    log_probability: float | None


@dataclass(frozen=True)
class WhyNot:
    """Why an item is not on a list.

    Attributes:
        query: what was asked for.
        reason: ``history`` (it is in the history, and this run masks the history), ``below`` (its rank is beyond the
            list), ``missed`` (its rank is not, but the search did not find it), ``listed`` (it is on the list),
            ``unknown`` (no item has this title).
        item, title: None if unknown.
        rank: exact, among the items that can be recommended and this one; None if unknown.
        items: how many of them there are.
        probability, log_probability: as in :class:`Recommendation`.
        text: all that in one sentence.
    """

    query: str
    reason: str
    item: str | None
    title: str | None
    rank: int | None
    items: int
    probability: float | None
    log_probability: float | None
    text: str


def load(run_dir: str | os.PathLike, data_path: str | os.PathLike | None = None) -> "Recommender":
    """The trained model of a run, with its catalogue.

    Args:
        run_dir: folder of a run with status ``ok``, or its id (looked up in ``results/runs``).
        data_path: folder that holds ``<dataset>/<dataset>.inter``; default ``dataset``.
    Raises:
        UserError: see :func:`recbole_genrec.saved_run.read_run`.
    """
    return Recommender(*read_run(run_dir, data_path))


class Recommender:
    """A trained model that takes histories of titles. Made by :func:`load`.

    Attributes:
        record: the run's record.
        titles: the catalogue, to look titles up in.
        mask_history: whether items of the history are left out of a list: the run's own policy.
    """

    def __init__(self, record: dict[str, Any], config: Config, data: Data, model):
        self.record, self.config, self.model = record, config, model.eval()
        self._dataset = data.dataset
        self.titles = Titles(Catalogue.from_dataset(data.dataset))
        self.mask_history = masks_history(config)
        self.generative = getattr(model, "generative", False)
        #: Whether the scores say how probable an item is.
        self.has_probabilities = self.generative or (
            config["loss_type"] == "CE" and not getattr(model, "evaluation_only", False)
            and config["model"] not in _NO_LOGITS)

    @property
    def name(self) -> str:
        """``model on data set``."""
        return f"{self.record['model']} on {self.record['dataset']}"

    def find(self, title: str) -> Found:
        """The item that is meant by a title or by ``id:`` and a raw id (see :mod:`recbole_genrec.titles`)."""
        return self.titles.find(title)

    def history_of(self, user: str) -> list[str]:
        """All items that a user of the data set had, oldest first, as ``id:`` and raw id."""
        sequences = self._dataset.sequences
        items = sequences.item[sequences.user == self._user(user)]
        return [f"id:{self.titles.raw[item]}" for item in items.tolist()]

    def recommend(self, histories: Sequence[Sequence[str]], k: int = 10,
                  user: str | Sequence[str | None] | None = None) -> list[list[Recommendation]]:
        """The best ``k`` items for each history; fewer where no more can be recommended.

        Args:
            histories: titles or ``id:...``, oldest first.
            k: length of the lists.
            user: raw id of the user whose histories these are, or one a history; None: nobody that the model knows. For
                models that read users. Times of interactions are not known here: a model that reads them
                (RecSysLLM's ``period_sampling`` by days) goes by the order alone.
        Raises:
            UserError: a title that is not clearly one item's, an empty history, an unknown user, ``k`` below 1.
        """
        if not isinstance(k, int) or k < 1:
            raise UserError(f"a list has at least 1 item, not {k}")
        numbers = [self._numbers(history) for history in histories]
        users = [user] * len(numbers) if user is None or isinstance(user, str) else list(user)
        if len(users) != len(numbers):
            raise UserError(f"{len(users)} users for {len(numbers)} histories")
        users = [0 if name is None else self._user(name) for name in users]
        lists = []
        for begin in range(0, len(numbers), BATCH):
            batch = slice(begin, begin + BATCH)
            lists += self._lists(self._interaction(numbers[batch], users[batch]), k)
        return lists

    def why_not(self, history: Sequence[str], title: str, k: int = 10, user: str | None = None) -> WhyNot:
        """Why an item is not among the best ``k`` of a history. Every item is scored: no search, no rounding of ranks.

        Raises:
            UserError: as :meth:`recommend`; several items have this title.
        """
        listed = self.recommend([history], k, user)[0]
        items = len(self.titles.number)
        found = self.find(title)
        if found.how == "unsure":
            near = "; ".join(match.title for match in found.matches)
            return WhyNot(title, "unknown", None, None, None, items, None, None,
                          f"none of the {items} items is clearly called '{title}'; the nearest: {near}")
        match = found.the_one()
        item, had = self.titles.number[match.item], self._numbers(history)
        interaction = self._interaction([had], [0 if user is None else self._user(user)])
        scores, log_probability = self._scores(interaction)
        masked = set(had) - {item} if self.mask_history else set()
        scores = mask_items(scores, torch.tensor([sorted(masked) or [0]], device=scores.device))[0]
        # Equal scores stand in the order of ids, as in a list.
        rank = 1 + int((scores > scores[item]).sum()) + int((scores[:item] == scores[item]).sum())
        log_p = None if log_probability is None else float(log_probability[0, item])
        probability = None if log_p is None else math.exp(log_p)
        among = items - len(masked)
        place = f"rank {rank:,} of {among:,}"
        if probability is not None:
            place += f", probability {100 * probability:.3g} %"
        if self.mask_history and item in had:
            reason, text = "history", f"is in the history, whose items are left out; else it would have {place}"
        elif any(one.item == match.item for one in listed):
            reason, text = "listed", f"is on the list: {place}"
        elif rank > k:
            reason, text = "below", f"is not among the best {k}: {place}"
        else:
            reason, text = "missed", f"was missed by the search ({self.config['decode']}): {place}"
        return WhyNot(title, reason, match.item, match.title, rank, among, probability, log_p, f"{match.title} {text}")

    # ------------------------------------------------------------------------------------------------- the model

    def _numbers(self, history: Sequence[str]) -> list[int]:
        if isinstance(history, str) or not len(history):
            raise UserError("a history is a list of at least one title")
        return [self.titles.number[self.find(title).the_one().item] for title in history]

    def _user(self, user: str) -> int:
        known = self._dataset.field2token_id[self._dataset.uid_field]
        if user not in known or known[user] == 0:
            raise UserError(f"no user '{user}' in data set '{self.record['dataset']}'; give none for somebody new")
        return int(known[user])

    def _interaction(self, histories: list[list[int]], users: list[int]) -> Interaction:
        """What the evaluation gives a model, but for the target, which is not there."""
        model = self.model
        longest = max(map(len, histories))
        width = longest if getattr(model, "whole_histories", False) else self.config["MAX_ITEM_LIST_LENGTH"]
        newest = [history[-width:] for history in histories]
        columns = {model.ITEM_SEQ: _padded(newest, width), model.USER_ID: torch.tensor(users),
                   model.ITEM_SEQ_LEN: torch.tensor([len(history) for history in newest]),
                   # Some of RecBole's compute a loss on the way, of any item.
                   model.ITEM_ID: torch.tensor([history[-1] for history in newest])}
        if self.mask_history:
            columns[HISTORY] = _padded(histories, longest)
        return Interaction(columns).to(self.config["device"])

    @torch.no_grad()
    def _scores(self, interaction: Interaction) -> tuple[Tensor, Tensor | None]:
        """``[B, n_items]`` exact score of every item, ``-inf`` for the padding, and the log-probabilities, if any."""
        if self.generative:
            scores = self.model.score_all(interaction)
            return scores, scores
        scores = self.model.full_sort_predict(interaction).view(len(interaction), -1).float()
        scores[:, 0] = -torch.inf
        return scores, scores.log_softmax(1) if self.has_probabilities else None

    def _lists(self, interaction: Interaction, k: int) -> list[list[Recommendation]]:
        k = min(k, len(self.titles.number))
        if self.generative:
            if self.config["decode"] == "beam" and k > self.config["num_beams"]:
                raise UserError(f"this run searches with num_beams={self.config['num_beams']}, too few for {k} items")
            ranking = self.model.recommend(interaction, k)
            items, log_probability = ranking.items, ranking.scores
        else:
            scores, log_probability = self._scores(interaction)
            if self.mask_history:
                scores = mask_items(scores, interaction[HISTORY])
            best, items = scores.sort(dim=1, descending=True, stable=True)  # equal scores: the lower id first
            items = items.masked_fill(best == -torch.inf, 0)[:, :k]
            log_probability = None if log_probability is None else log_probability.gather(1, items)
        logs = torch.full(items.shape, torch.nan) if log_probability is None else log_probability
        return [[self._recommendation(rank, item, log_p) for rank, (item, log_p) in enumerate(
                    ((item, log_p) for item, log_p in zip(row, row_logs) if item), 1)]
                for row, row_logs in zip(items.tolist(), logs.double().tolist())]

    def _recommendation(self, rank: int, item: int, log_p: float) -> Recommendation:
        known = not math.isnan(log_p)
        return Recommendation(rank, self.titles.raw[item], self.titles.titles[item],
                              math.exp(log_p) if known else None, log_p if known else None)


def _padded(rows: list[list[int]], width: int) -> Tensor:
    """``[B, width]`` int64, 0 after the end."""
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])
